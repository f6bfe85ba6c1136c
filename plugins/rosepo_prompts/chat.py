"""The model's own chat format."""

from __future__ import annotations

from pydantic import Field

from rosepo_core.api import ListTemplate, PromptOptions, RequestError


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
        0, ge=0, description="Titles to choose from in the prompt, the next one among them; 0 means no list."
    )


class Chat(ListTemplate):
    """The model's own chat format: an instruction, the history as a list, perhaps a list of candidates, a
    question."""

    Options = ChatOptions

    @property
    def candidates(self) -> int:
        """See `PromptTemplate.candidates`."""
        count: int = self.options.candidates
        return count

    def lead(self) -> list[int]:
        """No tokens: a chat template itself writes the tokens that begin a text."""
        return []

    def wording(self, history: str, candidates: str) -> str:
        """See `ListTemplate.wording`."""
        if not self.tokenizer.chat_template:
            raise RequestError("prompt 'chat': the model's tokenizer has no chat template; use 'timeline'")
        options: ChatOptions = self.options
        listed = f"Candidates:\n{candidates}" if candidates else ""
        user = f"Chosen so far, oldest first:\n{history}{listed}{options.question}"
        try:
            rendered = self._render(
                [{"role": "system", "content": options.instruction}, {"role": "user", "content": user}]
            )
        except Exception:  # chat templates without a system role raise different errors
            rendered = self._render([{"role": "user", "content": f"{options.instruction}\n\n{user}"}])
        if history not in rendered or candidates not in rendered:
            raise RequestError("the model's chat template does not show the user's message; use 'timeline'")
        return rendered

    def _render(self, messages: list[dict[str, str]]) -> str:
        text: str = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return text
