"""A prompt template: text around the history."""

from pydantic import Field

from rosepo_core.api import ListTemplate, PromptOptions


class AlpacaOptions(PromptOptions):
    """Options of `alpaca`."""

    instruction: str = Field(
        "Recommend the title that this person chooses next.", description="What the model is told to do."
    )


class Alpaca(ListTemplate):
    """The format of Stanford Alpaca: an instruction, its input, and the response after a heading of its own."""

    Options = AlpacaOptions

    def wording(self, history: str, candidates: str) -> str:
        return f"### Instruction:\n{self.options.instruction}\n\n### Input:\n{history}\n### Response:\n"
