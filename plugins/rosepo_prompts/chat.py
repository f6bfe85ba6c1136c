"""The model's own chat format."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from rosepo_core.api import (
    Examples,
    Ints,
    Longs,
    Places,
    PromptOptions,
    PromptTemplate,
    Ragged,
    RequestError,
    newline_id,
    plain_ids,
)

_SLOTS = ("\ue000history\ue001", "\ue000candidates\ue001")


class ChatOptions(PromptOptions):
    """Options of `chat`."""

    instruction: str = Field(
        "You recommend what to choose next. Answer with one exact title and nothing else.",
        description="The system message.",
    )
    question: str = Field(
        "Which title will this person choose next?", description="The last line of the user's message."
    )
    candidates: int = Field(
        0, ge=0, description="Titles to choose from that a prompt lists, the next one among them; 0 lists none."
    )


class Chat(PromptTemplate):
    """The model's own chat format: an instruction, the history and perhaps candidates as lists, a question."""

    Options = ChatOptions

    def prepare(self) -> None:
        """See `PromptTemplate.prepare`."""
        tokenizer = self.tokenizer
        if not tokenizer.chat_template:
            raise RequestError("prompt 'chat': the model's tokenizer has no chat template; use 'timeline'")
        if tokenizer.eos_token_id is None:
            raise RequestError("prompt 'chat': the tokenizer has no end-of-sequence token; use 'timeline'")
        if self.candidates > len(self.texts):
            raise RequestError(
                f"option 'prompt.candidates' = {self.candidates}: the catalogue has {len(self.texts)} items; "
                "set it lower"
            )
        before, between, after = self._fixed_texts()
        self._before, self._between, self._after = (
            np.array(self.encode(text), dtype=np.int32) for text in (before, between, after)
        )
        bullet, newline = self.encode("-"), newline_id(tokenizer)
        spaced = plain_ids(tokenizer, [f" {text}" for text in self.texts])
        self._lines = Ragged([[*bullet, *title, newline] for title in spaced])

    @property
    def candidates(self) -> int:
        """See `PromptTemplate.candidates`."""
        count: int = self.options.candidates
        return count

    def _fixed_texts(self) -> tuple[str, str, str]:
        """The chat format around the history and the candidates."""
        listed = f"Candidates:\n{_SLOTS[1]}\n" if self.candidates else ""
        user = f"Chosen so far, oldest first:\n{_SLOTS[0]}\n{listed}{self.options.question}"
        system = {"role": "system", "content": self.options.instruction}
        try:
            rendered = self._render([system, {"role": "user", "content": user}])
        except Exception:  # a chat template raises what it likes when it has no system role
            rendered = self._render([{"role": "user", "content": f"{self.options.instruction}\n\n{user}"}])
        # The newline after a slot is the last line's own.
        before, _, rest = rendered.partition(f"{_SLOTS[0]}\n")
        between, _, after = rest.partition(f"{_SLOTS[1]}\n") if listed else ("", "", rest)
        if not after:
            raise RequestError("the model's chat template does not show the user's message; use 'timeline'")
        return before, between, after

    def _render(self, messages: list[dict[str, str]]) -> str:
        text: str = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return text

    @property
    def terminator(self) -> int:
        """The tokenizer's end of sequence."""
        token: int = self.tokenizer.eos_token_id
        return token

    @property
    def item_costs(self) -> Longs:
        """See `PromptTemplate.item_costs`."""
        return self._lines.lengths

    def fixed_cost(self, candidates: Ints | None) -> Longs:
        """See `PromptTemplate.fixed_cost`."""
        fixed = np.array([len(self._before) + len(self._between) + len(self._after)])
        return fixed if candidates is None else fixed + self._lines.lengths[candidates].sum(axis=1)

    def prompt(self, history: Ints, candidates: Ints | None) -> Ints:
        """See `PromptTemplate.prompt`."""
        listed = () if candidates is None else (self._lines.take(candidates),)
        return np.concatenate([self._before, self._lines.take(history), self._between, *listed, self._after])

    def listed(self, places: Places, candidates: Ints | None) -> Ints | None:
        """See `PromptTemplate.listed`."""
        if not self.candidates:
            return None
        if candidates is not None:
            return candidates
        if not isinstance(places, Examples):
            raise RequestError("this run's prompts list candidates (prompt.candidates): give a list for each place")
        examples = places
        drawn = np.empty((len(examples), self.candidates), dtype=np.int32)
        catalogue = np.arange(len(self.texts), dtype=np.int32)
        for row, (user, position) in enumerate(zip(examples.user.tolist(), examples.position.tolist(), strict=True)):
            rng = np.random.default_rng([user, position])
            others = np.setdiff1d(catalogue, examples.sequences[user])
            if len(others) < self.candidates - 1:
                raise RequestError(
                    f"option 'prompt.candidates' = {self.candidates}: set it lower, "
                    f"only {len(others)} items are new to user {user}"
                )
            drawn[row] = rng.permutation(
                [examples.target[row], *rng.choice(others, self.candidates - 1, replace=False)]
            )
        return drawn
