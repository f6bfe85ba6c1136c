"""The one module that touches optuna: it proposes values, remembers trials, and says which to end early.

Each proposal depends on the seed, the number of the trial and the trials before it only. So a sweep that was
interrupted goes on as if it had not been.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from rosepo_core.sweep.space import Choices, Params, Range, Space, combinations

JOURNAL = "journal.log"
NAME = "sweep"
COMPLETE, PRUNED, FAILED, RUNNING = "complete", "pruned", "failed", "running"
MOST_FREE = 5
"""The most first trials that are never ended early, because there is little to compare them with."""

_STATES = {
    TrialState.COMPLETE: COMPLETE,
    TrialState.PRUNED: PRUNED,
    TrialState.FAIL: FAILED,
    TrialState.RUNNING: RUNNING,
}


@dataclass(frozen=True)
class Trial:
    """One trial.

    Attributes:
        number: its number, from 0.
        params: its value of each key.
        state: ``complete``, ``pruned``, ``failed`` or ``running``; a running trial may have been interrupted.
        value: what it is judged by; `None` unless it is complete.
        points: the results of validation during its training: step and value.
        run: the name of its run folder; empty before it has one.
        why: why it failed; otherwise empty.
    """

    number: int
    params: Params
    state: str
    value: float | None = None
    points: tuple[tuple[int, float], ...] = ()
    run: str = ""
    why: str = ""


class Study:
    """The trials of a sweep, in a journal that is written at each event."""

    def __init__(self, folder: Path, space: Space, *, higher: bool, seed: int, trials: int) -> None:
        """
        Args:
            folder: of the sweep; the journal is in it.
            space: what is searched.
            higher: whether more is better.
            seed: of the proposals.
            trials: how many trials are wanted.
        """
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._space = {key: space[key] for key in sorted(space)}
        self._seed = seed
        self._combinations = combinations(self._space)
        if self._combinations is not None and len(self._combinations) > trials:
            self._combinations = None
        self.wanted = trials if self._combinations is None else len(self._combinations)
        free = min(MOST_FREE, max(1, self.wanted // 4))
        self._study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(folder / JOURNAL))),
            study_name=NAME,
            direction="maximize" if higher else "minimize",
            pruner=optuna.pruners.MedianPruner(n_startup_trials=free),
            load_if_exists=True,
        )

    @property
    def trials(self) -> list[Trial]:
        """All trials that have begun, in their order."""
        return [self._trial(each) for each in self._begun()]

    @property
    def best(self) -> Trial | None:
        """The best complete trial, the first of equal ones."""
        complete = [each for each in self.trials if each.value is not None]
        sign = 1 if self._study.direction is optuna.study.StudyDirection.MAXIMIZE else -1
        return max(complete, key=lambda each: (sign * (each.value or 0.0), -each.number), default=None)

    def next(self) -> Trial | None:
        """The trial that was interrupted, or a new one; `None` if there are as many as wanted."""
        begun = self._begun()
        for each in begun:
            if each.state is TrialState.RUNNING:
                return self._with_values(each.number)
        if len(begun) >= self.wanted:
            return None
        if not self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,)) and self._combinations:
            self._study.enqueue_trial(self._untried([each.params for each in begun]))
        return self._with_values(self._study.ask().number)

    def name_run(self, trial: Trial, run: str) -> None:
        """Note the run folder of a trial."""
        self._open(trial).set_user_attr("run", run)

    def hear(self, trial: Trial, step: int, value: float) -> None:
        """Note a result of validation during the training of a trial. One that is there already is kept."""
        if step not in self._frozen(trial.number).intermediate_values:
            self._open(trial).report(value, step)

    def is_hopeless(self, trial: Trial) -> bool:
        """Whether a trial should end: its best result of validation so far is worse than the median of the complete
        trials at the same step."""
        return bool(self._open(trial).should_prune())

    def end(self, trial: Trial, value: float | None = None, why: str = "") -> None:
        """End a trial: with its value, as failed, or, with neither, as pruned."""
        if why:
            self._open(trial).set_user_attr("why", why)
        state = TrialState.COMPLETE if value is not None else TrialState.FAIL if why else TrialState.PRUNED
        self._study.tell(trial.number, value, state=state)

    def _with_values(self, number: int) -> Trial:
        """A trial with a value for each key. Values that it has already are kept."""
        seed = int(np.random.SeedSequence([self._seed, number]).generate_state(1)[0])
        self._study.sampler = optuna.samplers.TPESampler(seed=seed)
        asked = self._open(self._trial(self._frozen(number)))
        for key, values in self._space.items():
            _suggest(asked, key, values)
        return self._trial(self._frozen(number))

    def _begun(self) -> list[FrozenTrial]:
        trials = self._study.get_trials(deepcopy=False)
        return [each for each in trials if each.state is not TrialState.WAITING]

    def _frozen(self, number: int) -> FrozenTrial:
        return self._study.get_trials(deepcopy=False)[number]

    def _open(self, trial: Trial) -> optuna.trial.Trial:
        return optuna.trial.Trial(self._study, self._frozen(trial.number)._trial_id)

    def _untried(self, tried: list[dict[str, Any]]) -> dict[str, Any]:
        assert self._combinations is not None
        order = np.random.default_rng([self._seed, *b"order"]).permutation(len(self._combinations))
        return next(self._combinations[place] for place in order if self._combinations[place] not in tried)

    def _trial(self, frozen: FrozenTrial) -> Trial:
        about: Mapping[str, str] = frozen.user_attrs
        complete = frozen.state is TrialState.COMPLETE
        return Trial(
            number=frozen.number,
            params={key: frozen.params[key] for key in self._space if key in frozen.params},
            state=_STATES[frozen.state],
            value=frozen.value if complete else None,
            points=tuple(sorted(frozen.intermediate_values.items())),
            run=about.get("run", ""),
            why=about.get("why", ""),
        )


def _suggest(trial: optuna.trial.Trial, key: str, values: Choices | Range) -> None:
    if isinstance(values, Choices):
        trial.suggest_categorical(key, values.values)
    elif values.whole:
        trial.suggest_int(key, int(values.low), int(values.high), step=int(values.step or 1), log=values.log)
    else:
        trial.suggest_float(key, values.low, values.high, step=values.step, log=values.log)
