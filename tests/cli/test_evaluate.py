"""Several protocols of one run, and models that rosepo did not train, through the command line."""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from peft import AdaptionPromptConfig, LoraConfig, get_peft_model
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM

from rosepo_core import pipeline
from rosepo_core.evaluation.candidates import load_candidates
from rosepo_core.evaluation.free import match
from rosepo_core.plugins.registry import load_plugins
from rosepo_core.stages.session import QuietReporter
from rosepo_core.stages.split import load_split

LISTS = {f"lists-{name}" for name in ("popularity", "oracle", "base", "sft", "aligned")}
ANSWERS = {f"answers-{name}" for name in ("base", "sft", "aligned")}
GROUNDED = {f"grounded-{name}" for name in ("base", "sft", "aligned")}
RANKING = ["popularity", "base", "sft", "aligned"]


def metrics_of(run):
    return json.loads((run / "metrics.json").read_text())


def users_of(run, **which):
    return pl.read_parquet(run / "evaluation" / "per_user.parquet").filter(**which)


@pytest.fixture
def run(finished, tmp_path):
    """A copy of a finished run."""
    return shutil.copytree(finished, tmp_path / "runs" / "copy")


@pytest.fixture(scope="module")
def asked(finished, rosepo, tmp_path_factory):
    """A run asked in all ways at once, and what the command said."""
    folder = shutil.copytree(finished, tmp_path_factory.mktemp("asked") / "runs" / "asked")
    done = rosepo(
        *("evaluate", folder, "--protocol", "catalogue", "--protocol=free"),
        *("--evaluation.ground=true", "--evaluation.decoding=exact"),
    )
    assert done.code == 0, done.err
    return folder, done


def test_a_further_protocol_asks_nothing_of_the_earlier_ones_again(rosepo, finished, run):
    before = metrics_of(finished)["protocols"]["candidates-5"]
    done = rosepo("evaluate", run, "--protocol", "catalogue")
    assert done.code == 0, done.err
    assert done.made == LISTS | {"evaluation"}
    assert list(metrics_of(run)["protocols"]) == ["candidates-5", "catalogue"]
    assert metrics_of(run)["protocols"]["candidates-5"] == before
    assert tomllib.loads((run / "config.toml").read_text())["evaluation"]["protocols"] == ["candidates", "catalogue"]
    again = rosepo("evaluate", run, "--protocol=free", "--protocol=free")
    assert again.made == ANSWERS | {"evaluation"}
    assert list(metrics_of(run)["protocols"]) == ["candidates-5", "catalogue", "free"]
    # Naming one of them takes none of the others away.
    fewer = rosepo("evaluate", run, '--set=evaluation.protocols=["free"]')
    assert fewer.made == set()
    assert list(metrics_of(run)["protocols"]) == ["candidates-5", "catalogue", "free"]


def test_further_cut_offs_stand_beside_the_earlier_ones(rosepo, finished, run):
    before = metrics_of(finished)["protocols"]["candidates-5"]["aligned"]
    done = rosepo("evaluate", run, "--evaluation.ks=[3]")
    assert done.code == 0, done.err
    assert done.made == {"evaluation"}
    after = metrics_of(run)["protocols"]["candidates-5"]["aligned"]
    assert {name for name in after if name.startswith("ndcg")} == {"ndcg@3", "ndcg@5", "ndcg@10"}
    assert {name: after[name] for name in before} == before
    assert tomllib.loads((run / "config.toml").read_text())["evaluation"]["ks"] == [1, 3, 5, 10]


def test_metrics_that_free_always_has_count_when_their_code_changes(rosepo, finished, asked, tmp_path, monkeypatch):
    plain, free = (shutil.copytree(run, tmp_path / name) for run, name in ((finished, "plain"), (asked[0], "free")))
    monkeypatch.setattr("rosepo_core.stages.evaluation.source_hash", lambda metric: f"{metric.__name__}, edited")
    assert rosepo("evaluate", free).made == {"evaluation"}
    assert rosepo("evaluate", free).made == set()
    assert rosepo("evaluate", plain).made == set()


