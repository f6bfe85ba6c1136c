"""`rosepo export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from rosepo_cli.arguments import Json
from rosepo_core.contracts.sections import Score
from rosepo_core.evaluation.run_models import LANGUAGE_MODELS


def add(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(export)


def export(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="A finished run; for --check and --push an export, too.")
    ],
    to: Annotated[
        Path | None, typer.Option("--to", metavar="DIR", help="A new folder for the model and all that it needs.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=f"Which model: {', '.join(LANGUAGE_MODELS)}; by default {LANGUAGE_MODELS[0]}.",
            show_default=False,
        ),
    ] = None,
    score: Annotated[
        Score | None, typer.Option(help="How titles are ranked; by default the run's ranking.score.")
    ] = None,
    adapter: Annotated[
        bool, typer.Option("--adapter", help="Keep the adapter apart from its base model, instead of merging it.")
    ] = False,
    dtype: Annotated[
        Literal["float32", "bfloat16"],
        typer.Option(help="Type of the merged weights. bfloat16 takes half the room and rounds scores."),
    ] = "float32",
    check: Annotated[
        bool, typer.Option("--check", help="RUN is an export: compare it with its sums and golden prompts.")
    ] = False,
    push: Annotated[
        str | None, typer.Option("--push", metavar="ORG/NAME", help="Bring the export to the hub, private.")
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="With --push: everyone may see it.")] = False,
    json_: Json = False,
) -> None:
    """Write a model of a finished run as a folder that needs nothing else: merged weights, tokenizer, prompts,
    titles, model card. The folder appears after the model in it has given the same answers as the run's.
    """
    import json

    from rosepo_cli.progress import ConsoleReporter
    from rosepo_core.contracts.errors import RequestError
    from rosepo_core.serving.export import golden, hub
    from rosepo_core.serving.export.model_export import export_model
    from rosepo_core.serving.sources import ABOUT_FILE

    exported = (run / ABOUT_FILE).is_file()
    if to is None and not (exported and (check or push)):
        raise RequestError(f"say where to: rosepo export {run} --to DIR")
    if to is not None and (exported or check):
        raise RequestError(
            f"{run} is an export already; leave --to out" if exported else "--check takes an export alone"
        )
    if public and push is None:
        raise RequestError("--public goes with --push ORG/NAME")
    reporter = ConsoleReporter()
    document: dict[str, object] = {}
    with reporter.live():
        if to is None:
            document["difference"] = golden.check(run, reporter)
        else:
            made = export_model(run, to, reporter, model=model, score=score, adapter=adapter, dtype=dtype)
            document |= {"export": str(made.folder), "bytes": made.size, "difference": made.difference}
        if push is not None:
            reporter.note(f"uploading to {push}")
            document["pushed"] = hub.push(to or run, push, public=public)
    if json_:
        print(json.dumps(document, ensure_ascii=False))
        return
    if to is not None:
        typer.echo(f"export  {to}, {made.size / 2**20:,.0f} MiB")
    typer.echo(f"golden prompts agree: no score differs by more than {document['difference']:.2g}")
    if push is not None:
        typer.echo(f"pushed  {document['pushed']}")
