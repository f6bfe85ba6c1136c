"""The stage `aligned`: preference optimization of the SFT model, on token trees."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rosepo_core.contracts.components import Reporter
from rosepo_core.contracts.records import Pairs, Split
from rosepo_core.engine.prompt_trees import prompt_trees
from rosepo_core.engine.training import LogHistory, PreferenceTree, Tracking, TrainingSettings, align_preferences
from rosepo_core.plugins.registry import running
from rosepo_core.prompts.template import PromptTemplate
from rosepo_core.stages.optimization import load_log, optimize
from rosepo_core.stages.rounds import FIRST, Round
from rosepo_core.stages.session import Handle, Session
from rosepo_core.store.partial import Partial


def stage(
    session: Session, split: Handle[Split], sft: Handle[LogHistory], pairs: Handle[Pairs], number: Round = FIRST
) -> Handle[LogHistory]:
    """RUN/aligned: the same files as RUN/sft, after alignment."""
    options = session.config.alignment
    settings = {
        **session.prompt_settings(),
        "loss": session.plugin_settings("loss"),
        # The pairs already hold the log-probabilities of the reference.
        "alignment": {key: value for key, value in session.that_decides["alignment"].items() if key != "reference"},
        "seed": session.config.seed,
        **number.settings,
    }

    def build(folder: Path) -> None:
        loss = session.loss()
        trees = preference_trees(session.template(split), pairs.content)
        model = session.policy.to_continue(sft.folder)

        def train(
            settings: TrainingSettings, reporter: Reporter, tracking: Tracking, *, partial: Partial
        ) -> LogHistory:
            with running(loss):
                return align_preferences(model, loss, trees, settings, reporter, tracking, partial=partial)

        optimize(session, split, "aligned", number, options, train, folder)

    return session.artifact(number.stage("aligned"), settings, [sft, pairs], build, load_log, by_all=True)


def preference_trees(template: PromptTemplate, pairs: Pairs) -> Sequence[PreferenceTree]:
    """The pairs as token trees, each with the smoothing factors and reference log-probabilities of its pairs."""
    trees = prompt_trees(template, pairs.examples, pairs.responses, shared=True, candidates=pairs.listed)
    others = {"ratings": pairs.ratings, "delays": pairs.delays}
    held = {name: table for name, table in others.items() if table is not None}
    return [PreferenceTree.of(tree, pairs.eps, pairs.reference, held) for tree in trees]
