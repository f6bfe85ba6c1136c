"""The language model over a catalogue: it scores titles, and generates only titles that exist."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from copy import copy
from threading import Lock
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from rosepo_core.contracts.components import Reporter
from rosepo_core.contracts.errors import RequestError
from rosepo_core.contracts.records import Catalogue, Floats, Ints, Longs, Places
from rosepo_core.contracts.sections import TokenBudget
from rosepo_core.engine.decoding import Trunks, decode
from rosepo_core.engine.prompt_trees import prompt_trunks
from rosepo_core.engine.scoring import score_items
from rosepo_core.engine.title_trie import TitleTrie, keep_trie, title_trie
from rosepo_core.prompts.item_texts import UnusableTitleError, item_details, later_texts
from rosepo_core.prompts.template import PromptTemplate
from rosepo_core.prompts.token_ids import plain_ids
from rosepo_core.store.partial import KEEPS_NOTHING, Partial

KEPT_TRIES = 8
"""How many tries of parts of the catalogue are kept."""


class TitleModel:
    """Implements `rosepo_core.contracts.components.LanguageModel`.

    For training examples, prompts show shared windows (`PromptTemplate`), as in training.
    """

    def __init__(
        self,
        model: Any,
        template: PromptTemplate,
        reporter: Reporter,
        seed: int,
        lists: Callable[[Places], Ints | None] = lambda _: None,
        partial: Partial = KEEPS_NOTHING,
        token_budget: TokenBudget = "auto",
    ) -> None:
        """
        Args:
            model: a causal language model for inference.
            template: makes the prompts.
            reporter: receives the progress.
            seed: seed of draws above temperature 0.
            lists: returns the candidates in the prompts of `generate` and `score`, int32 [n, c]; required if the
                template lists candidates.
            partial: keeps the answers that the stage in progress has so far.
            token_budget: most tokens of a forward pass (`engine.passes`).
        """
        self._model = model
        self._template = template
        self._trained_texts = template.texts
        self._reporter = reporter
        self._rng = np.random.default_rng(seed)
        self._lists = lists
        self._partial = partial
        self._parts: dict[bytes, TitleTrie] = {}
        self._lock = Lock()
        self._token_budget: TokenBudget = token_budget

    def generate(
        self,
        places: Places,
        k: int,
        *,
        exclude: Callable[[Longs], list[NDArray[np.integer]]],
        beams: int = 8,
        temperature: float = 0.0,
    ) -> Ints:
        """See `LanguageModel.generate`: int32 [n, k]."""
        items, _ = decode(
            self._model,
            Trunks(*prompt_trunks(self._template, places, shared=True, candidates=self._lists(places))),
            title_trie(self._template),
            k,
            reporter=self._reporter,
            token_budget=self._token_budget,
            beams=beams,
            temperature=temperature,
            exclude=exclude,
            rng=self._rng,
            score=False,
            partial=self._partial,
        )
        return items

    def score(self, places: Places, items: Ints, listed: Ints | None = None) -> Floats:
        """See `LanguageModel.score`: float32 [n, m], -inf where there is no item. `listed` are the candidates in the
        prompts, int32 [n, c]; by default those of `lists`."""
        return score_items(
            self._model,
            self._template,
            places,
            items,
            token_budget=self._token_budget,
            reporter=self._reporter,
            shared=True,
            candidates=self._lists(places) if listed is None else listed,
            partial=self._partial,
        )

    def with_items(self, catalogue: Catalogue, items: Collection[int]) -> Self:
        """The same language model over a catalogue that has changed since training. This model stays as it is.

        Args:
            catalogue: all items: those of the training under their numbers, then the new ones.
            items: the numbers of all items that are new or renamed since the training.

        Raises:
            UnusableTitleError: a title cannot be told from another one in prompts, or is too long for them.
        """
        template, trained = self._template, self._trained_texts
        # Items that have their trained title again get its text again.
        texts = [*trained, *[""] * (len(catalogue) - len(trained))]
        later = later_texts(trained, catalogue, items, template.options, template.tokenizer)
        for item, text in later.items():
            texts[item] = text
        self._check_lengths(catalogue, later)
        changed = template.with_items(texts, item_details(catalogue, template.options.attributes))
        keep_trie(changed, title_trie(template).changed(changed.responses, changed.changed_items))
        found = copy(self)
        found._template, found._parts, found._lock = changed, {}, Lock()
        return found

    def _check_lengths(self, catalogue: Catalogue, later: Mapping[int, str]) -> None:
        """Check that prompts have room for new texts, as `PromptTemplate.bind` does for those of the training."""
        template, most = self._template, self._template.options.max_length
        fixed = int(template.fixed_cost(None).max())
        new = {item: text for item, text in later.items() if template.texts[item : item + 1] != (text,)}
        for item, ids in zip(new, plain_ids(template.tokenizer, list(new.values())), strict=True):
            if fixed + len(ids) + 1 > most:
                raise UnusableTitleError(
                    catalogue.ids[item],
                    f"the title of item '{catalogue.ids[item]}' has {len(ids)} tokens, and prompts have room for "
                    f"{most - fixed - 1} (prompt.max_length); make it shorter",
                )

    @property
    def template(self) -> PromptTemplate:
        """What makes the prompts."""
        return self._template

    @property
    def listed_count(self) -> int:
        """How many candidates a prompt lists; 0 if it has no list."""
        return self._template.candidates

    @property
    def title_lengths(self) -> Longs:
        """Number of tokens of each title with its end: int64 [items]."""
        return self._template.response_lengths

    def log_probs(self, places: Places, items: Ints) -> Floats:
        """Log-probabilities of titles, with the prompts of evaluation and recommendation: float32 [n, m], -inf where
        there is no item. If prompts list candidates, the list of a prompt is the row of `items`.

        Args:
            places: n places.
            items: int32 [n, m], -1 for an empty slot.
        """
        return score_items(
            self._model,
            self._template,
            places,
            items,
            token_budget=self._token_budget,
            reporter=self._reporter,
            partial=self._partial,
            candidates=items if self._template.candidates else None,
        )

    def top(
        self,
        places: Places,
        k: int,
        *,
        exclude: Sequence[NDArray[np.integer]],
        beams: int | None,
        exact: bool,
        only: NDArray[np.integer] | None = None,
    ) -> tuple[Ints, Floats]:
        """The `k` most probable titles after each place's prompt, with the prompts of evaluation and recommendation.

        Args:
            places: n places.
            k: titles per place.
            exclude: items that must not be generated, one array for each place.
            beams: width of the search; `None` for an exact one lets it choose.
            exact: see `decode`. If false, a title with an improbable beginning may be missed.
            only: the items that are possible, ascending; by default all.

        Returns:
            items int32 [n, k] and their log-probabilities float32 [n, k], best first; -1 and -inf fill rows with
            fewer.

        Raises:
            RequestError: the prompts of this model list candidates, so it can only rank given candidates.
            DivergedError: the model's numbers are none.
        """
        if self._template.candidates:
            raise RequestError(
                "this run's prompts list candidates (prompt.candidates), so it cannot recommend freely"
            )
        trie = title_trie(self._template) if only is None else self._part_of_trie(only)
        out = exclude if only is None else [_among(only, each) for each in exclude]
        items, scores = decode(
            self._model,
            Trunks(*prompt_trunks(self._template, places)),
            trie,
            k,
            reporter=self._reporter,
            token_budget=self._token_budget,
            beams=beams,
            exact=exact,
            exclude=lambda rows: [out[row] for row in rows.tolist()],
            partial=self._partial,
        )
        return items if only is None else np.where(items >= 0, only[items], -1).astype(np.int32), scores

    def _part_of_trie(self, only: NDArray[np.integer]) -> TitleTrie:
        """The trie of some items. The latest ones are kept, because the same filter often comes again."""
        key = only.tobytes()
        with self._lock:
            found = self._parts.pop(key, None)
            if found is None:
                found = title_trie(self._template).part(self._template.responses, only)
            self._parts[key] = found
            while len(self._parts) > KEPT_TRIES:
                del self._parts[next(iter(self._parts))]
        return found


def _among(only: NDArray[np.integer], items: NDArray[np.integer]) -> NDArray[np.integer]:
    """The places in `only`, ascending, of those items that are in it."""
    places = np.searchsorted(only, items)
    found: NDArray[np.integer] = places[only[np.minimum(places, len(only) - 1)] == items]
    return found
