"""The runs that a server answers from, under their names. A run can be loaded again while the server answers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from rosepo_core.contracts.errors import RequestError, RosepoError, nearest
from rosepo_core.data.catalogue_in_use import CatalogueInUse
from rosepo_core.serving.item_search import ItemSearch
from rosepo_core.serving.recommender import Recommender
from rosepo_core.serving.run_lists import RunLists


class UnknownNameError(RequestError):
    """A request names what the server does not have."""


@dataclass(frozen=True, eq=False)
class ServedRun:
    """A run in memory.

    Attributes:
        name: its name in requests.
        folder: where it was loaded from.
        recommender: recommends with it.
        lists: the lists of all its models, for the page; `None` without a page, and of what is no run.
        loaded: when it was loaded, seconds since 1970.
    """

    name: str
    folder: Path
    recommender: Recommender
    lists: RunLists | None
    loaded: float

    @cached_property
    def numbers(self) -> Mapping[str, int]:
        """The number of each item, by its id."""
        return {item: number for number, item in enumerate(self.recommender.catalogue.ids)}

    @cached_property
    def search(self) -> ItemSearch:
        """Finds items by words of their titles."""
        return ItemSearch(self.recommender.catalogue)


class ServedRuns:
    """Runs by name. The first is asked if a request names none."""

    def __init__(
        self,
        folders: Mapping[str, Path],
        load: Callable[[Path], Recommender],
        lists: Callable[[Path, CatalogueInUse], RunLists] | None = None,
    ) -> None:
        """Loads all runs.

        Args:
            folders: the folder of each run, by name.
            load: loads a recommender from a folder.
            lists: opens the lists of all models in a folder, for the page, over the recommender's catalogue.

        Raises:
            RequestError: a run cannot be loaded.
        """
        self._folders, self._load, self._lists = folders, load, lists
        self._one_at_a_time = threading.Lock()
        self._runs = {name: self._loaded(name) for name in folders}

    def __iter__(self) -> Iterator[ServedRun]:
        return iter(list(self._runs.values()))

    def get(self, name: str | None) -> ServedRun:
        """The run of a name; the first for `None`.

        Raises:
            UnknownNameError: no run has this name.
        """
        if name is None:
            return next(iter(self._runs.values()))
        if name not in self._runs:
            raise UnknownNameError(f"no run is served as '{name}'{nearest(name, self._runs)}")
        return self._runs[name]

    def reload(self) -> list[ServedRun]:
        """Load all runs again from their folders. Each takes the place of the old one when it is complete; questions
        that wait are answered by the run for which they were asked.

        Raises:
            RequestError: a run cannot be loaded; it stays as it is, and the others are loaded.
        """
        failed = []
        with self._one_at_a_time:
            for name in self._folders:
                try:
                    self._runs[name] = self._loaded(name)
                except (RosepoError, OSError, ValueError, MemoryError) as error:
                    failed.append(f"run '{name}' was not loaded, the old one stays: {error}")
            if failed:
                raise RequestError("; ".join(failed))
            return list(self._runs.values())

    def _loaded(self, name: str) -> ServedRun:
        folder = self._folders[name]
        recommender = self._load(folder)
        lists = None
        if self._lists is not None:
            # An export has one model, and the page shows that.
            with suppress(RequestError):
                lists = self._lists(folder, recommender.in_use)
        return ServedRun(name, folder, recommender, lists, time.time())


def named_folders(written: Sequence[str]) -> dict[str, Path]:
    """The folders of runs by name.

    Args:
        written: each ``NAME=FOLDER``, or a folder, whose own name is then the run's.

    Raises:
        RequestError: two have the same name.
    """
    found: dict[str, Path] = {}
    for each in written:
        name, sign, folder = each.partition("=")
        if not sign or Path(each).exists():
            name, folder = Path(each).resolve().name, each
        if not name or not folder:
            raise RequestError(f"'{each}' names no run; write RUN, or NAME=RUN")
        if name in found:
            raise RequestError(
                f"{found[name]} and {folder} are both named '{name}'; name one otherwise, as other={folder}"
            )
        found[name] = Path(folder)
    return found
