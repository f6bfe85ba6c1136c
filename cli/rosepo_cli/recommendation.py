"""`rosepo recommend`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from rosepo_cli.arguments import Json
from rosepo_core.contracts.sections import Score
from rosepo_core.evaluation.run_models import LANGUAGE_MODELS


def add(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(recommend)


def recommend(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="A run folder, RUN/aligned, or a folder of `rosepo export`.")
    ],
    history: Annotated[
        list[str] | None,
        typer.Option("--history", metavar="TITLE", help="A title. Repeat this for each, oldest first."),
    ] = None,
    user: Annotated[
        str | None, typer.Option("--user", metavar="ID", help="Instead of --history: a user of the run's log.")
    ] = None,
    k: Annotated[int, typer.Option("--k", min=1, help="How many titles.")] = 10,
    candidate: Annotated[
        list[str] | None,
        typer.Option("--candidate", metavar="TITLE", help="Rank only these. Repeat this for each."),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option("--exclude", metavar="TITLE", help="Never recommend this. Repeat this for each."),
    ] = None,
    having: Annotated[
        list[str] | None,
        typer.Option(
            "--having",
            metavar="COLUMN=VALUE",
            help="Only items with this attribute, such as genres=Comedy. Of several values of one column, one is "
            "enough.",
        ),
    ] = None,
    lacking: Annotated[
        list[str] | None,
        typer.Option("--lacking", metavar="COLUMN=VALUE", help="Only items without this attribute."),
    ] = None,
    by: Annotated[
        Literal["title", "id"],
        typer.Option(
            help="Whether --history, --candidate and --exclude are titles or the items' own ids in the log."
        ),
    ] = "title",
    stage: Annotated[
        str | None,
        typer.Option(
            help=f"Which model of a run: {', '.join(LANGUAGE_MODELS)}; by default {LANGUAGE_MODELS[0]}.",
            show_default=False,
        ),
    ] = None,
    score: Annotated[
        Score | None, typer.Option(help="How titles are ranked; by default the run's ranking.score.")
    ] = None,
    json_: Json = False,
) -> None:
    """Recommend titles to choose next. Only titles of its catalogue are possible."""
    import json

    from rosepo_cli.progress import ConsoleReporter
    from rosepo_cli.tables import show_recommendations
    from rosepo_core.contracts.errors import RequestError
    from rosepo_core.serving.filters import Filter
    from rosepo_core.serving.recommender import Recommender

    if bool(history) == bool(user):
        raise RequestError("give a history (--history TITLE, once for each title) or a user of the log (--user ID)")
    if candidate and (exclude or having or lacking):
        raise RequestError("--candidate ranks all that it names; leave --exclude, --having and --lacking out")
    conditions = Filter(deny=exclude or (), having=_values(having or []), lacking=_values(lacking or []))
    recommender = Recommender.load(run, stage, ConsoleReporter(), score=score)
    known = history or recommender.history(user or "", by)
    if candidate:
        found = recommender.rank(known, candidate, by=by)[:k]
    else:
        found = recommender.recommend(known, k, filter=conditions, by=by)
    if json_:
        listed = [each._asdict() for each in found]
        print(json.dumps({"ranked_by": recommender.score, "recommendations": listed}, ensure_ascii=False))
    else:
        show_recommendations(found, recommender.score)


def _values(written: list[str]) -> dict[str, set[str]]:
    """The values of each column.

    Raises:
        RequestError: a text is not COLUMN=VALUE.
    """
    from rosepo_core.contracts.errors import RequestError

    found: dict[str, set[str]] = {}
    for each in written:
        column, sign, value = each.partition("=")
        if not sign or not column or not value:
            raise RequestError(f"'{each}' is no attribute; write COLUMN=VALUE, such as genres=Comedy")
        found.setdefault(column, set()).add(value)
    return found