def test_what_each_protocol_measures(asked):
    folder, _ = asked
    protocols = metrics_of(folder)["protocols"]
    assert list(protocols) == ["candidates-5", "catalogue", "free", "free-grounded"]
    assert list(protocols["catalogue"]) == RANKING
    assert list(protocols["free"]) == list(protocols["free-grounded"]) == RANKING[1:]
    accuracy = ("hr@1", "hr@5", "hr@10", "ndcg@5", "ndcg@10", "mrr@10")
    for protocol in ("catalogue", "free-grounded"):
        columns = protocols[protocol]["aligned"].keys()
        assert set(accuracy) <= columns
        assert not {"mrr", "auc", "popularity-confusion", "valid-ratio@1"} & columns
    assert {"hr@1", "hr-valid@1", "valid-ratio@1", "out-of-catalogue@1"} <= protocols["free"]["aligned"].keys()
    assert not {"hr@5", "mrr", "mrr@1"} & protocols["free"]["aligned"].keys()
    document = metrics_of(folder)
    quality = document["oracle_quality"]
    assert [protocol for protocol, each in quality.items() if each is not None] == ["candidates-5"]
    assert {each["model"] for each in document["comparisons"]["catalogue"]} == {"sft", "aligned"}
    assert list(document["intervals"]["free"]) == RANKING[1:]


def test_every_protocol_has_its_rows_by_user(asked):
    folder, _ = asked
    users = users_of(folder)
    assert users.columns[0] == "protocol"
    counts = dict(users.group_by("protocol").len().iter_rows())
    assert counts == {"candidates-5": 4 * 24, "catalogue": 4 * 24, "free": 3 * 24, "free-grounded": 3 * 24}
    catalogue = users.filter(protocol="catalogue")
    assert set(catalogue["items"].list.len()) == {10}
    # A target that is not in the list has no rank; the mean of the others' is of the list's places.
    listed = catalogue["items"].list.contains(catalogue["target"])
    assert (catalogue["rank"].is_null() == ~listed).all()
    assert catalogue["rank"].max() <= 10
    model = catalogue.filter(model="aligned")
    assert model["hr@10"].mean() == pytest.approx(metrics_of(folder)["protocols"]["catalogue"]["aligned"]["hr@10"])
    assert catalogue["answer"].null_count() == catalogue.height
    free = users.filter(protocol="free")
    assert (free["answer"].null_count(), free["scores"].null_count()) == (0, free.height)


def test_the_catalogue_is_ranked_as_scoring_every_title_does(asked):
    """Popularity by hand; of the model, what candidates were scored fits the lists."""
    folder, _ = asked
    split = load_split(folder / "split")
    arrays = load_file(folder / "lists-popularity" / "lists.safetensors")
    popularity = split.catalogue.popularity
    lists = users_of(folder, protocol="catalogue", model="popularity")["items"].to_list()
    for row, user in enumerate(split.test.user.tolist()):
        history = set(split.test.sequences[user][: split.test.position[row]].tolist())
        new = [item for item in range(len(split.catalogue)) if item not in history]
        best = sorted((popularity[item] for item in new), reverse=True)[:10]
        assert [popularity[item] for item in arrays["items"][row]] == best
        assert not history & set(arrays["items"][row].tolist())
        assert lists[row] == [split.catalogue.ids[item] for item in arrays["items"][row]]
    # The same model through the other door: the scores that candidates got.
    found = load_file(folder / "lists-aligned" / "lists.safetensors")
    scores = load_file(folder / "scores-aligned" / "scores.safetensors")["scores"]
    candidates = load_candidates(folder / "candidates").items
    met = 0
    for row in range(len(candidates)):
        of_list = dict(zip(found["items"][row].tolist(), found["scores"][row].tolist(), strict=True))
        for item, score in zip(candidates[row].tolist(), scores[row].tolist(), strict=True):
            if item in of_list:
                met += 1
                assert of_list[item] == pytest.approx(score, abs=1e-4)
            else:
                assert score <= found["scores"][row, -1] + 1e-4
    assert met > 5


