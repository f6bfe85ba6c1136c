"""The history as one growing text with one title a line."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from pydantic import Field

from rosepo_core.api import (
    Bools,
    Ints,
    Longs,
    Places,
    PromptGroup,
    PromptOptions,
    PromptTemplate,
    Ragged,
    RequestError,
    Sequences,
    leading_ids,
    newline_id,
    plain_ids,
)


class TimelineOptions(PromptOptions):
    """Options of `timeline`."""

    header: str = Field("Titles that one person chose, oldest first:\n", description="Text before the first title.")


class Timeline(PromptTemplate):
    """The history as one growing text with one title a line. Every title is the response to the titles before it.

    A user's sequence is divided, from its end backward, into windows of ``history_length + 1`` items (fewer if
    `max_length` requires it). The first item of a window is the last item of the window before. There it is a
    response; here it is only history for the next item. So every item, except the user's first, has a history of at
    least one item.

    The attributes of an item are a line of their own behind its title: ``(brand: Oak)``. They come after the title,
    so they say nothing before it, and are no part of its score.
    """

    Options = TimelineOptions

    def prepare(self) -> None:
        """See `PromptTemplate.prepare`."""
        self._newline = newline_id(self.tokenizer)
        self._header = np.array([*leading_ids(self.tokenizer), *self.encode(self.options.header)], dtype=np.int32)
        if not len(self._header):
            raise RequestError("option 'prompt.header' is empty and the model has no token to begin with; set it")

    @property
    def terminator(self) -> int:
        """The newline."""
        return self._newline

    def read(self, ids: Sequence[int]) -> str:
        """The first line of the text, because tokens other than the terminator can contain a line break, too."""
        return super().read(ids).partition("\n")[0]

    @property
    def item_costs(self) -> Longs:
        """See `PromptTemplate.item_costs`."""
        return self._lines.lengths if self._lines else self.response_lengths

    @cached_property
    def _lines(self) -> Ragged | None:
        """Each item's title and attributes; `None` if no item has any."""
        if not any(self.details):
            return None
        details = iter(plain_ids(self.tokenizer, [f"({text})" for text in self.details if text]))
        behind = [[*next(details), self._newline] if text else [] for text in self.details]
        return Ragged([[*title.tolist(), *more] for title, more in zip(self.response_ids, behind, strict=True)])

    def fixed_cost(self, candidates: Ints | None) -> Longs:
        """See `PromptTemplate.fixed_cost`."""
        return np.array([len(self._header)])

    def prompt(self, history: Ints, candidates: Ints | None) -> Ints:
        """See `PromptTemplate.prompt`."""
        lines = self._lines.take(history) if self._lines else self.response_tokens(history)
        return np.concatenate([self._header, lines])

    def starts(self, places: Places, *, shared: bool = False, candidates: Ints | None = None) -> Longs:
        """Position of the first history item in each prompt: int64 [n], at most the place's position."""
        if not shared:
            return self.fitted_starts(places, None)
        starts = np.zeros(len(places), dtype=np.int64)
        order = np.argsort(places.user, kind="stable")
        users, first = np.unique(places.user[order], return_index=True)
        for user, rows in zip(users.tolist(), np.split(order, first[1:]), strict=True):
            windows = np.array(self._windows(places.sequences[user]))[::-1]
            window = np.searchsorted(windows[:, 1], places.position[rows])
            starts[rows] = windows[window, 0]
        return starts

    def _windows(self, items: Ints) -> list[tuple[int, int]]:
        """First and last position of each window of one user's items, latest window first."""
        tokens = np.concatenate([[0], np.cumsum(self.item_costs[items])])
        room = int(self.room(None)[0])
        windows = []
        last = len(items) - 1
        while last >= 0:
            fitting = int(np.searchsorted(tokens, tokens[last] - room))
            first = min(max(last - self.history_length, 0, fitting), last)
            windows.append((first, last))
            if first == 0:
                break
            # If not even one item fits before a response, the response alone is the window.
            last = first if first < last else last - 1
        return windows

    def groups(
        self, places: Places, *, shared: bool = False, candidates: Ints | None = None, kept: Longs | None = None
    ) -> list[PromptGroup]:
        """One group for all places whose histories begin with the same item; see `PromptTemplate.groups`."""
        starts = self.starts(places, shared=shared)
        kept = np.arange(len(places)) if kept is None else kept
        order = kept[np.lexsort((places.position[kept], starts[kept], places.user[kept]))]
        new_group = (np.diff(places.user[order]) != 0) | (np.diff(starts[order]) != 0)
        groups = []
        for rows in np.split(order, np.flatnonzero(new_group) + 1) if len(order) else []:
            start, positions = starts[rows[0]], places.position[rows].astype(np.int64)
            history = places.sequences[places.user[rows[0]]][start : positions[-1]]
            tokens = np.concatenate([[0], np.cumsum(self.item_costs[history])])
            visible = len(self._header) + tokens[positions - start]
            groups.append(PromptGroup(rows, self.prompt(history, None), visible, positions < positions[-1]))
        return groups

    def sft_sequences(self, sequences: Sequences, *, candidates: Ints | None = None) -> list[tuple[Ints, Bools]]:
        """One sequence for each window; see `PromptTemplate.sft_sequences`."""
        material = []
        for user in np.flatnonzero(sequences.lengths).tolist():
            items = sequences[user]
            for first, last in reversed(self._windows(items)):
                window = items[first : last + 1]
                # The attributes of the last item would come after all targets.
                ids = np.concatenate([self.prompt(window[:-1], None), self.response_ids[window[-1]]])
                ends = len(self._header) + np.cumsum(self.item_costs[window])
                starts = ends - self.item_costs[window]
                is_context = 0 < first < last
                marks = np.zeros(len(ids) + 1, dtype=np.int64)
                for start, length in zip(
                    starts[is_context:].tolist(), self.response_lengths[window[is_context:]].tolist(), strict=True
                ):
                    marks[start] += 1
                    marks[start + length] -= 1
                material.append((ids, np.cumsum(marks[:-1]) > 0))
        return material
