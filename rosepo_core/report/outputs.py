"""Writes the files of a run for readers: metrics.json, report.html, environment.json and the model card."""

from __future__ import annotations

import inspect
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from rosepo_core import __version__
from rosepo_core.contracts.errors import RequestError
from rosepo_core.contracts.records import Floats, Pairs, Places, Sequences, Split
from rosepo_core.contracts.sections import Score
from rosepo_core.engine.models import ALIASES, hub_id, published_name
from rosepo_core.evaluation import side_by_side
from rosepo_core.evaluation.conditional_logit import ConditionalLogit
from rosepo_core.evaluation.ranked_models import model_name
from rosepo_core.evaluation.results import Evaluation
from rosepo_core.evaluation.run_models import round_of
from rosepo_core.evaluation.tables import metrics_document, metrics_text
from rosepo_core.plugins.one_file import shown_name
from rosepo_core.plugins.recorded import PLUGINS_FILE, record, to_json
from rosepo_core.prompts.template import PromptTemplate
from rosepo_core.report.model_card import ModelCard, model_card
from rosepo_core.report.page import ReportData, ReportRound, render, render_seeds, render_side_by_side
from rosepo_core.stages import embeddings, fusion, oracle, reference, validation
from rosepo_core.stages.session import Session
from rosepo_core.stages.trained import Trained
from rosepo_core.store.artifacts import Artifact
from rosepo_core.store.changes import CONFIG
from rosepo_core.store.files import write_text

REPORT = "report.html"

INVENTED_HISTORY = 3
"""Titles of the example in the model card."""

LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "numpy", "polars", "tokenizers")


def environment(session: Session) -> Mapping[str, str]:
    """Versions of Python, rosepo, the libraries that results depend on, and the plugins of this run."""
    found = {"python": platform.python_version(), "platform": platform.platform(), "rosepo": __version__}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    for kind, records in record(session.config, session.registry, session.records).items():
        for each in records:
            # A run has many metrics, most of them of one distribution.
            name = f"metrics of {each.distribution}" if kind == "metric" else f"{kind} {shown_name(each.name)}"
            found[name] = f"{each.distribution} {each.version}"
    return found


def write_environment(session: Session) -> None:
    """RUN/environment.json and RUN/plugins.json."""
    session.store.write("environment.json", json.dumps(environment(session), indent=2) + "\n")
    session.store.write(PLUGINS_FILE, to_json(record(session.config, session.registry, session.records)))


def write_tables(session: Session, evaluations: Sequence[Evaluation]) -> None:
    """RUN/metrics.json."""
    document = metrics_document(
        session.config.dataset.shown_name, session.config.seed, evaluations, _seconds(session.artifacts)
    )
    session.store.write("metrics.json", metrics_text(document))


def write(session: Session, trained: Trained, evaluations: Sequence[Evaluation]) -> None:
    """RUN/metrics.json, RUN/report.html and the model card, RUN/aligned/README.md."""
    write_tables(session, evaluations)
    session.store.write("aligned/README.md", model_card(card(session, trained.split.content, evaluations)))
    session.store.write(REPORT, render(report_data(session, trained, evaluations)))


def write_report(runs: Mapping[str, ReportData], out: Path) -> None:
    """Write the report of one or more runs, completely or not at all.

    Raises:
        RequestError: the runs cannot be compared, or `out` cannot be written.
    """
    if len(runs) == 1:
        page = render(next(iter(runs.values())))
    else:
        page = render_side_by_side(_together(list(runs)), evaluations_of(runs), runs)
    _write_page(page, out)


def write_seed_report(title: str, seeds: Mapping[int, Mapping[str, ReportData]], out: Path) -> None:
    """The report of runs under several seeds, by seed and label, whole or not at all.

    Raises:
        RequestError: as `write_report`.
    """
    tables: dict[str, dict[int, Evaluation]] = {}
    for seed, runs in seeds.items():
        for evaluation in evaluations_of(runs):
            tables.setdefault(evaluation.protocol, {})[seed] = evaluation
    shared = [by_seed for by_seed in tables.values() if by_seed.keys() == seeds.keys()]
    several = any(len(runs) > 1 for runs in seeds.values())
    parts = {
        f"{label}, seed {seed}" if several else f"seed {seed}": data
        for seed, runs in seeds.items()
        for label, data in runs.items()
    }
    _write_page(render_seeds(title, shared, parts), out)


