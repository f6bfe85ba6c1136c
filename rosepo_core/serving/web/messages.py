"""What requests and answers look like, as JSON."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints

from rosepo_core.contracts.sections import Score
from rosepo_core.serving.fallbacks import Fallback
from rosepo_core.serving.recommender import OnUnknown
from rosepo_core.serving.title_index import By

LONGEST_NAME = 1000
"""The most characters of a title or another name in a request."""

Name = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_NAME)]
Names = Annotated[list[Name], Field(min_length=1)]
Values = dict[Name, Names]

HISTORY: list[JsonValue] = ["Toy Story (1995)", "Aladdin (1992)"]


class Message(BaseModel):
    """Base of requests: a key that is not known is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Conditions(Message):
    """Which items may be recommended. An item must satisfy all."""

    allow: Names | None = Field(None, description="The only items that are possible.")
    deny: list[Name] = Field([], description="Items that are never recommended.")
    having: Values = Field({}, description="For each of these columns, the item has at least one of the values.")
    lacking: Values = Field({}, description="For each of these columns, the item has none of the values.")


class Question(Message):
    """What the two kinds of questions have in common."""

    run: Name | None = Field(None, description="The name of a run that is served; by default the first.")
    history: Names = Field(description="Items, oldest first.", examples=[HISTORY])
    by: By = Field("title", description="Whether items are named by title or by their own id in the log.")
    on_unknown: OnUnknown = Field(
        "error", description="Whether an item of the history that is not in the catalogue is an error or skipped."
    )


class RecommendQuestion(Question):
    """Which items come next?"""

    k: int = Field(10, ge=1, description="The number of items. There are fewer if few are possible.")
    filter: Conditions | None = Field(None, description="Which items are possible; by default all.")
    threshold: float | None = Field(
        None,
        gt=0,
        le=1,
        description="If the confidence of the list is below this probability, `fallback` answers. An error if the "
        "confidence of such lists is not calibrated.",
    )
    fallback: Fallback = Field(
        "popularity", description="Who answers below the threshold: the most popular items, or the run's oracle."
    )

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"history": HISTORY, "k": 5},
                {"history": HISTORY, "k": 5, "filter": {"deny": ["Babe (1995)"], "having": {"genres": ["Comedy"]}}},
            ]
        }
    )


class RankQuestion(Question):
    """In which order would these candidates come next?"""

    candidates: Names = Field(description="Items of the catalogue, each once.", examples=[["Babe (1995)"]])

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"history": HISTORY, "candidates": ["Babe (1995)", "Alien (1979)"]}]}
    )


class RankedItem(BaseModel):
    """A recommended item."""

    title: str
    score: float = Field(description="Its score under `ranked_by`; higher is better.")
    item: str = Field(description="Its own id in the log.")
    new: bool = Field(description="It has no training interaction.")


class Answer(BaseModel):
    """Ranked items."""

    run: str = Field(description="The run that was asked.")
    ranked_by: Score = Field(description="The score by which the items are ranked.")
    recommendations: list[RankedItem] = Field(description="The items, best first.")


class RecommendAnswer(Answer):
    """Recommended items."""

    answered_by: Literal["model", "popularity", "oracle"] = Field(
        description="Who made the list: the model, or a fallback, whose scores are its own (for popularity, the "
        "interactions in training)."
    )
    confidence: float | None = Field(
        description="The calibrated probability that the next item is in the model's list; null if such lists are "
        "not calibrated."
    )
    confidence_interval: tuple[float, float] | None = Field(
        description="The 95 % interval of the confidence for other calibration users."
    )


class ListQuestion(Message):
    """Which items does one model of a run put first?"""

    run: Name | None = Field(None, description="The name of a run that is served; by default the first.")
    model: Name = Field(description="One of the run's models, or `served` for the one that /recommend asks.")
    history: Names = Field(description="Ids of items, oldest first.")
    k: int = Field(10, ge=1, description="The number of items.")
    shown: int = Field(10, ge=1, description="How many of them are shown; the confidence is that of these.")


class ShownItem(BaseModel):
    """An item on the page."""

    title: str
    item: str
    popular: bool = Field(description="One of the few items with half of all training interactions.")
    new: bool = Field(description="It has no training interaction.")


class ShownList(BaseModel):
    """The first items of a model."""

    run: str
    model: str
    items: list[ShownItem]
    confidence: float | None = Field(description="The confidence of the first `shown` items; null without one.")


class ShownRun(BaseModel):
    """A run on the page."""

    name: str
    models: list[str]
    users: bool = Field(description="Whether users of the log can be shown.")
    report: bool = Field(description="Whether /report has the run's report.")


class ShownRuns(BaseModel):
    """The runs on the page."""

    runs: list[ShownRun]
    most_history: int
    most_k: int


class ShownUser(BaseModel):
    """A user of the log."""

    history: list[ShownItem]
    held_out: ShownItem | None = Field(description="What the user chose next, which the test holds out.")


class ShownUsers(BaseModel):
    """Users of the log."""

    users: list[str]


class CatalogueItem(BaseModel):
    """An item of the catalogue."""

    title: str
    item: str = Field(description="Its own id in the log.")
    interactions: int = Field(description="How often it is in the training data.")


class CatalogueItems(BaseModel):
    """Items of the catalogue."""

    run: str
    items: list[CatalogueItem]


class RunState(BaseModel):
    """A run that is served."""

    name: str
    ranked_by: Score
    items: int = Field(description="The size of its catalogue.")
    loaded: float = Field(description="When it was loaded, seconds since 1970.")


class Health(BaseModel):
    """The state of the server."""

    status: str = Field(description="`ok`: the server answers questions.")
    runs: list[RunState]
    waiting: int = Field(description="How many questions wait.")


class Problem(BaseModel):
    """Why a request was not answered."""

    code: str = Field(description="A fixed word for programs, such as `wrong-request`.")
    message: str = Field(description="What was wrong and how to mend it, for people.")


class ProblemMessage(BaseModel):
    """The form of every error."""

    error: Problem


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The documentation of errors, for a route."""
    return {status: {"model": ProblemMessage, "description": DESCRIPTIONS[status]} for status in sorted(statuses)}


DESCRIPTIONS = {
    400: "The body is no JSON, or the Host header is another server's.",
    401: "The bearer token is missing or wrong.",
    404: "The request names a run, user or item that is not there.",
    413: "The body is too long.",
    422: "The request is wrong; the message says what to change.",
    500: "The server failed.",
    503: "The server is busy or stopping. The header Retry-After has the seconds to wait.",
    504: "The answer was not there in time.",
}