def test_answers_are_counted_as_they_were_written(asked):
    folder, _ = asked
    split = load_split(folder / "split")
    for name in ("base", "sft", "aligned"):
        answers = pl.read_parquet(folder / f"answers-{name}" / "answers.parquet")
        assert answers["user"].to_list() == [split.users[user] for user in split.test.user]
        matched = match(answers["answer"].to_list(), split.catalogue.titles, split.catalogue.titles)
        values = metrics_of(folder)["protocols"]["free"][name]
        valid = matched >= 0
        assert values["valid-ratio@1"] == pytest.approx(valid.mean())
        assert values["hr@1"] == pytest.approx((matched == split.test.target).mean())
        hits = (matched == split.test.target)[valid]
        assert values["hr-valid@1"] == (pytest.approx(hits.mean()) if len(hits) else None)
        rows = users_of(folder, protocol="free", model=name)
        assert rows["answer"].to_list() == answers["answer"].to_list()


def test_grounded_answers_are_titles(asked):
    folder, _ = asked
    split = load_split(folder / "split")
    titles = load_file(folder / "embeddings" / "embeddings.safetensors")["titles"]
    answers = pl.read_parquet(folder / "answers-sft" / "answers.parquet")["answer"].to_list()
    found = load_file(folder / "grounded-sft" / "grounded.safetensors")
    matched = match(answers, split.catalogue.titles, split.catalogue.titles)
    for row, (answer, item) in enumerate(zip(answers, matched.tolist(), strict=True)):
        if not answer.strip():
            assert (found["items"][row] == -1).all()
            continue
        assert (found["items"][row] >= 0).all()
        assert (np.diff(found["cosines"][row]) <= 1e-6).all()
        if item >= 0:
            assert found["items"][row, 0] == item
            np.testing.assert_allclose(found["cosines"][row], titles[item] @ titles[found["items"][row]].T, atol=1e-4)


def test_all_tables_are_shown_and_fit_80_columns(asked, rosepo, monkeypatch):
    folder, first = asked
    assert {"embeddings"} | LISTS | ANSWERS | GROUNDED <= set(first.stages)
    monkeypatch.setenv("COLUMNS", "80")
    shown = rosepo("evaluate", folder).out
    for protocol in ("candidates-5", "catalogue", "free", "free-grounded"):
        assert f"Accuracy, {protocol}" in [line.rstrip() for line in shown.splitlines()]
    assert "24 test users, 5 candidates each, the target among them" in shown
    assert "24 test users, lists of 10 out of 40 titles, those of the history left" in shown
    assert "24 test users, one answer each, read as the title that it equals" in shown
    assert max(len(line) for line in shown.splitlines() if str(folder) not in line) <= 80
    card = (folder / "aligned" / "README.md").read_text()
    assert all(f"Protocol `{name}`" in card for name in ("candidates-5", "catalogue", "free", "free-grounded"))


@pytest.mark.parametrize("negatives", ["popularity", "semantic"])
def test_other_negatives_are_another_protocol_beside_the_first(rosepo, finished, run, negatives):
    before = metrics_of(finished)["protocols"]["candidates-5"]
    done = rosepo("evaluate", run, "--evaluation.negatives", negatives)
    assert done.code == 0, done.err
    name = f"candidates-5-{negatives}"
    assert list(metrics_of(run)["protocols"]) == ["candidates-5", name]
    assert metrics_of(run)["protocols"]["candidates-5"] == before
    split, drawn = load_split(run / "split"), load_candidates(run / f"candidates-{negatives}").items
    uniform = users_of(run, protocol=name)
    assert uniform.height == 4 * 24
    others = drawn[drawn != split.test.target[:, None]].reshape(24, 4)
    seen = [set(split.seen.of_user(user).tolist()) for user in split.test.user.tolist()]
    assert not any(set(row) & had for row, had in zip(others.tolist(), seen, strict=True))
    if negatives == "semantic":
        titles = load_file(run / "embeddings" / "embeddings.safetensors")["titles"]
        for row, target in enumerate(split.test.target.tolist()):
            new = [item for item in range(40) if item not in seen[row]]
            nearest = sorted(new, key=lambda item: -float(titles[target] @ titles[item]))[:4]
            assert set(others[row].tolist()) == set(nearest)


