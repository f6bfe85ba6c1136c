"""The output of commands: tables that fit into 80 columns, on stdout."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli_w

from rosepo_cli.main_tables import show_main_table
from rosepo_core.console import Console, SafeTable, Text, complain, open_console
from rosepo_core.contracts.untrusted_text import message, visible_line
from rosepo_core.evaluation.main_table import main_table
from rosepo_core.evaluation.run_models import ROUND, RowName, by_score_in_use, score_in_use
from rosepo_core.store.marker import read_listed

if TYPE_CHECKING:
    from rosepo_core.config_keys import Key
    from rosepo_core.data.catalogue_in_use import CatalogueInUse, Difference
    from rosepo_core.data.corpus_summary import CorpusSummary
    from rosepo_core.diagnostics import Check
    from rosepo_core.evaluation.measurement import Column, Comparison
    from rosepo_core.evaluation.over_seeds import ComparedModels
    from rosepo_core.evaluation.results import Evaluation
    from rosepo_core.pipeline import Run
    from rosepo_core.planning import Plan
    from rosepo_core.plugin_kit.checking import Promise
    from rosepo_core.plugins.registry import Entry
    from rosepo_core.presets import Preset
    from rosepo_core.seeds import SeedRuns, SeedTable, Spread
    from rosepo_core.serving.calibrating import DoneCalibration
    from rosepo_core.serving.explanations import Explanation
    from rosepo_core.serving.recommender import Recommendation, Recommended

SIGNS = {"higher": "\N{UPWARDS ARROW}", "lower": "\N{DOWNWARDS ARROW}", "neither": ""}
SHOWN_CHANGES = 10
"""Items that are shown of each kind of change of a catalogue."""
SHOWN_INFLUENCES = 3
"""Items of a history that are shown with each explained recommendation."""
STATUS_STYLES = {"ok": "green", "warn": "yellow", "fail": "red"}


def _table(*columns: str) -> SafeTable:
    table = SafeTable()
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
    return table


def document_of(run: Run) -> dict[str, Any]:
    """The run's folder and, if it was evaluated, the contents of its metrics.json."""
    document: dict[str, Any] = {"run": str(run.folder)}
    if run.evaluations:
        document["metrics"] = json.loads(read_listed(run.folder, "metrics.json") or "{}")
    return document


def show_evaluations(run: Run) -> None:
    """All models side by side under each protocol, and the folder of the run."""
    console = open_console()
    for evaluation in run.evaluations:
        _show_evaluation(console, evaluation)
    for evaluation in run.evaluations:
        metrics = {name: result.metrics for name, result in evaluation.models.items()}
        intervals = {name: result.intervals for name, result in evaluation.models.items()}
        show_main_table(console, main_table(evaluation.protocol, metrics, intervals))
    if run.evaluations:
        console.print()
    report = run.folder / "report.html"
    if run.evaluations and report.exists():
        console.print(f"report  {report}", soft_wrap=True)
    console.print(f"run     {run.folder}", soft_wrap=True)


def _show_evaluation(console: Console, evaluation: Evaluation) -> None:
    columns, protocol = evaluation.columns, evaluation.protocol
    accuracy = [name for name in evaluation.main_columns if columns[name].about.group == "Accuracy"]
    others = [name for name in evaluation.main_columns if name not in accuracy]
    if accuracy:
        _heading(console, f"Accuracy, {protocol}")
        table = _table("", *(columns[name].title for name in accuracy))
        for model, result in evaluation.models.items():
            table.add_row(Text(model), *(_value(evaluation, name, result.metrics[name]) for name in accuracy))
        console.print(table)
    if others:
        used = by_score_in_use(evaluation.models)
        _heading(console, f"Beyond accuracy, {protocol}{_ranked_by(evaluation.models)}")
        titles = [f"{columns[name].title} {SIGNS[columns[name].about.direction]}" for name in others]
        values = {
            model: [_value(evaluation, name, evaluation.models[model].metrics[name]) for name in others]
            for model in used
        }
        _show_by_model(console, titles, values)
    console.print(f"\n{len(evaluation.examples):,} {evaluation.part} users, {evaluation.asked}")
    for line in (*_over_fewer_users(evaluation), *_about_fusion(evaluation)):
        console.print(line)


