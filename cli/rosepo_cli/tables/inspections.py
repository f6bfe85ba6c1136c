"""What a log holds, and the state of this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rosepo_cli.tables.cells import plain_table
from rosepo_core.console import Text, open_console
from rosepo_core.contracts.untrusted_text import message, visible_line

if TYPE_CHECKING:
    from rosepo_core.data.corpus_summary import CorpusSummary
    from rosepo_core.diagnostics import Check

STATUS_STYLES = {"ok": "green", "warn": "yellow", "fail": "red"}


def show_corpus(summary: CorpusSummary) -> None:
    """The numbers of a log or of given examples, then warnings."""
    console = open_console()
    table = plain_table("", "")
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
    table = plain_table("", "check", "found")
    for column in table.columns:
        column.justify = "left"
    for check in checks:
        found = Text(check.detail)
        if check.fix:
            found.append(f"\n{check.fix}", style="yellow")
        table.add_row(Text(check.status, style=STATUS_STYLES[check.status]), check.name, found)
    open_console().print(table)
