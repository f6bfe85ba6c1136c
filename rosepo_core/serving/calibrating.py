"""Calibrates the confidence of a model's lists: what `rosepo calibrate` does.

The recommender makes the lists itself, so they are made as those that it answers with: out of the whole catalogue, by
the same score, for users whose next item was held out for validation.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rosepo_core import __version__
from rosepo_core.contracts.components import Reporter
from rosepo_core.contracts.errors import RequestError
from rosepo_core.contracts.records import Examples
from rosepo_core.contracts.sections import Score
from rosepo_core.evaluation.list_confidence import ListCalibration, Lists, Reliability, fit, reliability, write
from rosepo_core.serving.confidence import CALIBRATION, SCHEMA, artifact_name, state_of
from rosepo_core.serving.recommender import Recommender
from rosepo_core.serving.sources import RunSource, chosen_model
from rosepo_core.store.artifacts import fingerprint, read_manifest

BLOCK = 16
"""Users whose lists are made at once; also those by which the time is measured."""

SHOWN_LENGTHS = (1, 5, 10)
"""Lengths of lists whose reliability is measured, beside the longest."""

ENOUGH = 200
"""With fewer users a note says that intervals are wide."""


@dataclass(frozen=True)
class DoneCalibration:
    """A finished calibration.

    Attributes:
        folder: its artifact.
        model: the model whose lists are calibrated.
        score: the score that it ranks by.
        calibration: the calibration.
        reliability: how good it is for users that it has not seen, for some lengths of lists.
        available: the number of validation users of the run.
        seconds: how long it took to make the lists.
    """

    folder: Path
    model: str
    score: Score
    calibration: ListCalibration
    reliability: Sequence[Reliability]
    available: int
    seconds: float


def calibrate(
    run: Path,
    reporter: Reporter,
    *,
    model: str | None = None,
    score: Score | None = None,
    users: int = 500,
    k: int = 20,
) -> DoneCalibration:
    """Calibrate the confidence of a model's lists on validation users, and keep it in the run.

    Args:
        run: a finished run, or runs under seeds, of which the first is taken.
        reporter: receives the progress, and how long it will take.
        model: the model, as for `Recommender.load`.
        score: the score to rank by; by default `ranking.score` of the run.
        users: the most users, drawn by the run's seed.
        k: the longest list.

    Raises:
        RequestError: there is no such run, it has no or too few validation users, or the score compares fewer titles
            than `k`.
    """
    source = RunSource(run, reporter)
    name, score = chosen_model(source, model), score or source.score
    examples = source.split.validation
    if not len(examples):
        raise RequestError(
            f"{source.folder} has no validation users, whom the confidence is calibrated on: train with another split"
        )
    recommender = Recommender.of(source, name, score, reporter)
    if recommender.pool and k > recommender.pool:
        raise RequestError(
            f"the score '{score}' compares {recommender.pool} titles (ranking.pool): choose a smaller k"
        )
    seed = [int(source.config.get("seed", 0)), *b"confidence"]
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.permutation(len(examples))[:users])
    started = time.perf_counter()
    lists = _lists(recommender, examples.take(chosen), min(k, len(recommender.catalogue)), reporter)
    seconds = round(time.perf_counter() - started, 3)
    calibration = fit(lists)
    longest = calibration.longest
    measured = reliability(lists, sorted({*(each for each in SHOWN_LENGTHS if each < longest), longest}), rng)
    if len(lists) < ENOUGH:
        reporter.note(f"{len(lists)} users are few: see the intervals, and use more if the run has them")
    about: dict[str, Any] = {
        "schema": SCHEMA,
        "rosepo": __version__,
        "model": name,
        "score": score,
        "catalogue": state_of(source.in_use),
    }
    inputs = _made_from(source, name, score)
    wanted = fingerprint(__version__, about, users, k, seed, inputs)
    stage = artifact_name(name, score)
    source.store.add(
        stage, wanted, inputs, seconds, lambda folder: write(calibration, measured, about, folder / CALIBRATION)
    )
    return DoneCalibration(source.store.folder / stage, name, score, calibration, measured, len(examples), seconds)


def _lists(recommender: Recommender, examples: Examples, k: int, reporter: Reporter) -> Lists:
    """The lists of users, and whether their next items are in them."""
    users, positions = examples.user.tolist(), examples.position.tolist()
    histories = [examples.sequences[user][:position] for user, position in zip(users, positions, strict=True)]
    items = np.full((len(histories), k), -1, dtype=np.int32)
    masses = np.full((len(histories), k), -np.inf)
    started = time.perf_counter()
    for start in range(0, len(histories), BLOCK):
        rows = slice(start, start + BLOCK)
        items[rows], masses[rows] = recommender.lists(histories[rows], k)
        done = min(start + BLOCK, len(histories))
        if not start and done < len(histories):
            left = (time.perf_counter() - started) / done * (len(histories) - done)
            reporter.note(f"lists of {k} for {len(histories):,} validation users: about {_duration(left)} to go")
        reporter.progress(done, len(histories), "users")
    hit = np.logical_or.accumulate(items == examples.target[:, None], axis=1)
    # Who has chosen everything gets no list.
    return Lists(masses, hit, items >= 0).take(np.flatnonzero((items >= 0).any(axis=1)))


def _made_from(source: RunSource, name: str, score: Score) -> dict[str, str]:
    """The fingerprints of the artifacts that the lists depend on."""
    needed = ["split", "sft" if name == "base" else name]
    if score != "likelihood":
        needed += ["oracle", "embeddings"]
    needed += [f"prior-{name}"] if score in ("prior-corrected", "fusion") else []
    needed += [f"fusion-{name}"] if score == "fusion" else []
    found = {stage: read_manifest(source.store.folder / stage) for stage in needed}
    return {stage: manifest["fingerprint"] for stage, manifest in found.items() if manifest}


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