ROOM_OF_TITLES = 16
"""The columns of a terminal that the titles of metrics need at least; longer ones are broken between words."""


def _show_by_model(console: Console, titles: Sequence[str], values: Mapping[str, Sequence[str]]) -> None:
    """A row for each title and a column for each model. If they do not fit beside each other, several tables."""
    headings = {name: _heading_of(RowName.of(name)) for name in values}
    parts: list[list[str]] = [[]]
    room = console.width - ROOM_OF_TITLES
    for name, cells in values.items():
        width = 2 + max(len(line) for text in (headings[name], *cells) for line in text.splitlines() or [""])
        if parts[-1] and room < width:
            parts.append([])
            room = console.width - ROOM_OF_TITLES
        parts[-1].append(name)
        room -= width
    for place, part in enumerate(parts):
        table = _table("", *(headings[name] for name in part))
        for row, title in enumerate(titles):
            table.add_row(Text(title), *(values[name][row] for name in part))
        if place:
            console.print()
        console.print(table)


def _heading_of(row: RowName) -> str:
    """The heading of a model's column: the long name of a round in two lines."""
    return row.own.replace("-aligned", "-\naligned") if ROUND.fullmatch(row.model) else row.own


def _ranked_by(models: Iterable[str]) -> str:
    """The end of a heading over models that are shown by one of several scores."""
    score = score_in_use(models)
    return "" if score == "likelihood" else f", ranked by {score}"


def _about_fusion(evaluation: Evaluation) -> Iterator[str]:
    """Lines about the pools that language models rank, and about features that fusions leave out."""
    if evaluation.pool_recall:
        # All scores of a model rank the same pool.
        own = {RowName.of(name).own: share for name, share in evaluation.pool_recall.items()}
        yield f"targets in the pools (pool recall): {', '.join(f'{name} {share:.3f}' for name, share in own.items())}"
    left_out: dict[tuple[str, str], list[str]] = {}
    for name, logit in evaluation.fusions.items():
        for each in logit.left_out:
            left_out.setdefault(each, []).append(name)
    for (feature, why), names in left_out.items():
        yield f"{', '.join(names)} without {feature}: {why}"


def _over_fewer_users(evaluation: Evaluation) -> Iterator[str]:
    """Lines about means that are not over all users, one for each metric and number of users."""
    found: dict[tuple[str, int], list[str]] = {}
    for name in evaluation.main_columns:
        for model, result in evaluation.models.items():
            users = result.users(name)
            if users is not None and users < len(evaluation.examples):
                found.setdefault((evaluation.columns[name].title, users), []).append(model)
    for (title, users), models in found.items():
        yield f"over {users:,} of them: {title} of {', '.join(_without_scores(models, evaluation.models))}"


def _without_scores(names: Sequence[str], every: Iterable[str]) -> list[str]:
    """The names, with one name for a model if it is there by all its scores."""
    by_model: dict[str, list[str]] = {}
    for name in every:
        by_model.setdefault(RowName.of(name).own, []).append(name)
    found: list[str] = []
    for own, rows in by_model.items():
        found += [own] if set(rows) <= set(names) else [name for name in rows if name in names]
    return found


