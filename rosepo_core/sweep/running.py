"""Runs a sweep: one complete run for each trial, in the folder of the sweep."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rosepo_core import ownership, pipeline, ranks
from rosepo_core.config import RunConfig
from rosepo_core.contracts.errors import DivergedError, RequestError, RosepoError
from rosepo_core.plugins.registry import Registry, load_plugins
from rosepo_core.stages.session import RunReporter
from rosepo_core.stages.validation import load_curve
from rosepo_core.store import fingerprint
from rosepo_core.store.files import remove, write_text
from rosepo_core.store.marker import is_run
from rosepo_core.store.partial import SUFFIX
from rosepo_core.sweep.judging import Judged, on_test, on_validation, value_of
from rosepo_core.sweep.page import render
from rosepo_core.sweep.space import Load, Space, shown
from rosepo_core.sweep.study import JOURNAL, Study, Trial

SWEEP = "sweep.json"
SCHEMA = 1
BEST = "best.toml"
BEST_RUN = "best"
REPORT = "report.html"
OF_SFT = ("model", "prompt", "sft", "dataset", "rounds")
"""The sections whose keys change SFT."""


class PrunedError(Exception):
    """Ends a trial that is worse than most others at the same step."""


@dataclass(frozen=True)
class Sweep:
    """A sweep and what it found so far.

    Attributes:
        folder: its folder.
        space: what is searched: the values of each key, as written.
        judged: what trials are judged by.
        pruning: in one sentence, whether trials are ended early.
        wanted: how many trials are wanted.
        trials: the trials that have begun.
        best: the best complete trial; `None` if there is none yet.
    """

    folder: Path
    space: Space
    judged: Judged
    pruning: str
    wanted: int
    trials: Sequence[Trial]
    best: Trial | None

    @property
    def command(self) -> str:
        """The command that trains the best configuration and tests it."""
        words = ["rosepo", "train", "--config", str(self.folder / BEST), "--run", str(self.folder / BEST_RUN)]
        return shlex.join(words)

    def document(self) -> dict[str, Any]:
        """The contents of sweep.json without what was asked for: the trials, and the number of the best."""
        return {
            "pruning": self.pruning,
            "trials": [asdict(trial) for trial in self.trials],
            "best": None if self.best is None else self.best.number,
        }


def default_folder(config: RunConfig, space: Space) -> Path:
    """``sweeps/`` and the name of the default folder of a run, with a fingerprint of configuration and space."""
    name = pipeline.default_folder(config).name.rpartition("-")[0]
    asked = fingerprint(config.that_decides(), {key: str(values) for key, values in space.items()})
    return Path("sweeps") / f"{name}-{asked[:8]}"


def pruning(config: RunConfig, space: Space) -> str:
    """In one sentence, whether trials are ended early."""
    if not config.sft.patience:
        return "no trial is ended early, because nothing is validated during training (set sft.patience)"
    if not any(key.partition(".")[0] in OF_SFT for key in space):
        return "no trial is ended early, because validation is during SFT, which is the same in all trials"
    return "a trial ends early if its best validation during SFT is worse than the median at the same step"


def trial_folder(config: RunConfig, folder: Path) -> Path:
    """The run folder of a trial: equal configurations have the same."""
    return folder / f"trial-{fingerprint(config.that_decides())[:8]}"


def run_sweep(
    load: Load,
    space: Space,
    judged: Judged,
    folder: Path,
    trials: int,
    reporter: RunReporter,
    *,
    registry: Registry | None = None,
) -> Sweep:
    """Run trials in `folder` until there are as many as wanted, and write sweep.json, best.toml and report.html after
    each.

    The same call goes on where it stopped, also within a trial. A larger number of `trials` adds some. Each trial is
    a complete run, and reuses the stages that it shares with runs beside it.

    Args:
        load: makes a configuration with some keys changed.
        space: what is searched (`check_space`).
        judged: what trials are judged by.
        folder: the folder of the sweep.
        trials: how many trials are wanted; a space with fewer combinations is tried whole.
        reporter: receives the progress.
        registry: the plugins; by default those that are installed.

    Raises:
        RequestError: something in the request or the data is wrong, or `folder` holds something else than this sweep.
        RosepoError: a run failed for another reason than a training that diverged; or all trials failed.
    """
    if ranks.count() > 1:
        raise RequestError("a sweep runs in one process; start it without a launcher")
    if trials < 1:
        raise RequestError(f"--trials {trials}: say how many to run, 1 or more, e.g. --trials 20")
    registry, base = registry or load_plugins(), load([])
    asked = _asked(base, space, judged)
    with _owned(folder, asked):
        study = Study(folder, space, higher=judged.higher, seed=base.seed, trials=trials)
        reporter.note(f"judged by {judged}; {pruning(base, space)}")

        def found() -> Sweep:
            return Sweep(folder, space, judged, pruning(base, space), study.wanted, study.trials, study.best)

        while (trial := study.next()) is not None:
            _run_trial(study, trial, load, judged, folder, reporter, registry)
            _write(found(), asked, load)
        done = found()
    if done.best is None:
        raise RosepoError(f"all {len(done.trials)} trials failed; the first: {done.trials[0].why or 'ended early'}")
    return done


def _run_trial(
    study: Study,
    trial: Trial,
    load: Load,
    judged: Judged,
    folder: Path,
    reporter: RunReporter,
    registry: Registry,
) -> None:
    config = on_validation(load(list(trial.params.items())))
    place = trial_folder(config, folder)
    study.name_run(trial, place.name)
    name = f"trial {trial.number + 1} of {study.wanted}"
    reporter.note(f"{name}: {shown(trial.params)}")

    def heard(step: int, value: float) -> None:
        study.hear(trial, step, value)
        if study.is_hopeless(trial):
            raise PrunedError

    try:
        if study.is_hopeless(trial):
            raise PrunedError
        done = pipeline.run(config, place, reporter, registry=registry, heard=heard)
        for point in (load_curve(place / "sft") or {"points": ()})["points"]:
            # The training of SFT may be that of another trial.
            study.hear(trial, point["step"], point["value"])
        value = value_of(config, done.evaluations, judged)
    except PrunedError:
        study.end(trial)
        for left in place.glob(f"*{SUFFIX}"):
            remove(left)
        reporter.note(f"{name}: ended early")
        return
    except DivergedError as error:
        study.end(trial, why=str(error))
        reporter.note(f"{name}: failed ({error})")
        return
    study.end(trial, value)
    best = study.best
    assert best is not None
    so_far = "the best so far" if best.number == trial.number else f"best so far {best.value:.4f}"
    reporter.note(f"{name}: {judged.column} {value:.4f}, {so_far}")


def _asked(base: RunConfig, space: Space, judged: Judged) -> Mapping[str, Any]:
    """What makes a sweep this one and no other, as JSON values."""
    return {
        "space": {key: str(values) for key, values in space.items()},
        "judged": {key: value for key, value in asdict(judged).items() if key != "title"},
        "configuration": on_validation(base).that_decides(),
    }


@contextmanager
def _owned(folder: Path, asked: Mapping[str, Any]) -> Iterator[None]:
    """The folder of this sweep, which no other process uses meanwhile.

    If the first trial finds that the request is wrong, a new folder is removed again.

    Raises:
        RequestError: the folder holds something else, another process uses it, or it cannot be written.
    """
    _check_folder(folder, asked)
    existed = folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        owner = ownership.take(folder)
    except OSError as error:
        raise RequestError(f"{folder} cannot be written: {error.strerror}; choose another --run") from None
    try:
        if not (folder / SWEEP).exists():
            _write_json(folder, asked, {"trials": []})
        yield
    except RequestError:
        if not existed and not any(is_run(each) for each in folder.iterdir()):
            for name in (SWEEP, JOURNAL):
                (folder / name).unlink(missing_ok=True)
        raise
    finally:
        ownership.give_back(folder, owner)
        if not existed:
            # This works only if the folder is empty.
            with suppress(OSError):
                folder.rmdir()


def _check_folder(folder: Path, asked: Mapping[str, Any]) -> None:
    if is_run(folder):
        raise RequestError(f"{folder} is a run: choose another --run for the sweep")
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    try:
        before = json.loads((folder / SWEEP).read_text(encoding="utf-8"))["asked"]
    except (OSError, ValueError, KeyError):
        raise RequestError(f"{folder} exists and holds no sweep (no {SWEEP}): choose another --run") from None
    for what, was in before.items():
        now = json.loads(json.dumps(asked[what]))
        if was != now:
            keys = [key for key in {**now, **was} if was.get(key) != now.get(key)]
            key = keys[0]
            raise RequestError(
                f"{folder} holds a sweep with another {'search space' if what == 'space' else what} ({key}: "
                f"{_brief(was.get(key))} there, {_brief(now.get(key))} here): choose another --run"
            )


def _brief(value: Any) -> str:
    if value is None:
        return "nothing"
    text = json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else value
    return text if len(text) <= 60 else f"{text[:57]}..."


def _write(sweep: Sweep, asked: Mapping[str, Any], load: Load) -> None:
    if sweep.best is not None:
        config = on_test(load(list(sweep.best.params.items())))
        about = f"# Trial {sweep.best.number + 1} of {sweep.folder}: {sweep.judged} is {sweep.best.value:.4f}.\n"
        write_text(sweep.folder / BEST, f"{about}# {sweep.command}\n\n{config.to_toml()}")
    _write_json(sweep.folder, asked, sweep.document())
    page = render(
        sweep.folder.name, sweep.space, sweep.judged, sweep.pruning, sweep.trials, sweep.best, sweep.command
    )
    write_text(sweep.folder / REPORT, page)


def _write_json(folder: Path, asked: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    document = {"schema": SCHEMA, "asked": asked, **found}
    write_text(folder / SWEEP, json.dumps(document, ensure_ascii=False, indent=1) + "\n")
