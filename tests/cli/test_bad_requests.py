"""What a wrong request gets: one line that names the fault and the fix, exit code 2, and nothing half-written."""

from __future__ import annotations

import json
import shutil

import polars as pl
import pytest

ROWS = [
    ("ann", "a", 1, "Alien"),
    ("ann", "b", 2, "Brazil"),
    ("ann", "c", 3, "Casino"),
    ("bob", "a", 1, "Alien"),
    ("bob", "b", 2, "Brazil"),
    ("bob", "d", 3, "Diva"),
]


def table(path, rows, columns=("user", "item", "timestamp", "title")):
    frame = pl.DataFrame(rows, schema=list(columns), orient="row", strict=False)
    frame.write_csv(path)
    return path


def contents(folder):
    """Every file below a folder with its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fault(done):
    """The one line on stderr; notes that were shown before it are indented."""
    lines = [line for line in done.err.splitlines() if not line.startswith(" ")]
    errors = [line for line in lines if line.startswith("error: ")]
    assert errors == lines[-1:], done.err
    assert (done.code, done.out) == (2, "")
    return errors[0].removeprefix("error: ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--loss=roseop"], "no loss is called 'roseop'; did you mean 'rosepo' or 'rec-po'?"),
        (["--sampler=self-hrad"], "no sampler is called 'self-hrad'; did you mean 'self-hard' or 'oracle-hard'?"),
        (["--loss.betta=0.2"], "unknown option 'loss.betta'; did you mean 'beta'?"),
        (["--set", "sft.step=3"], "unknown option 'sft.step'; did you mean 'steps'?"),
        (["--sfd.steps=3"], "unknown section 'sfd'; did you mean 'sft' or 'seed'?"),
        (["--sft.steps=many"], "option 'sft.steps' = 'many': input should be a valid integer"),
        (["--loss.beta", "-1"], "option 'loss.beta' = -1: input should be greater than 0"),
        (["--set", "loss.beta"], "--set loss.beta: write KEY=VALUE, e.g. --set loss.beta=0.2"),
        (["--beta", "0.2"], "unknown option '--beta'; keys of the configuration are --SECTION.KEY VALUE"),
        (["--metrc", "hr"], "unknown option '--metrc'; did you mean '--metric'?"),
        (["--until=stf"], "unknown stage 'stf'; did you mean 'sft' or 'split'?"),
        (["--sampler=uniform=-1"], "option 'sampler.weight' = '-1': input should be greater than 0"),
        (["--evaluation.candidates=60"], "set evaluation.candidates to at most"),
        (["--prompt.max_length=16"], "option 'prompt.max_length' = 16: set it to "),
        (["--model=no-such-folder/tiny.gguf"], "model no-such-folder/tiny.gguf: no such file or folder"),
        (["--config=missing.toml"], "missing.toml: cannot be read: No such file or directory"),
    ],
)
def test_a_wrong_argument(train, tmp_path, arguments, said):
    run = tmp_path / "runs" / "new"
    assert said in fault(train("--run", run, *arguments))
    assert not run.exists()


@pytest.mark.parametrize("dry", [[], ["--dry-run"]], ids=["run", "dry run"])
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--prompt.max_length=4096"], "option 'prompt.max_length' = 4096: the model reads at most 2048 tokens"),
        (["--sft.target_modules=q_porj"], "'q_porj' is no module of the model; did you mean 'q_proj'"),
        (["--sft.target_modules=q_proj, lm_head"], "'lm_head' is the model's output layer"),
        (["--sft.target_modules= , "], "option 'sft.target_modules' = ' , ': "),
    ],
)
def test_a_model_that_cannot_be_trained_as_asked_is_refused_before_any_work(train, tmp_path, arguments, said, dry):
    run = tmp_path / "runs" / "new"
    done = train("--run", run, *arguments, *dry)
    assert said in fault(done)
    assert done.made == set()
    assert not run.exists()


@pytest.mark.parametrize(
    ("rows", "columns", "arguments", "said"),
    [
        (
            [row[:3] for row in ROWS],
            ("user", "item", "timestamp"),
            [],
            "log.csv: none of its columns 'user', 'item', 'timestamp' is called like a title: "
            "name one with dataset.title",
        ),
        (
            ROWS,
            ("user", "item", "timestamp", "title"),
            ["--dataset.user=usr"],
            "log.csv has no column 'usr' (dataset.user); did you mean 'user'?",
        ),
        (
            [(*row[:2], "soon" if number == 3 else row[2], row[3]) for number, row in enumerate(ROWS)],
            ("user", "item", "timestamp", "title"),
            [],
            "log.csv row 5: timestamp 'soon' is not a number or an ISO 8601 date or time",
        ),
        (
            [(*row[:3], "" if row[1] == "d" else row[3]) for row in ROWS],
            ("user", "item", "timestamp", "title"),
            [],
            "log.csv row 7: item 'd' has no title in log.csv: add one, or set dataset.untitled='drop'",
        ),
        (
            [(*row, 3) for row in ROWS],
            ("user", "item", "timestamp", "title", "rating"),
            ["--dataset.min_rating=4"],
            "dataset.min_rating=4 left none of 6 interactions: loosen it",
        ),
        (
            ROWS,
            ("user", "item", "timestamp", "title"),
            ["--dataset.k_core=3"],
            "dataset.k_core=3 left none of 6 interactions: loosen it",
        ),
        (
            [row for row in ROWS if row[2] < 3],
            ("user", "item", "timestamp", "title"),
            [],
            "each of the 2 users of dataset 'log' has fewer than 3 interactions: leave-one-out needs 3 of one user",
        ),
    ],
    ids=["no title column", "no such column", "time", "no title", "min_rating", "k_core", "short users"],
)
def test_a_wrong_log(train, tmp_path, rows, columns, arguments, said):
    log = table(tmp_path / "log.csv", rows, columns)
    run = tmp_path / "runs" / "new"
    assert said in fault(train("--run", run, f"--dataset.path={log}", *arguments))
    assert not run.exists()


def test_a_model_folder_without_weights(train, tmp_path, model_folder):
    bare = shutil.copytree(model_folder, tmp_path / "bare", ignore=shutil.ignore_patterns("*.safetensors"))
    run = tmp_path / "runs" / "new"
    assert f"{bare} holds no weights: expected config.json, model.safetensors and tokenizer.json" in fault(
        train("--run", run, f"--model={bare}")
    )
    assert not run.exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--dataset.min_rating=9"],
        ["--split.strategy=temporal", "--split.test_fraction=0.95"],
        ["--model=no.gguf"],
    ],
    ids=["dataset", "split", "model"],
)
def test_a_finished_run_stays_as_it_is(train, finished, tmp_path, arguments):
    run = shutil.copytree(finished, tmp_path / "runs" / "copy")
    before = contents(run)
    # Another log, so that the stages before the one that fails are done anew.
    log = table(tmp_path / "log.csv", [(*row, 5) for row in ROWS], ("user", "item", "timestamp", "title", "rating"))
    fault(train("--run", run, "--overwrite", f"--dataset.path={log}", *arguments))
    assert contents(run) == before
    assert not [path for path in run.iterdir() if path.name.startswith(".")]


def test_a_folder_of_something_else(train, tmp_path):
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter.txt").write_text("mine")
    said = fault(train("--run", folder))
    assert said == f"{folder} exists and is no run folder (it has no run.json): choose another --run"
    assert [path.name for path in folder.iterdir()] == ["chapter.txt"]


def test_a_run_below_a_file(train, tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    assert (
        fault(train("--run", file / "run")) == f"{file}/run cannot be written: Not a directory; choose another --run"
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["evaluate"], "is no run folder: it has no run.json; name the folder that `rosepo train` printed"),
        (
            ["recommend", "--history=Bluebird (1940)"],
            "has neither a run (run.json) nor a model with its prompts (prompt_template.json): name a folder that "
            "`rosepo train` or `rosepo export` printed",
        ),
    ],
    ids=["evaluate", "recommend"],
)
def test_a_run_folder_that_is_no_run(rosepo, tmp_path, arguments, said):
    assert fault(rosepo(*arguments, tmp_path)) == f"{tmp_path} {said}"
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_is_not_finished(train, rosepo, tmp_path):
    run = tmp_path / "runs" / "half"
    assert train("--run", run, "--until=split").code == 0
    before = contents(run)
    again = f"finish the run with `rosepo train --config {run}/config.toml --run {run}`"
    assert fault(rosepo("evaluate", run)) == f"{run} has no finished stage 'sft': {again}"
    assert fault(rosepo("recommend", run, "--history=x")) == f"{run} has no finished stage 'aligned': {again}"
    assert contents(run) == before


def test_a_change_that_is_not_complete_waits_beside_the_run(train, rosepo, finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "runs" / "copy")
    before = contents(run)
    done = train("--run", run, "--until=sft", "--sft.steps=1", "--overwrite")
    assert done.code == 0
    assert f"{run} stays as it was: the new stages wait in {run}/unfinished until each stage of the run has" in (
        " ".join(done.err.split())
    )
    assert {name: text for name, text in contents(run).items() if not name.startswith("unfinished")} == before
    assert rosepo("evaluate", run, "--json").json["metrics"] == json.loads(before["metrics.json"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--sft.steps=5"],
            "'sft.steps' cannot be changed in a finished run, only evaluation.*, ranking.* and metric can: train a "
            "new one",
        ),
        (["--metric=ndgc"], "no metric is called 'ndgc'; did you mean 'ndcg' or 'dgu'?"),
        (["--metric=hr", "--metric=rosepo/hr"], "metric 'hr' is named twice; name it once, with all its cut-offs in"),
        (["--evaluation.k=5"], "unknown option 'evaluation.k'; did you mean 'ks'?"),
        (["--evaluation.candidates=60"], "set evaluation.candidates to at most"),
    ],
)
def test_what_evaluate_does_not_take(rosepo, finished, arguments, said):
    before = contents(finished)
    assert said in fault(rosepo("evaluate", finished, *arguments))
    assert contents(finished) == before


@pytest.mark.parametrize(
    ("title", "said"),
    [
        ("The Lighthouse Keepr (1995)", "is not in the run's catalogue; did you mean 'The Lighthouse Keeper (1995)'"),
        ("Harvest Moon", "title 'Harvest Moon' may be 'Harvest Moon (1987)' or 'Harvest Moon (1996)'; write one"),
        ("Small Gods of Summer (1954)", "title 'Small Gods of Summer (1954)' is not in the run's catalogue; did you"),
        ("", "a title is empty; leave it out"),
    ],
    ids=["misspelt", "ambiguous", "another year", "empty"],
)
def test_a_title_that_is_not_in_the_catalogue(rosepo, finished, title, said):
    assert said in fault(rosepo("recommend", finished, "--history", title))


def test_a_model_that_no_run_has(rosepo, finished):
    said = fault(rosepo("recommend", finished, "--history=Bluebird (1940)", "--stage=alined"))
    assert said == "unknown model 'alined'; did you mean 'aligned'?"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["plugins", "list", "samplers"], "unknown kind of plugin 'samplers'; did you mean 'sampler'?"),
        (["plugins", "show", "rosep"], "unknown plugin 'rosep'; did you mean 'rosepo'"),
        (["data", "check", "nowhere.csv"], "nowhere.csv (dataset.path) does not exist: name a file"),
        (["data", "check", "x.csv", "--sft.steps=3"], "unknown option '--sft.steps'; options of the dataset are"),
        (["tarin"], "No such command 'tarin'. Did you mean 'train'? (see `rosepo --help`)"),
        (["recommend"], "Missing argument 'RUN'. (see `rosepo recommend --help`)"),
    ],
)
def test_other_commands(rosepo, arguments, said):
    assert said in fault(rosepo(*arguments))
