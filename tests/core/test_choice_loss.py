"""The loss of SFT on choices: its values by hand, and what it teaches."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch

from rosepo_core.contracts.records import Examples, LogProbs, SeenItems, Sequences
from rosepo_core.data.unseen_items import draw_unseen
from rosepo_core.engine.choice_loss import ChoiceLoss, ChoiceOptions
from rosepo_core.engine.scoring import score_items
from rosepo_core.engine.training import TrainingSettings, align_preferences
from rosepo_core.stages.aligned import preference_trees
from rosepo_core.stages.prior import every_title
from rosepo_core.stages.session import QuietReporter
from rosepo_core.stages.sft import choice_pairs
from rosepo_core.testing import prompt_template

QUIET = QuietReporter()


def test_values_by_hand():
    """Row 1: half of -5 - -7 = 2 for the target, of -7 - -7 = 0 and of -9 - -7 = -2 for the others. So the loss is
    log(1 + e^-1 + e^-2) = 0.4076059644. Row 2 has one other title, with the target's score: ln 2."""
    chosen = torch.tensor([-5.0, -3.0], dtype=torch.float64, requires_grad=True)
    rejected = torch.tensor([[-7.0, -9.0], [-4.0, 0.0]], dtype=torch.float64, requires_grad=True)
    loss = ChoiceLoss(ChoiceOptions(beta=0.5))(
        LogProbs(
            chosen=chosen,
            rejected=rejected,
            reference_chosen=torch.tensor([-7.0, -2.0], dtype=torch.float64),
            reference_rejected=torch.tensor([[-7.0, -7.0], [-3.0, -math.inf]], dtype=torch.float64),
            chosen_tokens=torch.tensor([3, 2]),
            rejected_tokens=torch.tensor([[4, 5], [2, 0]]),
            eps=torch.zeros(2, 2),
            valid=torch.tensor([[True, True], [True, False]]),
        )
    )
    assert loss.tolist() == pytest.approx([0.4076059644, math.log(2)], abs=1e-9)
    loss.sum().backward()
    # The gradient is half of the softmax, less 1 for the target.
    e = math.e
    others = [1 / e / (1 + 1 / e + 1 / e**2), 1 / e**2 / (1 + 1 / e + 1 / e**2), 0.5, 0.0]
    assert (2 * rejected.grad.flatten()).tolist() == pytest.approx(others, abs=1e-12)
    assert (2 * chosen.grad).tolist() == pytest.approx([-others[0] - others[1], -0.5], abs=1e-12)


def test_titles_that_people_choose_rise_above_those_that_nobody_chooses(tiny_model: Any, tiny_tokenizer, catalogue):
    """60 users choose out of 20 of 40 titles. Each user's last choice is held out, and ranked among nine titles that
    are new to the user, by the score that is trained."""
    rng = np.random.default_rng(0)
    offered = rng.permutation(40)[:20]
    items = np.concatenate([rng.permutation(offered)[:8] for _ in range(60)]).astype(np.int32)
    whole = Sequences(items, np.arange(0, 481, 8))
    train, users = whole.prefix(whole.lengths - 1), np.arange(60, dtype=np.int32)
    template = prompt_template({"header": "Chosen:\n"}, tiny_tokenizer, catalogue, 8)
    prior = score_items(tiny_model, template, *every_title(40), 4096, QUIET)[0]
    held_out = Examples.of(whole, users, np.full(60, 7, dtype=np.int32))
    others = draw_unseen(SeenItems.of(whole, 40), users, 9, rng)
    candidates = np.concatenate([held_out.target[:, None], others], axis=1).astype(np.int32)

    def above(model: Any) -> float:
        """The share of the other candidates that the target is above."""
        scores = score_items(model, template, held_out, candidates, 4096, QUIET) - prior[candidates]
        return float((scores[:, 1:] < scores[:, :1]).mean())

    examples = template.sft_examples(train)
    sampled = draw_unseen(SeenItems.of(train, 40), examples.user, 3, rng).astype(np.int32)
    model = copy.deepcopy(tiny_model).train()
    align_preferences(
        model,
        ChoiceLoss(ChoiceOptions(beta=1.0)),
        preference_trees(template, choice_pairs(examples, sampled, prior)),
        TrainingSettings(batch_size=8, token_budget=2048, learning_rate=1e-2, steps=10),
        QUIET,
    )
    # Half of the other candidates are titles that nobody chooses. Three seeds gave 0.79, 0.86 and 0.82.
    assert 0.4 < above(tiny_model) < 0.6
    assert above(model.eval()) > 0.7
