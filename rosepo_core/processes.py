"""Starts a command in several processes on this machine, with torch's elastic launcher, which ends all of them when
one ends. This is the only module that imports the launcher."""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rosepo_core import ranks
from rosepo_core.contracts.errors import RequestError, RosepoError

_WATCHED = "ROSEPO_STARTED_BY"
"""The variable that tells a process which process started it."""


def are_wanted(count: int | None) -> bool:
    """Whether a command with `--processes` `count` must be started in several processes. It must not if it is already
    one of them.

    Args:
        count: at least 1; `None` if it is not given.

    Raises:
        RequestError: another launcher started another number of processes.
    """
    if count is None:
        return False
    if "WORLD_SIZE" in os.environ:
        if ranks.count() != count:
            raise RequestError(
                f"--processes {count}: a launcher has started {ranks.count()} processes; leave --processes out"
            )
        return False
    return count > 1


def are_watched() -> bool:
    """Whether this is one of the processes that `start` started, which tells the user how they ended."""
    return _WATCHED in os.environ


def start(module: str, arguments: Sequence[str], count: int) -> int:
    """Run ``python -m module arguments`` in `count` processes, and return their exit code. A process that fails shows
    its error itself.

    A signal that this process receives is passed on to the others, and handled here when they have ended.

    Raises:
        RosepoError: a process was killed.
        RequestError: there are fewer GPUs than processes.
    """
    import torch
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    gpus = torch.cuda.device_count()
    if 0 < gpus < count:
        raise RequestError(f"--processes {count}: this machine has {gpus} GPU(s), and each process needs one")
    if not gpus:
        # Without this, each process would use all cores.
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    os.environ[_WATCHED] = str(os.getpid())
    with _quiet(), _own_handlers() as received, tempfile.TemporaryDirectory(prefix="rosepo-processes-") as logs:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=count,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="localhost",
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=logs),
        )
        try:
            elastic_launch(config, sys.executable)("-m", module, *arguments)
        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            if failure.exitcode >= 0:
                return int(failure.exitcode)
            name = signal.Signals(-failure.exitcode).name
            raise RosepoError(
                f"rank {rank} of {count} (process {failure.pid}) was killed by {name}, so the others were ended; run "
                "the same command again to continue"
            ) from None
        except SignalException as error:
            received.append(error.sigval)
    for number in received:
        signal.raise_signal(number)
    return 128 + received[0] if received else 0


@contextmanager
def _own_handlers() -> Iterator[list[signal.Signals]]:
    """At the end, set the handlers of this process again, which the launcher replaces."""
    watched = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
    before = {number: signal.getsignal(number) for number in watched}
    try:
        yield []
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the launcher, which tells each failure again at length."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(disabled)
