"""`rosepo export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from rosepo_cli.arguments import MODELS_OF_RUNS, Json
from rosepo_core.console import print_json, say
from rosepo_core.contracts.sections import Score


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
    pairs: Annotated[
        Path | None,
        typer.Option(
            "--pairs", metavar="FILE", help="Instead of a model: the preference pairs, for TRL (.jsonl, .parquet)."
        ),
    ] = None,
    scores: Annotated[
        Path | None,
        typer.Option(
            "--scores",
            metavar="FILE",
            help="Instead of a model: its scores for the run's candidates (.parquet, .csv), as `evaluate --scores` "
            "reads them.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=f"Which model: {MODELS_OF_RUNS} For --scores any row of the table.",
            show_default=False,
        ),
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="With --scores: the table, by default the first.", show_default=False),
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
    as_gguf: Annotated[
        bool, typer.Option("--gguf", help="Write model.gguf, too, for llama.cpp (Llama models such as SmolLM2).")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="RUN is an export: compare it with its sums and golden prompts.")
    ] = False,
    push: Annotated[
        str | None, typer.Option("--push", metavar="ORG/NAME", help="Bring the export to the hub, private.")
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="With --push: everyone may see it.")] = False,
    json_: Json = False,
) -> None:
    """Write a model as a folder that needs nothing else.

    It holds merged weights, tokenizer, prompts, titles and a model card. The folder appears after the model in it has
    given the same answers as the run's.
    """

    from rosepo_cli.progress import ConsoleReporter
    from rosepo_core.contracts.errors import RequestError
    from rosepo_core.serving.export import golden, hub, tables
    from rosepo_core.serving.export.model_export import export_model
    from rosepo_core.store.artifacts import ABOUT_FILE

    exported = (run / ABOUT_FILE).is_file()
    wanted = {"--to": to, "--pairs": pairs, "--scores": scores, "--check": check or None}
    asked = [flag for flag, value in wanted.items() if value is not None]
    if len(asked) > 1:
        raise RequestError(f"{' and '.join(asked)} are commands of their own: give one")
    if not asked and not (push and exported):
        raise RequestError(
            f"say what to export, and where to: rosepo export {run} --to DIR, --pairs FILE or --scores FILE"
        )
    if exported and asked not in ([], ["--check"]):
        raise RequestError(f"{run} is an export already, for --check and --push: name the run")
    if push is not None and asked not in ([], ["--to"], ["--check"]):
        raise RequestError(f"--push goes with --to DIR, and not with {asked[0]}")
    if public and push is None:
        raise RequestError("--public goes with --push ORG/NAME")
    if protocol is not None and scores is None:
        raise RequestError("--protocol goes with --scores FILE")
    reporter = ConsoleReporter()
    document: dict[str, object] = {}
    lines: list[str] = []
    with reporter.live():
        if pairs is not None:
            document = {"pairs": tables.export_pairs(run, pairs)}
            lines.append(f"pairs  {pairs}, {document['pairs']:,}")
        elif scores is not None:
            document = {"scores": tables.export_scores(run, scores, reporter, model=model, protocol=protocol)}
            lines.append(f"scores  {scores}, {document['scores']:,}")
        elif to is not None:
            made = export_model(
                run, to, reporter, model=model, score=score, adapter=adapter, dtype=dtype, as_gguf=as_gguf
            )
            document = {"export": str(made.folder), "bytes": made.size, "difference": made.difference}
            lines.append(f"export  {to}, {made.size / 2**20:,.0f} MiB")
        else:
            document = {"difference": golden.check(run, reporter)}
        if "difference" in document:
            lines.append(f"golden prompts agree: no score differs by more than {document['difference']:.2g}")
        if push is not None:
            reporter.note(f"uploading to {push}")
            document["pushed"] = hub.push(to or run, push, public=public)
            lines.append(f"pushed  {document['pushed']}")
    if json_:
        print_json(document)
    else:
        say("\n".join(lines))
