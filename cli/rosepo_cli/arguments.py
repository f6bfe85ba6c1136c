"""Options that several commands share, and the options ``--SECTION.KEY`` of the configuration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import typer

from rosepo_cli.keys import names_of
from rosepo_core.contracts.errors import RequestError

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, and nothing else.")]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", metavar="FILE.toml", help="Read the configuration from this file.")
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set any key, e.g. loss.beta=0.2. You can repeat this."),
]
Metric = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="A metric, instead of the default ones; with a finished RUN, added to its own. You can repeat this.",
        show_default=False,
        autocompletion=names_of("metric"),
    ),
]
Protocol = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="How models are evaluated: candidates, catalogue or free. You can repeat this.",
        show_default=False,
    ),
]
Dataset = Annotated[
    str | None,
    typer.Option(
        help="The source of interactions and titles.", show_default=False, autocompletion=names_of("dataset")
    ),
]
Prompt = Annotated[
    str | None,
    typer.Option(help="How a history is written as text.", show_default=False, autocompletion=names_of("prompt")),
]
Model = Annotated[
    str | None, typer.Option(help="The language model: alias, hub id, folder or GGUF file.", show_default=False)
]
Sampler = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME[=WEIGHT]",
        help="Picks the rejected items. You can repeat this.",
        show_default=False,
        autocompletion=names_of("sampler"),
    ),
]
Oracle = Annotated[
    str | None,
    typer.Option(help="Gives the smoothing factors.", show_default=False, autocompletion=names_of("oracle")),
]
Loss = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME[=WEIGHT]",
        help="The preference objective; repeat this for a weighted sum, such as --loss rosepo --loss sft=0.1.",
        show_default=False,
        autocompletion=names_of("loss"),
    ),
]
Rounds = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Rounds of self-play: SFT and alignment in turn, each with rejected items drawn anew.",
        show_default=False,
    ),
]
Preset = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Start from the settings of a published method; `rosepo presets list` shows all.",
        show_default=False,
    ),
]
Seed = Annotated[int | None, typer.Option(help="Seed of everything that is random.", show_default=False)]
NewRun = Annotated[
    Path | None, typer.Option("--run", metavar="DIR", help="The run folder; by default a new one under runs/.")
]
Processes = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Share the work among N processes of this machine, one for each GPU. It changes no result.",
        show_default=False,
    ),
]
MODELS_OF_RUNS = (
    "aligned, sft or base; in a run of several rounds also round-1-aligned and so on. By default aligned."
)
Stage = Annotated[str | None, typer.Option(help=f"Which model of a run: {MODELS_OF_RUNS}", show_default=False)]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, as printed by `rosepo train`.")]

# Keys with a dot (--sampler.temperature 0.7) are not declared one by one: there are many, and plugins add more.
DOTTED = {"allow_extra_args": True, "ignore_unknown_options": True}


def in_processes(count: int | None, context: typer.Context) -> None:
    """If `count` processes should do the command together, and this is none of them: start them, and end this process
    with their exit code."""
    from rosepo_core import processes

    if processes.are_wanted(count):
        assert count is not None
        raise typer.Exit(processes.start("rosepo_cli", context.obj, count))


def named_keys(
    single: Mapping[str, Any], repeated: Mapping[str, Sequence[str] | None], protocols: Sequence[str] | None
) -> list[tuple[str, Any]]:
    """Keys and values of the options that have names of their own, without those that are not given."""
    found: list[tuple[str, Any]] = [(key, value) for key, value in single.items() if value is not None]
    found += [(key, value) for key, values in repeated.items() for value in values or []]
    return found + ([("evaluation.protocols", protocols)] if protocols else [])


def bare_argument(first: str | None, context: typer.Context) -> str | None:
    """The one argument that is neither an option nor the value of an option. It is removed from the unknown arguments
    of the command.

    Args:
        first: the argument that the parser found, which may be a ``--SECTION.KEY``.
        context: the context of the command.

    Raises:
        RequestError: there are several such arguments.
    """
    rest = [*([] if first is None else [first]), *context.args]
    found: list[str] = []
    kept: list[str] = []
    while rest:
        argument = rest.pop(0)
        if not argument.startswith("--"):
            found.append(argument)
            continue
        kept.append(argument)
        if "=" not in argument and rest:
            kept.append(rest.pop(0))
    if len(found) > 1:
        raise RequestError(f"unexpected argument '{found[1]}'")
    context.args[:] = kept
    return found[0] if found else None


def overrides(settings: Iterable[str], context: typer.Context) -> list[tuple[str, Any]]:
    """Keys and values of every ``--set KEY=VALUE``, and of every ``--SECTION.KEY VALUE`` or ``--SECTION.KEY=VALUE``
    among the unknown arguments of the command.

    Raises:
        RequestError: an argument is none of these.
    """
    found: list[tuple[str, Any]] = []
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise RequestError(f"--set {setting}: write KEY=VALUE, e.g. --set loss.beta=0.2")
        found.append((key, value))
    rest = list(context.args)
    while rest:
        argument = rest.pop(0)
        if not argument.startswith("--"):
            raise RequestError(f"unexpected argument '{argument}'")
        key, equals, value = argument[2:].partition("=")
        if "." not in key:
            flags = [flag.lstrip("-") for parameter in context.command.params for flag in parameter.opts]
            close = get_close_matches(key, flags, n=1, cutoff=0.7)
            hint = f"did you mean '--{close[0]}'?" if close else "keys of the configuration are --SECTION.KEY VALUE"
            raise RequestError(f"unknown option '--{key}'; {hint}")
        if not equals:
            if not rest:
                raise RequestError(f"option '--{key}' needs a value")
            value = rest.pop(0)
        found.append((key, value))
    return found
