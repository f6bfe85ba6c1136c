"""rosepo, the alignment toolkit for LLM recommenders.

For other projects: `align` turns a log in memory into a recommender. `train` does what `rosepo train` does, and
`Recommender` what `rosepo recommend` does. Neither torch nor any plugin is imported before one of them is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rosepo_core import launch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from rosepo_core.config import RunConfig
    from rosepo_core.console import ConsoleReporter
    from rosepo_core.pipeline import Run
    from rosepo_core.serving.recommender import Recommender
    from rosepo_core.stages.session import RunReporter

launch.prepare()

__version__ = "0.1.0"
__all__ = ["ConsoleReporter", "Recommender", "__version__", "align", "train"]


def align(
    log: object,
    items: object | None = None,
    *,
    model: str | Path | None = None,
    loss: str | Sequence[str] | None = None,
    sampler: str | Sequence[str] | None = None,
    oracle: str | None = None,
    prompt: str | None = None,
    options: Mapping[str, Any] | None = None,
    run: str | Path | None = None,
    reporter: RunReporter | None = None,
    overwrite: bool = False,
) -> Recommender:
    """Turn a log in memory and a language model into an aligned recommender.

    The log and the items are frames of pandas (2.2 or later, with pyarrow), Polars (also lazy) or Arrow, data sets of
    the package ``datasets``, or anything else with ``__arrow_c_stream__``. No file is written outside the run folder.
    The call again, with frames of equal content and equal settings, reuses the finished run.

    Args:
        log: one interaction in each row, with a user, an item and, if possible, a time and a rating. Columns are
            found by usual names, such as ``user_id``. ``options={"dataset.user": "who"}`` names one; so do
            ``dataset.item``, ``dataset.timestamp``, ``dataset.rating`` and ``dataset.title``. An index of pandas
            counts as columns where it has names. Ids may be numbers, text or categories. Times may be numbers,
            dates, or text; without a zone they are UTC. Without a time, the order of rows is the order of time.
        items: one item in each row, with its id (``dataset.catalogue_item``), its title and perhaps more, such as
            genres. If it is left out, titles are in `log`.
        model: the language model to start from: an alias, an id of the hub, a folder or a GGUF file.
        loss: the name of a loss, or several with weights: ``["rosepo=1.0", "sft=0.1"]``.
        sampler: the name of a sampler, or several with shares.
        oracle: the name of an oracle.
        prompt: the name of a prompt template.
        options: more keys of the configuration with their values, such as ``{"sft.steps": 300, "loss.beta": 0.2}``.
        run: the run folder; by default as for `rosepo train`, a folder in ``runs`` for each configuration and log.
        reporter: receives the progress, such as `ConsoleReporter`; nothing is shown by default.
        overwrite: whether a finished run of another configuration or log in `run` may be replaced.

    Returns:
        The recommender of the aligned model. Its tables are in the run folder: ``metrics.json``, ``report.html``.

    Raises:
        RequestError: something in the request or the data is wrong; the message names the frame, row, column or key,
            and the fix.
    """
    from rosepo_core.config import RunConfig, as_written, load_config
    from rosepo_core.contracts.errors import RequestError
    from rosepo_core.data.frames import Frame
    from rosepo_core.extras import named_extras

    with named_extras():
        from rosepo_core.pipeline import default_folder
        from rosepo_core.serving.recommender import Recommender

    if isinstance(log, RunConfig) or type(log) is dict:
        raise RequestError("align takes a log in memory; a configuration goes to rosepo_core.train(config, run)")
    if {"dataset", "dataset.name"} & {*(options or {})}:
        raise RequestError("options: the frames are the data set, so there is no 'dataset': leave it out")
    overrides: list[tuple[str, Any]] = [("dataset", "frames"), ("dataset.log", Frame.of(log, "the log"))]
    if items is not None:
        overrides.append(("dataset.items", Frame.of(items, "the items")))
    one = {"model": None if model is None else str(model), "oracle": oracle, "prompt": prompt}
    for key, named in {"sampler": sampler, "loss": loss, **one}.items():
        names = () if named is None else (named,) if isinstance(named, str) else named
        overrides += [(key, as_written(name)) for name in names]
    overrides += [(key, as_written(value)) for key, value in (options or {}).items()]
    config = load_config(None, overrides)
    done = train(config, run or default_folder(config), reporter=reporter, overwrite=overwrite)
    return Recommender.load(done.folder, reporter=reporter)


def train(
    config: RunConfig | Mapping[str, Any],
    run: str | Path,
    *,
    reporter: RunReporter | None = None,
    until: str | None = None,
    force: Sequence[str] = (),
    overwrite: bool = False,
) -> Run:
    """Do what `rosepo train` does: turn a log of interactions and a language model into an aligned recommender.

    Args:
        config: a configuration, or its tables as they are in a file:
            ``{"dataset": {"name": "table", "path": "log.csv"}, "loss": "dpo"}``. Missing keys get their defaults.
            Frames are ``{"dataset": {"name": "frames", "log": log, "items": items}}``, see `align`.
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

    from rosepo_core.config import RunConfig, read_config
    from rosepo_core.extras import named_extras

    with named_extras():
        from rosepo_core import pipeline
        from rosepo_core.stages.session import QuietReporter

    settings = config if isinstance(config, RunConfig) else read_config(config)
    listener = reporter or QuietReporter()
    return pipeline.run(settings, Path(run), listener, until=until, force=force, overwrite=overwrite)


def __getattr__(name: str) -> Any:
    if name == "Recommender":
        from rosepo_core.serving.recommender import Recommender

        return Recommender
    if name == "ConsoleReporter":
        from rosepo_core.console import ConsoleReporter

        return ConsoleReporter
    raise AttributeError(f"module 'rosepo_core' has no attribute '{name}'")
