"""`ranking.score`: each model by each score in the tables of a run, and a fit that never sees test users."""

from __future__ import annotations

import json
import shutil

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import rosepo_core
from rosepo_core.engine.saved_template import load_template
from rosepo_core.evaluation.candidates import load_candidates
from rosepo_core.evaluation.conditional_logit import fit, folds
from rosepo_core.stages.split import load_split
from rosepo_core.store.trusting import trust

SCORED = [
    *("popularity", "oracle", "oracle fusion", "base", "base mean", "base prior-corrected", "base fusion"),
    *("sft", "sft mean", "sft prior-corrected", "sft fusion"),
    *("aligned", "aligned mean", "aligned prior-corrected", "aligned fusion"),
]


def raw_scores(run, model, part=""):
    return load_file(run / f"scores-{model}{part}" / "scores.safetensors")["scores"]


def ranks_of(run, model, protocol="candidates-5"):
    users = pl.read_parquet(run / "evaluation" / "per_user.parquet")
    return users.filter(model=model, protocol=protocol).sort("user")["rank"].to_numpy()


def ranks(run, scores):
    """Expected ranks of the targets, in the order of user ids."""
    split, candidates = load_split(run / "split"), load_candidates(run / "candidates")
    rows = np.arange(len(scores))
    target = scores[rows, candidates.target_column][:, None]
    found = (scores > target).sum(1) + ((scores == target).sum(1) + 1) / 2
    return found[np.argsort([split.users[user] for user in split.test.user])]


def test_the_table_has_each_model_by_each_score(fused):
    document = json.loads((fused / "metrics.json").read_text())
    assert list(document["protocols"]["candidates-5"]) == SCORED
    compared = {(each["model"], each["baseline"]) for each in document["comparisons"]["candidates-5"]}
    assert {
        ("aligned fusion", "aligned"),
        ("aligned fusion", "oracle fusion"),
        ("aligned mean", "sft mean"),
    } <= compared
    assert ("oracle fusion", "oracle") in compared


@torch.no_grad()
def test_the_prior_is_that_of_plain_transformers_after_an_empty_history(fused, model_folder):
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    template = load_template(fused / "sft", AutoTokenizer.from_pretrained(model_folder))
    header = template.encode(template.options.header)
    expected = []
    for response in template.response_ids:
        ids = torch.tensor([[*header, *response.tolist()]])
        steps = model(input_ids=ids).logits[0].log_softmax(-1)
        picked = steps[len(header) - 1 : -1].gather(1, ids[0, len(header) :, None])
        expected.append(float(picked.sum()))
    found = load_file(fused / "prior-base" / "prior.safetensors")["log_probs"]
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_ranks_are_those_of_the_formulas(fused, model_folder):
    candidates = load_candidates(fused / "candidates")
    raw, prior = raw_scores(fused, "aligned"), load_file(fused / "prior-aligned" / "prior.safetensors")["log_probs"]
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    lengths = load_template(fused / "aligned", tokenizer).response_lengths
    items = candidates.items
    np.testing.assert_allclose(ranks_of(fused, "aligned mean"), ranks(fused, raw / lengths[items]))
    np.testing.assert_allclose(ranks_of(fused, "aligned prior-corrected"), ranks(fused, raw - prior[items]))
    logit = json.loads((fused / "fusion-aligned" / "fusion.json").read_text())
    popularity = load_split(fused / "split").catalogue.popularity
    columns = {
        "likelihood": raw,
        "prior": prior[items],
        "popularity": np.log1p(popularity[items]),
        "oracle": raw_scores(fused, "oracle"),
    }
    assert logit["features"] == list(columns)
    weights = np.array(logit["weights"]) / np.array(logit["scales"])
    utility = sum(weight * column for weight, column in zip(weights, columns.values(), strict=True))
    np.testing.assert_allclose(ranks_of(fused, "aligned fusion"), ranks(fused, utility))


