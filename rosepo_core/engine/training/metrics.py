"""What a training logs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from rosepo_core import ranks

LogHistory = list[dict[str, float]]
"""One entry for each logged step."""

Totals = Mapping[str, tuple[Tensor, int]]
"""By name, the sum of a metric and the number of values in it."""


class MetricSums:
    """Metrics summed on the device, and read once for each log entry. Reading makes the processor wait for the
    device."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, totals: Totals) -> None:
        """Add the sums of one pass."""
        for name, (total, count) in totals.items():
            known = self._sums.get(name)
            self._sums[name] = total if known is None else known + total
            self._counts[name] = self._counts.get(name, 0) + count

    def copy(self) -> MetricSums:
        """The same sums, to which more can be added apart from these."""
        other = MetricSums()
        other._sums, other._counts = dict(self._sums), dict(self._counts)
        return other

    def read(self) -> dict[str, float]:
        """The mean of each metric since the last call, over all processes of the run; 0 without any value."""
        if not self._sums:
            return {}
        mine = {
            "totals": torch.stack(list(self._sums.values())).double().cpu().numpy(),
            "counts": np.array(list(self._counts.values())),
        }
        every = ranks.gathered("reading the metrics", mine)
        totals, counts = (sum(each[name] for each in every) for name in mine)
        means = dict(zip(self._sums, (totals / np.maximum(counts, 1)).tolist(), strict=True))
        self._sums, self._counts = {}, {}
        return means

    def state(self) -> dict[str, tuple[float, int]]:
        """The sum and the number of values of each metric, for `restore`."""
        return {name: (total.item(), self._counts[name]) for name, total in self._sums.items()}

    def restore(self, state: Mapping[str, tuple[float, int]], device: torch.device) -> None:
        """Go on from what `state` returned."""
        self._sums = {name: torch.tensor(total, device=device) for name, (total, _) in state.items()}
        self._counts = {name: count for name, (_, count) in state.items()}