def test_several_negatives_stand_side_by_side_and_the_first_is_not_asked_again(rosepo, run):
    before = metrics_of(run)["protocols"]["candidates-5"]
    done = rosepo("evaluate", run, '--evaluation.negatives=["uniform", "popularity"]')
    assert done.code == 0, done.err
    assert list(metrics_of(run)["protocols"]) == ["candidates-5", "candidates-5-popularity"]
    assert metrics_of(run)["protocols"]["candidates-5"] == before
    asked = {stage for stage in done.made if stage.startswith("scores")}
    assert asked == {f"scores-{model}-popularity" for model in ("popularity", "oracle", "base", "sft", "aligned")}
    wrong = rosepo("evaluate", run, "--evaluation.negatives=nearest")
    assert wrong.code == 2
    assert "evaluation.negatives" in wrong.err


def test_validation_targets_stand_beside_those_of_the_test(rosepo, run):
    before = metrics_of(run)["protocols"]["candidates-5"]
    done = rosepo("evaluate", run, "--evaluation.part=validation")
    assert done.code == 0, done.err
    after = metrics_of(run)["protocols"]
    assert list(after) == ["candidates-5", "candidates-5-validation"]
    assert after["candidates-5"] == before
    assert not {stage for stage in done.made if not stage.endswith(("-validation", "evaluation"))}
    assert "24 test users, 5 candidates each" in done.out
    assert "24 validation users, 5 candidates each" in done.out
    page = (run / "report.html").read_text()
    assert page.index("Results: candidates-5<") < page.index("Results: candidates-5-validation<")
    split = load_split(run / "split")
    validation = users_of(run, protocol="candidates-5-validation")
    targets = dict(validation.select("user", "target").iter_rows())
    assert targets == {
        split.users[user]: split.catalogue.ids[item]
        for user, item in zip(split.validation.user.tolist(), split.validation.target.tolist(), strict=True)
    }
    # Neither the test target nor anything else that the user ever chose is among the candidates.
    drawn = load_candidates(run / "candidates-validation").items
    others = np.where(drawn == split.validation.target[:, None], -1, drawn)
    assert not split.seen.contains(split.validation.user, others).any()


def test_oracle_hard_takes_the_oracles_favourites(rosepo, train, tmp_path):
    run = tmp_path / "runs" / "run"
    done = train(
        "--run", run, "--sampler=oracle-hard", "--sampler.pool=1", "--oracle=sasrec", "--oracle.max_flip=0.9"
    )
    assert done.code == 0, done.err
    pairs = pl.read_parquet(run / "preferences" / "pairs.parquet")
    assert set(pairs["sampler"]) == {"oracle-hard"}
    assert pairs["eps"].max() <= 0.9
    refused = train("--run", tmp_path / "runs" / "other", "--sampler=oracle-hard")
    assert refused.code == 2
    assert refused.err.splitlines()[-1] == (
        "error: sampler 'oracle-hard' takes what the oracle ranks highest, and oracle 'constant' ranks nothing: set "
        "another, such as oracle='sasrec'"
    )
    assert "sft" not in refused.stages


def test_train_takes_protocols(train, tmp_path):
    run = tmp_path / "runs" / "run"
    done = train(
        "--run", run, "--protocol=catalogue", "--evaluation.max_users=6", "--oracle=sasrec", "--oracle.layers=1"
    )
    assert done.code == 0, done.err
    assert "candidates" not in done.stages
    # SASRec ranks, so it has a list as well.
    assert list(metrics_of(run)["protocols"]["catalogue"]) == ["popularity", "oracle", "base", "sft", "aligned"]
    assert users_of(run)["user"].n_unique() == 6


