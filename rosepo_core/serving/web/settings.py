"""What an operator of the server can set."""

from __future__ import annotations

from pydantic import Field

from rosepo_core.contracts.options import Options


class ServeSettings(Options):
    """Limits and times of the server. The defaults are for one model on one machine."""

    batch: int = Field(32, ge=1, description="The most questions that the model answers at once.")
    batch_wait: float = Field(
        0.01, ge=0.0, le=10.0, description="Seconds that the first question of a batch waits for others."
    )
    queue: int = Field(128, ge=1, description="The most questions that wait; more are answered 503.")
    timeout: float = Field(30.0, gt=0.0, description="Seconds after which a question is answered 504.")
    most_history: int = Field(200, ge=1, description="The most items of a history.")
    most_k: int = Field(100, ge=1, description="The most items that can be asked for.")
    most_candidates: int = Field(1000, ge=1, description="The most candidates that can be ranked for a history.")
    most_body: int = Field(65_536, ge=1024, description="The most bytes of a request's body.")
    token: str | None = Field(
        None, min_length=1, repr=False, description="The bearer token that requests must have; without one, none."
    )
    origins: tuple[str, ...] = Field((), description="Origins of other web pages that may ask (CORS).")
    hosts: tuple[str, ...] = Field(
        ("127.0.0.1", "localhost", "[::1]"),
        description="Names under which the server answers; a request with another Host header is refused, so that "
        "no web page can reach a server of this machine under a name of its own. `*` for any.",
    )
    page: bool = Field(True, description="Whether there is a page at /, which also shows histories of the log.")
