"""`rosepo recommend`."""

from __future__ import annotations

from typing import Annotated

import typer

from rosepo_cli.arguments import Json, RunFolder
from rosepo_core.contracts.sections import Score
from rosepo_core.evaluation.run_models import LANGUAGE_MODELS


def add(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(recommend)


def recommend(
    run: RunFolder,
    history: Annotated[
        list[str], typer.Option("--history", metavar="TITLE", help="A title. Repeat this for each, oldest first.")
    ],
    k: Annotated[int, typer.Option("--k", min=1, help="How many titles.")] = 10,
    stage: Annotated[str, typer.Option(help=f"Which model: {', '.join(LANGUAGE_MODELS)}.")] = LANGUAGE_MODELS[0],
    score: Annotated[
        Score | None, typer.Option(help="How titles are ranked; by default the run's ranking.score.")
    ] = None,
    json_: Json = False,
) -> None:
    """Recommend titles to choose next. Only titles of the run's catalogue are possible."""
    import json

    from rosepo_cli.progress import ConsoleReporter
    from rosepo_cli.tables import show_recommendations
    from rosepo_core.serving.recommender import Recommender

    recommender = Recommender.from_run(run, stage, ConsoleReporter(), score=score)
    found = recommender.recommend(history, k)
    if json_:
        listed = [{"title": title, "score": value} for title, value in found]
        print(json.dumps({"ranked_by": recommender.score, "recommendations": listed}, ensure_ascii=False))
    else:
        show_recommendations(found, recommender.score)