def show_comparison(compared: ComparedModels) -> None:
    """One column of all models with intervals, then the differences and whether they hold."""
    tested, column = compared.comparisons, compared.column
    console = open_console()
    _heading(console, compared.protocol)
    table = _table("", f"{column.title} {SIGNS[column.about.direction]}", "95 % interval")
    for model, (mean, *ends) in compared.models.items():
        known = [end for end in ends if math.isfinite(end)]
        table.add_row(Text(model), _number(column, mean), " to ".join(_number(column, end) for end in known))
    console.print(table)
    if not tested:
        return
    console.print()
    table = _table(f"less {tested[0].baseline}", "difference", "95 % interval", "p, Holm", "holds")
    for each in tested:
        shown, low, high = (f"{value:+.3f}" for value in (each.difference, each.low, each.high))
        table.add_row(Text(each.model), shown, f"{low} to {high}", _p(each.p_holm), _holds(each))
    console.print(table)
    corrected = f", corrected for {len(tested)} comparisons" if len(tested) > 1 else ""
    if compared.seeds:
        foot = f"seeds {', '.join(map(str, compared.seeds))}, {tested[0].users:,} users; p by drawing seeds and users"
    else:
        foot = f"{tested[0].users:,} users; p by the paired bootstrap"
    console.print(f"\n{foot}{corrected}")


def comparison_document(metric: str, compared: Sequence[ComparedModels]) -> dict[str, Any]:
    """The document of `rosepo compare --json`; a number that does not exist is null."""

    def known(value: Any) -> Any:
        return None if isinstance(value, float) and math.isnan(value) else value

    document: dict[str, Any] = {"metric": metric}
    if compared and compared[0].seeds:
        document["seeds"] = list(compared[0].seeds)
    document["protocols"] = {
        each.protocol: {
            "models": {
                name: {"value": known(mean), "interval": None if math.isnan(low) else [low, high]}
                for name, (mean, low, high) in each.models.items()
            },
            "comparisons": [
                {key: known(value) for key, value in asdict(tested).items()} for tested in each.comparisons
            ],
        }
        for each in compared
    }
    return document


def _heading(console: Console, text: str) -> None:
    """Over a table, whose own title would be broken to the table's width."""
    console.print(f"\n{text}", style="bold")


def _holds(comparison: Comparison) -> str:
    """Whether a difference stands up to the correction, at 5 %."""
    if not comparison.p_holm < 0.05:
        return "no"
    return "higher" if comparison.difference > 0 else "lower"


