"""The stage `oracle`: trains the preference oracle on the training interactions, and saves it as plain arrays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.numpy import load_file, save_file

from rosepo_core.contracts.components import OracleContext, SmoothingOracle
from rosepo_core.contracts.records import Split
from rosepo_core.engine.training import LogHistory
from rosepo_core.plugins.registry import running
from rosepo_core.stages import prior
from rosepo_core.stages.oracle_model import OracleModel
from rosepo_core.stages.session import Handle, Session
from rosepo_core.store.artifacts import reading

STATE = "state.safetensors"


def needed(session: Session) -> bool:
    """Whether anything in the run asks the oracle: its loss, a sampler, or `ranking.score`."""
    ranking = session.config.ranking
    samplers = range(len(session.config.sampler))
    return (
        session.loss().needs_smoothing
        or any("oracle" in session.component("sampler", index).needs for index in samplers)
        or (ranking.score == "fusion" and "oracle" in ranking.features and not asks_model(session))
    )


def asks_model(session: Session) -> bool:
    """Whether the run's oracle asks the SFT model."""
    return "language-model" in session.component("oracle").needs


def check(session: Session) -> None:
    """Check, before any work, that the run has what its oracle needs.

    Raises:
        RequestError: the oracle asks the language model for titles on their own, and prompts list candidates.
    """
    oracle: SmoothingOracle = session.component("oracle")
    if oracle.needs and needed(session):
        prior.check(session, f"oracle '{session.config.oracle.shown_name}'")


def stage(session: Session, split: Handle[Split], sft: Handle[LogHistory] | None = None) -> Handle[SmoothingOracle]:
    """RUN/oracle: ``state.safetensors`` and ``fit.json``, the numbers that the oracle reports about its training.

    It depends on RUN/sft only if the oracle asks the language model, and on RUN/prior-sft only if it needs the prior
    of titles. An oracle that needs none of them does without `sft`.
    """
    needs = session.component("oracle").needs
    settings = {"oracle": session.plugin_settings("oracle"), "seed": session.config.seed}
    inputs: list[Handle[Any]] = [split]
    asked, titles = None, None
    if needs:
        assert sft is not None
        asked = OracleModel(session, split, sft)
        settings |= session.prompt_settings()
        inputs.append(sft)
        if "title-prior" in needs:
            titles = prior.of_sft(session, split, sft)
            inputs.append(titles)

    def build(folder: Path) -> None:
        oracle: SmoothingOracle = session.component("oracle")
        oracle.language_model = asked
        with running(oracle):
            context = OracleContext(
                session.rng("oracle"),
                session.config.seed,
                session.reporter,
                device="cuda" if torch.cuda.is_available() else "cpu",
                title_prior=None if titles is None else titles.content,
            )
            fitted = oracle.fit(split.content, context)
            state = {name: array.copy() for name, array in oracle.state().items()}
        save_file(state, folder / STATE)
        (folder / "fit.json").write_text(json.dumps(dict(fitted)), encoding="utf-8")

    return session.artifact(
        "oracle", settings, inputs, build, lambda folder: _load(session, folder, asked), by_all=asked is not None
    )


def _load(session: Session, folder: Path, asked: OracleModel | None) -> SmoothingOracle:
    """The fitted oracle."""
    oracle: SmoothingOracle = session.component("oracle")
    load_state(oracle, folder)
    oracle.language_model = asked
    return oracle


def load_state(oracle: SmoothingOracle, folder: Path) -> None:
    """Give a new oracle the state that RUN/oracle holds."""
    with reading(folder):
        state = load_file(folder / STATE)
    with running(oracle):
        oracle.restore(state)