def test_weights_are_fitted_on_validation_users_alone(fused):
    popularity = np.log1p(load_split(fused / "split").catalogue.popularity)
    found = {}
    for part in ("", "-validation"):
        candidates = load_candidates(fused / f"candidates{part}")
        values = np.stack([popularity[candidates.items], raw_scores(fused, "oracle", part)], axis=2)
        found[part] = fit(["popularity", "oracle"], values, candidates.items >= 0, candidates.target_column)
    written = json.loads((fused / "fusion-oracle" / "fusion.json").read_text())
    assert written["weights"] == pytest.approx(found["-validation"].weights, abs=1e-6)
    assert written["weights"] != pytest.approx(found[""].weights, abs=1e-3)


def test_validation_users_are_ranked_by_weights_of_others(fused, tmp_path, rosepo):
    run = shutil.copytree(fused, tmp_path / "run")
    protocols = ("--protocol=catalogue", "--evaluation.part=validation")
    done = rosepo("evaluate", run, *protocols, "--json")
    assert done.code == 0, done.err
    assert not any(stage.startswith(("scores", "prior", "fusion")) for stage in done.made)
    split, candidates = load_split(run / "split"), load_candidates(run / "candidates-validation")
    popularity = np.log1p(split.catalogue.popularity)
    values = np.stack([popularity[candidates.items], raw_scores(run, "oracle", "-validation")], axis=2)
    offered = candidates.items >= 0
    expected = np.zeros(len(values))
    for rows in folds(len(values), np.random.default_rng([3, *b"folds"])):
        others = np.setdiff1d(np.arange(len(values)), rows)
        logit = fit(["popularity", "oracle"], values[others], offered[others], candidates.target_column[others])
        expected[rows] = logit.log_probabilities(values[rows], offered[rows]).max(axis=1)
    users = pl.read_parquet(run / "evaluation" / "per_user.parquet").filter(model="oracle fusion")
    shown = users.filter(protocol="candidates-5-validation")["scores"].list.max().to_numpy()
    np.testing.assert_allclose(shown, expected, atol=1e-5)
    # The same weights rank the catalogue. Its probabilities are over all 40 titles without those of the history.
    listed = users.filter(protocol="catalogue-validation")
    assert listed["scores"].list.len().to_list() == [10] * 24
    assert (listed["scores"].list.eval(pl.element().exp()).list.sum() < 1.0001).all()


def test_validation_and_test_have_negatives_of_their_own(fused):
    split = load_split(fused / "split")
    negatives = {}
    for part, examples in (("", split.test), ("-validation", split.validation)):
        candidates = load_candidates(fused / f"candidates{part}")
        kept = np.arange(candidates.items.shape[1]) != candidates.target_column[:, None]
        of_users = candidates.items[kept].reshape(len(kept), -1).tolist()
        negatives[part] = dict(zip(examples.user.tolist(), map(set, of_users), strict=True))
    same = [negatives[""][user] == negatives["-validation"][user] for user in negatives[""]]
    assert np.mean(same) < 0.2


def test_a_model_without_a_feature_has_no_fusion(tmp_path, train, fused_arguments):
    done = train("--run", tmp_path / "run", *fused_arguments, '--ranking.features=["base"]', "--json")
    assert done.code == 0, done.err
    assert "base has no fusion: ranking.features has no feature for it" in done.err
    found = done.json["metrics"]["protocols"]["candidates-5"]
    assert "base fusion" not in found
    assert "aligned fusion" in found


def test_a_finished_run_gets_more_scores_and_keeps_its_tables(finished, tmp_path, rosepo):
    run = shutil.copytree(finished, tmp_path / "run")
    before = json.loads((run / "metrics.json").read_text())["protocols"]["candidates-5"]
    done = rosepo("evaluate", run, "--ranking.score=prior-corrected", "--json")
    assert done.code == 0, done.err
    assert {"prior-base", "prior-sft", "prior-aligned"} <= done.made
    assert not any(stage.startswith("scores") for stage in done.made)
    after = done.json["metrics"]["protocols"]["candidates-5"]
    assert {name: after[name] for name in before} == before
    assert [name for name in after if name not in before] == [
        f"{model} {score}" for model in ("base", "sft", "aligned") for score in ("mean", "prior-corrected")
    ]
    # A lower score adds nothing and takes nothing away.
    again = rosepo("evaluate", run, "--ranking.score=mean", "--json")
    assert again.json["metrics"]["protocols"] == done.json["metrics"]["protocols"]
    refused = rosepo("evaluate", run, "--ranking.score=fusion", "--ranking.pool=3")
    assert refused.code == 2
    assert "another ranking.pool" in refused.err


