"""`rosepo serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rosepo_cli.arguments import Stage
from rosepo_core.console import say
from rosepo_core.contracts.sections import Score

TOKEN = "ROSEPO_SERVE_TOKEN"


def add(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(serve)


def serve(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...",
            help="Run folders, or folders of `rosepo export`; NAME=RUN names one otherwise. Requests choose by name.",
        ),
    ],
    host: Annotated[str, typer.Option(help="The address to listen at. Others than this machine's need a token.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 for any that is free.")] = 8000,
    token_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help=f"A file with the bearer token that requests must have. Or set {TOKEN}."),
    ] = None,
    stage: Stage = None,
    score: Annotated[
        Score | None, typer.Option(help="How titles are ranked; by default the run's ranking.score.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="The most questions that are answered together.")] = 32,
    batch_wait: Annotated[
        float, typer.Option(min=0, max=10_000, metavar="MS", help="How long a question waits for others, at most.")
    ] = 10.0,
    queue: Annotated[int, typer.Option(min=1, help="The most questions that wait; more are answered 503.")] = 128,
    timeout: Annotated[
        float, typer.Option(min=0.1, metavar="S", help="A question that takes longer is answered 504.")
    ] = 30.0,
    most_history: Annotated[int, typer.Option("--max-history", min=1, help="The most items of a history.")] = 200,
    most_k: Annotated[int, typer.Option("--max-k", min=1, help="The most items that can be asked for.")] = 100,
    most_candidates: Annotated[
        int, typer.Option("--max-candidates", min=1, help="The most candidates that are ranked.")
    ] = 1000,
    most_body: Annotated[
        int, typer.Option("--max-body", min=1024, metavar="BYTES", help="The longest body of a request.")
    ] = 65_536,
    page: Annotated[
        bool, typer.Option(help="A page at / that shows the lists of all models, and histories of the log's users.")
    ] = True,
    origin: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", help="A web page's origin that may ask (CORS). Repeat this for each."),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Another name under which this server is reached; * for any. Repeat this for each."
        ),
    ] = None,
) -> None:
    """Answer requests for recommendations over HTTP.

    SIGTERM or Ctrl-C: answer what has come, then end. SIGHUP: load the runs again from their folders, without a
    dropped request.
    """
    import os
    from functools import partial

    from rosepo_core.contracts.options import parse_options
    from rosepo_core.engine.shared_bases import SharedBases
    from rosepo_core.serving.recommender import Recommender
    from rosepo_core.serving.run_lists import RunLists
    from rosepo_core.serving.web.served_runs import named_folders
    from rosepo_core.serving.web.server import LOOPBACK, serve
    from rosepo_core.serving.web.settings import ServeSettings
    from rosepo_core.stages.session import QuietReporter

    hosts = (*ServeSettings().hosts, *(() if host in LOOPBACK else (host,)), *(allow_host or ()))
    settings = parse_options(
        ServeSettings,
        {
            "batch": batch,
            "batch_wait": batch_wait / 1000,
            "queue": queue,
            "timeout": timeout,
            "most_history": most_history,
            "most_k": most_k,
            "most_candidates": most_candidates,
            "most_body": most_body,
            "token": _token(token_file) or os.environ.get(TOKEN) or None,
            "page": page,
            "origins": tuple(origin or ()),
            "hosts": hosts,
        },
        "serve",
    )

    class Loading(QuietReporter):
        """Shows the notes of loading. Those about requests are for nobody."""

        def __init__(self) -> None:
            self.done = False

        def note(self, message: str) -> None:
            """Print the note."""
            if not self.done:
                say(f"  {message}", stderr=True)

    bases = SharedBases()

    def load(folder: Path) -> Recommender:
        reporter = Loading()
        recommender = Recommender.load(folder, stage, reporter, score=score, bases=bases)
        reporter.done = True
        return recommender

    serve(
        named_folders(runs),
        load,
        partial(RunLists, bases=bases),
        settings,
        host=host,
        port=port,
        started=lambda url: say(f"serving  {url}", stderr=True),
    )


def _token(file: Path | None) -> str | None:
    """The token in a file.

    Raises:
        RequestError: it cannot be read, or is empty.
    """
    from rosepo_core.contracts.errors import RequestError

    if file is None:
        return None
    try:
        token = file.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise RequestError(f"--token-file {file} cannot be read: {error}") from None
    if not token:
        raise RequestError(f"--token-file {file} is empty; write a long random text into it")
    return token