def test_a_plan_counts_what_protocols_cost(train, tmp_path):
    dry = train(
        *("--run", tmp_path / "run", "--dry-run", "--json", "--protocol=candidates", "--protocol=catalogue"),
        *("--protocol=free", "--evaluation.ground=true", "--evaluation.negatives=semantic"),
    )
    assert dry.code == 0, dry.err
    rows = {row["stage"]: row for row in dry.json["plan"]["stages"]}
    assert rows["embeddings"]["examples"] == 40
    assert rows["scores"]["examples"] == 3 * 24 * 5
    assert {rows[stage]["examples"] for stage in ("lists", "answers", "grounded")} == {3 * 24}
    # Each answer may be as long as the longest title.
    longer = rows["answers"]["tokens"] - rows["lists"]["tokens"]
    assert longer == 3 * 24 * (rows["answers"]["longest"] - rows["lists"]["longest"]) > 0
    assert rows["lists"]["seconds"] > 0
    assert rows["answers"]["seconds"] > 0
    plain = train("--run", tmp_path / "run", "--dry-run", "--json", "--metric=hr").json["plan"]["stages"]
    assert not {"embeddings", "lists", "answers", "grounded"} & {row["stage"] for row in plain}


@pytest.mark.parametrize("protocol", ["catalogue", "free"])
def test_prompts_that_list_candidates_are_for_candidates_alone(train, tmp_path, protocol):
    done = train(
        *("--run", tmp_path / "run", "--prompt=chat", "--prompt.candidates=3", f"--protocol={protocol}"),
    )
    assert done.code == 2
    assert f"protocol '{protocol}' asks for a title out of all, but the prompts list candidates" in done.err
    assert not (tmp_path / "run").exists()


def test_an_unknown_protocol(rosepo, train, run, tmp_path):
    said = "'catalog': input should be 'candidates', 'catalogue' or 'free'"
    for done in (
        rosepo("evaluate", run, "--protocol=catalog"),
        train("--run", tmp_path / "new", "--protocol=catalog"),
    ):
        assert done.code == 2
        assert said in done.err


# --- models that rosepo did not train ---

SAME = ("--model.dtype=float32", "--dataset.history_length=8", "--evaluation.candidates=5", "--seed=3")


@pytest.fixture
def evaluate(rosepo, log, tmp_path):
    def command(model, *arguments):
        parts = ("--dataset=table", f"--dataset.path={log}", *SAME, "--run", tmp_path / "runs" / "mine")
        return rosepo("evaluate", "--model", model, *parts, *arguments)

    command.run = tmp_path / "runs" / "mine"
    return command


@pytest.fixture
def adapter(model_folder, tmp_path):
    """A LoRA adapter that another program left, as plain PEFT saves it."""
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    model = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    model.save_pretrained(tmp_path / "their-adapter")
    return tmp_path / "their-adapter"


def test_an_adapter_gets_what_it_got_in_the_run_that_trained_it(evaluate, finished):
    done = evaluate(finished / "aligned", "--protocol=candidates", "--protocol=catalogue")
    assert done.code == 0, done.err
    assert [stage for stage in done.stages if stage != "Loading"] == [
        *("dataset", "split", "candidates", "embeddings", "scores-popularity", "scores-aligned"),
        *("lists-popularity", "lists-aligned", "evaluation"),
    ]
    ours, theirs = (
        metrics_of(evaluate.run)["protocols"]["candidates-5"],
        metrics_of(finished)["protocols"]["candidates-5"],
    )
    assert list(ours) == ["popularity", "aligned"]
    assert ours["popularity"] == theirs["popularity"]
    assert ours["aligned"] == pytest.approx(theirs["aligned"])
    scores = [load_file(run / "scores-aligned" / "scores.safetensors")["scores"] for run in (evaluate.run, finished)]
    np.testing.assert_allclose(*scores, atol=1e-5)
    assert not (evaluate.run / "report.html").exists()
    assert not (evaluate.run / "sft").exists()
    assert "report" not in done.out
    assert done.out.splitlines()[-1] == f"run     {evaluate.run}"
    assert evaluate(finished / "aligned", "--protocol=candidates", "--protocol=catalogue").made == set()