def test_without_an_oracle_that_ranks_the_fusion_has_the_rest(finished, tmp_path, rosepo):
    run = shutil.copytree(finished, tmp_path / "run")
    done = rosepo("evaluate", run, "--ranking.score=fusion")
    assert done.code == 0, done.err
    assert "fusion leaves oracle out: no such model ranks here" in done.err
    logit = json.loads((run / "fusion-aligned" / "fusion.json").read_text())
    assert logit["features"] == ["likelihood", "prior", "popularity"]


@pytest.mark.parametrize("also", [(), ("base", "sft")])
def test_the_whole_catalogue_is_ranked_by_each_score(fused, tmp_path, rosepo, also):
    run = shutil.copytree(fused, tmp_path / "run")
    config = run / "config.toml"
    written = config.read_text()
    wider = "".join(f'    "{name}",\n' for name in ("oracle", *also))
    assert '    "oracle",\n' in written
    config.write_text(written.replace('    "oracle",\n', wider))
    trust(run)
    done = rosepo("evaluate", run, "--protocol=catalogue", "--json")
    assert done.code == 0, done.err
    document = done.json["metrics"]
    assert list(document["protocols"]["catalogue"]) == SCORED
    # All 40 titles fit into the pool.
    recall = document["pool_recall"]["catalogue"]
    assert set(recall.values()) == {1.0}
    assert set(recall) == {name for name in SCORED if " " in name and not name.startswith("oracle")}
    # Recommending asks all models whose scores the fusion uses.
    recommended = rosepo_core.Recommender.load(run)
    assert recommended.score == "fusion"
    split = load_split(run / "split")
    examples, titles = split.test, split.catalogue.titles
    row = next(
        row
        for row, (user, position, target) in enumerate(
            zip(examples.user.tolist(), examples.position.tolist(), examples.target.tolist(), strict=True)
        )
        if target not in examples.sequences[user][:position] and position <= 8
    )
    user, position = int(examples.user[row]), int(examples.position[row])
    history = [titles[item] for item in examples.sequences[user][:position].tolist()]
    found = recommended.recommend(history, 5)
    users = pl.read_parquet(run / "evaluation" / "per_user.parquet").filter(
        model="aligned fusion", protocol="catalogue", user=split.users[user]
    )
    names = dict(zip(split.catalogue.ids, titles, strict=True))
    assert [each.title for each in found] == [names[item] for item in users["items"][0].to_list()[:5]]
    assert [each.score for each in found] == pytest.approx(users["scores"][0].to_list()[:5], abs=1e-3)
    everything = recommended.recommend(history, 40)
    assert sum(np.exp(each.score) for each in everything) == pytest.approx(1.0, abs=1e-4)
    # A new item takes its share of the probability from all others alike. From the disk it is the same.
    items = pl.DataFrame({"item": ["n1"], "title": ["Harvest Moon Over Trieste (2026)"]})
    items.write_csv(tmp_path / "items.csv")
    assert rosepo("catalogue", "update", run, tmp_path / "items.csv").code == 0
    for changed in (recommended.with_items(items), rosepo_core.Recommender.load(run)):
        scores = {each.item: each.score for each in changed.recommend(history, 41)}
        share = np.exp(scores.pop("n1"))
        assert 0 < share < 1
        expected = {each.item: each.score + np.log1p(-share) for each in everything}
        assert scores == pytest.approx(expected, abs=1e-3)


