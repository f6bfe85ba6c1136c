"""What the pages of plugins and the tables of all plugins take from the registry and the classes."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any, cast

from docs_site.gradients import drawn, gradient_curve
from docs_site.option_tables import option_table, table
from rosepo_core.api import Component, CutOffMetric, PreferenceLoss, RejectedSampler
from rosepo_core.plugins.registry import Entry, load_plugins

FOLDERS = {"loss": "losses", "sampler": "samplers", "oracle": "oracles", "dataset": "datasets", "prompt": "prompts"}
"""Kinds with a page for each plugin, and the folder of these pages."""

SUMMARY = "<!-- summary -->"
"""Where a page that is written by hand has the plugin's summary."""

OF_MANY = frozenset({"s-dpo", "dmpo", "mppo", "dynamic-po", "rec-po"})
"""Losses that look at all rejected titles of a row at once; their pictures have three."""

REQUIRED = {
    "needs_reference": "reference",
    "needs_smoothing": "oracle",
    "needs_tokens": "token counts",
    "needs_mismatched": "mismatched titles",
    "needs_ratings": "ratings",
}


def own_plugins(kind: str) -> list[Entry]:
    """The plugins of a kind that rosepo itself brings, in the order of the registry."""
    return [entry for entry in load_plugins().entries(kind) if entry.distribution == "rosepo"]


def page_of(entry: Entry, written: str | None) -> str:
    """A plugin's page: what was written by hand, or else its name and summary, and then what the code says."""
    component: Any = load_plugins().get(entry.kind, entry.qualified_name)
    summary = entry.summary.rstrip(".") + "."
    top = written or f"# {entry.name}\n\n{SUMMARY}\n"
    parts = [top.replace(SUMMARY, summary[0].upper() + summary[1:])]
    if entry.kind == "loss":
        parts += [_gradient(entry, component), "## What it costs\n\n" + "\n".join(_costs(component()))]
    if entry.kind == "sampler":
        parts.append("## What it needs\n\n" + _needs_of_sampler(component))
    parts += [
        "## Options\n\n" + _how_to_choose(entry) + option_table(component.Options),
        "## In detail\n\n" + _docstring(component),
    ]
    return "\n\n".join(parts) + "\n"


def table_of(kind: str) -> str:
    """All plugins of a kind: names with links to their pages, and what each does."""
    if kind == "loss":
        return _table_of_losses()
    rows = [(f"[`{entry.name}`]({entry.name}.md)", entry.summary) for entry in own_plugins(kind)]
    return table((kind, "what it does"), rows)


def all_metrics() -> str:
    """A section for each metric: its docstring, which has formula, range, direction and source, and its options."""
    parts = []
    for entry in own_plugins("metric"):
        metric: Any = load_plugins().get("metric", entry.qualified_name)
        options = set(metric.Options.model_fields) - set(CutOffMetric.Options.model_fields)
        parts.append(f"## {entry.name}\n\n{_docstring(metric)}")
        if options:
            parts.append(option_table(metric.Options))
    return "\n\n".join(parts)


def _docstring(component: type[Component]) -> str:
    """The docstring without the section that is for readers of the code."""
    return inspect.cleandoc(component.__doc__ or "").partition("\nAttributes:")[0]


def _how_to_choose(entry: Entry) -> str:
    options = load_plugins().get(entry.kind, entry.qualified_name).Options.model_fields.items()
    required = "".join(f" --{entry.kind}.{name} {name.upper()}" for name, field in options if field.is_required())
    command = f"    rosepo train --{entry.kind} {entry.name}{required}\n\n"
    aliases = ", ".join(f"`{alias}`" for alias in entry.aliases)
    return command + (f"TRL's name {aliases} means the same.\n\n" if aliases else "")


def _gradient(entry: Entry, component: type[PreferenceLoss]) -> str:
    many = entry.name in OF_MANY
    others = " There are three rejected titles; two stay at r = 0, and the picture moves the third." if many else ""
    eps = " eps is 0.2." if component().needs_smoothing else ""
    return (
        "## Its gradient\n\n"
        f"{drawn(gradient_curve(component(), 3 if many else 1))}\n\n"
        "Above zero, a step of training makes the title more probable; below zero, less. Computed by autograd from "
        "the loss with its default options, where r(chosen) = margin / 2 and r(rejected) = -margin / 2, with r = "
        f"log pi - log ref. Each title has 8 tokens, and a reference of -4 nats a token.{others}{eps}"
    )


def _costs(loss: PreferenceLoss) -> Iterable[str]:
    yield (
        "- The reference model: one pass without gradients over all pairs, once for all runs with the same pairs."
        if loss.needs_reference
        else "- No reference model."
    )
    yield ("- The oracle: its training, and a question for each pair." if loss.needs_smoothing else "- No oracle.")
    if loss.needs_mismatched:
        yield "- One branch more of the token tree for each pair: a title that does not belong to its prompt."
    if loss.needs_ratings:
        yield "- A log with ratings."
    yield (
        "- It needs the whole optimizer step at once, so each pass is run twice."
        if loss.scope == "batch"
        else "- One pass over the token trees, as every loss."
    )


def _needs_of_sampler(sampler: type[RejectedSampler]) -> str:
    names = {
        "language-model": "The SFT model, which scores or generates titles: a pass for each example, and more.",
        "oracle": "The fitted oracle: a score of every item for every example.",
        "title-embeddings": "Embeddings of all titles, made once.",
        "disliked": "A log with ratings, or with items that users skipped.",
        "candidates": "Candidates: of the dataset, or of the list in the prompt.",
    }
    return "\n".join(f"- {names.get(need, need)}" for need in sorted(sampler.needs)) or "Nothing but the log."


def _table_of_losses() -> str:
    rows = []
    for entry in own_plugins("loss"):
        loss = cast(PreferenceLoss, load_plugins().create("loss", entry.qualified_name, {}))
        needs = [words for attribute, words in REQUIRED.items() if getattr(loss, attribute)]
        needs += ["several rejected titles"] if entry.name in OF_MANY else []
        needs += ["the whole step"] if loss.scope == "batch" else []
        aliases = "".join(f" (`{alias}`)" for alias in entry.aliases)
        rows.append((f"[`{entry.name}`]({entry.name}.md){aliases}", entry.summary, ", ".join(needs)))
    return table(("loss", "what it does", "needs"), rows)
