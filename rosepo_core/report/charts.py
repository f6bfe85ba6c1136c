"""Geometry of the report's charts: numbers in, coordinates out. The template draws them as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rosepo_core.report.labels import LABEL_HEIGHT, Box, place_labels

# A small canvas: it is shown at about its own size, so that its text stays readable on a telephone.
WIDTH, HEIGHT = 440, 250
LEFT, RIGHT, TOP, BOTTOM = 48, 14, 14, 40


@dataclass(frozen=True)
class Tick:
    """A place on an axis, in pixels, with its text."""

    at: float
    text: str


@dataclass(frozen=True)
class Line:
    """A path in SVG's notation; `style` are CSS classes."""

    path: str
    style: str


@dataclass(frozen=True)
class Bar:
    """A rectangle with the text that a pointer shows."""

    x: float
    y: float
    width: float
    height: float
    style: str
    text: str


@dataclass(frozen=True)
class Dot:
    """A point with its interval (`low` and `high` in pixels) and its label's place."""

    x: float
    y: float
    low: float
    high: float
    label: str
    label_x: float
    label_y: float
    anchor: str
    style: str
    text: str


@dataclass(frozen=True)
class Chart:
    """All that the template draws; coordinates are pixels of a `WIDTH` x `HEIGHT` canvas."""

    title: str
    x_label: str
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    caption: str = ""
    lines: Sequence[Line] = ()
    bars: Sequence[Bar] = ()
    dots: Sequence[Dot] = ()
    legend: Mapping[str, str] = field(default_factory=dict)
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


@dataclass(frozen=True)
class Scale:
    """A linear map from values to pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The pixel of `value`, to a tenth."""
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 1)

    def ticks(self, wanted: int, *, whole: bool = False) -> list[Tick]:
        """About `wanted` round values within the scale; fewer where only whole numbers will do."""
        rough = (self.high - self.low) / wanted
        rough = max(rough, 1.0) if whole else rough
        unit = 10.0 ** math.floor(math.log10(rough))
        factors = (1, 2, 5, 10) if whole else (1, 2, 2.5, 5, 10)
        step = next(unit * factor for factor in factors if unit * factor >= rough * 0.999)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        decimals = max(0, -math.floor(math.log10(step) + 1e-9) + (round(step / unit, 3) == 2.5))
        return [Tick(self(place * step), number(place * step, decimals)) for place in range(first, last + 1)]


def number(value: float, decimals: int) -> str:
    """A number as text, with a true minus sign and thousands apart."""
    text = f"{value:,.{decimals}f}"
    return text.replace("-", "\N{MINUS SIGN}") if float(text.replace(",", "")) else text.lstrip("-")