def test_a_model_is_asked_with_its_own_prompts(rosepo, train, log, tmp_path):
    run, again = tmp_path / "trained" / "run", tmp_path / "evaluated" / "run"
    odd = ('--prompt.header="5"', "--prompt.titles=full", "--dataset.history_length=3")
    assert train("--run", run, *odd, "--sft.steps=1", "--until=sft").code == 0
    data = ("--dataset=table", f"--dataset.path={log}", "--model.dtype=float32", "--evaluation.candidates=5")
    done = rosepo("evaluate", "--model", run / "sft", *data, "--run", again)
    assert done.code == 0, done.err
    config = tomllib.loads((again / "config.toml").read_text())
    assert (config["prompt"]["header"], config["prompt"]["titles"]) == ("5", "full")
    assert config["dataset"]["history_length"] == 3
    assert "is asked with the prompts that it was trained on" in " ".join(done.err.split())


def test_other_prompts_than_in_training_are_told(evaluate, finished):
    said = "the model is asked with other prompts than it was trained on"
    assert said not in evaluate(finished / "aligned").err
    run = evaluate.run.with_name("other")
    other = evaluate(finished / "aligned", "--prompt.header=Seen:\n", "--dataset.history_length=4", "--run", run)
    assert f"{said}: prompt.header, dataset.history_length" in " ".join(other.err.split())
    assert tomllib.loads((run / "config.toml").read_text())["dataset"]["history_length"] == 4


def test_any_adapter_and_any_model(evaluate, adapter, model_folder):
    assert evaluate(model_folder).code == 0
    base = metrics_of(evaluate.run)["protocols"]["candidates-5"]
    assert list(base) == ["popularity", "tiny"]
    other = ("--run", evaluate.run.with_name("other"))
    done = evaluate(adapter, "--protocol=free", "--json", *other)
    assert done.code == 0, done.err
    models = done.json["metrics"]["protocols"]["free"]
    assert list(models) == ["their-adapter"]
    assert "valid-ratio@1" in models["their-adapter"]
    assert evaluate(adapter, *other).code == 0
    changed = metrics_of(evaluate.run.with_name("other"))["protocols"]["candidates-5"]
    assert changed["their-adapter"] != base["tiny"]
    # Another adapter in the same place is scored anew.
    weights = load_file(adapter / "adapter_model.safetensors")
    save_file(
        {name: 2 * array for name, array in weights.items()}, adapter / "adapter_model.safetensors", {"format": "pt"}
    )
    assert "scores-their-adapter" in evaluate(adapter, *other).made


def test_a_finished_evaluation_of_a_model_is_added_to_and_never_replaced(evaluate, model_folder, adapter):
    assert evaluate(model_folder, "--metric=hr").code == 0
    before = metrics_of(evaluate.run)["protocols"]["candidates-5"]["tiny"]
    for arguments, key in (
        ((adapter,), "model.name"),
        ((model_folder, "--seed=4"), "seed"),
        ((model_folder, "--evaluation.candidates=4"), "evaluation.candidates"),
    ):
        said = refused(evaluate(*arguments))
        assert said == f"{evaluate.run} holds a finished evaluation that differs in {key}: choose another --run"
    done = evaluate(model_folder, "--metric=ndcg", "--evaluation.ks=[3]")
    assert (done.code, done.made) == (0, {"evaluation"}), done.err
    after = metrics_of(evaluate.run)["protocols"]["candidates-5"]["tiny"]
    assert {name: after[name] for name in before} == before
    assert after.keys() - before.keys() == {"hr@3", "ndcg@3", "ndcg@5", "ndcg@10"}


def test_prompts_that_a_model_cannot_read_are_refused_before_any_work(evaluate, model_folder):
    done = evaluate(model_folder, "--prompt.max_length=1000000")
    assert "option 'prompt.max_length' = 1000000: the model reads at most" in refused(done)
    assert "dataset" not in done.stages
    assert not evaluate.run.exists()


