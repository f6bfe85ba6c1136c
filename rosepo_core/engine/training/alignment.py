"""Preference optimization: the mean of a `PreferenceLoss` over pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rosepo_core.contracts.components import PreferenceLoss, Reporter
from rosepo_core.contracts.records import Floats, LogProbs
from rosepo_core.engine.training.checks import check_losses
from rosepo_core.engine.training.configuration import AlignmentConfig
from rosepo_core.engine.training.metrics import LogHistory, Totals
from rosepo_core.engine.training.mixture import Mixture
from rosepo_core.engine.training.module import TreeModule
from rosepo_core.engine.training.objective import PADDING_TOKEN, Objective, Pass
from rosepo_core.engine.training.running import train
from rosepo_core.engine.training.settings import TrainingSettings
from rosepo_core.engine.training.tracking import Tracking
from rosepo_core.engine.training.validation import Validation
from rosepo_core.engine.trees import TokenTree, TreeBatch
from rosepo_core.store.partial import KEEPS_NOTHING, Partial


@dataclass(frozen=True)
class PreferenceTree:
    """A tree, and for each of its pairs the inputs of the loss other than the policy's log-probabilities.

    Attributes:
        tree: the rows of its responses number the pairs of this tree from 0. Column 0 is the chosen response, and
            column 1 + j the rejected response in slot j. If the loss needs a mismatched response, it is in the last
            column, and all trees have the same number of slots.
        eps: smoothing factors, float32 [pairs, K].
        reference: log-probabilities of the reference model, float32 [pairs, 1 + K], or [pairs, 2 + K] with a
            mismatched response; any value in an empty slot.
        others: further tables of the loss, ``ratings`` and ``delays``, float32 [pairs, 1 + K].
    """

    tree: TokenTree
    eps: Floats
    reference: Floats
    others: Mapping[str, Floats] = field(default_factory=dict)

    @staticmethod
    def of(
        tree: TokenTree, eps: Floats, reference: Floats, others: Mapping[str, Floats] | None = None
    ) -> PreferenceTree:
        """From a tree whose rows refer to rows of the tables `eps`, `reference` and `others`."""
        rows, local = np.unique(tree.rows, return_inverse=True)
        own = {name: table[rows] for name, table in (others or {}).items()}
        return PreferenceTree(tree.with_rows(local), eps[rows], reference[rows], own)

    def __len__(self) -> int:
        return len(self.eps)

    def split(self, token_budget: int) -> list[PreferenceTree]:
        """The same pairs in trees as `TokenTree.split_examples` makes them."""
        parts = self.tree.split_examples(token_budget)
        return [PreferenceTree.of(part, self.eps, self.reference, self.others) for part in parts]


class PreferencePairs(Objective[PreferenceTree]):
    """The mean of a preference loss. The items are the pairs.

    Logs, averaged over pairs or rejected responses, with TRL's names: ``rewards/chosen``, ``rewards/rejected``,
    ``rewards/accuracies``, ``rewards/margins``, ``logps/chosen``, ``logps/rejected``; and ``smoothing``, the mean
    eps. Rewards are those that the loss gives. Of several losses, each is logged without its weight, as
    ``loss/NAME``.
    """

    def __init__(self, loss: PreferenceLoss) -> None:
        self._loss = loss
        self.of_whole_step = loss.scope == "batch"

    def parts(self, example: PreferenceTree, token_budget: int) -> list[PreferenceTree]:
        """Trees that are too large are split between pairs."""
        return example.split(token_budget)

    def tree(self, example: PreferenceTree) -> TokenTree:
        """The tree alone."""
        return example.tree

    def items(self, example: PreferenceTree) -> int:
        """Its pairs."""
        return len(example)

    def stacked(self, examples: Sequence[PreferenceTree], packed: bool = False) -> Pass:
        """One pass with all these trees."""
        width = max(example.reference.shape[1] for example in examples)

        def table(values: Sequence[Floats], columns: int) -> Tensor:
            padded = [np.pad(value, ((0, 0), (0, columns - value.shape[1]))) for value in values]
            return torch.from_numpy(np.concatenate(padded))

        batch = TreeBatch.of([example.tree for example in examples], PADDING_TOKEN, packed=packed)
        offsets = torch.tensor([0, *[len(example) for example in examples]]).cumsum(0)
        rows = offsets[batch.trees] + batch.rows
        tokens = torch.zeros(int(offsets[-1]), width, dtype=torch.long)
        tokens[rows, batch.columns] = batch.lengths
        inputs = {
            "rows": rows,
            "columns": batch.columns,
            "tokens": tokens,
            "reference": table([example.reference for example in examples], width),
            "eps": table([example.eps for example in examples], max(example.eps.shape[1] for example in examples)),
        }
        for name in examples[0].others:
            inputs[name] = table([example.others[name] for example in examples], examples[0].others[name].shape[1])
        return Pass(batch, len(tokens), inputs)

    def joined(self, passes: Sequence[Pass]) -> Pass:
        """The pairs of all passes, which have the same number of slots."""
        counts = [len(one.inputs["tokens"]) for one in passes]
        starts = np.cumsum([0, *counts[:-1]]).tolist()
        inputs = {
            name: torch.cat(
                [
                    one.inputs[name] + (start if name == "rows" else 0)
                    for one, start in zip(passes, starts, strict=True)
                ]
            )
            for name in passes[0].inputs
        }
        return Pass(passes[0].batch, sum(counts), inputs)

    def loss(self, log_probs: Tensor, one: Pass, first: bool) -> tuple[Tensor, Totals]:
        """The sum over the pairs.

        Raises:
            PluginError: in the first step, the loss breaks its contract.
        """
        reference, tokens = one.inputs["reference"], one.inputs["tokens"]
        policy = torch.zeros_like(reference).index_put((one.inputs["rows"], one.inputs["columns"]), log_probs)
        mismatched, reference_mismatched, others = None, None, 1
        if self._loss.needs_mismatched:
            mismatched, policy = policy[:, -1], policy[:, :-1]
            reference_mismatched, reference, tokens = reference[:, -1], reference[:, :-1], tokens[:, :-1]
            others = 2
        pairs = LogProbs(
            chosen=policy[:, 0],
            rejected=policy[:, 1:],
            reference_chosen=reference[:, 0],
            reference_rejected=reference[:, 1:],
            chosen_tokens=tokens[:, 0],
            rejected_tokens=tokens[:, 1:],
            eps=one.inputs["eps"],
            valid=tokens[:, 1:] > 0,
            mismatched=mismatched,
            reference_mismatched=reference_mismatched,
            ratings=one.inputs.get("ratings"),
            delays=one.inputs.get("delays"),
        )
        losses, terms = self._losses(pairs, first)
        # A pair has one chosen and perhaps one mismatched response, and all others are rejected.
        return losses.sum(), {**self._measured(pairs, len(log_probs) - others * one.items), **terms}

    def _losses(self, pairs: LogProbs, first: bool) -> tuple[Tensor, Totals]:
        """The loss of each pair, [n], and what is logged of the terms of a sum."""
        if not isinstance(self._loss, Mixture):
            losses = self._loss(pairs)
            if first:
                check_losses(self._loss, losses, pairs)
            return losses, {}
        terms = self._loss.terms(pairs)
        if first:
            for name, (loss, _) in self._loss.losses.items():
                check_losses(loss, terms[name], pairs)
        logged = {f"loss/{name}": (term.detach().sum(), len(term)) for name, term in terms.items()}
        return self._loss.total(terms), logged if len(terms) > 1 else {}

    @torch.no_grad()
    def _measured(self, pairs: LogProbs, rejected_count: int) -> Totals:
        chosen, rejected = self._loss.rewards(pairs)
        margins = chosen[:, None] - rejected
        of_rejected = {
            "rewards/rejected": rejected,
            "rewards/accuracies": (margins > 0).float(),
            "rewards/margins": margins,
            "logps/rejected": pairs.rejected,
            "smoothing": pairs.eps,
        }
        return {
            **{name: (values.where(pairs.valid, 0.0).sum(), rejected_count) for name, values in of_rejected.items()},
            "rewards/chosen": (chosen.sum(), len(chosen)),
            "logps/chosen": (pairs.chosen.sum(), len(chosen)),
        }


def align_preferences(
    model: Any,
    loss: PreferenceLoss,
    trees: Sequence[PreferenceTree],
    settings: TrainingSettings,
    reporter: Reporter,
    tracking: Tracking | None = None,
    validation: Validation | None = None,
    partial: Partial = KEEPS_NOTHING,
) -> LogHistory:
    """Preference optimization in place, without any dropout (`engine.dropout`).

    Args:
        model: a prepared causal language model (`engine.preparation`); the parameters to train require gradients.
        loss: the loss of pairs.
        trees: what is trained on.
        settings: of the training; ``batch_size`` counts trees.
        reporter: receives the progress.
        tracking: where the numbers go while the training runs.
        validation: judges the model, whose best weights are kept.
        partial: keeps the checkpoints.

    Returns:
        the log, as `running.train` gives it, with the metrics of `PreferencePairs`.

    Raises:
        PluginError: the loss breaks its contract.
        RosepoError: loss or weights are no numbers any more.
    """
    module = TreeModule(model, dropout=False, products=settings.products)

    def configuration(**arguments: Any) -> AlignmentConfig:
        return AlignmentConfig(beta=loss.beta, **arguments)

    objective = PreferencePairs(loss)
    return train(module, configuration, objective, trees, settings, reporter, tracking, validation, partial)
