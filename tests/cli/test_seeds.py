"""`rosepo train --seeds`: complete runs side by side, and what is made of their numbers."""

from __future__ import annotations

import json
import math
import re
import shutil
import tomllib

import numpy as np
import polars as pl
import pytest

from rosepo_core.evaluation.candidates import load_candidates
from rosepo_core.stages import oracle

STUDENT = {2: 12.706204736, 3: 4.302652730}
"""The 97.5 % points of Student's distribution for means of so many values, from a printed table."""

MAIN = [
    *("hr@1", "hr@5", "hr@10", "ndcg@5", "ndcg@10", "mrr", "auc", "semantic-hallucination"),
    *("arp@1", "popularity-lift@1", "aplt@1", "popularity-confusion", "popularity-correlation"),
    *("coverage@1", "gini@1", "or-ratio@1", "div-ratio@1"),
]
ACCURACY = MAIN[:7]
FEW = ("--evaluation.candidates=2", "--evaluation.max_users=1")


def read(path):
    return json.loads(path.read_text())


def models_of(run):
    [table] = read(run / "metrics.json")["protocols"].values()
    return table


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def by_seed(done):
    """Of each seed that was begun, the stages that were made anew."""
    made = {}
    for line in done.err.splitlines():
        if begun := re.match(r"  seed (\d+) \(\d of \d\): ", line):
            made[int(begun[1])] = stages = set()
        elif re.search(r"^\S+ +[\d.]+ s$", line):
            stages.add(line.split()[0])
    return made


def fault(done):
    [line] = [line for line in done.err.splitlines() if not line.startswith(" ")][-1:]
    assert (done.code, done.out) == (2, "")
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, train):
    """What three seeds printed, and where they are; not to be changed."""
    folder = tmp_path_factory.mktemp("seeds") / "runs" / "three"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "80")
        done = train("--run", folder, "--seeds=3")
    assert done.code == 0, done.err
    return done, folder


@pytest.fixture
def runs(trained, tmp_path):
    """A copy of them."""
    return shutil.copytree(trained[1], tmp_path / "runs" / "three")


def test_each_seed_is_a_complete_run_of_its_own(trained, finished):
    _, folder = trained
    assert {path.name for path in folder.iterdir()} == {"seed-3", "seed-4", "seed-5", "seeds.json"}
    for seed in (3, 4, 5):
        run = folder / f"seed-{seed}"
        assert tomllib.loads((run / "config.toml").read_text())["seed"] == read(run / "metrics.json")["seed"] == seed
        assert (run / "report.html").exists()
    # What `rosepo train --seed=3` leaves.
    alone, first = read(finished / "metrics.json"), read(folder / "seed-3" / "metrics.json")
    assert {**alone, "seconds": None} == {**first, "seconds": None}


def test_seeds_share_the_data_and_draw_for_themselves(trained):
    done, folder = trained
    begun = by_seed(done)
    assert list(begun) == [3, 4, 5]
    shared = {"dataset", "split", "embeddings"}
    assert shared <= begun[3]
    drawn = {"candidates", "sft", "sampling", "reference", "preferences", "aligned", "scores-sft", "evaluation"}
    assert all(drawn <= begun[seed] and not begun[seed] & shared for seed in (4, 5))
    first, second = (load_candidates(folder / f"seed-{seed}" / "candidates").items for seed in (3, 4))
    assert first.shape == second.shape
    assert (first != second).any()


def test_means_and_deviations_are_those_of_the_runs(trained):
    _, folder = trained
    document = read(folder / "seeds.json")
    assert list(document) == ["schema", "seeds", "runs", "protocols"]
    assert (document["schema"], document["seeds"]) == (1, [3, 4, 5])
    assert document["runs"] == ["seed-3", "seed-4", "seed-5"]
    assert list(document["protocols"]) == ["candidates-5"]
    table = document["protocols"]["candidates-5"]
    runs = [models_of(folder / name) for name in document["runs"]]
    assert list(table) == list(runs[0]) == ["popularity", "base", "sft", "aligned"]
    moved = 0
    for model, spreads in table.items():
        assert list(spreads) == MAIN
        for column, spread in spreads.items():
            values = [run[model][column] for run in runs]
            mean, deviation = np.mean(values), np.std(values, ddof=1)
            half = STUDENT[3] * deviation / math.sqrt(3)
            assert spread["values"] == values
            found = [spread[name] for name in ("mean", "deviation", "low", "high")]
            assert list(spread) == ["values", "mean", "deviation", "low", "high"]
            assert found == pytest.approx([mean, deviation, mean - half, mean + half])
            moved += deviation > 0.001
    assert moved > len(MAIN)