def test_the_python_door(log, model_folder, tmp_path):
    registry = load_plugins()
    overrides = [("dataset", "table"), ("dataset.path", str(log)), ("model", str(model_folder)), ("seed", "3")]
    config = pipeline.evaluation_config(None, [*overrides, ("evaluation.candidates", "5")], registry)
    run = pipeline.evaluate_model(config, tmp_path / "run", QuietReporter())
    (evaluation,) = run.evaluations
    assert (evaluation.protocol, list(evaluation.models)) == ("candidates-5", ["popularity", "tiny"])
    folder = pipeline.default_folder(config, trained=False)
    assert folder.name.rpartition("-")[0] == "table-tiny"


def broken(folder: Path, **changes):
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | changes))


def refused(done):
    assert done.code == 2, (done.out, done.err)
    return done.err.splitlines()[-1].removeprefix("error: ")


def test_what_is_no_model_says_what_it_lacks(evaluate, adapter, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert f"{empty} is no model folder, it has no config.json" in refused(evaluate(empty))
    assert "no such file or folder" in refused(evaluate("./nowhere/at/all"))
    broken(adapter, base_model_name_or_path=str(tmp_path / "gone"))
    said = f"{adapter}/adapter_config.json names the base model '{tmp_path}/gone': model {tmp_path}/gone: no such"
    assert said in refused(evaluate(adapter))
    broken(adapter, base_model_name_or_path=None)
    assert f"{adapter}/adapter_config.json names no base model" in refused(evaluate(adapter))
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    assert f"{adapter} has an adapter_config.json and no adapter_model.safetensors" in refused(evaluate(adapter))
    (adapter / "adapter_config.json").write_text("{")
    assert f"{adapter}: cannot load the adapter:" in refused(evaluate(adapter))
    assert not evaluate.run.exists()


def test_an_adapter_that_lacks_weights_is_not_taken_for_its_base(evaluate, adapter):
    weights = load_file(adapter / "adapter_model.safetensors")
    kept = dict(sorted(weights.items())[2:])
    save_file(kept, adapter / "adapter_model.safetensors", {"format": "pt"})
    assert f"{adapter}: cannot load the adapter: Found missing adapter keys" in refused(evaluate(adapter))
    assert not evaluate.run.exists()


def test_an_adapter_that_changes_how_the_whole_model_runs(evaluate, model_folder, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    config = AdaptionPromptConfig(adapter_len=3, adapter_layers=1, task_type="CAUSAL_LM")
    get_peft_model(model, config).save_pretrained(tmp_path / "odd")
    assert "an adapter of type ADAPTION_PROMPT changes how the whole model runs" in refused(
        evaluate(tmp_path / "odd")
    )


def test_a_run_or_a_model(rosepo, evaluate, finished, model_folder, run):
    assert "name a finished run, RUN, or a model, --model PATH" in refused(rosepo("evaluate"))
    both = rosepo("evaluate", run, "--model", model_folder)
    assert refused(both).endswith(f"'{run}' and '{model_folder}' are one of each")
    assert "--run goes with --model" in refused(rosepo("evaluate", run, "--run", run))
    assert "'dataset' cannot be changed in a finished run" in refused(rosepo("evaluate", run, "--dataset=table"))
    assert "unexpected argument 'other'" in refused(rosepo("evaluate", run, "other"))
    assert "'sft.steps' says nothing of a model that is only evaluated" in refused(
        evaluate(model_folder, "--sft.steps=3")
    )
    assert f"{run} is a run that trained a model" in refused(evaluate(model_folder, "--run", run))
    assert evaluate(model_folder).code == 0
    assert f"{evaluate.run} holds the evaluation of a model" in refused(rosepo("evaluate", evaluate.run))


def test_options_may_stand_anywhere(rosepo, run):
    done = rosepo("evaluate", "--evaluation.candidates", "4", "--evaluation.ks=[1]", run)
    assert done.code == 0, done.err
    assert list(metrics_of(run)["protocols"]) == ["candidates-4"]
