"""The processes that do one run together, each with a rank from 0. A launcher starts them: `rosepo_core.processes`,
torchrun or accelerate launch.

All ranks go through the stages of the run in the same order. Rank 0 owns the run folder, writes and shows. Work that
is shared by users is gathered, so that every rank has the whole result. What ranks send each other is JSON and plain
arrays, never pickle. With one process, every function here only does the work that it gets.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from rosepo_core.contracts.errors import RequestError, RosepoError

if TYPE_CHECKING:
    from rosepo_core.contracts.records import Longs

T = TypeVar("T")
Arrays = Mapping[str, NDArray[Any]]

PATIENCE = timedelta(days=30)
"""How long a rank waits for the others. Rank 0 may train an oracle for hours while the others wait. If a rank dies,
the launcher ends the others at once."""

_HEADER = 256


def count() -> int:
    """How many processes do the run."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """The rank of this process."""
    return int(os.environ.get("RANK", "0")) if count() > 1 else 0


def is_first() -> bool:
    """Whether this process is rank 0, which writes and shows."""
    return rank() == 0


def join() -> None:
    """Meet the other ranks, and take this rank's GPU. Nothing happens if they have met before."""
    if count() > 1:
        _group()


def leave() -> None:
    """Take leave of the other ranks, when all work is done."""
    if count() > 1 and _group.cache_info().currsize:
        import torch.distributed

        torch.distributed.destroy_process_group()
        _group.cache_clear()


def told_by_first(place: str, work: Callable[[], T]) -> T:
    """What `work` returns on rank 0, on every rank; only rank 0 does it.

    Args:
        place: what is done, the same on every rank.
        work: returns something that JSON can express.

    Raises:
        RosepoError: rank 0 raised it.
    """
    if count() == 1:
        return work()
    if not is_first():
        answer = json.loads(_exchange(place, b"")[0])
        if "error" in answer:
            raise (RequestError if answer["request"] else RosepoError)(answer["error"])
        found: T = answer["found"]
        return found
    try:
        found = work()
    except RosepoError as error:
        _exchange(place, json.dumps({"error": str(error), "request": isinstance(error, RequestError)}).encode())
        raise
    _exchange(place, json.dumps({"found": found}).encode())
    return found


def meet(place: str) -> None:
    """Wait until every rank is at this place."""
    if count() > 1:
        _exchange(place, b"")


def shared(place: str, groups: NDArray[np.integer], work: Callable[[Longs], Arrays]) -> Arrays:
    """What `work` returns for all n rows, on every rank. Each rank works on some of them.

    Args:
        place: what is done, the same on every rank; with the `digest` of everything that the work depends on.
        groups: int [n]; rows of the same group are worked on together, such as those of one user.
        work: a function from rows, int64 [m], to arrays with m rows. There may be no rows.
    """
    if count() == 1:
        return work(np.arange(len(groups)))
    numbers = np.unique(groups, return_inverse=True)[1]
    parts = [np.flatnonzero(numbers % count() == each) for each in range(count())]
    # By turns: neighbours may be alike, such as users in the order of their activity.
    order = np.argsort(np.concatenate(parts), kind="stable")
    found = gathered(place, work(parts[rank()]))
    return {name: np.concatenate([each[name] for each in found])[order] for name in found[0]}


def gathered(place: str, arrays: Arrays) -> list[Arrays]:
    """The arrays of every rank, by rank, on every rank. `place` is as in `told_by_first`."""
    if count() == 1:
        return [arrays]
    from safetensors.numpy import load, save

    mine = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    return [load(each) for each in _exchange(place, mine)]


def digest(*arrays: NDArray[Any] | None) -> str:
    """A short text that tells arrays of different content apart; empty with one process, where nobody compares it."""
    if count() == 1:
        return ""
    found = hashlib.blake2b(digest_size=8)
    for array in arrays:
        if array is not None:
            found.update(f"{array.dtype}{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


@cache
def _group() -> Any:
    """The group in which ranks exchange what is not of training: through the processors, whatever the GPUs do."""
    import torch
    from accelerate import PartialState

    # It takes the launcher's settings for FSDP and DeepSpeed into account. The trainers take what is there.
    PartialState(cpu=not torch.cuda.is_available())
    return torch.distributed.new_group(backend="gloo", timeout=PATIENCE)


def _exchange(place: str, content: bytes) -> Sequence[bytes]:
    """The content of every rank, by rank.

    Raises:
        RosepoError: another rank is at another place.
    """
    import torch

    header = json.dumps([len(content), place])[: _HEADER - 2].encode()
    headers = _all_gathered(torch.frombuffer(bytearray(header.ljust(_HEADER)), dtype=torch.uint8))
    sizes, places = zip(*(_read(each.numpy().tobytes()) for each in headers), strict=True)
    other = next((each for each, there in enumerate(places) if there != places[rank()]), None)
    if other is not None:
        raise RosepoError(
            f"the processes of the run went apart: rank {rank()} is at '{places[rank()]}', rank {other} at "
            f"'{places[other]}'. A plugin must do the same in every process, and draw every random number from its "
            "context"
        )
    padded = torch.zeros(max(sizes), dtype=torch.uint8)
    if content:
        padded[: len(content)] = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    found = _all_gathered(padded) if len(padded) else [padded] * count()
    return [each[:size].numpy().tobytes() for each, size in zip(found, sizes, strict=True)]


def _read(header: bytes) -> tuple[int, str]:
    size, _, place = header.decode().strip().removeprefix("[").partition(", ")
    return int(size), place.rstrip(']"').lstrip('"')


def _all_gathered(tensor: Any) -> list[Any]:
    import torch

    found = [torch.empty_like(tensor) for _ in range(count())]
    torch.distributed.all_gather(found, tensor, group=_group())
    return found