def curves(title: str, history: Sequence[Mapping[str, float]], names: Mapping[str, tuple[str, str]]) -> Chart | None:
    """Values of a trainer's log over its steps, each with its running mean over a twentieth of the run.

    Args:
        title: of the chart.
        history: log entries of the Hugging Face Trainer; those without ``step`` or the wanted key are passed over.
        names: key in the log -> (label, CSS class).

    Returns:
        None where no entry has any of the keys.
    """
    found: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}
    for key in names:
        points = [(entry["step"], entry[key]) for entry in history if key in entry and "step" in entry]
        points = [(step, value) for step, value in points if math.isfinite(value)]
        if points:
            steps, values = np.array(points, dtype=np.float64).T
            found[key] = steps, values
    if not found:
        return None
    every_step = np.concatenate([steps for steps, _ in found.values()])
    every_value = np.concatenate([values for _, values in found.values()])
    x = _scale(every_step.min(), every_step.max(), LEFT, WIDTH - RIGHT, margin=0)
    y = _scale(every_value.min(), every_value.max(), HEIGHT - BOTTOM, TOP)
    lines = []
    for key, (steps, values) in found.items():
        window = max(1, len(values) // 20)
        if window > 1:
            lines.append(Line(_path(steps, values, x, y), f"{names[key][1]} raw"))
        lines.append(Line(_path(steps, running_mean(values, window), x, y), names[key][1]))
    return Chart(
        title=title,
        x_label="optimizer step",
        x_ticks=x.ticks(6, whole=True),
        y_ticks=y.ticks(6),
        lines=lines,
        legend={names[key][0]: names[key][1] for key in found} if len(names) > 1 else {},
    )


def running_mean(values: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Mean over the last `window` values (fewer at the start): float64 of the same length."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    end = np.arange(1, len(values) + 1)
    start = np.maximum(end - window, 0)
    mean: NDArray[np.float64] = (sums[end] - sums[start]) / (end - start)
    return mean


def histogram(
    title: str, groups: Mapping[str, tuple[NDArray[np.floating], str]], low: float, high: float, x_label: str
) -> Chart:
    """Shares of each group's values in equal bins from `low` to `high`, 25 of them, fewer for several groups.

    Args:
        title: of the chart.
        groups: label -> (values, not empty; CSS class).
        low, high: ends of the first and the last bin.
        x_label: what the values are.
    """
    bins = 25 if len(groups) == 1 else 16
    counts = {label: np.histogram(values, bins=bins, range=(low, high))[0] for label, (values, _) in groups.items()}
    shares = {label: counts[label] / len(values) for label, (values, _) in groups.items()}
    edges = np.linspace(low, high, bins + 1).tolist()
    x = Scale(low, high, LEFT, WIDTH - RIGHT)
    y = _scale(0, max(float(share.max()) for share in shares.values()), HEIGHT - BOTTOM, TOP, from_zero=True)
    slot = (x(edges[1]) - x(edges[0]) - 1) / len(groups)
    bars = []
    for place, (label, (_, style)) in enumerate(groups.items()):
        of = f"{label}, " if len(groups) > 1 else ""
        for column in np.flatnonzero(counts[label]).tolist():
            share, count = float(shares[label][column]), int(counts[label][column])
            text = f"{of}{edges[column]:.3f} to {edges[column + 1]:.3f}: {share:.1%} ({count:,})"
            bars.append(_bar(x(edges[column]) + 0.5 + place * slot, slot, share, y, style, text))
    return Chart(
        title=title,
        x_label=x_label,
        x_ticks=x.ticks(6),
        y_ticks=_percent(y),
        bars=bars,
        legend={label: style for label, (_, style) in groups.items()} if len(groups) > 1 else {},
    )


def reliability(
    title: str, groups: Mapping[str, tuple[Sequence[tuple[float, float, str]], str]], x_label: str
) -> Chart:
    """Observed shares against predicted probabilities, with the diagonal on which a calibrated forecast lies.

    Args:
        title: of the chart.
        groups: label -> (bins, at least one; CSS class). A bin is: predicted probability, observed share, and what a
            pointer shows; in the order of the first.
        x_label: what was predicted.
    """
    # To the next fifth, so that small probabilities are not in one corner.
    highest = max(
        value for bins, _ in groups.values() for predicted, observed, _ in bins for value in (predicted, observed)
    )
    end = min(1.0, max(1, math.ceil(5 * highest)) / 5)
    x, y = Scale(0, end, LEFT, WIDTH - RIGHT), Scale(0, end, HEIGHT - BOTTOM, TOP)
    lines, dots = [Line(f"M{x(0)},{y(0)}L{x(end)},{y(end)}", "grey dashed")], []
    for label, (bins, style) in groups.items():
        of = f"{label}: " if len(groups) > 1 else ""
        points = [(x(predicted), y(observed)) for predicted, observed, _ in bins]
        lines.append(Line("M" + "L".join(f"{at},{height}" for at, height in points), style))
        dots += [
            Dot(at, height, height, height, "", at, height, "start", style, of + text)
            for (at, height), (_, _, text) in zip(points, bins, strict=True)
        ]
    return Chart(
        title=title,
        x_label=x_label,
        x_ticks=x.ticks(5),
        y_ticks=y.ticks(5),
        lines=lines,
        dots=dots,
        legend={label: style for label, (_, style) in groups.items()} if len(groups) > 1 else {},
    )


def shares(title: str, groups: Mapping[str, tuple[Sequence[float], Sequence[float], str]], x_label: str) -> Chart:
    """One share against another.

    Args:
        title: of the chart.
        groups: label -> (x, ascending; y; CSS class).
        x_label: what x is.
    """
    held = [value for _, values, _ in groups.values() for value in values]
    x, y = Scale(0, 1, LEFT, WIDTH - RIGHT), _scale(min(held), max(held), HEIGHT - BOTTOM, TOP)
    return Chart(
        title=title,
        x_label=x_label,
        x_ticks=_percent(x),
        y_ticks=_percent(y),
        lines=[
            Line("M" + "L".join(f"{x(at)},{y(value)}" for at, value in zip(places, values, strict=True)), style)
            for places, values, style in groups.values()
        ],
        legend={label: style for label, (_, _, style) in groups.items()},
    )


def popularity_bars(title: str, groups: Mapping[str, tuple[NDArray[np.integer], str]]) -> Chart:
    """Shares of each group's items by training interactions, in bins that double: 0, 1, 2-3, 4-7, ...

    Args:
        title: of the chart.
        groups: label -> (training interactions of each item, not empty; CSS class).
    """
    bins = {label: np.ceil(np.log2(counts + 1.0)).astype(int) for label, (counts, _) in groups.items()}
    last = max(int(places.max()) for places in bins.values())
    shares = {label: np.bincount(places, minlength=last + 1) / len(places) for label, places in bins.items()}
    x = Scale(0, last + 1, LEFT, WIDTH - RIGHT)
    y = _scale(0, max(float(share.max()) for share in shares.values()), HEIGHT - BOTTOM, TOP, from_zero=True)
    slot = (x(1) - x(0)) * 0.8 / len(groups)
    bars = []
    for place, (label, (_, style)) in enumerate(groups.items()):
        for column in np.flatnonzero(shares[label]).tolist():
            low, high = (2 ** (column - 1), 2**column - 1) if column else (0, 0)
            span = f"{low}" if low == high else f"{low} to {high}"
            text = f"{label}, {span} interactions: {shares[label][column]:.1%}"
            start = x(column) + 0.1 * (x(1) - x(0)) + place * slot
            bars.append(_bar(start, slot - 0.5, float(shares[label][column]), y, style, text))
    ticks = [Tick(round((x(column) + x(column + 1)) / 2, 1), _bin_name(column)) for column in range(last + 1)]
    return Chart(
        title=title,
        x_label="training interactions of the item, from",
        x_ticks=ticks,
        y_ticks=_percent(y),
        bars=bars,
        legend={label: style for label, (_, style) in groups.items()},
    )


@dataclass(frozen=True)
class Point:
    """A labelled point of a scatter, with the interval of its y."""

    label: str
    x: float
    y: float
    low: float
    high: float
    style: str


def scatter(title: str, points: Sequence[Point], x_label: str) -> Chart:
    """Points with vertical intervals and labels that cover neither each other nor a point.

    Where there are too many for all labels to find a place, numbers stand at the points and names in the legend.
    """
    held = [value for point in points for value in (point.y, point.low, point.high) if math.isfinite(value)]
    x = _scale(min(point.x for point in points), max(point.x for point in points), LEFT, WIDTH - RIGHT, margin=0.12)
    y = _scale(min(held), max(held), HEIGHT - BOTTOM, TOP, margin=0.08)
    places = [(x(point.x), y(point.y)) for point in points]
    room = Box(LEFT, TOP, WIDTH, HEIGHT - BOTTOM)
    shown = [point.label for point in points]
    legend: Mapping[str, str] = {}
    boxes = place_labels(places, shown, room)
    if None in boxes:
        shown = [str(number) for number in range(1, len(points) + 1)]
        legend = {f"{number} {point.label}": point.style for number, point in zip(shown, points, strict=True)}
        boxes = place_labels(places, shown, room)
    dots, leaders = [], []
    for point, (at, height), label, box in zip(points, places, shown, boxes, strict=True):
        low, high = (y(end) if math.isfinite(end) else height for end in (point.low, point.high))
        text = f"{point.label}: {point.y:.3f} at {point.x:.1f}"
        if box is None:
            dots.append(Dot(at, height, low, high, "", at, height, "start", point.style, text))
            continue
        right = box.left > at
        end, middle = (box.left if right else box.right), (box.top + box.bottom) / 2
        dots.append(
            Dot(
                *(at, height, low, high, label),
                round(end, 1),
                round(middle + 4, 1),
                "start" if right else "end",
                point.style,
                text,
            )
        )
        if math.hypot(end - at, middle - height) > 1.5 * LABEL_HEIGHT:
            leaders.append(Line(f"M{at},{height}L{round(end, 1)},{round(middle, 1)}", f"{point.style} leader"))
    return Chart(
        title=title,
        x_label=x_label,
        x_ticks=x.ticks(6),
        y_ticks=y.ticks(6),
        lines=leaders,
        dots=dots,
        legend=legend,
    )


def intervals(
    title: str,
    groups: Mapping[str, Mapping[str, tuple[float, float, float]]],
    styles: Mapping[str, str],
    x_label: str,
) -> Chart:
    """Means with their intervals, side by side within each group.

    Args:
        title: of the chart.
        groups: group -> label -> mean, low, high; an interval may be NaN.
        styles: label -> CSS class, in the order in which points stand in a group.
        x_label: what the groups are.
    """
    held = [each for group in groups.values() for ends in group.values() for each in ends if math.isfinite(each)]
    y = _scale(min(held), max(held), HEIGHT - BOTTOM, TOP)
    x = Scale(0, len(groups), LEFT, WIDTH - RIGHT)
    step = 0.76 / max(1, len(styles) - 1)
    dots = []
    for place, (group, means) in enumerate(groups.items()):
        for nth, (label, style) in enumerate(styles.items()):
            mean, low, high = means.get(label, (math.nan,) * 3)
            if not math.isfinite(mean):
                continue
            at, height = x(place + 0.12 + nth * step), y(mean)
            lower, upper = (y(end) if math.isfinite(end) else height for end in (low, high))
            text = f"{label}, {group}: {mean:.3f}" + (f" ({low:.3f} to {high:.3f})" if math.isfinite(low) else "")
            dots.append(Dot(at, height, lower, upper, "", at, height, "start", style, text))
    return Chart(
        title=title,
        x_label=x_label,
        x_ticks=[Tick(x(place + 0.5), group) for place, group in enumerate(groups)],
        y_ticks=y.ticks(6),
        dots=dots,
        legend=styles,
    )


def growth(
    title: str,
    points: Sequence[Point],
    levels: Mapping[str, tuple[float, str]],
    x_label: str,
    legend: Mapping[str, str],
) -> Chart:
    """Values with intervals over a quantity on a logarithmic axis, those of one style joined, beside what does not
    depend on it.

    Args:
        title: of the chart.
        points: every x above 0; labels are what a pointer shows.
        levels: label -> (value, CSS class) of horizontal lines.
        x_label: what the quantity is.
        legend: label -> CSS class of the points.
    """
    held = [value for point in points for value in (point.y, point.low, point.high) if math.isfinite(value)]
    held += [value for value, _ in levels.values()]
    y = _scale(min(held), max(held), HEIGHT - BOTTOM, TOP)
    logs = [math.log10(point.x) for point in points]
    x = _scale(min(logs), max(logs), LEFT, WIDTH - RIGHT)
    lines = [
        Line(f"M{LEFT},{y(value)}L{WIDTH - RIGHT},{y(value)}", f"{style} dashed") for value, style in levels.values()
    ]
    dots = []
    for style in dict.fromkeys(point.style for point in points):
        own = sorted((point for point in points if point.style == style), key=lambda point: point.x)
        places = [(x(math.log10(point.x)), y(point.y)) for point in own]
        lines.append(Line("M" + "L".join(f"{at},{height}" for at, height in places), style))
        for point, (at, height) in zip(own, places, strict=True):
            low, high = (y(end) if math.isfinite(end) else height for end in (point.low, point.high))
            text = f"{point.label}: {point.y:.3f} at {number(point.x, 0)}"
            dots.append(Dot(at, height, low, high, "", at, height, "start", style, text))
    ticks = [
        Tick(x(math.log10(round_value)), number(round_value, 0))
        for power in range(math.floor(min(logs)), math.ceil(max(logs)) + 1)
        for round_value in (10.0**power, 3 * 10.0**power)
        if x.low <= math.log10(round_value) <= x.high
    ]
    return Chart(
        title=title,
        x_label=x_label,
        x_ticks=ticks,
        y_ticks=y.ticks(6),
        lines=lines,
        dots=dots,
        legend=dict(legend) | {label: style for label, (_, style) in levels.items()},
    )


@dataclass(frozen=True)
class Trial:
    """A trial of a sweep, for charts.

    Attributes:
        x: its number, its value of an option, or the place of this value in a list.
        y: what it is judged by; NaN if it has no such value.
        style: CSS class.
        text: what a pointer shows.
    """

    x: float
    y: float
    style: str
    text: str


def trials(
    title: str,
    points: Sequence[Trial],
    x_label: str,
    *,
    names: Sequence[str] = (),
    log: bool = False,
    whole: bool = False,
    best: Sequence[float] = (),
    legend: Mapping[str, str] | None = None,
) -> Chart:
    """Values of trials over their number or over an option. A trial without a value stands at the lower edge.

    Args:
        title: of the chart.
        points: at least one of them has a value.
        x_label: what x is.
        names: the names of the places 0, 1, ... on the x axis, if it is no axis of numbers.
        log: whether the x axis is logarithmic.
        whole: whether only whole numbers are marked on the x axis.
        best: for each point, the best value up to it, drawn as a line; NaN before the first value.
        legend: label -> CSS class.
    """
    held = [point.y for point in points if math.isfinite(point.y)]
    y = _scale(min(held), max(held), HEIGHT - BOTTOM, TOP, margin=0.08)
    xs = [math.log10(point.x) if log else point.x for point in points]
    x = (
        Scale(-0.5, len(names) - 0.5, LEFT, WIDTH - RIGHT)
        if names
        else _scale(min(xs), max(xs), LEFT, WIDTH - RIGHT, margin=0.04)
    )
    dots = []
    for point, place in zip(points, xs, strict=True):
        at, height = x(place), y(point.y) if math.isfinite(point.y) else HEIGHT - BOTTOM
        dots.append(Dot(at, height, height, height, "", at, height, "start", point.style, point.text))
    known = [(x(place), y(value)) for place, value in zip(xs, best, strict=False) if math.isfinite(value)]
    steps = [f"H{at}V{height}" for at, height in known[1:]]
    return Chart(
        title=title,
        x_label=x_label,
        x_ticks=_trial_ticks(x, names, log, whole),
        y_ticks=y.ticks(6),
        lines=[Line(f"M{known[0][0]},{known[0][1]}{''.join(steps)}", "rose")] if known else [],
        dots=dots,
        legend=legend or {},
    )


def _trial_ticks(x: Scale, names: Sequence[str], log: bool, whole: bool) -> list[Tick]:
    if names:
        longest = max(6, 60 // len(names))
        return [
            Tick(x(place), name if len(name) <= longest else f"{name[: longest - 1]}\N{HORIZONTAL ELLIPSIS}")
            for place, name in enumerate(names)
        ]
    if not log:
        return x.ticks(6, whole=whole)
    powers = range(math.floor(x.low), math.ceil(x.high) + 1)
    factors = (1, 3) if x.high - x.low > 1 else (1, 2, 3, 5)
    marks = [factor * 10.0**power for power in powers for factor in factors]
    return [Tick(x(math.log10(mark)), f"{mark:g}") for mark in marks if x.low <= math.log10(mark) <= x.high]


def paths(title: str, curves: Sequence[tuple[Sequence[tuple[int, float]], str]], legend: Mapping[str, str]) -> Chart:
    """Values over steps, one line each.

    Args:
        title: of the chart.
        curves: points (step, value), and the CSS class; at least one point has a number.
        legend: label -> CSS class.
    """
    known = [([each for each in points if math.isfinite(each[1])], style) for points, style in curves]
    every = [each for points, _ in known for each in points]
    x = _scale(min(step for step, _ in every), max(step for step, _ in every), LEFT, WIDTH - RIGHT, margin=0.02)
    y = _scale(min(value for _, value in every), max(value for _, value in every), HEIGHT - BOTTOM, TOP)
    return Chart(
        title=title,
        x_label="optimizer step",
        x_ticks=x.ticks(6, whole=True),
        y_ticks=y.ticks(6),
        lines=[
            Line("M" + "L".join(f"{x(step)},{y(value)}" for step, value in points), style)
            for points, style in known
            if points
        ],
        legend=legend,
    )


def _scale(
    low: float, high: float, start: float, end: float, *, margin: float = 0.05, from_zero: bool = False
) -> Scale:
    low, high = float(low), float(high)
    if high - low < 1e-9 * max(1.0, abs(high)):
        high, low = high + max(abs(high) * 0.1, 0.5), low if from_zero else low - max(abs(low) * 0.1, 0.5)
    room = (high - low) * margin
    return Scale(low if from_zero else low - room, high + room, start, end)


def _path(steps: NDArray[np.float64], values: NDArray[np.float64], x: Scale, y: Scale) -> str:
    # More points than pixels would only make the file large.
    kept = np.unique(np.linspace(0, len(steps) - 1, min(len(steps), WIDTH)).astype(int))
    return "M" + "L".join(f"{x(steps[place])},{y(values[place])}" for place in kept.tolist())


def _bar(x: float, width: float, share: float, y: Scale, style: str, text: str) -> Bar:
    # A thing that exists shows at least as a hairline.
    height = max(y(0) - y(share), 1.0)
    return Bar(round(x, 1), round(y(0) - height, 1), round(width, 1), round(height, 1), style, text)


def _percent(y: Scale) -> list[Tick]:
    ticks = Scale(y.low * 100, y.high * 100, y.start, y.end).ticks(6)
    return [Tick(tick.at, f"{tick.text}\N{NARROW NO-BREAK SPACE}%") for tick in ticks]


def _bin_name(column: int) -> str:
    low = 2 ** (column - 1) if column else 0
    return f"{low // 1024}k" if low >= 1024 else str(low)
