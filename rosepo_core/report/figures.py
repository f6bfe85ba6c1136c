"""The figures of the report: their data and captions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import cycle
from typing import Any

import numpy as np

from rosepo_core.contracts.records import Floats, Longs, Pairs
from rosepo_core.evaluation.buckets import BUCKETS, FEWEST_USERS, by_popularity
from rosepo_core.evaluation.calibration import ReliabilityBin
from rosepo_core.evaluation.confidence import Confidence
from rosepo_core.evaluation.decision_rules import ranked_name
from rosepo_core.evaluation.measurement import headline
from rosepo_core.evaluation.oracle_quality import OracleQuality
from rosepo_core.evaluation.results import Evaluation
from rosepo_core.evaluation.run_models import RUN_MODELS, RowName, few_rows, run_model, score_in_use
from rosepo_core.evaluation.statistics import difference_of_means
from rosepo_core.report import charts
from rosepo_core.report.charts import Chart, number
from rosepo_core.report.display import colour_of, model_styles, model_title, signed

Log = Sequence[Mapping[str, float]]
"""The log of a Hugging Face trainer, one mapping for each entry."""


def popularity_of_targets(evaluation: Evaluation, popularity: Longs, column: str) -> Chart:
    """One column for all users, and for users whose targets have a similar popularity; `popularity` is by item."""
    colours = model_styles(evaluation.models)
    few = _with_few(evaluation)
    found = by_popularity(few, popularity, column)
    styles = {model_title(name): colours[name] for name in few.models}
    groups = {
        f"{each.name.partition(':')[0]} ({number(each.users, 0)})": {
            model_title(name): ends for name, ends in each.means.items()
        }
        for each in found
    }
    title = evaluation.columns[column].title
    meant = "; ".join(name for _, name in BUCKETS)
    return replace(
        charts.intervals(f"{title} by popularity of the target", groups, styles, "targets (users)"),
        caption=f"95\N{NO-BREAK SPACE}% intervals over users. Training interactions of the target: {meant}. Buckets "
        f"of fewer than {FEWEST_USERS} users are left out.",
    )


def popularity_bias(evaluation: Evaluation, x_name: str, y_name: str) -> Chart | None:
    """One column against a column that measures popularity, for models that have both. A model that wrote no title
    has no popularity."""
    styles = model_styles(evaluation.models)
    points = [
        charts.Point(
            model_title(name),
            result.metrics[x_name],
            result.metrics[y_name],
            *result.intervals[y_name],
            styles[name],
        )
        for name, result in _with_few(evaluation).models.items()
        if math.isfinite(result.metrics[x_name]) and math.isfinite(result.metrics[y_name])
    ]
    if not points:
        return None
    x_title, y_title = evaluation.columns[x_name].title, evaluation.columns[y_name].title
    return charts.scatter(f"{y_title} against popularity", points, f"{x_title}: training interactions")


def _with_few(evaluation: Evaluation) -> Evaluation:
    """The evaluation with the models that charts show."""
    return replace(evaluation, models={name: evaluation.models[name] for name in few_rows(evaluation.models)})


FEWEST_ANSWERED = 10
"""A risk over fewer users says nothing."""

MOST_CURVES = 5


def confidence(evaluation: Evaluation, found: Mapping[str, Confidence]) -> list[Chart]:
    """Charts about the probabilities of fusions: risk against coverage, and calibration.

    Args:
        evaluation: the evaluation.
        found: the confidence of its fusions, by name; empty if there is none.
    """
    if not found:
        return []
    styles = {name: colour_of(style) for name, style in model_styles(evaluation.models).items()}
    rows = few_rows(evaluation.models)
    few = [name for name in found if name in rows or not RowName.of(name).writes] or list(found)
    drawn = {model_title(name): found[name].curves[0] for name in (found if len(found) <= MOST_CURVES else few)}
    colours = {model_title(name): styles[name] for name in found}
    users = next(iter(found.values())).users
    curves = {}
    for title, curve in drawn.items():
        start = next(
            place for place, share in enumerate(curve.coverages) if share * users >= min(FEWEST_ANSWERED, users)
        )
        curves[title] = (curve.coverages[start:], curve.risks[start:], colours[title])
    areas = "; ".join(
        f"{title} {curve.aurc:.3f} ({curve.aurc_interval[0]:.3f} to {curve.aurc_interval[1]:.3f}; {curve.risk:.3f})"
        for title, curve in drawn.items()
    )
    calibrated = {model_title(name): found[name] for name in few}
    errors = "; ".join(
        f"{title} {each.calibration.ece:.3f} (mean probability {each.mean:.3f})" for title, each in calibrated.items()
    )
    groups = {
        title: (_shown_bins(each.calibration.reliability), colours[title]) for title, each in calibrated.items()
    }
    return [
        replace(
            charts.shares("Risk against coverage", curves, "users answered, the most confident first"),
            caption="Risk: the share of the answered users whose first title is wrong. Confidence: the probability "
            "of the first title. Area under the curve, lower is better (in brackets its 95 % interval, and the risk "
            f"if all users are answered): {areas}. Coverages of fewer than {FEWEST_ANSWERED} users are left out.",
        ),
        replace(
            charts.reliability(
                "Calibration of the first title", groups, "probability, mean of a bin; upwards: right"
            ),
            caption=f"Expected calibration error, lower is better: {errors}.",
        ),
    ]


def _shown_bins(bins: Sequence[ReliabilityBin]) -> list[tuple[float, float, str]]:
    """Predicted, observed, and what a pointer shows."""
    return [
        (
            each.predicted,
            each.observed,
            f"{each.predicted:.3f} predicted, {each.observed:.3f} observed ({each.count:,})",
        )
        for each in bins
    ]


def growth(evaluation: Evaluation, logs: Mapping[str, Mapping[str, tuple[Log, Log]]]) -> Chart | None:
    """Accuracy against the number of training tokens, if runs differ in this number.

    Args:
        evaluation: the evaluation of all runs together.
        logs: by the run's label and the name of the model that a round left: the logs of SFT and of alignment.
    """
    column = headline(evaluation.columns)
    if column is None:
        return None
    score = score_in_use(evaluation.models)
    points: dict[tuple[str, float], charts.Point] = {}
    for label, of_run in logs.items():
        for model, tokens in _trained_tokens(of_run).items():
            ranked = ranked_name(model, score)
            name = next((each for each in (ranked, f"{ranked} ({label})") if each in evaluation.models), None)
            known = run_model(model)
            if name is not None and known is not None and tokens > 0:
                result = evaluation.models[name]
                ends = result.intervals[column]
                points[name, tokens] = charts.Point(
                    model_title(name), tokens, result.metrics[column], *ends, known.style
                )
    if len({tokens for _, tokens in points}) < 3:
        return None
    trained = {model: run_model(model) for of_run in logs.values() for model in _trained_tokens(of_run)}
    models = {**RUN_MODELS, **{name: model for name, model in trained.items() if model is not None}}
    shown = {ranked_name(name, score) if model.writes else name: model for name, model in models.items()}
    levels = {
        model_title(name): (evaluation.models[name].metrics[column], model.style)
        for name, model in shown.items()
        if model.name not in trained and name in evaluation.models
    }
    styles = {point.style for point in points.values()}
    legend = {model_title(name): model.style for name, model in shown.items() if model.style in styles}
    title = f"{evaluation.columns[column].title} against training"
    return replace(
        charts.growth(title, list(points.values()), levels, "tokens trained on, SFT and alignment", legend),
        caption="95\N{NO-BREAK SPACE}% intervals over users, for each model separately.",
    )


def _trained_tokens(of_run: Mapping[str, tuple[Log, Log]]) -> Mapping[str, float]:
    """The tokens that each trained model of a run has seen."""
    found, total = {"sft": 0.0}, 0.0
    for place, (model, logs) in enumerate(of_run.items()):
        sft, aligned = (float(log[-1].get("num_tokens", 0)) if log else 0.0 for log in logs)
        if place == 0:
            found["sft"] = sft
        total += sft + aligned
        found[model] = total
    return found


TERMS = ("green", "orange dashed", "gold", "teal")
"""The colours of the terms of a sum of losses."""


def training(sft: Log, alignment: Log, style: str, validation: Mapping[str, Any] | None = None) -> list[Chart]:
    """The training curves of SFT and alignment.

    Args:
        sft: the log of SFT.
        alignment: the log of alignment.
        style: the colour of the aligned model.
        validation: the results of validation during SFT (`stages.validation.save_curve`).
    """
    terms = dict.fromkeys(key for entry in alignment for key in entry if key.startswith("loss/"))
    losses = {"loss": ("total" if terms else "loss", style)}
    losses |= {key: (key.removeprefix("loss/"), colour) for key, colour in zip(terms, cycle(TERMS), strict=False)}
    judged, judged_caption = _validation(validation) if validation else (None, "")
    wanted = [
        charts.curves("SFT: loss", sft, {"loss": ("loss", "teal")}),
        judged,
        charts.curves("Alignment: loss", alignment, losses),
        charts.curves("Alignment: reward margin", alignment, {"rewards/margins": ("rewards/margins", style)}),
        charts.curves("Alignment: reward accuracy", alignment, {"rewards/accuracies": ("rewards/accuracies", style)}),
        charts.curves(
            "Alignment: log-probabilities",
            alignment,
            {"logps/chosen": ("chosen", "green"), "logps/rejected": ("rejected", "orange dashed")},
        ),
    ]
    captions = ("", judged_caption, "", "", "", _log_prob_caption(alignment))
    return [
        replace(chart, caption=caption) for chart, caption in zip(wanted, captions, strict=True) if chart is not None
    ]


def _validation(curve: Mapping[str, Any]) -> tuple[Chart | None, str]:
    """The chart of validation during SFT, and which step was kept."""
    name = curve["metric"].upper()
    last = curve["points"][-1]["step"]
    best = next(point["value"] for point in curve["points"] if point["step"] == curve["kept"])
    steps = [point["step"] for point in curve["points"]]
    late = len(steps) - 1 - steps.index(curve["kept"]) >= curve["patience"]
    why = f", because {curve['patience']} results brought no better one" if late else ""
    caption = f"The weights of step {curve['kept']:,} are kept ({best:.3f}). Training ended at step {last:,}{why}."
    return charts.curves(f"SFT: {name} on validation users", curve["points"], {"value": (name, "teal")}), caption


FEWEST_STEPS = 8
"""With fewer steps, a quarter of them has less than two."""


def _log_prob_caption(log: Log) -> str:
    """The clear changes of the log-probabilities. Single steps are not compared: they see different pairs, so their
    values differ even if the model does not change."""
    moved = {}
    for name in ("chosen", "rejected"):
        values = np.array([entry[f"logps/{name}"] for entry in log if f"logps/{name}" in entry], dtype=np.float64)
        if len(values) < FEWEST_STEPS or not np.isfinite(values).all():
            return ""
        quarter = len(values) // 4
        moved[name] = difference_of_means(values[:quarter], values[-quarter:])
    parts = [
        f"{name} {signed(mean, 2)} (95\N{NO-BREAK SPACE}% interval {signed(low, 2)} to {signed(high, 2)}"
        + (", no clear change)" if low <= 0 <= high else ")")
        for name, (mean, low, high) in moved.items()
    ]
    text = f"Change of the mean from the first to the last quarter of the steps: {', '.join(parts)}."
    if all(high < 0 for _, _, high in moved.values()):
        text += " Both fell: the margin can widen while the chosen titles become less likely, too."
    return text


def preferences(
    pairs: Pairs, quality: OracleQuality | None, popularity: Longs | None, similarity: tuple[Floats, Floats] | None
) -> list[Chart]:
    """Charts about the pairs: smoothing factors, the oracle's quality, the popularity of rejected items and their
    similarity to the targets.

    Args:
        pairs: the run's pairs.
        quality: the quality of its oracle.
        popularity: training interactions, int64 [items].
        similarity: as in `ReportData`.
    """
    held = pairs.rejected >= 0
    eps = pairs.eps[held]
    if not len(eps):
        return []
    # Without smoothing there are no factors to show.
    shown = (
        []
        if not eps.any()
        else [
            replace(
                charts.histogram(
                    "Smoothing factor",
                    {"eps": (eps, "gold")},
                    0.0,
                    max(0.5, float(eps.max())),
                    "eps: P(rejected is preferred)",
                ),
                caption=f"Share of {number(len(eps), 0)} pairs; mean {eps.mean():.3f}, median {np.median(eps):.3f}.",
            )
        ]
    )
    shown += calibration(quality)
    if popularity is not None:
        row, slot = np.nonzero(held)
        chosen, rejected = popularity[pairs.examples.target[row]], popularity[pairs.rejected[row, slot]]
        shown.append(
            replace(
                charts.popularity_bars(
                    "Popularity of chosen and rejected",
                    {"chosen": (chosen, "green"), "rejected": (rejected, "orange")},
                ),
                caption=f"Share of pairs; mean interactions: chosen {number(chosen.mean(), 1)}, "
                f"rejected {number(rejected.mean(), 1)}.",
            )
        )
    if similarity is not None and len(similarity[0]):
        alike, random_items = similarity
        low = min(0.0, float(min(alike.min(), random_items.min())))
        groups: Mapping[str, tuple[Floats, str]] = {"rejected": (alike, "orange"), "any item": (random_items, "grey")}
        shown.append(
            replace(
                charts.histogram("Similarity to the target", groups, low, 1.0, "cosine of title embeddings"),
                caption=f"Share of pairs; mean: rejected {alike.mean():.3f}, an item drawn uniformly "
                f"{random_items.mean():.3f}.",
            )
        )
    return shown


def calibration(quality: OracleQuality | None) -> list[Chart]:
    """The reliability curve; empty if no oracle was measured."""
    if quality is None or not quality.reliability:
        return []
    groups = {"oracle": (_shown_bins(quality.reliability), "gold")}
    chart = charts.reliability("Oracle calibration", groups, "flip probability, mean of a bin; upwards: observed")
    caption = (
        f"On {number(quality.pairs, 0)} held-out questions, each pair asked in both orders: AUC {quality.auc:.3f}, "
        f"expected calibration error {quality.ece:.3f}."
    )
    return [replace(chart, caption=caption)]