def evaluations_of(runs: Mapping[str, ReportData]) -> Sequence[Evaluation]:
    """The tables of one run, or of several side by side.

    Raises:
        RequestError: the runs cannot be compared.
    """
    if len(runs) == 1:
        return next(iter(runs.values())).evaluations
    return side_by_side.side_by_side({label: _run_evaluation(data) for label, data in runs.items()})


def _write_page(page: str, out: Path) -> None:
    try:
        write_text(out, page)
    except OSError as error:
        raise RequestError(f"{out} cannot be written: {error.strerror}; name another file with --out") from None


def _together(labels: Sequence[str]) -> str:
    """The headline of several runs."""
    return " and ".join(labels) if len(labels) <= 3 else f"{labels[0]} and {len(labels) - 1} more runs"


def _run_evaluation(data: ReportData) -> side_by_side.RunEvaluation:
    assert data.split is not None
    return side_by_side.RunEvaluation(data.evaluations, data.split.users, data.split.catalogue.ids, score=data.score)


def report_data(session: Session, trained: Trained, evaluations: Sequence[Evaluation]) -> ReportData:
    """The data of the report on a finished run."""
    folder, split = session.store.folder, trained.split.content
    return ReportData(
        title=f"{session.config.dataset.shown_name}, {session.config.model.name}, {session.config.loss_name}",
        command=f"rosepo train --config {folder / CONFIG}",
        summary=_summary(session, split, evaluations[0]),
        config=session.config.to_toml(),
        evaluations=evaluations,
        score=session.config.ranking.score,
        split=split,
        rounds=[
            ReportRound(
                model=each.number.stage("aligned"),
                sft_log=each.sft.content,
                validation=validation.load_curve(each.sft.folder),
                alignment_log=each.aligned.content,
                pairs=each.pairs.content,
                similarity=_similarity(session.artifacts, each.pairs.content),
            )
            for each in trained.rounds
        ],
        seconds=_seconds(session.artifacts),
        environment=environment(session),
    )


def _similarity(artifacts: Mapping[str, Artifact], pairs: Pairs) -> tuple[Floats, Floats] | None:
    """Cosines of targets with rejected items and with random items; `None` if there are no title embeddings."""
    if "embeddings" not in artifacts:
        return None
    titles = embeddings.load(artifacts["embeddings"].folder)
    row, slot = np.nonzero(pairs.rejected >= 0)
    target = pairs.examples.target[row]
    random_items = np.random.default_rng(0).integers(len(titles), size=len(row))
    rejected, others = (
        np.einsum("nd,nd->n", titles[target], titles[items]) for items in (pairs.rejected[row, slot], random_items)
    )
    return rejected, others


def _seconds(artifacts: Mapping[str, Artifact]) -> Mapping[str, float]:
    """Seconds by stage. Drawing candidates, embedding titles and asking models count as evaluation."""
    asked = ("candidates", "scores-", "prior-", "fusion-", "lists-", "pool-", "answers-", "grounded-", "outside-")
    parts = {name for name in artifacts if name == "embeddings" or name.startswith(asked)}
    seconds = {stage: artifact.seconds for stage, artifact in artifacts.items() if stage not in parts}
    seconds["evaluation"] += sum(artifacts[name].seconds for name in parts)
    return seconds