def test_the_table_fits_and_has_every_mean_over_its_deviation(trained):
    done, folder = trained
    lines = done.out.splitlines()
    assert max(map(len, lines[:-1])) <= 80
    table = read(folder / "seeds.json")["protocols"]["candidates-5"]
    at = next(number for number, line in enumerate(lines) if line.startswith("aligned "))
    accuracy = [table["aligned"][column] for column in ACCURACY]
    assert lines[at].split() == ["aligned", *(f"{spread['mean']:.3f}" for spread in accuracy)]
    assert lines[at + 1].replace("±", "").split() == [f"{spread['deviation']:.3f}" for spread in accuracy]
    at = next(number for number, line in enumerate(lines) if line.startswith("ARP@1"))
    arp = [table[model]["arp@1"] for model in table]
    assert lines[at].split() == ["ARP@1", "↓", *(f"{spread['mean']:.1f}" for spread in arp)]
    assert lines[at + 1].replace("±", "").split() == [f"{spread['deviation']:.1f}" for spread in arp]
    assert lines[-2:] == ["mean ± standard deviation over seeds 3, 4, 5", f"run     {folder}"]


def test_again_makes_nothing_and_prints_the_same_as_json(train, trained, runs):
    done = train("--run", runs, "--seeds=3", "--json")
    assert (done.code, by_seed(done)) == (0, {3: set(), 4: set(), 5: set()})
    assert done.json == {"run": str(runs), "seeds": read(trained[1] / "seeds.json")}
    assert (runs / "seeds.json").read_bytes() == (trained[1] / "seeds.json").read_bytes()


def test_fewer_seeds_are_those_alone(train, runs):
    fewer = train("--run", runs, "--seeds=2", "--json")
    assert by_seed(fewer) == {3: set(), 4: set()}
    assert fewer.json["seeds"]["runs"] == ["seed-3", "seed-4"]
    spread = fewer.json["seeds"]["protocols"]["candidates-5"]["popularity"]["mrr"]
    first, second = spread["values"]
    # Of two values, the deviation is their distance over the root of 2, and so the error of their mean half of it.
    assert spread["deviation"] == pytest.approx(abs(first - second) / math.sqrt(2))
    assert spread["high"] - spread["mean"] == pytest.approx(STUDENT[2] * abs(first - second) / 2)
    assert (runs / "seed-5" / "metrics.json").exists()


