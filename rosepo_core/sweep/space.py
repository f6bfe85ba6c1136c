"""The search space of a sweep: the keys of the configuration that vary, and the values that they may take."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rosepo_core.config import RunConfig
from rosepo_core.contracts.errors import RequestError
from rosepo_core.store import fingerprint

Value = str | int | float
Params = Mapping[str, Value]
"""One value for each key of a space."""

Load = Callable[[Sequence[tuple[str, Any]]], RunConfig]
"""Makes a configuration with some keys changed."""

MOST_COMBINATIONS = 10_000
"""A space with more is searched as if it had no end."""

FIXED = ("seed", "deterministic", "track", "split", "evaluation", "metric", "checkpoint")
"""The sections and keys that must be the same in all trials, because their results are compared."""

_NUMBER = r"[-+]?(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?"
_RANGE = re.compile(rf"({_NUMBER})\.\.({_NUMBER})(?::(.+))?")
HOW = "write A..B, A..B:log, A..B:STEP, or values with commas between them"


@dataclass(frozen=True)
class Choices:
    """Some values, in the notation of the command line."""

    values: tuple[str, ...]

    @property
    def every(self) -> tuple[Value, ...]:
        """All values."""
        return self.values

    @property
    def samples(self) -> tuple[Value, ...]:
        """Values that are checked before the sweep starts."""
        return self.values

    def __str__(self) -> str:
        return ",".join(self.values)


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included; whole numbers if both are `int`.

    Attributes:
        low: the lowest.
        high: the highest.
        log: whether each order of magnitude is equally likely.
        step: the distance between possible values; `None` if there is none.
    """

    low: int | float
    high: int | float
    log: bool = False
    step: int | float | None = None

    @property
    def whole(self) -> bool:
        """Whether its values are whole numbers."""
        return isinstance(self.low, int)

    @property
    def every(self) -> tuple[Value, ...] | None:
        """All values; `None` if there are too many."""
        step = self.step if self.step is not None else 1 if self.whole else None
        if step is None or (self.high - self.low) / step >= MOST_COMBINATIONS:
            return None
        return tuple(self.low + place * step for place in range(int((self.high - self.low) / step + 1e-9) + 1))

    @property
    def samples(self) -> tuple[Value, ...]:
        """Values that are checked before the sweep starts: both ends and, of numbers that are not whole, one that
        cannot be taken for a whole number."""
        if self.whole:
            return (self.low, self.high)
        inner = self.step if self.step is not None else (self.high - self.low) / math.pi
        return (self.low, self.low + inner, self.high)

    def __str__(self) -> str:
        end = ":log" if self.log else "" if self.step is None else f":{self.step:g}"
        return f"{_text(self.low)}..{_text(self.high)}{end}"


Space = Mapping[str, Choices | Range]


def parse_space(written: Sequence[str]) -> Space:
    """The space of ``KEY=VALUES``, where VALUES are values with commas between them, or a range ``A..B``,
    ``A..B:log`` or ``A..B:STEP``.

    Raises:
        RequestError: one is written in another way, a key cannot be swept, or a key is there twice.
    """
    if not written:
        raise RequestError("say what to search, e.g. --over alignment.learning_rate=1e-6..1e-4:log")
    space: dict[str, Choices | Range] = {}
    for each in written:
        key, equals, values = each.partition("=")
        key = key.strip().replace("-", "_").removesuffix(".name")
        if not equals or not key or not values.strip():
            raise RequestError(f"--over {each}: write KEY=VALUES, e.g. loss.beta=0.05..0.5 or loss=dpo,ipo")
        section, _, option = key.partition(".")
        if section in FIXED or (section == "dataset" and option != "history_length"):
            raise RequestError(f"--over {each}: '{key}' must be the same in all trials, because they are compared")
        if key in space:
            raise RequestError(f"--over {each}: '{key}' is there twice; write all its values into one --over")
        try:
            space[key] = _range(values.strip()) if ".." in values else _choices(values)
        except ValueError as error:
            raise RequestError(f"--over {each}: {error}") from None
    return space


