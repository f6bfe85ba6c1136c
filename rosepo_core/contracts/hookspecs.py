"""The hooks that a plugin module may implement. All are optional.

A distribution names its module in the entry-point group ``rosepo``. The module marks its hooks with
`rosepo_core.api.hookimpl`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pluggy

if TYPE_CHECKING:
    from typer import Typer

ENTRY_POINT_GROUP = "rosepo"
hookspec = pluggy.HookspecMarker("rosepo")
hookimpl = pluggy.HookimplMarker("rosepo")


class Register(Protocol):
    """Registers one implementation, which is imported only when it is used."""

    def __call__(self, name: str, target: str, *, summary: str, aliases: Sequence[str] = ()) -> None:
        """
        Args:
            name: the name that users write, in kebab-case.
            target: ``"package.module:Class"``.
            summary: one line for `rosepo plugins list`.
            aliases: other names that users may write, such as those of another library, with ``-`` or ``_``. A run
                is the same under all of them.
        """


@hookspec
def rosepo_register_datasets(register: Register) -> None:
    """Register implementations of `Dataset`."""


@hookspec
def rosepo_register_prompts(register: Register) -> None:
    """Register implementations of `PromptTemplate`."""


@hookspec
def rosepo_register_samplers(register: Register) -> None:
    """Register implementations of `RejectedSampler`."""


@hookspec
def rosepo_register_oracles(register: Register) -> None:
    """Register implementations of `SmoothingOracle`."""


@hookspec
def rosepo_register_losses(register: Register) -> None:
    """Register implementations of `PreferenceLoss`."""


@hookspec
def rosepo_register_metrics(register: Register) -> None:
    """Register implementations of `Metric`."""


@hookspec
def rosepo_register_commands(app: Typer) -> None:
    """Add commands to the command line."""


@hookspec
def rosepo_stage_finished(run: Path, stage: str, artifact: Path, reused: bool) -> Any:
    """Called after each stage of a run with the run's folder, the stage's name and its artifact's folder."""
