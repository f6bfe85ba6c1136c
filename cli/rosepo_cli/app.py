"""The Typer app: its commands, and exit codes for errors. torch is not imported before it is needed."""

from __future__ import annotations

import errno
import os
import shlex
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from functools import partial
from typing import Annotated, Any

import typer
from typer.main import get_command

from rosepo_cli import (
    calibration,
    catalogue,
    cleaning,
    evaluation,
    exporting,
    finished,
    inspection,
    listing,
    options,
    recommendation,
    serving,
    sweeping,
    training,
    trusting,
)
from rosepo_cli.signals import SIGNALS
from rosepo_core import __version__, processes, ranks
from rosepo_core.console import complain, never_fail_to_encode, say
from rosepo_core.contracts.errors import PluginError, RequestError, RosepoError
from rosepo_core.contracts.untrusted_text import LONGEST_LINE
from rosepo_core.extras import named_extras
from rosepo_core.plugins.installed import PluginWarning
from rosepo_core.plugins.registry import load_plugins

CONTINUED = ("train", "evaluate", "sweep")
"""The commands that go on where they were interrupted."""

ECHO = 2.0
"""Seconds in which the launcher ends a process whose error is only an echo."""

COMPLETION = "_ROSEPO_COMPLETE"
"""The environment variable by which a shell asks for completions."""

app = typer.Typer(
    name="rosepo",
    help="The alignment toolkit for LLM recommenders.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
training.add(app)
sweeping.add(app)
evaluation.add(app)
finished.add(app)
recommendation.add(app)
calibration.add(app)
serving.add(app)
exporting.add(app)
catalogue.add(app)
inspection.add(app)
options.add(app)
listing.add(app)
cleaning.add(app)
trusting.add(app)


def _show_version(wanted: bool) -> None:
    if wanted:
        say(f"rosepo {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """The alignment toolkit for LLM recommenders."""


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code. Errors are one or two lines on stderr."""
    never_fail_to_encode()
    debug = "--debug" in arguments
    # --debug is allowed anywhere, so that users can add it to the end of a command that failed.
    arguments = [argument for argument in arguments if argument != "--debug"]
    with SIGNALS.watched(), warnings.catch_warnings(), _shown_by_first():
        warnings.simplefilter("always" if ranks.is_first() else "ignore", PluginWarning)
        warnings.showwarning = _show_warning
        try:
            command = get_command(app)
            load_plugins().register_commands(partial(_add_commands, command))
            if COMPLETION in os.environ:
                # A shell asks what could come next. Typer answers, and ends the process.
                command.main(list(arguments), prog_name="rosepo")
            # Typer's own runner handles interruptions and closed pipes in another way, so it is not used.
            with command.make_context("rosepo", list(arguments), obj=arguments) as context, named_extras():
                command.invoke(context)
            SIGNALS.check()
            sys.stdout.flush()
            return 0
        except typer.Exit as end:
            return end.exit_code
        except (KeyboardInterrupt, typer.Abort):
            if ranks.is_first() and not processes.are_watched():
                say(_how_to_go_on(arguments), stderr=True)
            return SIGNALS.exit_code
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except Exception as error:
            if _is_echo(error):
                return SIGNALS.exit_code
            if debug:
                say(traceback.format_exc(), stderr=True)
            return _tell(error, debug)


def _add_commands(group: Any, register: Callable[[typer.Typer], None]) -> None:
    """Add the commands of one plugin to all others. It registers them in an app of its own, so that it cannot change
    the others, and so that a command which cannot be made fails alone.

    Raises:
        PluginError: there is a command with the name of one of them.
    """
    own = typer.Typer()
    # With it, the app is a group even if it has one command.
    own.callback()(lambda: None)
    register(own)
    made: dict[str, Any] = getattr(get_command(own), "commands", {})
    for name in made.keys() & group.commands.keys():
        raise PluginError(f"there already is a command 'rosepo {name}'")
    for name, command in made.items():
        group.add_command(command, name)


@contextmanager
def _shown_by_first() -> Iterator[None]:
    """Of all processes of a run, only rank 0 writes to stdout."""
    with ExitStack() as stack:
        if not ranks.is_first():
            stack.enter_context(redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
        yield


def _is_echo(error: Exception) -> bool:
    """With several processes, whether an error only follows from the end of another process, which shows the reason.
    Then the launcher ends this process within a moment."""
    if ranks.count() == 1 or (ranks.is_first() and isinstance(error, RosepoError)):
        return False
    try:
        time.sleep(ECHO)
        SIGNALS.check()
    except KeyboardInterrupt:
        return True
    return False


def _how_to_go_on(arguments: Sequence[str]) -> str:
    """What is shown after an interruption; for a run, the command that continues it."""
    if not any(argument in CONTINUED for argument in arguments[:1]):
        return "interrupted"
    return f"interrupted; what is done is kept, and the same command goes on:\n  {shlex.join(['rosepo', *arguments])}"


def _tell(error: Exception, debug: bool) -> int:
    if type(error).__name__ == "NoArgsIsHelpError":  # a group of commands without a command
        say(str(error), stderr=True)
        return 2
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):  # a usage error of click's
        hint = getattr(error, "ctx", None)
        command = hint.command_path if hint is not None else "rosepo"
        # Typer has some values checked by pydantic, which begins its sentence with this.
        said = error.format_message().replace("Value error, ", "")
        complain("error", f"{said} (see `{command} --help`)")
        return 2
    if isinstance(error, RequestError):
        complain(_error(error), str(error))
        return error.exit_code
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        complain(_error(error), f"{str(error.filename)[:LONGEST_LINE]}: the name is too long for a file")
        return RequestError.exit_code
    meant_for_users = isinstance(error, RosepoError)
    complain(_error(error), str(error) if meant_for_users else f"{type(error).__name__}: {error}")
    lines = list(getattr(error, "__notes__", []))
    if not meant_for_users and not debug:
        lines.append("run again with --debug for the traceback")
    for line in lines:
        say(line, stderr=True)
    return 1


def _error(error: Exception) -> str:
    """The beginning of a message. It names the process, unless rank 0 speaks for all."""
    speaks_for_all = ranks.is_first() and isinstance(error, RosepoError)
    return "error" if ranks.count() == 1 or speaks_for_all else f"error (rank {ranks.rank()} of {ranks.count()})"


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    if issubclass(category, PluginWarning):
        complain("warning", str(message))
