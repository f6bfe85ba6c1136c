"""The report of a sweep: one HTML file without scripts, from the parts of the report of a run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate

from rosepo_core.report import charts
from rosepo_core.report.charts import Chart
from rosepo_core.report.page import templates
from rosepo_core.sweep.judging import Judged
from rosepo_core.sweep.space import Choices, Space, shown_value
from rosepo_core.sweep.study import COMPLETE, PRUNED, RUNNING, Trial

BEST_STYLE, OTHER_STYLE, ENDED_STYLE = "rose", "teal", "grey open"


def render(
    name: str,
    space: Space,
    judged: Judged,
    pruning: str,
    trials: Sequence[Trial],
    best: Trial | None,
    command: str,
) -> str:
    """The report as HTML. Every text is shown as plain text.

    Args:
        name: of the sweep.
        space: what is searched.
        judged: what trials are judged by.
        pruning: in one sentence, whether trials are ended early.
        trials: the trials that have begun, in their order.
        best: the best of them.
        command: the command that trains the best configuration and tests it.
    """
    over = [trial for trial in trials if trial.state != RUNNING]
    return (
        templates()
        .get_template("sweep.html.jinja")
        .render(
            title=f"Sweep: {name}",
            judged=str(judged),
            column=judged.title,
            pruning=pruning,
            space={key: str(values) for key, values in space.items()},
            best=best,
            best_value=_value(best),
            counts=_counts(trials),
            command=command,
            charts=_charts(space, judged, over, best) if best is not None else [],
            rows=[
                (
                    trial,
                    [shown_value(trial.params[key]) for key in space if key in trial.params],
                    _value(trial),
                    trial is best or (best is not None and trial.number == best.number),
                )
                for trial in sorted(trials, key=lambda trial: _order(trial, judged))
            ],
        )
    )


def _value(trial: Trial | None) -> str:
    return "" if trial is None or trial.value is None else f"{trial.value:.4f}"


def _order(trial: Trial, judged: Judged) -> tuple[float, int]:
    """The best first, and trials without a value last."""
    if trial.value is None:
        return math.inf, trial.number
    return (-trial.value if judged.higher else trial.value), trial.number


def _counts(trials: Sequence[Trial]) -> str:
    """How many trials there are, by what became of them."""
    words = {COMPLETE: "complete", PRUNED: "ended early", "failed": "failed", RUNNING: "not finished"}
    states = [trial.state for trial in trials]
    return ", ".join(f"{states.count(state)} {said}" for state, said in words.items() if state in states)


def _charts(space: Space, judged: Judged, trials: Sequence[Trial], best: Trial) -> list[Chart]:
    ended = any(trial.value is None for trial in trials)
    legend = {"the best": BEST_STYLE, "others": OTHER_STYLE} | (
        {"without a value: ended early or failed": ENDED_STYLE} if ended else {}
    )
    worst = -math.inf if judged.higher else math.inf
    values = [worst if trial.value is None else trial.value for trial in trials]
    so_far = list(accumulate(values, max if judged.higher else min))
    numbers = [_point(trial, trial.number + 1, best) for trial in trials]
    found = [
        charts.trials(
            f"{judged.title} by trial; the line is the best so far",
            numbers,
            "trial",
            whole=True,
            best=so_far,
            legend=legend,
        )
    ]
    for key, each in space.items():
        if isinstance(each, Choices):
            points = [_point(trial, each.values.index(str(trial.params[key])), best) for trial in trials]
            found.append(charts.trials(f"{judged.title} by {key}", points, key, names=each.values))
        else:
            points = [_point(trial, float(trial.params[key]), best) for trial in trials]
            found.append(charts.trials(f"{judged.title} by {key}", points, key, log=each.log, whole=each.whole))
    curves = [trial for trial in trials if any(math.isfinite(value) for _, value in trial.points)]
    if len(curves) > 1:
        styled = sorted(((trial, _curve_style(trial, best)) for trial in curves), key=lambda each: each[0] is best)
        found.append(
            charts.paths(
                "Validation during SFT, one line for each trial",
                [(trial.points, style) for trial, style in styled],
                {"the best": BEST_STYLE, "others": OTHER_STYLE, "ended early": "grey"},
            )
        )
    return found


def _point(trial: Trial, x: float, best: Trial) -> charts.Trial:
    style = BEST_STYLE if trial.number == best.number else OTHER_STYLE if trial.value is not None else ENDED_STYLE
    params = ", ".join(f"{key}={shown_value(value)}" for key, value in trial.params.items())
    said = _value(trial) or trial.state
    return charts.Trial(
        x, math.nan if trial.value is None else trial.value, style, f"{trial.number + 1}: {said}; {params}"
    )


def _curve_style(trial: Trial, best: Trial) -> str:
    if trial.number == best.number:
        return BEST_STYLE
    return OTHER_STYLE if trial.state == COMPLETE else "grey dashed"
