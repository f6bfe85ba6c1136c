"""Exports a model of a run as a folder that needs nothing else of the run."""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from rosepo_core import __version__, pipeline
from rosepo_core.contracts.errors import RequestError
from rosepo_core.contracts.sections import Score
from rosepo_core.data.saved_catalogue import save_catalogue
from rosepo_core.engine import gguf
from rosepo_core.engine.models import BASE_FILE, hub_id, resolve_model
from rosepo_core.engine.saved_template import TEMPLATE_FILE, TRIE_FILE
from rosepo_core.evaluation.decision_rules import needed_models
from rosepo_core.plugins.recorded import PLUGINS_FILE
from rosepo_core.plugins.registry import running
from rosepo_core.report import outputs
from rosepo_core.report.model_card import model_card
from rosepo_core.serving.changed_catalogue import CHANGES_FILE
from rosepo_core.serving.confidence import artifact_name
from rosepo_core.serving.export import golden
from rosepo_core.serving.ranker import RunParts, load_oracle
from rosepo_core.serving.recommender import Recommender
from rosepo_core.serving.sources import ABOUT_SCHEMA, PARTS, RunSource, StoredModel, chosen_model
from rosepo_core.stages import fusion
from rosepo_core.stages.session import RunReporter
from rosepo_core.store.artifacts import ABOUT_FILE, copy_files, is_own_artifact, read_manifest, write_manifest
from rosepo_core.store.files import Staging, write_text
from rosepo_core.store.marker import is_own_run

ExportType = Literal["float32", "bfloat16"]

TOLERANCES: dict[ExportType, float] = {"float32": 0.005, "bfloat16": 0.5}
"""By how much a score, a sum over the tokens of a title, may differ from that of the run's model in float32. Rounding
the weights of SmolLM2-135M to bfloat16 changes the scores of the best ten titles by 0.01 in the mean and 0.03 at
most, those of improbable titles by 0.2, and the order of half the lists of ten."""

BASE = "base"
"""The folder of the base model in the export of an adapter, if it has no name that others could load."""

MODEL_FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")


@dataclass(frozen=True)
class Export:
    """A finished export.

    Attributes:
        folder: where it is.
        size: bytes of all files.
        difference: the largest difference of a golden score.
    """

    folder: Path
    size: int
    difference: float


def export_model(
    run: Path,
    to: Path,
    reporter: RunReporter,
    *,
    model: str | None = None,
    score: Score | None = None,
    adapter: bool = False,
    dtype: ExportType = "float32",
    as_gguf: bool = False,
) -> Export:
    """Export a model of a finished run, with its tokenizer, prompt template, titles, catalogue, model card and golden
    prompts. The folder appears whole, after its model has given its golden answers.

    Args:
        run: the run, or runs under seeds, of which the first is taken.
        to: a folder that does not exist yet, or is empty.
        reporter: receives the progress.
        model: ``"aligned"`` (the default), ``"sft"``, ``"base"`` or that of an earlier round, ``"round-1-aligned"``.
        score: the score to rank by; by default `ranking.score` of the run.
        adapter: keep the adapter apart from its base model. Otherwise it is merged into it.
        dtype: type of merged weights.
        as_gguf: write ``model.gguf``, too.

    Raises:
        RequestError: the run is not finished, what is asked for is not possible, or `to` is not empty.
        RosepoError: the written model does not give the answers of the run's model.
    """
    _check_target(to)
    source = RunSource(run, reporter, float32=True, as_trained=True)
    name = chosen_model(source, model)
    score = score or source.score
    stored = source.stored(name)
    _check_request(source, name, score, stored, adapter, dtype)
    if as_gguf:
        if adapter:
            raise RequestError("GGUF holds a whole model: leave --adapter or --gguf out")
        gguf.check_writable(resolve_model(stored.options.name, reporter))
    to.parent.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    with Staging(to.parent, to.name) as folder:
        reporter.note("asking the run's model about the golden prompts")
        expected = golden.ask(Recommender.of(source, name, score, reporter), TOLERANCES[dtype])
        reporter.note("writing the model")
        if adapter:
            _write_adapter(stored, folder, reporter)
        else:
            slot = stored.slot(reporter)
            stored.put_into(slot)
            slot.save_whole(folder, getattr(torch, dtype))
        if as_gguf:
            gguf.write(folder, folder / golden.GGUF_FILE, to.name)
        for file in (TEMPLATE_FILE, TRIE_FILE):
            shutil.copyfile(stored.folder / file, folder / file)
        save_catalogue(source.in_use.trained, folder)
        _write_parts(source, name, score, folder)
        expected.write(folder)
        made_from = read_manifest(stored.folder)
        assert made_from is not None
        inputs = {made_from["stage"]: made_from["fingerprint"]}
        seconds = round(time.perf_counter() - start, 3)
        own = is_own_artifact(stored.folder) and is_own_run(source.folder)
        write_manifest(folder, "export", made_from["fingerprint"], inputs, seconds, own=own)
        reporter.note("asking the written model")
        difference = golden.check(folder, reporter)
        # The changes of the catalogue go on changing, and the model does not depend on them.
        if (source.folder / CHANGES_FILE).is_file():
            shutil.copyfile(source.folder / CHANGES_FILE, folder / CHANGES_FILE)
        # As in a run, the card is not under the sums of the manifest: people edit cards.
        write_text(folder / "README.md", _card(source.folder, to.name, name, score, adapter, folder, reporter))
        written = [each for each in folder.rglob("*") if each.is_file()]
        for path in written:
            path.chmod(0o644)
        size = sum(path.stat().st_size for path in written)
        os.rename(folder, to)
    return Export(to, size, difference)


