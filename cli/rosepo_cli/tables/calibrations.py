"""How good the confidence of lists is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rosepo_cli.tables.cells import plain_table
from rosepo_core.console import open_console

if TYPE_CHECKING:
    from rosepo_core.serving.calibrating import DoneCalibration


def show_calibration(done: DoneCalibration) -> None:
    """How good the confidence of lists is for users that the calibration has not seen."""
    console, calibration = open_console(), done.calibration
    users = f"{calibration.users:,} of {done.available:,} validation users"
    console.print(
        f"The confidence of lists of 1 to {calibration.longest} titles of '{done.model}' by {done.score},\n"
        f"calibrated on {users}. Each fifth of these users is measured with a calibration on the others.\n",
        markup=False,
    )
    table = plain_table("titles", "hit rate", "Brier", "Brier of the rate", "ECE")
    for each in done.reliability:
        numbers = (each.rate, each.brier, each.constant_brier, each.ece)
        table.add_row(f"{each.k}", *(f"{value:.4f}" for value in numbers))
    console.print(table)
    for each in done.reliability:
        if each.k != _main_length(done):
            continue
        console.print(f"\nLists of {each.k}, the least confident users first")
        table = plain_table("confidence", "mean", "hit rate", "users")
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