def card(session: Session, split: Split, evaluations: Sequence[Evaluation], **exported: Any) -> ModelCard:
    """The model card of the aligned model; for an export, `exported` replaces what is different there."""
    config = session.config
    summary = _summary(session, split, evaluations[0])
    prompt, response = _invented_example(session)
    alias = ALIASES.get(config.model.name)
    # An export leaves this machine, and no path of it should.
    model = model_name(config.model.name) if exported else config.model.name
    score = exported.get("score", config.ranking.score)
    made = ModelCard(
        name=f"{config.dataset.shown_name}, {model}, {config.loss_name}",
        method=config.sft.method,
        base_model=model if exported else published_name(model),
        dataset=config.dataset.shown_name,
        base_model_id=alias.hub_id if alias else hub_id(config.model.name),
        base_model_notes="Its weights were quantized (Q4_1, a GGUF file) before this training." if alias else "",
        dataset_notes=summary["Dataset"],
        parts={label: text for label, text in summary.items() if label != "Dataset"} | {"Model": model},
        protocols={
            evaluation.protocol: {
                name: {column: result.metrics[column] for column in evaluation.main_columns}
                for name, result in evaluation.models.items()
            }
            for evaluation in evaluations
        },
        columns={name: column for evaluation in evaluations for name, column in evaluation.columns.items()},
        score=score,
        fusion=_fusion(session, exported.get("model", "aligned"), score),
        prompt=prompt,
        response=response,
        losses=_losses(session),
        reference=reference.kind(session),
        rounds=round_of(exported.get("model", "aligned"), config.rounds),
        licence="apache-2.0" if alias else None,
        licence_notes=["The terms of the data and of the base model hold for what is made of them."],
    )
    return replace(made, **exported)


def _losses(session: Session) -> Mapping[str, tuple[float, str]]:
    """The weight and the formula of each loss of the run. The formula is the first paragraph of its description."""
    found: dict[str, tuple[float, str]] = {}
    for index, choice in enumerate(session.config.loss):
        description = inspect.getdoc(type(session.component("loss", index))) or ""
        found[choice.shown_name] = choice.weight, description.partition("\n\n")[0]
    return found


def _fusion(session: Session, model: str, score: Score) -> ConditionalLogit | None:
    """The fitted weights by which a model recommends; `None` if it recommends by another score."""
    artifact = session.artifacts.get(f"fusion-{model}")
    return fusion.load(artifact.folder) if artifact and score == "fusion" else None


def _invented_example(session: Session) -> tuple[str, str]:
    """A prompt and its response in the run's format, with invented titles. A card is shared with others, so it must
    not show a user's history."""
    template: PromptTemplate = session.component("prompt")
    count = INVENTED_HISTORY + max(1, template.candidates)
    titles = [f"Title {number}" for number in range(1, count + 1)]
    details = ["; ".join(f"{name}: an example" for name in template.options.attributes)] * count
    template = template.bind(session.policy.tokenizer, titles, session.history_length, details=details)
    history = Sequences(np.arange(INVENTED_HISTORY, dtype=np.int32), np.array([0, INVENTED_HISTORY]))
    place = Places(history, np.zeros(1, dtype=np.int32), np.full(1, INVENTED_HISTORY, dtype=np.int32))
    listed = np.arange(INVENTED_HISTORY, count, dtype=np.int32)[None] if template.candidates else None
    return template.prompt_texts(place, candidates=listed)[0], template.response_texts[INVENTED_HISTORY]


def _summary(session: Session, split: Split, evaluation: Evaluation) -> Mapping[str, str]:
    config = session.config
    return {
        "Dataset": f"{config.dataset.shown_name}: {len(split.users):,} users, {len(split.catalogue):,} items, "
        f"{len(split.train.items):,} training interactions",
        "Split": split.strategy,
        "Model": config.model.name,
        "Prompt": f"{config.prompt.shown_name}, {session.resolved['prompt']['titles']} titles",
        "Samplers": ", ".join(f"{choice.shown_name} ({choice.weight:g})" for choice in config.sampler),
        "Oracle": config.oracle.shown_name if oracle.needed(session) else "none: nothing asks it",
        "Loss": ", ".join(
            choice.shown_name if choice.weight == 1 else f"{choice.shown_name} ({choice.weight:g})"
            for choice in config.loss
        ),
        **({"Rounds": str(config.rounds)} if config.rounds > 1 else {}),
        "Seed": str(config.seed),
        f"{evaluation.part.capitalize()} users": f"{len(evaluation.examples):,}",
    }