def _check_target(to: Path) -> None:
    if to.is_dir() and not any(to.iterdir()):
        return
    if to.exists() or to.is_symlink():
        raise RequestError(f"{to} exists and is not an empty folder: name a new one")


def _check_request(
    source: RunSource, name: str, score: Score, stored: StoredModel, adapter: bool, dtype: ExportType
) -> None:
    """Check what can be checked before any work."""
    quantization = source.config.get("model", {}).get("quantization", "none")
    is_adapter = stored.trained and (stored.folder / "adapter_config.json").is_file()
    if adapter and not is_adapter:
        why = "is not trained" if name == "base" else "has no adapter: all its weights were trained"
        raise RequestError(f"the model '{name}' of {source.folder} {why}; leave --adapter out")
    if adapter and dtype != "float32":
        raise RequestError("an adapter keeps its type and that of its base model: leave --dtype out")
    if quantization != "none" and is_adapter and not adapter:
        raise RequestError(
            f"the adapter of {source.folder} was trained on a base model in {quantization}, and merged into another "
            "one it would be another model: export it with --adapter"
        )
    if score == "likelihood":
        return
    hint = "export by another score, such as --score likelihood"
    parts = RunParts(source.store)
    if score == "fusion":
        features = fusion.load(parts.folder(f"fusion-{name}", score)).features
        others = [each for each in needed_models(features, name) if each not in (name, "oracle")]
        if others:
            raise RequestError(
                f"the fusion of this run also asks the model '{others[0]}', and one is exported: {hint}"
            )
    oracle = load_oracle(parts, source.config)
    if oracle is not None:
        with running(oracle):
            files = list(oracle.files())
        if files:
            raise RequestError(f"the oracle of this run reads {files[0]}, which an export does not hold: {hint}")


def _write_parts(source: RunSource, name: str, score: Score, folder: Path) -> None:
    """Write what the score needs beside the model, and `ABOUT_FILE`."""
    config: dict[str, Any] = {}
    parts, calibration = RunParts(source.store), artifact_name(name, score)
    if found := parts.find(calibration, f"rosepo calibrate {source.folder} --stage {name} --score {score}"):
        shutil.copytree(found, folder / PARTS / calibration)
    if score != "likelihood":
        needed = ["oracle", "embeddings"]
        needed += [f"prior-{name}"] if score in ("prior-corrected", "fusion") else []
        needed += [f"fusion-{name}"] if score == "fusion" else []
        for part in needed:
            if (found := parts.find(part)) is not None:
                (folder / PARTS / part).mkdir(parents=True)
                copy_files(found, folder / PARTS / part)
        # It says what to install for an oracle of a plugin.
        if (source.folder / PLUGINS_FILE).is_file() and (folder / PARTS).is_dir():
            shutil.copyfile(source.folder / PLUGINS_FILE, folder / PARTS / PLUGINS_FILE)
        config = {key: source.config[key] for key in ("ranking", "evaluation", "oracle") if key in source.config}
    about = {"schema": ABOUT_SCHEMA, "rosepo": __version__, "model": name, "score": score, "config": config}
    (folder / ABOUT_FILE).write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_adapter(stored: StoredModel, folder: Path, reporter: RunReporter) -> None:
    """Write the adapter with the tokenizer. Its base model is named by its hub id, or comes along in `BASE`: an alias
    or a path would name other weights elsewhere, or nothing."""
    about = json.loads((stored.folder / "adapter_config.json").read_text(encoding="utf-8"))
    base = resolve_model(stored.options.name, reporter)
    name = hub_id(stored.options.name)
    if name is None:
        about["base_model_name_or_path"] = BASE
        (folder / BASE).mkdir()
        for file in sorted(each for pattern in MODEL_FILES for each in base.glob(pattern)):
            shutil.copyfile(file, folder / BASE / file.name)
        (folder / BASE_FILE).write_text(json.dumps({"model": BASE}), encoding="utf-8")
    else:
        about["base_model_name_or_path"] = name
        # The folder of a hub model in the cache is named by its commit.
        about["revision"] = base.name if base.parent.name == "snapshots" else None
    (folder / "adapter_config.json").write_text(json.dumps(about, indent=2, sort_keys=True), encoding="utf-8")
    shutil.copyfile(stored.folder / "adapter_model.safetensors", folder / "adapter_model.safetensors")
    stored.slot(reporter).tokenizer.save_pretrained(folder)


def _card(run: Path, shown: str, model: str, score: Score, adapter: bool, folder: Path, reporter: RunReporter) -> str:
    """The model card: that of the run, for this model in this form."""
    [finished] = pipeline.finished_runs([run], None, reporter)
    return model_card(
        outputs.card(
            finished.session,
            finished.split.content,
            finished.evaluations,
            exported=True,
            model=model,
            score=score,
            folder=shown,
            method="lora" if adapter else "full",
            base_folder=f"{shown}/{BASE}" if (folder / BASE).is_dir() else None,
        )
    )
