"""What the README shows: its code does what it says."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rosepo_core.api import PreferenceLoss
from rosepo_core.testing import random_log_probs

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def python_block(containing: str) -> str:
    [block] = [block for block in re.findall(r"```python\n(.*?)```", README, re.S) if containing in block]
    return block


def test_the_loss_of_the_readme_reads_every_rejected_title() -> None:
    """Two pairs with two slots each, the second of the second pair empty. Rewards: chosen 0.5 and 0, rejected 0, 1
    and 0.25: 1 - 0.5 + 0 = 0.5 and 1 - 0.5 + 1 = 1.5 have the mean 1; 1 - 0 + 0.25 = 1.25 stands alone."""
    names: dict[str, type[PreferenceLoss]] = {}
    exec(python_block("class Hinge"), names)
    hinge = names["Hinge"]
    log_probs = replace(
        random_log_probs(n=2, k=2),
        chosen=torch.tensor([-1.5, -3.0]),
        reference_chosen=torch.tensor([-2.0, -3.0]),
        rejected=torch.tensor([[-4.0, -3.0], [-2.75, -100.0]]),
        reference_rejected=torch.tensor([[-4.0, -4.0], [-3.0, 0.0]]),
        valid=torch.tensor([[True, True], [True, False]]),
    )
    assert hinge(hinge.Options())(log_probs).tolist() == pytest.approx([1.0, 1.25])
