"""A run folder of a stranger can be read, and nothing that came with it runs, reaches out of it, or is believed."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rosepo_core.store.artifacts import is_own_artifact
from rosepo_core.store.marker import is_own_run

HISTORY = "--history=Bluebird (1940)"


class Bomb:
    """What leaves a file behind when it is unpickled."""

    def __reduce__(self):
        return os.mknod, (os.environ["ROSEPO_BOMB"],)


@pytest.fixture
def theirs(finished, tmp_path, monkeypatch, as_a_stranger):
    """A run that another user made."""
    run = shutil.copytree(finished, tmp_path / "runs" / "theirs")
    as_a_stranger(run)
    monkeypatch.setenv("ROSEPO_BOMB", str(tmp_path / "exploded"))
    return run


def rewritten(file: Path, content: bytes) -> None:
    """Write a file anew: the old one may be linked to that of another run."""
    file.unlink(missing_ok=True)
    file.write_bytes(content)


def listed(run: Path, stage: str, **files: str) -> None:
    """Add files to a manifest, under any sum, or remove them."""
    manifest = json.loads((run / stage / "manifest.json").read_text())
    manifest["files"] = {name: each for name, each in (manifest["files"] | files).items() if each}
    rewritten(run / stage / "manifest.json", json.dumps(manifest).encode())


def commands(run: Path, out: Path) -> list[tuple[object, ...]]:
    return [
        ("recommend", run, HISTORY),
        ("evaluate", run),
        ("report", run, "--out", out / "page.html"),
        ("export", run, "--to", out / "exported"),
    ]


def test_it_is_evaluated_reported_and_asked(rosepo, theirs, finished, tmp_path):
    for command in (*commands(theirs, tmp_path), ("compare", theirs, finished), ("runs", theirs.parent)):
        done = rosepo(*command)
        assert done.code == 0, done.err
    # What is measured in it does not become one's own.
    assert rosepo("evaluate", theirs, "--evaluation.candidates=4", "--evaluation.resamples=100").code == 0
    assert not is_own_run(theirs)
    assert not is_own_artifact(tmp_path / "exported")
    stages = {path.parent.name for path in theirs.glob("*/manifest.json") if is_own_artifact(path.parent)}
    assert not stages & {"scores-sft", "scores-aligned", "evaluation"}


def as_pickle(run: Path) -> None:
    (run / "aligned" / "adapter_model.safetensors").unlink()
    rewritten(run / "aligned" / "adapter_model.bin", pickle.dumps(Bomb()))
    listed(run, "aligned", **{"adapter_model.safetensors": "", "adapter_model.bin": "0"})


def as_pickle_beside(run: Path) -> None:
    rewritten(run / "aligned" / "adapter_model.bin", pickle.dumps(Bomb()))


def as_file_above(run: Path) -> None:
    rewritten(run.parent / "secret.json", b"{}")
    listed(run, "aligned", **{"../../secret.json": "0"})


def as_absolute_file(run: Path) -> None:
    rewritten(run.parent / "secret.json", b"{}")
    listed(run, "aligned", **{str(run.parent / "secret.json"): "0"})


def as_link(run: Path) -> None:
    content = (run / "aligned" / "log.json").read_bytes()
    rewritten(run.parent / "secret.json", content)
    (run / "aligned" / "log.json").unlink()
    (run / "aligned" / "log.json").symlink_to("../../secret.json")


def as_linked_folder(run: Path) -> None:
    os.rename(run / "aligned", run.parent / "elsewhere")
    (run / "aligned").symlink_to("../elsewhere")


def as_pipe(run: Path) -> None:
    (run / "aligned" / "log.json").unlink()
    os.mkfifo(run / "aligned" / "log.json")


def as_no_numbers(run: Path) -> None:
    file = run / "aligned" / "adapter_model.safetensors"
    weights = load_file(file)
    next(iter(weights.values()))[0] = torch.nan
    file.unlink()
    save_file(weights, file, metadata={"format": "pt"})


def as_other_shapes(run: Path) -> None:
    file = run / "aligned" / "adapter_model.safetensors"
    weights = {name: each[:, :-1].contiguous() for name, each in load_file(file).items()}
    file.unlink()
    save_file(weights, file, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("attack", "said"),
    [
        (as_pickle, "no adapter_model.safetensors"),
        (as_pickle_beside, "aligned/adapter_model.bin does not belong there"),
        (as_file_above, "aligned/manifest.json is no list of an artifact's files"),
        (as_absolute_file, "aligned/manifest.json is no list of an artifact's files"),
        (as_link, "aligned/log.json is no regular file"),
        (as_linked_folder, "is no regular file"),
        (as_pipe, "aligned/log.json is no regular file"),
        (as_no_numbers, "the weights are not all numbers (NaN or infinite in "),
        (as_other_shapes, "cannot load the adapter"),
    ],
)
def test_what_would_reach_further_is_refused(rosepo, theirs, tmp_path, as_a_stranger, attack, said):
    attack(theirs)
    as_a_stranger(theirs)
    of_weights = attack in (as_pickle, as_no_numbers, as_other_shapes)
    some = commands(theirs, tmp_path)
    # A report and tables that are there need no weights.
    for command in [some[0], some[3]] if of_weights else some:
        done = rosepo(*command)
        assert (done.code, done.out) == (2, "")
        assert said in done.err
    assert not (tmp_path / "exploded").exists()
    assert not (tmp_path / "exported").exists()


def test_an_adapter_goes_on_the_base_model_of_the_run(rosepo, theirs, finished, as_a_stranger):
    for stage in ("sft", "aligned"):
        file = theirs / stage / "adapter_config.json"
        config = json.loads(file.read_text()) | {"base_model_name_or_path": "stranger/model", "revision": "main"}
        config["auto_mapping"] = {"base_model_class": "Evil", "parent_library": "evil"}
        rewritten(file, json.dumps(config).encode())
        rewritten(theirs / stage / "base_model.json", json.dumps({"model": "stranger/model"}).encode())
    as_a_stranger(theirs)
    done, expected = (rosepo("recommend", run, HISTORY, "--json") for run in (theirs, finished))
    assert done.code == 0, done.err
    assert done.json["recommendations"] == expected.json["recommendations"]


def test_what_is_no_artifact_is_one_error_with_right_sums(rosepo, theirs, tmp_path, as_a_stranger):
    """Each file that is read, in turn, with content that a library would complain of in its own words."""
    contents = (b"", b"{}", b"[[[", b"\x08\0\0\0\0\0\0\0{}      ")
    recommend, _, report, _ = commands(theirs, tmp_path)
    read = {
        recommend: (
            *("split/catalogue.parquet", "split/split.json", "split/split.safetensors", "split/users.parquet"),
            *("aligned/adapter_config.json", "aligned/prompt_template.json", "aligned/title_trie.safetensors"),
        ),
        report: (
            *("preferences/pairs.parquet", "scores-sft/scores.safetensors", "sft/log.json", "plugins.json"),
            *("embeddings/embeddings.safetensors", "candidates/candidates.parquet", "run.json"),
        ),
    }
    for command, names in read.items():
        for number, name in enumerate(names):
            before = (theirs / name).read_bytes()
            rewritten(theirs / name, contents[number % len(contents)])
            if name != "run.json":
                as_a_stranger(theirs)
            done = rosepo(*command)
            assert done.code, name
            assert "--debug" not in done.err, f"{name}: {done.err}"
            assert done.err.splitlines()[-1].startswith(f"error: {theirs}/{name.partition('/')[0]}"), name
            rewritten(theirs / name, before)


def test_a_stage_of_a_stranger_is_not_reused(train, rosepo, theirs):
    run = theirs.parent / "mine"
    done = train("--run", run, "--until=sft")
    assert done.code == 0, done.err
    assert done.made == {"dataset", "split", "candidates", "sft"}
    told = " ".join(done.err.split())
    assert f"{theirs / 'sft'} would do, and is not reused: it is not signed with your key" in told
    assert f"`rosepo trust {theirs}`" in told
    shutil.rmtree(run)
    trusted = rosepo("trust", theirs)
    assert trusted.code == 0, trusted.err
    done = train("--run", run, "--until=sft")
    assert (done.code, done.made) == (0, set()), done.err


def test_trust_refuses_what_is_damaged(rosepo, theirs):
    file = theirs / "sft" / "adapter_model.safetensors"
    rewritten(file, b"other")
    done = rosepo("trust", theirs)
    assert (done.code, f"{file} is damaged" in done.err) == (2, True)
    assert rosepo("trust", theirs.parent).code == 2


def test_a_configuration_that_its_user_edited_is_taken_on_demand(rosepo, finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    text = (run / "config.toml").read_text()
    rewritten(run / "config.toml", f"# a note\n{text}".encode())
    done = rosepo("recommend", run, HISTORY)
    assert (done.code, f"if you changed it yourself, `rosepo trust {run}`" in done.err) == (2, True)
    assert rosepo("trust", run).code == 0
    assert rosepo("recommend", run, HISTORY).code == 0