def test_a_small_pool_reports_how_many_targets_it_has(fused, tmp_path, rosepo):
    run = shutil.copytree(fused, tmp_path / "run")
    config = run / "config.toml"
    config.write_text(config.read_text().replace("pool = 200", "pool = 12"))
    trust(run)
    done = rosepo("evaluate", run, "--protocol=catalogue", "--json")
    assert done.code == 0, done.err
    recall = done.json["metrics"]["pool_recall"]["catalogue"]["aligned fusion"]
    assert 0 < recall < 1
    pools = load_file(run / "pool-aligned" / "pool.safetensors")
    split = load_split(run / "split")
    assert pools["items"].shape == (24, 12)
    assert recall == pytest.approx((pools["items"] == split.test.target[:, None]).any(axis=1).mean())


@pytest.mark.parametrize("score", ["likelihood", "mean", "prior-corrected"])
def test_recommend_takes_any_score_of_the_tables(fused, rosepo, score):
    history = ("--history", load_split(fused / "split").catalogue.titles[0])
    done = rosepo("recommend", fused, *history, "--k", 3, "--score", score, "--json")
    assert done.code == 0, done.err
    assert done.json["ranked_by"] == score
    assert len(done.json["recommendations"]) == 3


def test_a_score_that_was_not_evaluated_is_refused_with_the_command(finished, rosepo):
    history = ("--history", load_split(finished / "split").catalogue.titles[0])
    done = rosepo("recommend", finished, *history, "--score", "fusion")
    assert done.code == 2
    assert f"rosepo evaluate {finished} --ranking.score fusion" in done.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--ranking.score=fusion", '--ranking.features=["likelihood","popularty"]'), "did you mean 'popularity'"),
        (("--ranking.score=fusion", '--ranking.features=["prior","prior"]'), "name each feature once"),
        (("--ranking.score=prior-corrected", "--prompt=chat", "--prompt.candidates=3"), "prompt.candidates = 0"),
    ],
)
def test_mistakes_are_found_before_any_work(tmp_path, train, arguments, message):
    done = train("--run", tmp_path / "run", *arguments)
    assert done.code == 2
    assert message in done.err
    assert not (tmp_path / "run").exists()


def test_the_plan_counts_priors_validation_users_and_pools(tmp_path, train):
    def rows(*arguments):
        done = train("--run", tmp_path / "run", "--dry-run", "--json", *arguments)
        assert done.code == 0, done.err
        return {row["stage"]: row for row in done.json["plan"]["stages"]}

    catalogue = '--evaluation.protocols=["candidates","catalogue"]'
    plain, fused = rows(catalogue), rows(catalogue, "--ranking.score=fusion")
    assert not {"prior-aligned", "pools"} & plain.keys()
    # 24 test users, and as many validation users; three language models, five candidates, 40 titles.
    assert (plain["scores"]["examples"], fused["scores"]["examples"]) == (24 * 3 * 5, 48 * 3 * 5)
    assert [fused[f"prior-{name}"]["examples"] for name in ("base", "sft", "aligned")] == [40, 40, 40]
    assert fused["pools"]["examples"] == 24 * 3 * 40


def test_confidence_and_weights_reach_the_readers(fused):
    document = json.loads((fused / "metrics.json").read_text())
    found = document["confidence"]["candidates-5"]["aligned fusion"]
    users = pl.read_parquet(fused / "evaluation" / "per_user.parquet").filter(model="aligned fusion")
    first = np.array([np.exp(each[0]) for each in users["scores"].to_list()])
    assert found["mean"] == pytest.approx(first.mean(), abs=1e-6)
    assert found["curves"][0]["risk"] == pytest.approx(1 - users["hr@1"].mean())
    logit = json.loads((fused / "fusion-aligned" / "fusion.json").read_text())
    card = (fused / "aligned" / "README.md").read_text()
    assert f"| log p(title \\| history) | {logit['weights'][0]:+.3f} |".replace("-", "\N{MINUS SIGN}") in card
    page = (fused / "report.html").read_text()
    assert "Weights of fusion</h3>" in page
    assert "Risk against coverage</h3>" in page
