"""Golden prompts: histories with the scores that a model must give. Whoever has an export can check it with them.

Histories are drawn from the catalogue at random, with a fixed seed. They are no user's history, and depend on no
user.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from pydantic import BaseModel, ValidationError
from transformers import AutoModelForCausalLM, AutoTokenizer

from rosepo_core.contracts.components import Reporter
from rosepo_core.contracts.errors import RequestError, RosepoError
from rosepo_core.contracts.records import Ints
from rosepo_core.contracts.sections import Score
from rosepo_core.engine import gguf
from rosepo_core.engine.models import find_adapter, no_progress_bars, resolve_model
from rosepo_core.serving.places import places_of
from rosepo_core.serving.recommender import Recommender
from rosepo_core.serving.sources import ModelSource
from rosepo_core.store.artifacts import check_artifact
from rosepo_core.store.files import STAGING

GOLDEN_FILE = "golden_prompts.json"
GGUF_FILE = "model.gguf"
SEED = 2410
"""Seed of the histories."""

PROMPTS = 24
CANDIDATES = 10
"""Candidates for each history, if the prompts do not list a certain number."""

LONGEST_HISTORY = 10
LISTS = 4
"""For how many histories the best titles of the whole catalogue are searched, too. This takes much longer."""

LIST_LENGTH = 10
PLAIN = 3
"""How many candidates of each history are asked of plain transformers."""


class GoldenItem(BaseModel):
    """An item and its score."""

    item: str
    title: str
    score: float


class GoldenCandidate(GoldenItem):
    """A candidate, with the tokens of its title and their log-probability after the prompt."""

    response_ids: list[int]
    log_prob: float


class GoldenPrompt(BaseModel):
    """A history, the prompt with its tokens, and what the model must answer.

    Attributes:
        history: ids of items, oldest first.
        prompt: the prompt as text.
        prompt_ids: its tokens.
        candidates: in the order of the question.
        recommended: the best titles of the catalogue, best first; for some prompts only.
    """

    history: list[str]
    prompt: str
    prompt_ids: list[int]
    candidates: list[GoldenCandidate]
    recommended: list[GoldenItem]


class GoldenPrompts(BaseModel):
    """The content of `GOLDEN_FILE`.

    Attributes:
        score: the score by which items are ranked; log-probabilities do not depend on it.
        tolerance: the largest difference of a score.
        prompts: the prompts.
    """

    score: Score
    tolerance: float
    prompts: list[GoldenPrompt]

    def write(self, folder: Path) -> None:
        """Write `GOLDEN_FILE`."""
        (folder / GOLDEN_FILE).write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")

    @staticmethod
    def read(folder: Path) -> GoldenPrompts:
        """Read `GOLDEN_FILE`.

        Raises:
            RequestError: it is missing or damaged.
        """
        path = folder / GOLDEN_FILE
        try:
            return GoldenPrompts.model_validate_json(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise RequestError(f"{folder} is no export: it has no {GOLDEN_FILE}") from None
        except (OSError, ValidationError) as error:
            cause = str(error).splitlines()[0]
            raise RequestError(f"{path} cannot be read ({cause}); export the run anew") from None


def ask(recommender: Recommender, tolerance: float) -> GoldenPrompts:
    """Draw histories and candidates from a recommender's catalogue, and ask it.

    Args:
        recommender: what is asked.
        tolerance: kept in the result.
    """
    catalogue, model = recommender.catalogue, recommender.language_model
    listed, template = model.listed_count, model.template
    rng = np.random.default_rng(SEED)
    longest = max(1, min(LONGEST_HISTORY, template.history_length, len(catalogue) // 2))
    known = [_drawn(rng, len(catalogue), 1 + row % longest) for row in range(PROMPTS)]
    count = listed or min(CANDIDATES, len(catalogue))
    table = np.stack([_drawn(rng, len(catalogue), count) for _ in known])
    histories = [[catalogue.ids[item] for item in items.tolist()] for items in known]
    offered = [[catalogue.ids[item] for item in row] for row in table.tolist()]

    places = places_of(known)
    prompts = template.prompts(places, candidates=table if listed else None)
    texts = template.prompt_texts(places, candidates=table if listed else None)
    log_probs = model.log_probs(places, table)
    ranked = recommender.rank_many(histories, offered, by="id")
    lists = [] if listed else recommender.recommend_many(histories[:LISTS], LIST_LENGTH, by="id")
    found = []
    for row, history in enumerate(histories):
        scores = {each.item: each.score for each in ranked[row]}
        candidates = [
            GoldenCandidate(
                item=catalogue.ids[item],
                title=catalogue.titles[item],
                score=scores[catalogue.ids[item]],
                response_ids=template.response_ids[item].tolist(),
                log_prob=float(log_probs[row, column]),
            )
            for column, item in enumerate(table[row].tolist())
        ]
        best = [GoldenItem(**each._asdict()) for each in (lists[row] if row < len(lists) else ())]
        found.append(
            GoldenPrompt(
                history=history,
                prompt=texts[row],
                prompt_ids=prompts[row].tolist(),
                candidates=candidates,
                recommended=best,
            )
        )
    return GoldenPrompts(score=recommender.score, tolerance=tolerance, prompts=found)


def _drawn(rng: np.random.Generator, items: int, count: int) -> Ints:
    return rng.choice(items, count, replace=False).astype(np.int32)


def check(folder: Path, reporter: Reporter) -> float:
    """Check an export: its files, and what its model answers to its golden prompts. It is asked twice: as rosepo
    loads it, and as transformers and PEFT load it without rosepo.

    Args:
        folder: the export.
        reporter: receives notes.

    Returns:
        the largest difference of a score.

    Raises:
        RequestError: it is no export, or a file is missing or damaged.
        RosepoError: an answer differs.
    """
    check_artifact(folder)
    expected = GoldenPrompts.read(folder)
    source = ModelSource(folder, reporter, float32=True, as_trained=True)
    recommender = Recommender.of(source, source.models[0], expected.score, reporter)
    found = ask(recommender, expected.tolerance)
    del recommender
    differences = [*_differences(expected, found), *_plain_differences(folder, expected, reporter)]
    if (folder / GGUF_FILE).is_file():
        with tempfile.TemporaryDirectory(prefix=STAGING, dir=folder.parent) as temporary:
            gguf.unpack(folder / GGUF_FILE, unpacked := Path(temporary) / "model")
            differences += _token_differences(folder, unpacked, expected)
            differences += _plain_differences(unpacked, expected, reporter, GGUF_FILE)
    for what, difference in differences:
        if not difference <= expected.tolerance:
            raise RosepoError(
                f"{folder} does not give its golden answers: {what} differs by {difference:.4g}, and "
                f"{expected.tolerance:g} is allowed; export the run again"
            )
    return max(difference for _, difference in differences)


def _differences(expected: GoldenPrompts, found: GoldenPrompts) -> Iterator[tuple[str, float]]:
    """What may differ, and by how much."""
    for number, (one, other) in enumerate(zip(expected.prompts, found.prompts, strict=True), 1):
        where = f"in golden prompt {number}"
        same = one.history == other.history and one.prompt_ids == other.prompt_ids
        yield f"the tokens of the prompt {where}", 0.0 if same else float("inf")
        for candidate, asked in zip(one.candidates, other.candidates, strict=True):
            what = f"of '{candidate.title}' {where}"
            same = candidate.item == asked.item and candidate.response_ids == asked.response_ids
            yield f"the tokens {what}", 0.0 if same else float("inf")
            yield f"the log-probability {what}", abs(candidate.log_prob - asked.log_prob)
            yield f"the score {what}", abs(candidate.score - asked.score)
        yield f"the list of recommendations {where}", _list_difference(one.recommended, other.recommended)


def _list_difference(one: Sequence[GoldenItem], other: Sequence[GoldenItem]) -> float:
    """By how much scores must change to make two lists equal. Items with nearly equal scores may change places, also
    at the end, where one leaves the list."""
    if len(one) != len(other):
        return float("inf")
    first, second = ({each.item: each.score for each in items} for items in (one, other))
    places = [abs(a.score - b.score) for a, b in zip(one, other, strict=True)]
    for mine, theirs in ((first, second), (second, first)):
        last = min(theirs.values(), default=0.0)
        places += [abs(score - theirs.get(item, last)) for item, score in mine.items()]
    return max(places, default=0.0)


def _token_differences(one: Path, other: Path, golden: GoldenPrompts) -> Iterator[tuple[str, float]]:
    """As `_differences`, of the tokens that two folders' tokenizers make of the prompts and titles."""
    tokenizers: list[Any] = [AutoTokenizer.from_pretrained(str(each), local_files_only=True) for each in (one, other)]
    for number, prompt in enumerate(golden.prompts, 1):
        texts = [prompt.prompt, *(each.title for each in prompt.candidates)]
        first, second = (tokenizer(texts, add_special_tokens=False)["input_ids"] for tokenizer in tokenizers)
        yield f"the tokens of golden prompt {number} in {GGUF_FILE}", 0.0 if first == second else float("inf")