def _range(text: str) -> Range:
    found = _RANGE.fullmatch(text)
    if found is None:
        raise ValueError(f"a range is between two numbers; {HOW}")
    whole = all(re.fullmatch(r"[-+]?\d+", end) for end in found.groups()[:2])
    number = int if whole else float
    low, high, how = number(found[1]), number(found[2]), found[3]
    if low >= high:
        raise ValueError("the first number must be below the second")
    if how == "log":
        if low <= 0:
            raise ValueError("a range with :log must be above 0")
        return Range(low, high, log=True)
    if how is None:
        return Range(low, high)
    try:
        step = number(how)
    except ValueError:
        kind = "a whole number" if whole else "a number"
        raise ValueError(f"':{how}' is neither :log nor a step, {kind} such as ':{1 if whole else 0.1}'") from None
    if not 0 < step <= high - low:
        raise ValueError(f"the step {how} must be above 0 and at most the width of the range")
    # The last value is the last that can be reached.
    last = low + int((high - low) / step + 1e-9) * step
    return Range(low, last, step=step)


def _choices(text: str) -> Choices:
    values = tuple(value.strip() for value in _parts(text))
    if not all(values):
        raise ValueError("a value is empty")
    if len(values) < 2:
        raise ValueError(f"one value leaves nothing to search; {HOW}")
    if len(set(values)) < len(values):
        raise ValueError("a value is there twice")
    return Choices(values)


def _parts(text: str) -> list[str]:
    """The parts between commas that are in no brackets and no quotes."""
    parts, depth, quote = [""], 0, ""
    for sign in text:
        if sign == "," and not depth and not quote:
            parts.append("")
            continue
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "\"'":
            quote = sign
        depth += (sign in "[{") - (sign in "]}")
        parts[-1] += sign
    return parts


def combinations(space: Space) -> list[dict[str, Value]] | None:
    """All combinations of values; `None` if there are too many to try them all."""
    every = [each.every for each in space.values()]
    if (
        any(values is None for values in every)
        or math.prod(len(values or ()) for values in every) > MOST_COMBINATIONS
    ):
        return None
    return [dict(zip(space, values, strict=True)) for values in itertools.product(*(each or () for each in every))]


def check_space(space: Space, given: Collection[str], load: Load) -> None:
    """Check the configurations of a space before any of them is run: with each value of a list and the ends of each
    range, and with the ends of all ranges for each combination of plugins.

    Args:
        space: the space.
        given: keys that are set in another way than by a file or a preset.
        load: makes the configurations.

    Raises:
        RequestError: a value is wrong, a key is given twice, or it changes no result.
    """
    for key in space:
        if key in given:
            raise RequestError(f"'{key}' is given, and --over searches it: leave one of the two out")
    for key, params in _checked(space):
        try:
            load(list(params.items()))
        except RequestError as error:
            # The message names the key that is wrong; if it names none, this value is what was tried.
            key = next((each for each in space if "." in each and f"'{each}'" in str(error)), key)
            raise RequestError(f"--over {key}={space[key]}: {error}") from None
    first = {key: each.samples[0] for key, each in space.items()}
    for key, each in space.items():
        prints = {fingerprint(load([*(first | {key: value}).items()]).that_decides()) for value in each.samples}
        if len(prints) == 1:
            raise RequestError(f"--over {key}={each}: '{key}' changes no result here, so there is nothing to find")


def _checked(space: Space) -> Iterator[tuple[str, Params]]:
    """Values to check, each with the key that an error is most likely about."""
    names = {key: each for key, each in space.items() if "." not in key}
    first = {key: each.samples[0] for key, each in space.items()}
    for key, each in space.items():
        for value in each.samples:
            yield key, first | {key: value}
    others = [key for key in space if key not in names]
    for chosen in itertools.product(*(each.samples for each in names.values())):
        of_names = dict(zip(names, chosen, strict=True))
        for key in others:
            yield key, first | of_names


def _text(number: int | float) -> str:
    return str(number) if isinstance(number, int) else f"{number:g}"


def shown_value(value: Value) -> str:
    """A value with at most four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def shown(params: Params) -> str:
    """Values in a line: ``loss=dpo, loss.beta=0.1``."""
    return ", ".join(f"{key}={shown_value(value)}" for key, value in params.items())