def test_what_was_interrupted_goes_on(train, trained, runs, monkeypatch):
    shutil.rmtree(runs / "seed-5")
    learn, calls = oracle.stage, []

    def interrupt_the_third(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return learn(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(oracle, "stage", interrupt_the_third)
        stopped = train("--run", runs, "--seeds=3")
    assert (stopped.code, stopped.out) == (130, "")
    assert by_seed(stopped) == {3: set(), 4: set(), 5: {"candidates", "sft"}}
    # It is there when all seeds are done, and then is about them.
    assert not (runs / "seeds.json").exists()
    done = by_seed(train("--run", runs, "--seeds=3"))
    assert (done[3], done[4]) == (set(), set())
    assert {"sampling", "aligned", "evaluation"} <= done[5]
    assert not done[5] & {"candidates", "sft"}
    assert (runs / "seeds.json").read_bytes() == (trained[1] / "seeds.json").read_bytes()


def test_a_metric_that_applies_to_nobody_in_some_seeds(train, runs):
    done = train("--run", runs, "--seeds=3", *FEW, "--overwrite")
    assert done.code == 0, done.err
    # Nothing is trained for it.
    scores = {f"scores-{name}" for name in ("popularity", "oracle", "base", "sft", "aligned")}
    assert by_seed(done) == {seed: {"candidates", "evaluation"} | scores for seed in (3, 4, 5)}
    spread = read(runs / "seeds.json")["protocols"]["candidates-2"]["popularity"]["semantic-hallucination"]
    values = [models_of(runs / f"seed-{seed}")["popularity"]["semantic-hallucination"] for seed in (3, 4, 5)]
    assert spread["values"] == values
    # How many there are depends on the encoder that is installed.
    known = [value for value in values if value is not None]
    assert len(known) in (1, 2)
    assert spread["mean"] == pytest.approx(np.mean(known))
    assert spread["deviation"] == (pytest.approx(np.std(known, ddof=1)) if len(known) == 2 else None)
    applies = f"Semantic hallucination applies in {len(known)} of 3 seeds to popularity, base, sft, aligned\n"
    assert applies in done.out
    # With one target and one rival there is no order to correlate with, in any seed.
    nothing = read(runs / "seeds.json")["protocols"]["candidates-2"]["base"]["popularity-correlation"]
    assert nothing == {"values": [None] * 3, "mean": None, "deviation": None, "low": None, "high": None}
    assert re.search(r"^Popularity correlation +- +- +- +-$", done.out, re.M)


def test_each_protocol_has_its_own_table(train, runs, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    asked = ("--protocol=candidates", "--protocol=catalogue", "--metric=mrr", "--overwrite")
    done = train("--run", runs, "--seeds=2", *asked)
    assert done.code == 0, done.err
    protocols = read(runs / "seeds.json")["protocols"]
    assert list(protocols) == ["candidates-5", "catalogue"]
    first, second = (read(runs / f"seed-{seed}" / "metrics.json")["protocols"] for seed in (3, 4))
    # The catalogue's lists end at the tenth item.
    for protocol, column in (("candidates-5", "mrr"), ("catalogue", "mrr@10")):
        assert list(protocols[protocol]) == ["popularity", "base", "sft", "aligned"]
        for model, spreads in protocols[protocol].items():
            assert list(spreads) == [column]
            assert spreads[column]["values"] == [run[protocol][model][column] for run in (first, second)]
        assert f"\nAccuracy, {protocol}\n" in done.out


def test_one_seed_has_no_deviation(train, runs):
    done = train("--run", runs, "--seeds=1", "--seed=4")
    assert by_seed(done) == {4: set()}
    assert "±" not in done.out
    assert "\nseed 4 alone, so there is no deviation\n" in done.out
    spread = read(runs / "seeds.json")["protocols"]["candidates-5"]["sft"]["mrr"]
    mean = models_of(runs / "seed-4")["sft"]["mrr"]
    assert spread == {"values": [mean], "mean": mean, "deviation": None, "low": None, "high": None}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--seeds=0"], "--seeds 0: say how many seeds to run, 1 or more, e.g. --seeds 5"),
        (["--seeds=-2"], "--seeds -2: say how many seeds to run, 1 or more, e.g. --seeds 5"),
        (["--seeds=two"], "Invalid value for '--seeds': Input should be a valid integer"),
        (["--seeds=2", "--until=sft"], "--seeds needs finished runs: leave --until out, or --seeds"),
        (
            ["--seeds=2", "--seed=4294967295"],
            "seed=4294967295 and --seeds 2 go beyond the largest seed, 4294967295: lower seed",
        ),
        (["--seeds=2", "--evaluation.candidates=60"], "set evaluation.candidates to at most"),
    ],
)
@pytest.mark.parametrize("dry", [[], ["--dry-run"]], ids=["train", "dry run"])
def test_a_wrong_request(train, tmp_path, arguments, said, dry):
    assert said in fault(train("--run", tmp_path / "new", *arguments, *dry))
    assert not (tmp_path / "new").exists()


def test_a_wrong_request_leaves_earlier_seeds_as_they_were(train, runs):
    before = contents(runs)
    assert "set evaluation.candidates to at most" in fault(
        train("--run", runs, "--seeds=3", "--evaluation.candidates=60", "--overwrite")
    )
    assert contents(runs) == before


@pytest.mark.parametrize("dry", [[], ["--dry-run"]], ids=["train", "dry run"])
def test_a_folder_of_something_else(train, finished, tmp_path, dry):
    before = contents(finished)
    said = fault(train("--run", finished, "--seeds=2", *dry))
    assert said == f"{finished} is a plain run (it has run.json): choose another --run for --seeds"
    assert contents(finished) == before
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "today.txt").write_text("nothing")
    for path in (tmp_path / "notes", tmp_path / "notes" / "today.txt"):
        said = fault(train("--run", path, "--seeds=2", *dry))
        assert said == f"{path} exists and holds no runs under seeds (seed-*/run.json): choose another --run"
    assert [path.name for path in (tmp_path / "notes").iterdir()] == ["today.txt"]


def test_a_plain_run_does_not_go_where_seeds_are(train, runs):
    assert fault(train("--run", runs)) == (
        f"{runs} exists and is no run folder (it has no run.json): choose another --run"
    )