def _plain_differences(
    folder: Path, golden: GoldenPrompts, reporter: Reporter, what: str = "plain transformers"
) -> Iterator[tuple[str, float]]:
    """As `_differences`, of log-probabilities from plain transformers. `what` was loaded, for errors."""
    model = _plain_model(folder, reporter)
    for number, prompt in enumerate(golden.prompts, 1):
        for candidate in prompt.candidates[:PLAIN]:
            ids = torch.tensor([[*prompt.prompt_ids, *candidate.response_ids]], device=model.device)
            with torch.inference_mode():
                logits = model(input_ids=ids).logits[0, len(prompt.prompt_ids) - 1 : -1].float()
            targets = ids[0, len(prompt.prompt_ids) :, None]
            log_prob = float(logits.log_softmax(-1).gather(1, targets).sum())
            where = f"the log-probability of '{candidate.title}' in golden prompt {number}, in {what},"
            yield where, abs(candidate.log_prob - log_prob)


def _plain_model(folder: Path, reporter: Reporter) -> Any:
    """The model as transformers and PEFT load it, in float32."""
    adapter = find_adapter(str(folder), reporter)
    base = folder if adapter is None else resolve_model(adapter.base, reporter)
    with no_progress_bars():
        model: Any = AutoModelForCausalLM.from_pretrained(str(base), dtype=torch.float32, local_files_only=True)
        if adapter is not None:
            model = PeftModel.from_pretrained(model, str(folder))
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
