"""The stage `oracle`: trains the preference oracle on the training interactions, and saves it as plain arrays."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.numpy import load_file, save_file

from rosepo_core.contracts.components import OracleContext, SmoothingOracle
from rosepo_core.contracts.records import Split
from rosepo_core.registry import running
from rosepo_core.stages.session import Handle, Session

STATE = "state.safetensors"


def needed(session: Session) -> bool:
    """Whether anything in the run asks the oracle: its loss, a sampler, or `ranking.score`."""
    ranking = session.config.ranking
    samplers = range(len(session.config.sampler))
    return (
        session.loss().needs_smoothing
        or any("oracle" in session.component("sampler", index).needs for index in samplers)
        or (ranking.score == "fusion" and "oracle" in ranking.features)
    )


def stage(session: Session, split: Handle[Split]) -> Handle[SmoothingOracle]:
    """RUN/oracle: ``state.safetensors`` and ``fit.json``, the numbers that the oracle reports about its training."""
    settings = {"oracle": session.plugin_settings("oracle"), "seed": session.config.seed}

    def build(folder: Path) -> None:
        oracle: SmoothingOracle = session.component("oracle")
        with running(oracle):
            device = "cuda" if torch.cuda.is_available() else "cpu"
            context = OracleContext(session.rng("oracle"), session.config.seed, session.reporter, device)
            fitted = oracle.fit(split.content, context)
            state = {name: array.copy() for name, array in oracle.state().items()}
        save_file(state, folder / STATE)
        (folder / "fit.json").write_text(json.dumps(dict(fitted)), encoding="utf-8")

    return session.artifact("oracle", settings, [split], build, lambda folder: _load(session, folder))


def _load(session: Session, folder: Path) -> SmoothingOracle:
    """The fitted oracle."""
    oracle: SmoothingOracle = session.component("oracle")
    load_state(oracle, folder)
    return oracle


def load_state(oracle: SmoothingOracle, folder: Path) -> None:
    """Give a new oracle the state that RUN/oracle holds."""
    with running(oracle):
        oracle.restore(load_file(folder / STATE))
