"""Supervised fine-tuning: the mean negative log-probability of the tokens of responses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from rosepo_core.contracts.components import Reporter
from rosepo_core.contracts.records import Bools, Ints
from rosepo_core.engine.training.configuration import FineTuningConfig
from rosepo_core.engine.training.metrics import LogHistory, Totals
from rosepo_core.engine.training.module import TreeModule
from rosepo_core.engine.training.objective import PADDING_TOKEN, Objective, Pass
from rosepo_core.engine.training.running import train
from rosepo_core.engine.training.settings import TrainingSettings
from rosepo_core.engine.training.tracking import Tracking
from rosepo_core.engine.training.validation import Validation
from rosepo_core.engine.trees import TokenTree, TreeBatch
from rosepo_core.store.partial import KEEPS_NOTHING, Partial


class ResponseTokens(Objective[TokenTree]):
    """The mean negative log-probability of response tokens. The items are the tokens."""

    def tree(self, example: TokenTree) -> TokenTree:
        """The example itself."""
        return example

    def items(self, example: TokenTree) -> int:
        """Its response tokens."""
        return len(example.targets)

    def stacked(self, examples: Sequence[TokenTree], packed: bool = False) -> Pass:
        """One pass with all these trees."""
        batch = TreeBatch.of(examples, PADDING_TOKEN, packed=packed)
        return Pass(batch, len(batch.targets), {})

    def loss(self, log_probs: Tensor, one: Pass, first: bool) -> tuple[Tensor, Totals]:
        """The sum over the tokens."""
        return -log_probs.sum(), {}


def fine_tune(
    model: Any,
    sequences: Sequence[tuple[Ints, Bools]],
    settings: TrainingSettings,
    reporter: Reporter,
    tracking: Tracking | None = None,
    validation: Validation | None = None,
    partial: Partial = KEEPS_NOTHING,
) -> LogHistory:
    """Supervised fine-tuning in place, on responses only.

    Args:
        model: a prepared causal language model (`engine.preparation`); the parameters to train require gradients.
        sequences: token ids int32 [t] and, of the same shape, which of them are a response's, bool. A sequence
            without any response token after its first token is left out.
        settings: of the training; ``batch_size`` counts sequences.
        reporter: receives the progress.
        tracking: where the numbers go while the training runs.
        validation: judges the model, whose best weights are kept.
        partial: keeps the checkpoints.

    Returns:
        the log, as `running.train` gives it.

    Raises:
        RosepoError: loss or weights are no numbers any more.
    """
    trees = [TokenTree.of_sequence(ids, labelled) for ids, labelled in sequences if labelled[1:].any()]
    module = TreeModule(model, dropout=True, products=settings.products)
    objective = ResponseTokens()
    return train(module, FineTuningConfig, objective, trees, settings, reporter, tracking, validation, partial)
