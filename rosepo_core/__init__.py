"""rosepo, the alignment toolkit for LLM recommenders.

For other projects: `align` does what `rosepo train` does, and `Recommender` what `rosepo recommend` does. Neither
torch nor any plugin is imported before one of them is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rosepo_core import launch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from rosepo_core.config import RunConfig
    from rosepo_core.pipeline import Run
    from rosepo_core.serving.recommender import Recommender
    from rosepo_core.stages.session import RunReporter

launch.prepare()

__version__ = "0.1.0"
__all__ = ["Recommender", "__version__", "align"]


def align(
    config: RunConfig | Mapping[str, Any],
    run: str | Path,
    *,
    reporter: RunReporter | None = None,
    until: str | None = None,
    force: Sequence[str] = (),
    overwrite: bool = False,
) -> Run:
    """Turn a log of interactions and a language model into an aligned recommender.

    Args:
        config: a configuration, or its tables as they are in a file:
            ``{"dataset": {"name": "table", "path": "log.csv"}, "loss": "dpo"}``. Missing keys get their defaults.
        run: the run folder; finished stages in it, or in runs beside it, are reused.
        reporter: receives the progress; nothing is shown by default.
        until: the last stage to do, one of `rosepo_core.pipeline.STAGES`; by default all stages are done.
        force: stages to make again although nothing has changed, with all stages that depend on them.
        overwrite: whether a finished run of another configuration may be replaced.

    Returns:
        The run: its folder, and its evaluations if it has got that far.

    Raises:
        RequestError: something in the request or the data is wrong; the message names it and the fix.
    """
    from pathlib import Path

    from rosepo_core import pipeline
    from rosepo_core.config import RunConfig, read_config
    from rosepo_core.stages.session import QuietReporter

    settings = config if isinstance(config, RunConfig) else read_config(config)
    listener = reporter or QuietReporter()
    return pipeline.run(settings, Path(run), listener, until=until, force=force, overwrite=overwrite)


def __getattr__(name: str) -> Any:
    if name == "Recommender":
        from rosepo_core.serving.recommender import Recommender

        return Recommender
    raise AttributeError(f"module 'rosepo_core' has no attribute '{name}'")
