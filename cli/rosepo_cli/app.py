"""The Typer app: its commands, and how errors become exit codes. Nothing here imports torch before it is needed."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.main import get_command

from rosepo_cli import evaluation, inspection, recommendation, training
from rosepo_core.errors import RosepoError
from rosepo_core.registry import PluginWarning, load_plugins

app = typer.Typer(
    name="rosepo",
    help="The alignment toolkit for LLM recommenders.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
training.add(app)
evaluation.add(app)
recommendation.add(app)
inspection.add(app)


@app.callback()
def _root(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """The alignment toolkit for LLM recommenders."""


def run(arguments: Sequence[str]) -> int:
    """Run one command line and give its exit code; errors are one or two lines on stderr."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    debug = "--debug" in arguments
    # --debug may stand anywhere, so that it can be added to the end of a command that failed.
    arguments = [argument for argument in arguments if argument != "--debug"]
    with warnings.catch_warnings():
        warnings.simplefilter("always", PluginWarning)
        warnings.showwarning = _show_warning
        try:
            load_plugins().register_commands(app)
            result: Any = get_command(app)(arguments, prog_name="rosepo", standalone_mode=False)
            return result if isinstance(result, int) else 0
        except (KeyboardInterrupt, typer.Abort):
            print("interrupted; finished stages are kept and will be reused", file=sys.stderr)
            return 130
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except Exception as error:
            if debug:
                traceback.print_exc()
            return _tell(error, debug)


def _tell(error: Exception, debug: bool) -> int:
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):  # a usage error of click's
        hint = getattr(error, "ctx", None)
        command = hint.command_path if hint is not None else "rosepo"
        print(f"error: {error.format_message()} (see `{command} --help`)", file=sys.stderr)
        return 2
    lines = [f"error: {error}" if isinstance(error, RosepoError) else f"error: {type(error).__name__}: {error}"]
    lines += getattr(error, "__notes__", [])
    if not isinstance(error, RosepoError) and not debug:
        lines.append("run again with --debug for the traceback")
    print("\n".join(lines), file=sys.stderr)
    return error.exit_code if isinstance(error, RosepoError) else 1


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    if issubclass(category, PluginWarning):
        print(f"warning: {message}", file=sys.stderr)
