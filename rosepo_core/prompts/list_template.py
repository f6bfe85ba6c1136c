"""Prompts that are text around a list of titles, as in most instruction formats."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np

from rosepo_core.contracts.errors import RequestError
from rosepo_core.contracts.records import Ints, Longs
from rosepo_core.prompts.template import PromptTemplate
from rosepo_core.prompts.token_ids import Ragged, leading_ids, newline_id, plain_ids

HISTORY, CANDIDATES = "\ue000history\ue001\n", "\ue000candidates\ue001\n"
"""Placeholders for the lists while the text around them is tokenized. No text of a user has these characters."""


class ListTemplate(PromptTemplate):
    """Text around the history as a list with lines ``- title``, oldest first, and perhaps around a list of
    candidates. In the history, attributes stand behind the title: ``- title (brand: Oak)``.

    Extend this class and implement `wording`. A response is a title and the tokenizer's end-of-sequence token.
    """

    @abstractmethod
    def wording(self, history: str, candidates: str) -> str:
        """The whole prompt, up to the beginning of the response.

        Args:
            history: a placeholder for the list of the history, which includes its last line break. Put it at the
                beginning of a line.
            candidates: a placeholder for the list of candidates, with the same rules; empty if the prompts have none.

        Raises:
            RequestError: the template cannot use the tokenizer.
        """

    def lead(self) -> list[int]:
        """Token ids before the text: those that the tokenizer puts before any text, such as begin-of-sequence.
        Override this if `wording` writes them itself."""
        return leading_ids(self.tokenizer)

    def prepare(self) -> None:
        """Tokenize the text around the lists, and each item as a line of a list."""
        listed = CANDIDATES if self.candidates else ""
        before, found, rest = self.wording(HISTORY, listed).partition(HISTORY)
        between, _, after = rest.partition(CANDIDATES) if listed else ("", "", rest)
        if not found or not after:
            raise RequestError(
                "the prompt does not show the history, or the candidates, or ends with them; use prompt 'timeline'"
            )
        self._before = np.array([*self.lead(), *self.encode(before)], dtype=np.int32)
        self._between, self._after = (np.array(self.encode(text), dtype=np.int32) for text in (between, after))
        bullet, newline = self.encode("-"), newline_id(self.tokenizer)
        spaced = self.title_ids(" ")
        self._candidates = spaced.framed(bullet, [newline])
        self._lines = self._candidates
        if any(self.details):
            details = iter(plain_ids(self.tokenizer, [f" ({text})" for text in self.details if text]))
            beside = [next(details) if text else [] for text in self.details]
            self._lines = Ragged(
                [[*bullet, *title, *more, newline] for title, more in zip(spaced.split(), beside, strict=True)]
            )

    @property
    def item_costs(self) -> Longs:
        """See `PromptTemplate.item_costs`."""
        return self._lines.lengths

    def fixed_cost(self, candidates: Ints | None) -> Longs:
        """See `PromptTemplate.fixed_cost`."""
        fixed = np.array([len(self._before) + len(self._between) + len(self._after)])
        if candidates is None:
            return fixed
        listed: Longs = np.where(candidates >= 0, self._candidates.lengths[candidates], 0).sum(axis=1)
        return fixed + listed

    def prompt(self, history: Ints, candidates: Ints | None) -> Ints:
        """See `PromptTemplate.prompt`."""
        listed = () if candidates is None else (self._candidates.take(candidates[candidates >= 0]),)
        return np.concatenate([self._before, self._lines.take(history), self._between, *listed, self._after])
