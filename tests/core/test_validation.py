"""Validation during SFT: what is kept, when training ends, and what the report says of it."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from rosepo_core.config import load_config
from rosepo_core.contracts.errors import RequestError
from rosepo_core.contracts.records import Candidates, Examples, Sequences
from rosepo_core.engine.training import Tracking, TrainingSettings, fine_tune
from rosepo_core.engine.training.validation import Validation
from rosepo_core.report import figures
from rosepo_core.stages.session import QuietReporter
from rosepo_core.stages.validation import load_curve, make, ndcg, save_curve
from rosepo_core.testing import prompt_template


@pytest.mark.parametrize(
    ("values", "every", "patience", "judged", "kept"),
    [
        # After the best two results are no better, and 0.3 again is no better either.
        ([0.1, 0.3, 0.3, 0.2, 0.9, 0.9, 0.9], 1, 2, [0, 1, 2, 3], 1),
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7], 1, 1, [0, 1, 2, 3, 4, 5, 6], 6),
        # Also after the last step; nothing that was learned is better than the model before.
        ([0.5, 0.1, float("nan")], 4, 3, [0, 4, 6], 0),
    ],
    ids=["ends early", "gets better to the end", "is best before the first step"],
)
def test_the_best_weights_are_kept(
    tiny_model, tiny_tokenizer, catalogue, tmp_path, values, every, patience, judged, kept
):
    template = prompt_template({}, tiny_tokenizer, catalogue, 5)
    sequences = template.sft_sequences(Sequences(np.arange(12, dtype=np.int32), np.array([0, 6, 12])))
    seen: list[dict[str, torch.Tensor]] = []

    def measure(model: Any) -> float:
        assert not model.training
        assert not torch.is_grad_enabled()
        seen.append({name: weight.clone() for name, weight in model.state_dict().items()})
        return float(values[len(seen) - 1])

    model = copy.deepcopy(tiny_model).train()
    validation = Validation("ndcg@10", measure, every, patience)
    settings = TrainingSettings(learning_rate=1e-2, batch_size=2, token_budget=512, steps=6)
    log = fine_tune(model, sequences, settings, QuietReporter(), Tracking(tmp_path, "sft"), validation)
    assert [step for step, _ in validation.points] == judged
    assert validation.kept == kept
    assert len(log) == judged[-1]
    expected = seen[judged.index(kept)]
    assert all(torch.equal(weight, expected[name]) for name, weight in model.state_dict().items())
    assert any(not torch.equal(weight, expected[name]) for name, weight in seen[1 if kept == 0 else 0].items())
    save_curve(validation, tmp_path)
    curve = load_curve(tmp_path)
    assert curve is not None
    assert curve["kept"] == kept
    assert [point["value"] for point in curve["points"]] == [
        value for value in values[: len(judged)] if value == value
    ]
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert sum("eval_ndcg@10" in line for line in lines) == len(judged)


def test_validation_changes_no_step(tiny_model, tiny_tokenizer, catalogue):
    template = prompt_template({}, tiny_tokenizer, catalogue, 5)
    sequences = template.sft_sequences(Sequences(np.arange(12, dtype=np.int32), np.array([0, 6, 12])))
    settings = TrainingSettings(learning_rate=1e-2, batch_size=1, token_budget=512, steps=4)
    logs = []
    for validation in (None, Validation("ndcg@10", lambda model: 0.5, 1, 9)):
        model = copy.deepcopy(tiny_model).train()
        logs.append(fine_tune(model, sequences, settings, QuietReporter(), validation=validation))
    assert logs[0] == logs[1]


def test_ndcg_counts_ties_as_the_mean_over_their_orders():
    offered = Candidates(np.zeros((3, 12), np.int32), np.array([0, 1, 2], dtype=np.int32))
    scores = np.tile(-np.arange(12, dtype=np.float32), (3, 1))
    # Ranks 1 and 2; and the third target ties with all others, of which ten of twelve places count.
    scores[2] = 0.0
    tied = sum(1 / np.log2(rank + 1) for rank in range(1, 11)) / 12
    assert ndcg(scores, offered) == pytest.approx((1 + 1 / np.log2(3) + tied) / 3)


def test_without_validation_users_it_is_refused():
    config = load_config(None, [("sft.patience", "2")])
    nobody = Examples.of(Sequences(np.zeros(1, np.int32), np.array([0, 1])), *np.zeros((2, 0), np.int32))
    session, split = SimpleNamespace(config=config), SimpleNamespace(content=SimpleNamespace(validation=nobody))
    with pytest.raises(RequestError, match=r"^option 'sft.patience' = 2: no user has a validation interaction"):
        make(session, split)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="patience = 0 judges nothing"):
        load_config(None, [("sft.validate_every", "5")])


def test_the_report_says_which_step_was_kept():
    points = [{"step": step, "value": value} for step, value in ((0, 0.2), (50, 0.41), (100, 0.4), (150, 0.3))]
    curve = {"metric": "ndcg@10", "patience": 2, "kept": 50, "points": points}
    (chart,) = figures.training([], [], "rose", curve)
    assert chart.title == "SFT: NDCG@10 on validation users"
    kept = "The weights of step 50 are kept (0.410). Training ended at step 150"
    assert chart.caption == f"{kept}, because 2 results brought no better one."
    (chart,) = figures.training([], [], "rose", curve | {"patience": 3})
    assert chart.caption == f"{kept}."
