"""Places the labels of points so that no label covers another label or a point."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

LABEL_HEIGHT = 15.0
"""Height of a label, in pixels."""

CHARACTER, WIDE_CHARACTER = 7.2, 13.0
"""Widths of characters at the size of labels, in pixels; usual fonts are not much wider."""

GAP = 9.0
"""Distance between a point and its label, in pixels."""

RADIUS = 5.0
"""Radius of a point, in pixels."""


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
        """Whether this box is inside the other."""
        return (
            self.left >= other.left
            and self.right <= other.right
            and self.top >= other.top
            and self.bottom <= other.bottom
        )


def text_width(text: str) -> float:
    """An estimate of the width of a label, in pixels, rather too large than too small."""
    return sum(WIDE_CHARACTER if unicodedata.east_asian_width(each) in "WF" else CHARACTER for each in text)


def place_labels(points: Sequence[tuple[float, float]], labels: Sequence[str], room: Box) -> list[Box | None]:
    """The box of each label: as near to its point as possible, inside the room, and not over a label or a point.

    Args:
        points: x and y in pixels.
        labels: one for each point.
        room: the area that labels must not leave.

    Returns:
        one box for each label; `None` if there is no space for it.
    """
    dots = [Box(x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS) for x, y in points]
    placed: list[Box | None] = [None] * len(points)
    # From top to bottom, so that labels of crowded points keep their order.
    for index in sorted(range(len(points)), key=lambda each: points[each][1]):
        taken = [*dots, *(box for box in placed if box is not None)]
        for box in _candidates(*points[index], text_width(labels[index]), room):
            if not any(box.overlaps(other) for other in taken):
                placed[index] = box
                break
    return placed


def _candidates(x: float, y: float, width: float, room: Box) -> list[Box]:
    """All possible boxes for a label of this width inside the room, the nearest to its point first."""
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
