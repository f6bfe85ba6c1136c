"""KTO against TRL 1.16 and against numbers worked out by hand."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rosepo_core.api import LogProbs
from rosepo_core.plugins.registry import load_plugins


def pairs(won: Any, lost: Any, mismatched: Any) -> LogProbs:
    """Pairs with these log-ratios; the reference has log-probability -5 everywhere."""
    won, lost, mismatched = (torch.as_tensor(each, dtype=torch.float64) for each in (won, lost, mismatched))
    lost = lost if lost.ndim == 2 else lost[:, None]
    return LogProbs(
        chosen=(won - 5).requires_grad_(),
        rejected=(lost - 5).requires_grad_(),
        reference_chosen=torch.full_like(won, -5),
        reference_rejected=torch.full_like(lost, -5),
        chosen_tokens=torch.ones(len(won), dtype=torch.long),
        rejected_tokens=torch.ones(lost.shape, dtype=torch.long),
        eps=torch.zeros_like(lost),
        valid=torch.ones(lost.shape, dtype=torch.bool),
        mismatched=mismatched - 5,
        reference_mismatched=torch.full_like(mismatched, -5),
    )


def kto(**options: Any) -> Any:
    return load_plugins().create("loss", "kto", options)


def test_two_pairs_worked_out_by_hand() -> None:
    """z = (1 + 3) / 2 = 2, beta 0.5.

    1. r_w = 2, r_l = -1: (1 - sigmoid(0) + 1 - sigmoid(0.5 * 3)) / 2 = (0.5 + 0.1824255238) / 2.
    2. r_w = 0, r_l = 1: (1 - sigmoid(-1) + 1 - sigmoid(0.5)) / 2 = (0.7310585786 + 0.3775406688) / 2.
    """
    loss = kto(beta=0.5)(pairs([2.0, 0.0], [-1.0, 1.0], [1.0, 3.0]))
    assert loss.tolist() == pytest.approx([0.3412127619, 0.5542996237], abs=1e-9)
    # A negative mean is no divergence: with z = 0, (1 - sigmoid(1) + sigmoid(-0.5)) / 2.
    loss = kto(beta=0.5)(pairs([2.0], [-1.0], [-3.0]))
    assert loss.tolist() == pytest.approx([(0.2689414214 + 0.3775406688) / 2], abs=1e-9)
    # Two rejected responses share the weight of one.
    assert kto(beta=0.5)(pairs([2.0], [[-1.0, -1.0]], [-3.0])).tolist() == pytest.approx(loss.tolist(), abs=1e-12)


def test_gradients_agree_with_finite_differences() -> None:
    given = pairs([2.0, 0.0, 1.0], [[-1.0, 1.0], [0.5, 0.2], [0.1, -2.0]], [1.0, 3.0, 0.3])
    given.valid[1, 0] = False
    loss = kto(desirable_weight=1.3)

    def of(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
        return loss(LogProbs(**{**vars(given), "chosen": chosen, "rejected": rejected}))

    assert torch.autograd.gradcheck(of, (given.chosen, given.rejected))


@pytest.mark.parametrize("drift", [-2.0, 2.0])
def test_kto_equals_trl_in_loss_and_gradient(drift: float) -> None:
    """TRL's batch has the chosen examples, then the rejected ones, and a mismatched response for each."""
    from trl import KTOTrainer

    random = torch.Generator().manual_seed(4)
    won, lost, mismatched = torch.randn(3, 5, generator=random) + torch.tensor([[0.5], [-0.5], [drift]])
    given = pairs(won, lost, mismatched)
    loss = kto(beta=0.4, desirable_weight=1.5, undesirable_weight=0.8)
    mine = loss(given).mean()
    mine_by = torch.autograd.grad(mine, [given.chosen, given.rejected])

    policy = torch.cat([given.chosen, given.rejected[:, 0]]).detach()[:, None].requires_grad_()
    zeros = torch.zeros(10, 1)
    trainer = SimpleNamespace(
        accelerator=SimpleNamespace(device=torch.device("cpu"), gather_for_metrics=lambda values: values),
        aux_loss_enabled=False,
        beta=0.4,
        calculate_KL=True,
        desirable_weight=1.5,
        loss_type="kto",
        model=SimpleNamespace(training=True),
        precompute_ref_logps=True,
        undesirable_weight=0.8,
        _compute_kl_logps=lambda model, batch: given.mismatched.repeat(2),
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
    )
    batch = {
        "input_ids": torch.zeros(10, 2, dtype=torch.long),
        "attention_mask": torch.ones(10, 2, dtype=torch.long),
        "completion_mask": torch.tensor([[0, 1]] * 10),
        "label": torch.arange(10) < 5,
        "ref_logps": torch.full((10,), -5.0, dtype=torch.float64),
        "ref_KL_logps": torch.full((10,), -5.0, dtype=torch.float64),
    }
    outputs = SimpleNamespace(log_probs=policy, entropy=zeros, mean_logits=zeros)
    theirs = KTOTrainer._compute_loss(trainer, lambda **_: outputs, batch, return_outputs=False)
    (their_by,) = torch.autograd.grad(theirs, [policy])

    assert mine.item() == pytest.approx(theirs.item(), rel=1e-6)
    torch.testing.assert_close(torch.cat([mine_by[0], mine_by[1][:, 0]])[:, None], their_by, rtol=1e-5, atol=1e-8)
