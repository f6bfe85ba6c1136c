"""Options: each implementation has one pydantic model, which defines keys, flags, help and validation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from rosepo_core.contracts.errors import RequestError, nearest

CHANGES_NO_RESULT: dict[str, JsonValue] = {"changes_no_result": True}
"""For ``Field(..., json_schema_extra=CHANGES_NO_RESULT)``: an option that changes memory or speed only. Stages that
were made with another value of it are reused."""

LONGEST_VALUE = 200
"""Characters of a wrong value in an error."""


class Options(BaseModel):
    """Base of every options model: unknown keys are errors, values are frozen, every field has a description."""

    # The name of a column may be a number, and users do not put quotes around it on the command line.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, coerce_numbers_to_str=True)

    def that_decide(self) -> dict[str, Any]:
        """The options that can change a result, as JSON values: all except those marked `CHANGES_NO_RESULT`."""
        marked = {
            name for name, field in type(self).model_fields.items() if field.json_schema_extra == CHANGES_NO_RESULT
        }
        return self.model_dump(mode="json", exclude=marked)


OptionsT = TypeVar("OptionsT", bound=BaseModel)


def parse_options(model: type[OptionsT], values: Mapping[str, Any], where: str) -> OptionsT:
    """Validate `values` as a `model`, or raise one `RequestError` that names the key under `where` and the fix.

    Args:
        model: the options model.
        values: keys as written by the user; `-` and `_` are the same in a key.
        where: the section of the keys, e.g. ``"sampler"``; errors then name ``sampler.temperature``. Empty at the top
            of a configuration.

    Raises:
        RequestError: an unknown key (with the nearest known ones), or a value of the wrong type or range.
    """
    normal = {key.replace("-", "_"): value for key, value in values.items()}
    try:
        return model.model_validate(normal)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(str(part) for part in (where, *first["loc"]) if part != "")
        if first["type"] == "extra_forbidden":
            message = f"unknown option '{path}'{nearest(str(first['loc'][-1]), model.model_fields)}"
        elif first["type"] == "missing":
            message = f"option '{path}' is required"
        elif not first["loc"]:
            # A model's own check of several options together.
            message = f"options of '{where}': {first['ctx']['error']}"
        else:
            written = repr(first["input"])
            written = written if len(written) <= LONGEST_VALUE else f"{written[:LONGEST_VALUE]}..."
            message = f"option '{path}' = {written}: {first['msg'][0].lower()}{first['msg'][1:]}"
        raise RequestError(message) from None
