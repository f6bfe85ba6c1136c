"""Contract tests are inherited; what is particular to this plugin is tested with numbers worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from rosepo_matched.loss import SquaredHinge, SquaredHingeOptions

from rosepo_core.testing import (
    LossContract,
    MetricContract,
    PromptContract,
    SamplerContract,
    random_log_probs,
    toy_outcomes,
    toy_split,
    toy_tokenizer,
    train_examples,
)


class TestSquaredHinge(LossContract):
    name = "squared-hinge"

    def test_by_hand(self):
        # One pair, two rejected: Delta = 0.5 * ((-2 + 3) - (-4 + 4)) = 0.5 and 0.5 * (1 - (-9 + 4)) = 3,
        # so the losses are (1 - 0.5)^2 and 0 (beyond the margin).
        log_probs = replace(
            random_log_probs(n=1, k=2),
            chosen=torch.tensor([-2.0]),
            rejected=torch.tensor([[-4.0, -9.0]]),
            reference_chosen=torch.tensor([-3.0]),
            reference_rejected=torch.tensor([[-4.0, -4.0]]),
            valid=torch.tensor([[True, True]]),
        )
        loss = SquaredHinge(SquaredHingeOptions(beta=0.5))
        assert loss(log_probs).tolist() == pytest.approx([0.125])


class TestPopularityMatched(SamplerContract):
    name = "popularity-matched"

    def test_stays_within_the_width(self):
        split = toy_split()
        examples = train_examples(split)
        rejected = self.sample({"width": 3, "allow_seen": True}, split, examples, 6)
        ranks = split.catalogue.popularity.argsort(kind="stable").argsort()
        distance = abs(ranks[rejected] - ranks[examples.target][:, None])
        assert distance[rejected >= 0].min() == 1
        assert distance[rejected >= 0].max() == 3


class TestSelfInformation(MetricContract):
    name = "self-information"

    def test_by_hand(self):
        # Four items with 3, 1, 0 and 0 interactions: p = 4/8, 2/8, 1/8 and 1/8, so 1, 2, 3 and 3 bits.
        outcome = toy_outcomes()["written"].take(np.arange(3))
        catalogue = replace(outcome.catalogue, popularity=np.array([3, 1, 0, 0]))
        lists = replace(outcome, catalogue=catalogue, top=np.array([[0, 3], [1, -1], [-1, -1]]))
        found = self.measure({"ks": [1, 2]}, lists)
        assert found["@1"].tolist() == pytest.approx([1, 2, np.nan], nan_ok=True)
        assert found["@2"].tolist() == pytest.approx([2, 2, np.nan], nan_ok=True)


class TestAlpaca(PromptContract):
    name = "alpaca"

    def test_reads_as_it_should(self):
        template = self.make({"instruction": "Go."}).bind(toy_tokenizer(), ["Alien", "Brazil", "Casablanca"], 5)
        prompt = template.prompt(np.array([2, 0]), None)
        assert toy_tokenizer().decode(prompt) == (
            "### Instruction:\nGo.\n\n### Input:\n- Casablanca\n- Alien\n\n### Response:\n"
        )
