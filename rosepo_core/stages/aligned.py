"""The stage `aligned`: preference optimization of the SFT model, on token trees."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rosepo_core.contracts.components import PreferenceLoss
from rosepo_core.contracts.records import Pairs, Split
from rosepo_core.engine.prompt_trees import prompt_trees
from rosepo_core.engine.saved_template import save_template
from rosepo_core.engine.training import LogHistory, PreferenceTree, align_preferences
from rosepo_core.prompts.template import PromptTemplate
from rosepo_core.registry import running
from rosepo_core.stages.session import Handle, Session
from rosepo_core.stages.sft import LOG, load_log


def stage(
    session: Session, split: Handle[Split], sft: Handle[LogHistory], pairs: Handle[Pairs]
) -> Handle[LogHistory]:
    """RUN/aligned: the same files as RUN/sft, after alignment."""
    options = session.config.alignment
    settings = {
        **session.prompt_settings(),
        "loss": session.plugin_settings("loss"),
        "alignment": session.that_decides["alignment"],
        "seed": session.config.seed,
    }

    def build(folder: Path) -> None:
        loss: PreferenceLoss = session.component("loss")
        template = session.template(split)
        trees = preference_trees(template, pairs.content)
        model = session.policy.to_continue(sft.folder)
        log = []
        if options.steps != 0:
            with running(loss):
                log = align_preferences(
                    model,
                    loss,
                    trees,
                    session.policy.tokenizer.pad_token_id,
                    batch_size=options.batch_size,
                    token_budget=options.token_budget,
                    gradient_checkpointing=session.config.sft.gradient_checkpointing,
                    learning_rate=options.learning_rate,
                    steps=options.steps,
                    epochs=options.epochs,
                    warmup_ratio=options.warmup_ratio,
                    weight_decay=options.weight_decay,
                    max_grad_norm=options.max_grad_norm,
                    seed=session.config.seed,
                    reporter=session.reporter,
                    products=session.policy.autocast(session.config.sft),
                )
        session.policy.save(folder)
        save_template(template, session.config.prompt.name, folder)
        (folder / LOG).write_text(json.dumps(log), encoding="utf-8")

    return session.artifact("aligned", settings, [sft, pairs], build, load_log)


def preference_trees(template: PromptTemplate, pairs: Pairs) -> Sequence[PreferenceTree]:
    """The pairs as token trees, each with the smoothing factors and reference log-probabilities of its pairs."""
    responses = np.concatenate([pairs.examples.target[:, None], pairs.rejected], axis=1)
    reference = np.concatenate([pairs.reference_chosen[:, None], pairs.reference_rejected], axis=1)
    trees = prompt_trees(template, pairs.examples, responses, shared=True, candidates=pairs.listed)
    return [PreferenceTree.of(tree, pairs.eps, reference) for tree in trees]