def test_a_dry_run_plans_the_first_seed(train, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    done = train("--seeds=3", "--dry-run")
    assert done.code == 0, done.err
    [folder] = re.findall(r"^run     (runs/table-[a-z-]+-rosepo-[0-9a-f]{8}-seeds)/seed-3$", done.out, re.M)
    assert "\nseeds   3, 4, 5: this plan is seed 3's; all of it times 3 takes about " in done.out
    assert "other seeds may have to make it" not in done.out
    document = train("--seeds=3", "--dry-run", "--json").json
    assert (document["run"], document["seeds"], document["config"]["seed"]) == (folder, [3, 4, 5], 3)
    assert {stage["stage"] for stage in document["plan"]["stages"]} >= {"sft", "aligned", "scores"}
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_says_that_others_may_lack_what_the_first_has(train, runs):
    before = contents(runs)
    assert "note: what seed 3 reuses is not counted" in train("--run", runs, "--seeds=3", "--dry-run").out
    assert contents(runs) == before


@pytest.fixture(scope="module")
def other(train, trained):
    """The seeds of `trained` with another loss, beside it."""
    folder = trained[1].parent / "ipo"
    assert train("--run", folder, "--seeds=3", "--loss=ipo", "--alignment.learning_rate=0.05").code == 0
    return folder


def test_folders_of_seeds_are_compared_seed_by_seed(rosepo, trained, other):
    done = rosepo("compare", trained[1], other, "--metric=ndcg@5", "--json")
    assert done.code == 0, done.err
    assert done.json["seeds"] == [3, 4, 5]
    found = done.json["protocols"]["candidates-5"]
    values = {
        folder: [
            pl.read_parquet(folder / f"seed-{seed}" / "evaluation" / "per_user.parquet").filter(model="aligned")[
                "ndcg@5"
            ]
            for seed in (3, 4, 5)
        ]
        for folder in (trained[1], other)
    }
    first, second = (np.stack([each.to_numpy() for each in of]) for of in values.values())
    assert found["models"]["aligned (ipo)"]["value"] == pytest.approx(second.mean())
    [test] = found["comparisons"]
    assert (test["model"], test["baseline"], test["users"]) == ("aligned (ipo)", f"aligned ({trained[1].name})", 24)
    assert test["difference"] == pytest.approx((second - first).mean())
    assert test["low"] <= test["difference"] <= test["high"]
    assert test["p_wilcoxon"] is None
    shown = rosepo("compare", trained[1], other).out
    assert "seeds 3, 4, 5, 24 users; p by drawing seeds and users\n" in shown


def test_seeds_that_rank_by_different_scores_are_refused(rosepo, other, runs, tmp_path):
    copy = shutil.copytree(other, tmp_path / "ipo")
    for folder in (runs, copy):
        assert rosepo("evaluate", folder / "seed-5", "--ranking.score=mean").code == 0
    assert "seed 5 rank by another score than those of seed 3" in fault(rosepo("compare", runs, copy))


def test_what_cannot_be_compared_seed_by_seed(rosepo, trained, other, runs):
    shutil.rmtree(runs / "seed-4")
    assert "has the seeds 3, 4, 5 and" in fault(rosepo("compare", trained[1], runs))
    assert "name folders of one kind" in fault(rosepo("compare", other, trained[1] / "seed-3"))


def test_all_seeds_are_evaluated_further(rosepo, runs):
    done = rosepo("evaluate", runs, "--metric=recall", "--json")
    assert done.code == 0, done.err
    table = done.json["seeds"]["protocols"]["candidates-5"]["sft"]
    assert table["recall@5"] == table["hr@5"]
    assert read(runs / "seeds.json") == done.json["seeds"]
    assert all("recall@5" in models_of(runs / f"seed-{seed}")["sft"] for seed in (3, 4, 5))


def test_the_first_of_the_seeds_recommends(rosepo, trained):
    title = pl.read_parquet(trained[1] / "seed-3" / "split" / "catalogue.parquet")["title"][0]
    done = rosepo("recommend", trained[1], "--history", title, "--json")
    assert done.code == 0, done.err
    assert done.json == rosepo("recommend", trained[1] / "seed-3", "--history", title, "--json").json
    assert f"recommending with the first of 3 seeds, {trained[1]}/seed-3" in " ".join(done.err.split())


def test_one_report_of_all_seeds(rosepo, trained, other, tmp_path):
    done = rosepo("report", trained[1], "--out", tmp_path / "one.html")
    assert done.code == 0, done.err
    page = (tmp_path / "one.html").read_text()
    assert "Seeds 3, 4, 5; under each 24 test examples" in page
    spread = read(trained[1] / "seeds.json")["protocols"]["candidates-5"]["sft"]["mrr"]
    low, high = (f"{spread[end]:.3f}".replace("0.", ".", 1).replace("-", "\N{MINUS SIGN}") for end in ("low", "high"))
    assert f"<span>{spread['mean']:.3f}</span><small>{low}\N{EN DASH}{high}</small>" in page
    assert "interval over seeds and users" in page
    assert 'id="training-3"' in page
    assert rosepo("report", trained[1], other, "--out", tmp_path / "two.html").code == 0
    judged = r"Aligned \(ipo\) (is above|is below|does not clearly differ from) Aligned \(three\) in NDCG@10: "
    assert re.search(judged, (tmp_path / "two.html").read_text())
