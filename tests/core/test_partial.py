"""Long computations go on after an interruption, block by block, with the result of one that was not interrupted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rosepo_core.contracts.records import Examples, Floats, Sequences
from rosepo_core.engine.decoding import Trunks, decode
from rosepo_core.engine.prompt_trees import prompt_trunks
from rosepo_core.engine.scoring import score_items
from rosepo_core.engine.title_trie import title_trie
from rosepo_core.engine.writing import write_answers
from rosepo_core.prompts.template import PromptTemplate
from rosepo_core.store.partial import KEEPS_NOTHING, Partial, PartialFolder
from rosepo_core.testing import prompt_template


class Ends:
    """Ends the work at one of its reports, as Ctrl-C does, or as a kill does, after which nothing can be saved."""

    def __init__(self, at: int | None = None, error: type[BaseException] = KeyboardInterrupt) -> None:
        self.done: list[int] = []
        self.total = 0
        self._at = at
        self._error = error

    def progress(self, done: int, total: int, unit: str) -> None:
        self.done.append(done)
        self.total = total
        if len(self.done) == self._at:
            raise self._error

    def note(self, message: str) -> None:
        raise AssertionError(message)


@pytest.fixture
def template(tiny_tokenizer: Any, catalogue: Any) -> PromptTemplate:
    return prompt_template({"header": "Chosen:\n"}, tiny_tokenizer, catalogue, 5)


@pytest.fixture
def examples() -> Examples:
    """Every place of four users."""
    rng = np.random.default_rng(7)
    sequences = Sequences(
        np.concatenate([rng.permutation(40)[:6] for _ in range(4)]).astype(np.int32), np.arange(0, 25, 6)
    )
    places = np.tile(np.arange(6, dtype=np.int32), 4)
    return Examples.of(sequences, np.repeat(np.arange(4, dtype=np.int32), 6), places)


Computation = Callable[[Partial, Ends], Any]


@pytest.fixture(params=["scores", "search", "draws", "answers"])
def computation(
    request: pytest.FixtureRequest, tiny_model: Any, tiny_tokenizer: Any, template: PromptTemplate, examples: Examples
) -> Computation:
    def compute(partial: Partial, reporter: Ends) -> Any:
        if request.param == "scores":
            items = np.random.default_rng(3).integers(-1, 40, (len(examples), 3)).astype(np.int32)
            return score_items(tiny_model, template, examples, items, 150, reporter, partial=partial).tolist()
        if request.param == "answers":
            return write_answers(tiny_model, template, tiny_tokenizer, examples, 300, reporter, partial)
        items, scores = decode(
            tiny_model,
            Trunks(*prompt_trunks(template, examples)),
            title_trie(template),
            3,
            reporter=reporter,
            token_budget=100,
            temperature=1.0 if request.param == "draws" else 0.0,
            rng=np.random.default_rng(5),
            partial=partial,
        )
        return items.tolist(), scores.tolist()

    return compute


def test_an_interrupted_computation_goes_on_and_gives_the_same_bits(computation, tmp_path):
    whole = Ends()
    expected = computation(KEEPS_NOTHING, whole)
    assert len(whole.done) > 3
    attempts = []
    for at in (2, 1, None):
        partial = PartialFolder(tmp_path / "stage.partial", "f", minutes=10)
        attempts.append(Ends(at))
        if at is None:
            assert computation(partial, attempts[-1]) == expected
            break
        with pytest.raises(KeyboardInterrupt):
            computation(partial, attempts[-1])
        partial.save()
    # No block is done twice.
    assert [done for attempt in attempts for done in attempt.done] == whole.done
    again = Ends()
    assert computation(PartialFolder(tmp_path / "stage.partial", "other", minutes=10), again) == expected
    assert again.done == whole.done
    assert not (tmp_path / "stage.partial").exists()


def test_a_killed_process_loses_what_it_did_since_it_saved(computation, tmp_path):
    for minutes, kept in ((0.0, 1), (10.0, 0)):
        folder = tmp_path / f"every-{minutes}.partial"
        with pytest.raises(ZeroDivisionError):
            computation(PartialFolder(folder, "f", minutes), killed := Ends(1, ZeroDivisionError))
        expected = computation(KEEPS_NOTHING, whole := Ends())
        assert computation(PartialFolder(folder, "f", minutes), rest := Ends()) == expected
        assert killed.done + rest.done == whole.done[:1] + whole.done[kept:]


def test_each_computation_of_a_stage_finds_its_own(tiny_model, template, examples, tmp_path):
    """The first is done, the second is interrupted; another plugin then asks something else first."""
    folder = tmp_path / "sampling.partial"
    items = np.arange(40, dtype=np.int32)[np.arange(len(examples) * 2).reshape(-1, 2) % 40]

    def scored(partial: Partial, reporter: Ends, shift: int) -> Floats:
        return score_items(tiny_model, template, examples, (items + shift) % 40, 150, reporter, partial=partial)

    partial = PartialFolder(folder, "f", minutes=10)
    first = scored(partial, Ends(), 0)
    expected = first.copy()
    # What the caller does with a result is not what is saved.
    first[:] = 0
    with pytest.raises(KeyboardInterrupt):
        scored(partial, Ends(2), 1)
    partial.save()

    partial = PartialFolder(folder, "f", minutes=10)
    assert np.array_equal(scored(partial, nothing := Ends(), 0), expected)
    scored(partial, rest := Ends(), 1)
    assert not nothing.done
    assert rest.done[0] > 0
    assert np.array_equal(
        scored(PartialFolder(folder, "f", 10), other := Ends(), 2), scored(KEEPS_NOTHING, Ends(), 2)
    )
    assert other.done[0] < other.total / 2


def write(text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "state").write_text(text) and None


def test_the_newest_whole_checkpoint_is_kept(tmp_path):
    folder = tmp_path / "sft.partial"
    partial = PartialFolder(folder, "f", minutes=10)
    assert partial.checkpoint() is None
    assert not partial.is_due
    assert PartialFolder(folder, "f", minutes=0).is_due
    partial.save_checkpoint(9, write("nine"))
    partial.save_checkpoint(10, write("ten"))
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint-10", "partial.json"]

    def breaks(at: Path) -> None:
        write("half")(at)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        partial.save_checkpoint(11, breaks)
    after = PartialFolder(folder, "f", minutes=10)
    assert after.goes_on
    found = after.checkpoint()
    assert found == folder / "checkpoint-10"
    assert (found / "state").read_text() == "ten"
    # A process that was killed before it removed the one before leaves both.
    write("eleven")(folder / "checkpoint-10")
    (folder / "checkpoint-10").rename(folder / "checkpoint-11")
    (folder / "checkpoint-9").mkdir()
    assert PartialFolder(folder, "f", minutes=10).checkpoint() == folder / "checkpoint-11"
    assert json.loads((folder / "partial.json").read_text())["fingerprint"] == "f"
    assert PartialFolder(folder, "g", minutes=10).checkpoint() is None
    assert not folder.exists()
