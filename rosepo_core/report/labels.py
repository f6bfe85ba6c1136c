"""Where the labels of points stand, so that none covers another label or another point."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

LABEL_HEIGHT = 15.0
"""Of a label, in pixels."""

CHARACTER, WIDE_CHARACTER = 7.2, 13.0
"""Widths that no usual font exceeds by much at the size of labels."""

GAP = 9.0
"""Between a point and its label."""

RADIUS = 5.0
"""Of a point."""


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels; y grows downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def overlaps(self, other: Box) -> bool:
        """Whether the two share more than a border."""
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )

    def within(self, other: Box) -> bool:
        """Whether this one lies in the other."""
        return (
            self.left >= other.left
            and self.right <= other.right
            and self.top >= other.top
            and self.bottom <= other.bottom
        )


def text_width(text: str) -> float:
    """A cautious guess of how wide a label is drawn, in pixels."""
    return sum(WIDE_CHARACTER if unicodedata.east_asian_width(each) in "WF" else CHARACTER for each in text)


def place_labels(points: Sequence[tuple[float, float]], labels: Sequence[str], room: Box) -> list[Box | None]:
    """The box of each label: as near to its point as it can be, within the room, over no other label and no point.

    Args:
        points: x and y in pixels.
        labels: one a point.
        room: what no label leaves.

    Returns:
        a box a label; `None` where there is no place left for it.
    """
    dots = [Box(x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS) for x, y in points]
    placed: list[Box | None] = [None] * len(points)
    # From the top down, so that labels of points in a heap keep their order.
    for index in sorted(range(len(points)), key=lambda each: points[each][1]):
        taken = [*dots, *(box for box in placed if box is not None)]
        for box in _candidates(*points[index], text_width(labels[index]), room):
            if not any(box.overlaps(other) for other in taken):
                placed[index] = box
                break
    return placed


def _candidates(x: float, y: float, width: float, room: Box) -> list[Box]:
    """All places in the room for a label of this width, the nearest to its point first."""
    rows = [y + step * LABEL_HEIGHT / 2 for step in range(-60, 61)]
    shifts = [place * 2 * GAP for place in range(12)]
    found = []
    for middle in rows:
        for shift in shifts:
            for left in (x + GAP + shift, x - GAP - shift - width):
                box = Box(left, middle - LABEL_HEIGHT / 2, left + width, middle + LABEL_HEIGHT / 2)
                if box.within(room):
                    found.append((abs(middle - y) + shift, left < x, box))
    return [box for _, _, box in sorted(found, key=lambda each: each[:2])]
