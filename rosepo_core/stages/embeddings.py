"""Title embeddings of the whole catalogue. Metrics, semantic candidates and grounding use them to find near
titles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from rosepo_core.contracts.records import Floats, Split
from rosepo_core.engine.title_embeddings import choose_encoder, encoder_version, title_embeddings
from rosepo_core.stages.session import Handle, Session
from rosepo_core.store.artifacts import reading

EMBEDDINGS = "embeddings.safetensors"


def stage(session: Session, split: Handle[Split]) -> Handle[Floats]:
    """RUN/embeddings: one row for each title.

    If no sentence encoder is installed, the base model makes them, and not the fine-tuned one: fine-tuning must not
    change the measure that judges its result.
    """
    # Candidates may have needed them before the metrics do.
    if "embeddings" in session.artifacts:
        return Handle(session.artifacts["embeddings"], load)
    encoder = choose_encoder()
    model = [session.policy.fingerprint, session.policy.dtype] if encoder == "language-model" else None

    def build(folder: Path) -> None:
        rows = title_embeddings(
            split.content.catalogue.titles, session.policy.base, session.policy.tokenizer, session.reporter, encoder
        )
        save_file({"titles": np.ascontiguousarray(rows)}, folder / EMBEDDINGS)

    return session.artifact("embeddings", {"encoder": encoder_version(encoder), "model": model}, [split], build, load)


def load(folder: Path) -> Floats:
    """The rows of `stage`, of unit length: float32 [items, d]."""
    with reading(folder):
        rows: Floats = load_file(folder / EMBEDDINGS)["titles"]
    return rows
