"""The picture of a loss's gradient, drawn from the loss itself."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from rosepo_core.api import LogProbs, PreferenceLoss

TOKENS = 8
REFERENCE = -32.0
EPS = 0.2
POINTS = 241
WIDTH, HEIGHT = 640, 300
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 16, 44


@dataclass(frozen=True)
class Curve:
    """The push of a loss on the two titles of a pair.

    Attributes:
        margins: r_w - r_l, in nats.
        up: minus the derivative of the loss with respect to log pi(w): above 0, the chosen title rises.
        down: the same for log pi(l): below 0, the rejected title falls.
    """

    margins: list[float]
    up: list[float]
    down: list[float]


def gradient_curve(loss: PreferenceLoss, rejected: int) -> Curve:
    """The gradient of `loss` by autograd, where margins grow from both sides.

    The chosen title has r_w = m / 2 and the first rejected one r_l = -m / 2; further ones stay at r = 0. All titles
    have 8 tokens and a reference of -4 nats a token; eps is 0.2; the chosen title has five stars and the rejected
    ones no rating.
    """
    half = 60.0 if loss.beta <= 0.2 else 10.0
    margins = torch.linspace(-half, half, POINTS)
    chosen = (REFERENCE + margins / 2).requires_grad_()
    others = torch.full((POINTS, rejected - 1), REFERENCE)
    first = (REFERENCE - margins / 2).requires_grad_()
    missing = torch.full((POINTS, rejected), torch.nan)
    up, down = [], []
    # One row at a time: a loss of the whole step must not mix the points of the curve.
    for row in range(POINTS):
        one = LogProbs(
            chosen=chosen[row : row + 1],
            rejected=torch.cat([first[row : row + 1, None], others[row : row + 1]], dim=1),
            reference_chosen=torch.tensor([REFERENCE]),
            reference_rejected=torch.full((1, rejected), REFERENCE),
            chosen_tokens=torch.tensor([TOKENS]),
            rejected_tokens=torch.full((1, rejected), TOKENS),
            eps=torch.full((1, rejected), EPS),
            valid=torch.ones(1, rejected, dtype=torch.bool),
            mismatched=torch.tensor([REFERENCE]),
            reference_mismatched=torch.tensor([REFERENCE]),
            ratings=torch.cat([torch.tensor([[5.0]]), missing[:1]], dim=1),
            delays=torch.cat([torch.tensor([[0.0]]), missing[:1]], dim=1),
        )
        of_chosen, of_first = torch.autograd.grad(loss(one).sum(), (chosen, first), allow_unused=True)
        up.append(0.0 if of_chosen is None else -float(of_chosen[row]))
        down.append(0.0 if of_first is None else -float(of_first[row]))
    return Curve(margins.tolist(), up, down)


def drawn(curve: Curve) -> str:
    """The curve as an SVG whose colours come from the page."""
    low, high = min(0.0, *curve.up, *curve.down), max(0.0, *curve.up, *curve.down)
    room = 0.08 * (high - low or 1.0)
    low, high = low - room, high + room
    start, end = curve.margins[0], curve.margins[-1]

    def x(margin: float) -> float:
        return LEFT + (margin - start) / (end - start) * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return TOP + (high - value) / (high - low) * (HEIGHT - TOP - BOTTOM)

    def line(values: list[float]) -> str:
        return " ".join(
            f"{x(margin):.1f},{y(value):.1f}" for margin, value in zip(curve.margins, values, strict=True)
        )

    ticks = "".join(
        f'<text x="{x(margin):.0f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{margin:g}</text>'
        f'<line class="grid" x1="{x(margin):.1f}" x2="{x(margin):.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        for margin in (start, start / 2, 0.0, end / 2, end)
    )
    levels = "".join(
        f'<text x="{LEFT - 8}" y="{y(value) + 4:.0f}" text-anchor="end">{value:.2g}</text>'
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>'
        for value in sorted(
            {0.0, *(value for value in (max(curve.up), min(curve.down)) if abs(value) > 2 * room / 3)}
        )
    )
    label = "Push on the chosen and on the rejected title against the margin"
    return (
        f'<figure class="gradient"><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">'
        f'{ticks}{levels}<polyline class="up" points="{line(curve.up)}"/>'
        f'<polyline class="down" points="{line(curve.down)}"/>'
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">'
        "margin r(chosen) - r(rejected), nats</text></svg>"
        '<figcaption><span class="key up">chosen</span> <span class="key down">rejected</span></figcaption></figure>'
    )
