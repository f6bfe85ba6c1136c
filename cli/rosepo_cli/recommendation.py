"""`rosepo recommend`."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from rosepo_cli.arguments import Json, Stage
from rosepo_core.console import print_json, say
from rosepo_core.contracts.sections import Score

if TYPE_CHECKING:
    from rosepo_core.serving.batch import Job


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
    stage: Stage = None,
    score: Annotated[
        Score | None, typer.Option(help="How titles are ranked; by default the run's ranking.score.")
    ] = None,
    explain: Annotated[
        bool,
        typer.Option("--explain", help="Show the popularity of each title, and what of the history speaks for it."),
    ] = False,
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="FILE",
            help="Instead of one history: a CSV, JSON, Parquet or Arrow file with the columns user and item (an id) "
            "or title, oldest first; or user and history (lists); or user alone, for users of the log.",
        ),
    ] = None,
    target: Annotated[
        Path | None, typer.Option("--to", metavar="FILE.parquet", help="Where the recommendations for --from go.")
    ] = None,
    unknown: Annotated[
        Literal["error", "skip"], typer.Option(help="What to do with items of --from that are not in the catalogue.")
    ] = "error",
    processes: Annotated[int, typer.Option(min=1, help="How many processes work on --from.")] = 1,
    threshold: Annotated[
        float | None,
        typer.Option(
            metavar="PROBABILITY",
            help="If the confidence of a list is below this, --fallback answers. `rosepo calibrate` comes first.",
            show_default=False,
        ),
    ] = None,
    fallback: Annotated[
        Literal["popularity", "oracle"],
        typer.Option(help="Who answers below --threshold: the most popular titles, or the run's oracle."),
    ] = "popularity",
    json_: Json = False,
) -> None:
    """Recommend titles to choose next. Only titles of its catalogue are possible."""

    from rosepo_cli.meant_titles import meant_titles
    from rosepo_cli.progress import ConsoleReporter
    from rosepo_cli.tables.recommendations import show_confidence, show_explanations, show_recommendations
    from rosepo_core.contracts.errors import RequestError
    from rosepo_core.serving.batch import Job
    from rosepo_core.serving.explanations import explain as explanations_of
    from rosepo_core.serving.filters import Filter
    from rosepo_core.serving.recommender import Recommended, Recommender

    conditions = Filter(deny=exclude or (), having=_values(having or []), lacking=_values(lacking or []))
    if source is not None or target is not None:
        if history or user or candidate or explain:
            raise RequestError("--history, --user, --candidate and --explain are for one history, not for --from")
        job = Job(k, conditions, by, unknown, threshold, fallback)
        _for_file(run, stage, score, source, target, job, processes, json_)
        return
    if bool(history) == bool(user):
        raise RequestError("give a history (--history TITLE, once for each title) or a user of the log (--user ID)")
    if candidate and (exclude or having or lacking):
        raise RequestError("--candidate ranks all that it names; leave --exclude, --having and --lacking out")
    if candidate and threshold is not None:
        raise RequestError("the confidence is that of a list out of the whole catalogue: leave --candidate out")
    if explain and threshold is not None:
        raise RequestError(
            "--explain asks the language model, and below a threshold another one answers: leave one out"
        )
    recommender = Recommender.load(run, stage, ConsoleReporter(), score=score)
    if by == "title":
        index = recommender.title_index
        history, candidate, exclude = (
            meant_titles(index, each or [], asks=not json_) for each in (history, candidate, exclude)
        )
        conditions = replace(conditions, deny=exclude)
    known = history or recommender.history(user or "", by)
    if candidate:
        found = Recommended(recommender.rank(known, candidate, by=by)[:k])
        why: str | None = "the confidence is that of a list out of the whole catalogue, and these are candidates"
    else:
        found = recommender.recommend(known, k, filter=conditions, by=by, threshold=threshold, fallback=fallback)
        why = recommender.why_no_confidence(k, filter=conditions)
    explanations = explanations_of(recommender, known, found, by=by) if explain else None
    if json_:
        listed = [each._asdict() for each in found]
        for row, explanation in zip(listed, explanations or [], strict=False):
            row["popularity_rank"] = explanation.popularity_rank
            row["influences"] = [asdict(each) for each in explanation.influences]
        about = {
            "ranked_by": recommender.score,
            "answered_by": found.answered_by,
            "confidence": found.confidence,
            "confidence_interval": found.interval,
            **({} if found.confidence is not None else {"why_no_confidence": why}),
        }
        print_json({**about, "recommendations": listed})
    elif explanations is not None:
        show_explanations(explanations, recommender.score, len(recommender.titles))
        show_confidence(found, threshold, why)
    else:
        show_recommendations(found, recommender.score)
        show_confidence(found, threshold, why)


def _for_file(
    run: Path,
    stage: str | None,
    score: Score | None,
    source: Path | None,
    target: Path | None,
    job: Job,
    processes: int,
    json_: bool,
) -> None:
    """Recommend for a file of histories."""
    import json

    from rosepo_cli.progress import ConsoleReporter
    from rosepo_core.contracts.errors import RequestError
    from rosepo_core.serving.batch import recommend_to_file
    from rosepo_core.serving.changed_catalogue import CHANGES_FILE
    from rosepo_core.serving.recommender import Recommender
    from rosepo_core.store.artifacts import MANIFEST, content_sums

    if source is None or target is None:
        raise RequestError("--from FILE and --to FILE.parquet belong together; give both")
    load = partial(Recommender.load, run, stage, score=score)
    decides = [path for name in (MANIFEST, CHANGES_FILE) for path in sorted(run.resolve().glob(f"**/{name}"))]
    manifests = {str(path): content_sums(path) for path in decides}
    about = json.dumps([stage, score, manifests])
    reporter = ConsoleReporter()
    with reporter.live():
        reporter.stage_started("recommend")
        users = recommend_to_file(load, about, source, target, job, processes=processes, reporter=reporter)
    if json_:
        print_json({"users": users, "file": str(target)})
    else:
        say(f"recommendations for {users:,} users are in {target}", stderr=True)


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
