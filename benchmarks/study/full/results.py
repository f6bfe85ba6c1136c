"""Tables and picture of what is finished."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl

from benchmarks.study.answers import Finding, findings
from benchmarks.study.arms import Cell
from benchmarks.study.full import picture
from benchmarks.study.full.cells import ARMS, REFERENCE
from benchmarks.study.full.kept import COLUMNS, LENGTHS, Kept
from benchmarks.study.full.questions import BEST, MAIN, QUESTIONS, means, rows_of
from rosepo_core.evaluation.buckets import BUCKETS

SHOWN = ("popularity", "sasrec", "base", "sft", REFERENCE)
"""The models that stand side by side in each group of users, beside the best on validation."""


def write(wanted: Sequence[Cell], kept: Kept, results: Path) -> None:
    """Write study-SIZE.md, study-SIZE.json and study-SIZE.svg.

    Args:
        wanted: the cells that are asked for.
        kept: the folder of the study.
        results: where to write.

    Raises:
        SystemExit: nothing is finished yet.
    """
    done = [cell for cell in wanted if kept.is_finished(cell)]
    if not done:
        raise SystemExit(f"no cell of the study is finished in {kept.folder}")
    size = kept.asked["size"]
    users, best = rows_of(kept.users(done))
    shown = users.filter(pl.col("of").is_in(SHOWN) | (pl.col("score") == BEST))
    overall = means(users)
    groups = {name: means(shown, name) for name in ("bucket", "length")}
    found = findings(users, questions=QUESTIONS)
    about = [kept.about(cell) for cell in done]
    facts = {
        "size": size,
        "settings": kept.asked["settings"],
        "model": kept.asked["model"],
        "cards": sorted({each["card"] for each in about}),
        "rosepo": sorted({each["rosepo"] for each in about}),
        "seconds": round(sum(each["own"] + (each["shared"] or 0.0) for each in about)),
        "best on validation": best,
        "missing": [cell.name for cell in wanted if cell not in done],
    }
    results.mkdir(parents=True, exist_ok=True)
    text = _markdown(facts, overall, groups, found)
    document = facts | {
        "models": [_plain(each) for each in overall.to_dicts()],
        "groups": {name: [_plain(each) for each in table.to_dicts()] for name, table in groups.items()},
        "findings": [_plain(asdict(each)) | {"answer": each.answer} for each in found],
    }
    (results / f"study-{size}.json").write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", "utf-8")
    (results / f"study-{size}.md").write_text(text, "utf-8")
    whole = overall.filter(pl.col("of").is_in(SHOWN), pl.col("score") != BEST)
    by_bucket = groups["bucket"].filter(pl.col("score") != BEST)
    picture.draw(pl.concat([whole, by_bucket]), results / f"study-{size}.svg")
    print(text)


def _markdown(
    facts: Mapping[str, Any], overall: pl.DataFrame, groups: Mapping[str, pl.DataFrame], found: Sequence[Finding]
) -> str:
    lines = [f"# The study at the size `{facts['size']}`", ""]
    if facts["size"] == "tiny":
        lines += ["A random model: this shows that everything runs, and its numbers mean nothing.", ""]
    lines += [
        f"On {', '.join(facts['cards'])}, {facts['seconds']:,} seconds in all, rosepo {', '.join(facts['rosepo'])}. "
        "Means over test users, of each user's mean over seeds, with 95 % intervals over users.",
        "",
        "Best on validation users: "
        + "; ".join(f"{model} ({dataset})" for dataset, model in facts["best on validation"].items())
        + ".",
        "",
        "| arm | what it changes |",
        "| --- | --- |",
        *(f"| {arm} | {words} |" for arm, (words, _) in ARMS.items()),
        "",
        "| data | model | seeds | users | " + " | ".join(COLUMNS) + " |",
        "| --- | --- | --- | --- |" + " --- |" * len(COLUMNS),
        *(
            f"| {each['dataset']} | {each['model']} | {each['seeds']} | {each['users']} | "
            + " | ".join(_interval(*(each[f"{column}{end}"] for end in ("", " low", " high"))) for column in COLUMNS)
            + " |"
            for each in overall.iter_rows(named=True)
        ),
    ]
    for name, title, order in (
        ("bucket", "NDCG@10 by training interactions of the target", BUCKETS),
        ("length", "NDCG@10 by interactions before the target", LENGTHS),
    ):
        lines += ["", f"{title}:", "", *_group(groups[name], [each for _, each in order])]
    lines += [
        "",
        f"{len(found)} differences in NDCG@10, corrected together (Holm):",
        "",
        "| question | data | difference of | users | seeds | mean (95 %) | between seeds | p, Holm | answer |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for each in found:
        question = each.question
        group = f", {question.grouped} {question.bucket}" if question.bucket else ""
        lines.append(
            f"| {question.text} | {each.dataset} | {question.model} less {question.baseline}{group} | {each.users} "
            f"| {each.seeds} | {_interval(each.difference, each.low, each.high, '+')} | {_number(each.deviation)} "
            f"| {_number(each.p_holm)} | {each.answer} |"
        )
    if facts["missing"]:
        lines += ["", f"Not run, {len(facts['missing'])} cells: {', '.join(facts['missing'])}."]
    return "\n".join(lines) + "\n"


def _group(table: pl.DataFrame, order: Sequence[str]) -> list[str]:
    if table.is_empty():
        return ["No group has enough users."]
    lines = ["| data | model | " + " | ".join(order) + " |", "| --- | --- |" + " --- |" * len(order)]
    for (dataset, model), of in table.group_by("dataset", "model", maintain_order=True):
        by_name = {each["group"]: each for each in of.iter_rows(named=True)}
        cells = [
            _interval(*(by_name[name][f"{MAIN}{end}"] for end in ("", " low", " high"))) if name in by_name else ""
            for name in order
        ]
        lines.append(f"| {dataset} | {model} | " + " | ".join(cells) + " |")
    return lines


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in row.items()}


def _number(value: float, sign: str = "") -> str:
    return "" if math.isnan(value) else f"{value:{sign}.3f}"


def _interval(value: float, low: float, high: float, sign: str = "") -> str:
    return f"{_number(value, sign)} ({_number(low, sign)} to {_number(high, sign)})"
