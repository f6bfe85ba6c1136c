"""A prompt of plain text, as most papers have: for base models without a chat template, and for published wordings.

`examples/recipes/*.toml` use it, from the root of the repository.
"""

from __future__ import annotations

from pydantic import Field, field_validator, model_validator

from rosepo_core.api import ListTemplate, PromptOptions

HISTORY, CANDIDATES = "{history}", "{candidates}"


class PlainPromptOptions(PromptOptions):
    text: str = Field(
        "Chosen so far, oldest first:\n{history}The next choice:",
        description="The whole prompt. {history}, and {candidates} if there are any, stand alone on a line each.",
    )
    candidates: int = Field(
        0, ge=0, description="Titles to choose from in the prompt, the next one among them; 0 means no list."
    )

    @field_validator("text")
    @classmethod
    def _shows_the_history(cls, value: str) -> str:
        if value.count(HISTORY) != 1:
            raise ValueError(f"write {HISTORY} once, where the list of the history goes")
        return value

    @model_validator(mode="after")
    def _shows_what_there_is(self) -> PlainPromptOptions:
        if self.text.count(CANDIDATES) != (self.candidates > 0):
            raise ValueError(f"write {CANDIDATES} once in 'text' if 'candidates' is not 0, and else not at all")
        return self


class PlainPrompt(ListTemplate):
    """Any text around the history, and perhaps around a list of candidates."""

    Options = PlainPromptOptions

    @property
    def candidates(self) -> int:
        count: int = self.options.candidates
        return count

    def wording(self, history: str, candidates: str) -> str:
        text: str = self.options.text
        # The lists bring their last line break.
        for name, placeholder in ((HISTORY, history), (CANDIDATES, candidates)):
            text = text.replace(f"{name}\n", placeholder).replace(name, placeholder)
        return text