def _p(value: float) -> str:
    """A p value as text; it is never 0."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def show_seeds(found: SeedRuns) -> None:
    """Mean and, below it, standard deviation over seeds, for all models side by side; and the folder of the runs."""
    console = open_console()
    for protocol, table in found.tables.items():
        accuracy = [name for name, column in table.columns.items() if column.about.group == "Accuracy"]
        others = [name for name in table.columns if name not in accuracy]
        if accuracy:
            _heading(console, f"Accuracy, {protocol}")
            shown = _table("", *(table.columns[name].title for name in accuracy))
            for model, spreads in table.models.items():
                shown.add_row(Text(model), *(_spread(table.columns[name], spreads[name]) for name in accuracy))
            console.print(shown)
        if others:
            used = by_score_in_use(table.models)
            _heading(console, f"Beyond accuracy, {protocol}{_ranked_by(table.models)}")
            titles = [f"{table.columns[name].title} {SIGNS[table.columns[name].about.direction]}" for name in others]
            values = {
                model: [_spread(table.columns[name], table.models[model][name]) for name in others] for model in used
            }
            _show_by_model(console, titles, values)
        console.print()
        for line in _over_fewer(table):
            console.print(line)
    seeds = ", ".join(map(str, found.runs))
    one = len(found.runs) == 1
    console.print(
        f"seed {seeds} alone, so there is no deviation"
        if one
        else f"mean \N{PLUS-MINUS SIGN} standard deviation over seeds {seeds}",
        markup=False,
    )
    console.print(f"run     {found.folder}", soft_wrap=True)


def _spread(column: Column, spread: Spread) -> str:
    mean, deviation = (
        f"{value:.{column.about.decimals}f}" if math.isfinite(value) else ""
        for value in (spread.over.mean, spread.over.deviation)
    )
    return (mean or "-") + (f"\n\N{PLUS-MINUS SIGN} {deviation}" if deviation else "")


def _over_fewer(table: SeedTable) -> Iterator[str]:
    """Lines about means that are not over all seeds, one for each column and number of seeds."""
    found: dict[tuple[str, str], list[str]] = {}
    for model, spreads in table.models.items():
        for name, spread in spreads.items():
            known = sum(map(math.isfinite, spread.values))
            if 0 < known < len(spread.values):
                key = (table.columns[name].title, f"{known} of {len(spread.values)}")
                found.setdefault(key, []).append(model)
    for (title, share), models in found.items():
        yield f"{title} applies in {share} seeds to {', '.join(_without_scores(models, table.models))}"


def _value(evaluation: Evaluation, name: str, value: float) -> str:
    return _number(evaluation.columns[name], value)


def _number(column: Column, value: float) -> str:
    return f"{value:.{column.about.decimals}f}" if math.isfinite(value) else "-"


SCORE_TITLES: Mapping[str, str] = {
    "likelihood": "log-probability",
    "mean": "log-probability a token",
    "prior-corrected": "log-probability gained",
    "fusion": "probability",
    "popularity": "training interactions",
    "oracle": "score of the oracle",
}


def show_recommendations(found: Recommended, score: str) -> None:
    """Titles and their scores, best first. Probabilities of ``fusion`` are shown as such."""
    by = score if found.answered_by == "model" else found.answered_by
    table = _table("", "title", SCORE_TITLES[by])
    table.columns[1].justify = "left"
    for rank, each in enumerate(found, 1):
        table.add_row(f"{rank}", _marked(each), _score_text(each.score, by))
    open_console().print(table)


def show_confidence(found: Recommended, threshold: float | None, why_none: str | None) -> None:
    """A line about the confidence of a list, and who answered; why there is none, on stderr.

    Args:
        found: the list.
        threshold: the confidence below which the fallback answers, if there is one.
        why_none: why it has no confidence, if it has none.
    """
    if found.confidence is None or found.interval is None:
        complain("no confidence", str(why_none))
        return
    low, high = found.interval
    line = f"confidence {found.confidence:.0%} ({low:.0%} to {high:.0%}): the next title is in the list"
    if found.answered_by != "model":
        by = "the most popular titles" if found.answered_by == "popularity" else "the oracle"
        line += f" of the model; below {threshold:.0%}, so {by} answered"
    open_console().print(f"\n{line}")


def _marked(found: Recommendation) -> Text:
    """The title, and whether nobody has chosen the item yet."""
    return Text.assemble(visible_line(found.title), ("  new", "cyan") if found.new else "")


def show_explanations(found: Sequence[Explanation], score: str, items: int) -> None:
    """Recommendations as `show_recommendations` shows them, each with its popularity and the items of the history
    that change its score most.

    Args:
        found: the explanations, best first.
        score: the score of the recommendations.
        items: the number of items in the catalogue.
    """
    console = open_console()
    for rank, each in enumerate(found, 1):
        value = _score_text(each.recommendation.score, score)
        popularity = f"popularity {each.popularity_rank:,} of {items:,}"
        console.print(Text.assemble(f"{rank:>2}  ", _marked(each.recommendation), f"  {value}, {popularity}"))
        for influence in each.influences[:SHOWN_INFLUENCES]:
            console.print(Text(f"      {influence.change:+.2f}  {visible_line(influence.title)}"))
    if any(each.influences for each in found):
        console.print(
            "\n+ and -: the change of the score (a logarithm) by an item of the history; it speaks for or against",
        )


def _score_text(value: float, score: str) -> str:
    if score == "popularity":
        return f"{value:,.0f}"
    return f"{math.exp(value):.3f}" if score == "fusion" else f"{value:.2f}"


def show_catalogue(in_use: CatalogueInUse, difference: Difference, rows: int = SHOWN_CHANGES) -> None:
    """The size of a catalogue, and how it differs from an earlier state: a few lines for each kind of change."""
    console, items = open_console(), in_use.items
    retired = int(in_use.retired.sum())
    console.print(
        f"{len(items) - retired:,} items can be recommended: {len(in_use.trained):,} of the training, "
        f"{len(items) - len(in_use.trained):,} added, {retired:,} retired"
    )
    titles = dict(zip(items.ids, map(visible_line, items.titles), strict=True))
    kinds: dict[str, Sequence[tuple[str, str]]] = {
        "added": [(item, titles[item]) for item in difference.added],
        "renamed": [
            (item, f"{visible_line(old)}  ->  {visible_line(new)}") for item, (old, new) in difference.renamed.items()
        ],
        "described anew": [(item, titles[item]) for item in difference.described],
        "retired": [(item, titles[item]) for item in difference.retired],
        "restored": [(item, titles[item]) for item in difference.restored],
    }
    for kind, changed in kinds.items():
        if not changed:
            continue
        console.print(f"\n{kind} {len(changed):,}")
        for item, text in changed[:rows]:
            console.print(f"  {visible_line(item)}  {text}")
        if len(changed) > rows:
            console.print(f"  and {len(changed) - rows:,} more (--json lists all)")


def show_plugins(entries: Sequence[Entry]) -> None:
    """One line for each plugin, by kind; what is wrong with a plugin is red."""
    table = _table("kind", "name", "from", "summary")
    for column in table.columns:
        column.justify = "left"
    for entry in entries:
        summary = Text(entry.error, style="red") if entry.error else Text(entry.summary)
        if entry.aliases:
            summary.append(f" Also: {', '.join(entry.aliases)}.")
        table.add_row(entry.kind, Text(entry.name), Text(f"{entry.distribution} {entry.version}"), summary)
    open_console().print(table)


def show_plugin_details(described: Sequence[Mapping[str, Any]], options: Sequence[Sequence[Key]]) -> None:
    """The description of each plugin, its source, its options with their defaults, and a command to copy."""
    console = open_console()
    for plugin, keys in zip(described, options, strict=True):
        console.print(f"{plugin['kind']} {plugin['name']}", style="bold")
        console.print(f"{plugin['distribution']} {plugin['version']}, {plugin['target']}")
        if plugin["source"]:
            console.print(plugin["source"], soft_wrap=True)
        if plugin["aliases"]:
            console.print(f"also: {', '.join(plugin['aliases'])}")
        console.print()
        console.print(_reflowed(plugin["description"]))
        if keys:
            table = _table("option", "type", "default", "meaning")
            for column in table.columns:
                column.justify = "left"
            for key in keys:
                table.add_row(key.name, Text(key.type), Text(key.default), Text(key.meaning))
            console.print()
            console.print(table)
        console.print(f"\n  {plugin['command']}", soft_wrap=True)


def show_promises(entry: Entry, promises: Sequence[Promise]) -> None:
    """Each promise of a contract, whether it is kept, and if not, why."""
    console = open_console()
    console.print(f"{entry}\n", style="bold")
    table = SafeTable(header=False)
    for promise in promises:
        if promise.broken is None:
            table.add_row(Text("kept", style="green"), Text(promise.text))
        else:
            table.add_row(Text("broken", style="red"), Text(promise.text))
            table.add_row("", Text(promise.broken, style="red"))
    console.print(table)
    broken = sum(promise.broken is not None for promise in promises)
    console.print(f"\n{len(promises) - broken} promises kept, {broken} broken")


def show_presets(presets: Sequence[Preset]) -> None:
    """One line for each preset."""
    table = _table("preset", "method")
    table.columns[1].justify = "left"
    for each in presets:
        table.add_row(Text(each.name), Text(each.method))
    open_console().print(table)


def show_preset_details(preset: Preset) -> None:
    """The description of a preset, and its settings as in a file."""
    console = open_console()
    console.print(f"preset {preset.name}", style="bold")
    told = {
        "": preset.method,
        "Source: ": preset.source,
        "Published: ": preset.published,
        "rosepo's own choice: ": preset.own,
    }
    for start, text in told.items():
        console.print(f"{start}{text}\n")
    console.print(tomli_w.dumps(preset.tables).rstrip())


def _reflowed(docstring: str) -> str:
    """The docstring with each paragraph on one line, which the terminal breaks; lists and formulas stay unchanged."""
    paragraphs = docstring.split("\n\n")
    return "\n\n".join(
        part if any(line[:1] in " -*" for line in part.splitlines()) else " ".join(part.splitlines())
        for part in paragraphs
    )


def show_corpus(summary: CorpusSummary) -> None:
    """The numbers of a log or of given examples, then warnings."""
    console = open_console()
    table = _table("", "")
    rows = {"dataset": summary.name}
    if summary.parts:
        rows["examples"] = f"{summary.users:,}: " + _counts(summary.parts)
    else:
        rows["users"] = f"{summary.users:,}"
    rows |= {"items": f"{summary.items:,}", "interactions": f"{summary.interactions:,}"}
    if not summary.parts:
        rows |= {"density": f"{summary.density:.2%}", "first": summary.first, "last": summary.last}
    rows["per example" if summary.parts else "per user"] = _counts(summary.interactions_per_user)
    rows["per item"] = _counts(summary.interactions_per_item)
    if summary.candidates:
        rows["candidates"] = _counts(summary.candidates)
    for label, value in rows.items():
        table.add_row(label, Text(value))
    table.columns[1].justify = "left"
    console.print(table)
    for title, ids in list(summary.duplicate_titles.items())[:5]:
        console.print(f"title shared by {len(ids)} items: {visible_line(title)}")
    for note in summary.notes:
        console.print(message(f"note: {note}"))
    for warning in summary.warnings:
        console.print(message(f"warning: {warning}"), style="yellow")


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def show_checks(checks: Sequence[Check]) -> None:
    """One line for each check, with the remedy if one is needed."""
    table = _table("", "check", "found")
    for column in table.columns:
        column.justify = "left"
    for check in checks:
        found = Text(check.detail)
        if check.fix:
            found.append(f"\n{check.fix}", style="yellow")
        table.add_row(Text(check.status, style=STATUS_STYLES[check.status]), check.name, found)
    open_console().print(table)


def show_plan(config: str, folder: Path, plan: Plan) -> None:
    """The resolved configuration, then the plan and its cost."""
    console = open_console()
    console.print(config, soft_wrap=True)
    table = _table("stage", "examples", "tokens", "longest", "time")
    for row in plan.stages:
        table.add_row(
            row.stage,
            f"{row.examples:,} {row.unit}",
            f"{row.tokens:,}" if row.tokens else "",
            f"{row.longest:,}" if row.longest else "",
            "reused" if row.reused else "unknown" if row.seconds is None else duration(row.seconds),
        )
    console.print(table)
    console.print()
    if plan.train_rate is None or plan.score_rate is None:
        cost = "time    unknown"
    else:
        cost = (
            f"time    about {duration(plan.seconds)}, at {plan.train_rate:,.0f} tokens/s in training and "
            f"{plan.score_rate:,.0f} in scoring, measured here and now{' in one process' * (plan.processes > 1)}"
        )
    memory = [f"memory  about {_by_purpose(plan.memory)}"]
    if plan.processes > 1:
        each = f"in each of {plan.processes} processes"
        memory = [f"{memory[0]}, {each} under DDP"]
        memory += [f"memory  about {_by_purpose(plan.shared_memory)}, {each} under FSDP or ZeRO-3"]
    for line in (
        cost,
        *memory,
        *(f"note: {note}" for note in plan.notes),
    ):
        console.print(line)
    for row in plan.stages:
        if row.reused:
            console.print(f"reused  {row.stage} from {row.reused}", soft_wrap=True)
    console.print(f"run     {folder}", soft_wrap=True)


def in_a_line(plan: Plan, until: str | None, runs: int = 1) -> str | None:
    """How long a run will take, with the stages that take most of the time; `None` if no stage takes any.

    Args:
        plan: the plan of the run.
        until: the last stage of the run, if it does not go on to the end.
        runs: number of runs of this kind, one after the other.
    """
    rows = [row for row in plan.up_to(until).stages if row.reused is None]
    total = sum(row.seconds or 0.0 for row in rows)
    if plan.train_rate is None:
        return "how long this takes is unknown: the model does not fit into this machine"
    longest = sorted(rows, key=lambda row: row.seconds or 0.0, reverse=True)[:3]
    parts = [f"{row.stage} {duration(row.seconds)}" for row in longest if row.seconds and row.seconds > total / 20]
    parts += [f"{row.stage} unknown and not counted" for row in rows if row.seconds is None]
    if not parts:
        return None
    several = f"{runs} runs, each " if runs > 1 else ""
    return f"{several}about {duration(total)} on this machine: {', '.join(parts)} (--dry-run shows the plan)"


def show_plan_of_seeds(seeds: Sequence[int], plan: Plan) -> None:
    """What the plan of the first seed means for all seeds."""
    console = open_console()
    console.print(
        f"seeds   {', '.join(map(str, seeds))}: this plan is seed {seeds[0]}'s; all of it times {len(seeds)} takes "
        f"about {duration(plan.seconds * len(seeds))}",
        markup=False,
    )
    if any(stage.reused for stage in plan.stages):
        console.print(f"note: what seed {seeds[0]} reuses is not counted, and other seeds may have to make it")


def _by_purpose(memory: Mapping[str, int]) -> str:
    parts = ", ".join(f"{what} {_gibibytes(size)}" for what, size in memory.items())
    return f"{_gibibytes(sum(memory.values()))} GiB: {parts}"


def _gibibytes(size: float) -> str:
    return f"{size / 2**30:.2f}"


def duration(seconds: float) -> str:
    """Such as ``45 s``, ``12 min``, ``3.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def show_calibration(done: DoneCalibration) -> None:
    """How good the confidence of lists is for users that the calibration has not seen."""
    console, calibration = open_console(), done.calibration
    users = f"{calibration.users:,} of {done.available:,} validation users"
    console.print(
        f"The confidence of lists of 1 to {calibration.longest} titles of '{done.model}' by {done.score},\n"
        f"calibrated on {users}. Each fifth of these users is measured with a calibration on the others.\n",
        markup=False,
    )
    table = _table("titles", "hit rate", "Brier", "Brier of the rate", "ECE")
    for each in done.reliability:
        numbers = (each.rate, each.brier, each.constant_brier, each.ece)
        table.add_row(f"{each.k}", *(f"{value:.4f}" for value in numbers))
    console.print(table)
    for each in done.reliability:
        if each.k != _main_length(done):
            continue
        console.print(f"\nLists of {each.k}, the least confident users first")
        table = _table("confidence", "mean", "hit rate", "users")
        for group in each.groups:
            table.add_row(
                f"{group.low:.3f} to {group.high:.3f}",
                f"{group.predicted:.3f}",
                f"{group.observed:.3f}",
                f"{group.count:,}",
            )
        console.print(table)
        if each.brier >= each.constant_brier:
            console.print(
                "\nThe confidence tells users no better apart than one rate for all: a threshold would help nobody",
                markup=False,
            )
    console.print(f"\nkept in {done.folder}", soft_wrap=True)


def _main_length(done: DoneCalibration) -> int:
    """The length of the lists whose groups are shown: 10, or the longest."""
    lengths = [each.k for each in done.reliability]
    return 10 if 10 in lengths else lengths[-1]
