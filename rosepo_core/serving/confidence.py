"""The calibration of a recommender's lists: an artifact beside the model, and what it holds for.

A calibration holds for lists that are made in the same way: by the same model and score, out of the same catalogue,
without a filter. For others there is no confidence, rather than a wrong one.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rosepo_core.contracts.errors import RequestError
from rosepo_core.contracts.records import Doubles
from rosepo_core.contracts.sections import Score
from rosepo_core.data.catalogue_in_use import ITEM, CatalogueInUse
from rosepo_core.evaluation.list_confidence import ListCalibration
from rosepo_core.serving.ranker import Parts

CALIBRATION = "calibration.json"
SCHEMA = 1


class Confidence(NamedTuple):
    """The calibrated probability that the next item is in a list.

    Attributes:
        value: the probability.
        low: the lower end of its 95 % interval for other calibration users.
        high: the upper end.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Calibrated:
    """What a recommender knows about the confidence of its lists.

    Attributes:
        calibration: the calibration; `None` if there is none.
        catalogue: the state of the catalogue that it holds for, see `state_of`.
        command: the command that makes it anew.
        missing: why there is none; empty if there is one.
    """

    calibration: ListCalibration | None
    catalogue: str
    command: str
    missing: str = ""

    @staticmethod
    def none(missing: str, command: str = "") -> Calibrated:
        """No calibration, and why."""
        return Calibrated(None, "", command, missing)

    def over(self, in_use: CatalogueInUse) -> Calibrated:
        """What is known about lists out of a catalogue."""
        if self.calibration is None or self.catalogue == state_of(in_use):
            return self
        why = f"the catalogue has changed since the confidence was calibrated; {_by(self.command)}"
        return Calibrated.none(why, self.command)

    def confidences(self, log_mass: Doubles) -> tuple[Confidence, ...]:
        """The confidence of the first 1, 2, ... items of a list, as far as it is calibrated.

        Args:
            log_mass: logarithm of their mass, float64 [k], see `list_confidence.log_masses`.
        """
        if self.calibration is None:
            return ()
        known = log_mass[: self.calibration.longest]
        lengths = np.arange(1, len(known) + 1)
        low, high = self.calibration.interval(known, lengths)
        values = self.calibration.confidence(known, lengths)
        return tuple(map(Confidence, values.tolist(), low.tolist(), high.tolist()))


def state_of(in_use: CatalogueInUse) -> str:
    """A text that is equal only for catalogues with equal changes since the training."""
    rows = in_use.changes.sort(ITEM).rows()
    return hashlib.sha256(json.dumps(rows, ensure_ascii=False, default=str).encode()).hexdigest()[:16]


def artifact_name(model: str, score: Score) -> str:
    """The name of the artifact for a model of a run that ranks by a score."""
    return f"confidence-{model}-{score}"


def load(parts: Parts, folder: Path, model: str, score: Score, *, is_run: bool) -> Calibrated:
    """The calibration of a model that ranks by a score.

    Args:
        parts: the artifacts beside the model.
        folder: the folder that users name.
        model: the name of the model.
        score: the score.
        is_run: whether `folder` is a run. An export has the calibration that its run had.
    """
    command = f"rosepo calibrate {folder} --stage {model} --score {score}" if is_run else ""
    try:
        found = parts.find(artifact_name(model, score), command)
    except RequestError as error:
        return Calibrated.none(f"the calibration of the confidence cannot be used: {error}", command)
    if found is None:
        return Calibrated.none(f"the confidence of these lists is not calibrated; {_by(command)}", command)
    try:
        written: dict[str, Any] = json.loads((found / CALIBRATION).read_text(encoding="utf-8"))
        if written["schema"] != SCHEMA:
            raise ValueError("it is of another version of rosepo")
        calibration = ListCalibration(
            tuple(written["parameters"]),
            tuple(map(tuple, written["covariance"])),
            written["longest"],
            written["users"],
        )
        return Calibrated(calibration, written["catalogue"], command)
    except (OSError, ValueError, KeyError, TypeError) as error:
        return Calibrated.none(f"{found / CALIBRATION} cannot be read ({error}); {_by(command)}", command)


def _by(command: str) -> str:
    return (
        f"`{command}` calibrates it" if command else "calibrate its run (`rosepo calibrate RUN`) and export it anew"
    )
