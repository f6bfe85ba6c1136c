"""Every first-party plugin keeps its contract, with the tests that anyone's plugin inherits."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from rosepo_core.plugins.registry import load_plugins
from rosepo_core.testing import (
    DatasetContract,
    LossContract,
    MetricContract,
    OracleContract,
    PromptContract,
    SamplerContract,
)
from rosepo_core.testing.component_contract import ComponentContract

LOSSES = (
    *("rosepo", "dpo", "ipo", "hinge", "simpo", "cpo", "orpo", "apo-zero", "apo-down", "sppo", "exo", "nca"),
    *("s-dpo", "dmpo", "mppo", "dynamic-po", "rec-po", "kto", "sft"),
)
for loss in LOSSES:
    title = f"Test{loss.title().replace('-', '')}Loss"
    globals()[title] = type(title, (LossContract,), {"name": f"rosepo/{loss}"})


def smoothed(**values):
    """Contract tests of a loss with these options."""

    @pytest.fixture
    def options(self):
        return values

    return options


class TestSmoothedSDPO(LossContract):
    name = "rosepo/s-dpo"
    options = smoothed(smoothing="oracle")


class TestSmoothedEXO(LossContract):
    name = "rosepo/exo"
    options = smoothed(smoothing="oracle")


class TestSmoothedIPO(LossContract):
    name = "rosepo/ipo"
    options = smoothed(smoothing="constant", epsilon=0.2)


class TestRobustRosePO(LossContract):
    name = "rosepo/rosepo"
    options = smoothed(variant="robust")


class TestUniform(SamplerContract):
    name = "rosepo/uniform"


class TestPopularityAware(SamplerContract):
    name = "rosepo/popularity-aware"


class TestSemanticSimilar(SamplerContract):
    name = "rosepo/semantic-similar"


class TestOracleHard(SamplerContract):
    name = "rosepo/oracle-hard"


class TestSelfHard(SamplerContract):
    name = "rosepo/self-hard"


class TestInBatch(SamplerContract):
    name = "rosepo/in-batch"


class TestClusterExposure(SamplerContract):
    name = "rosepo/cluster-exposure"


class TestDisliked(SamplerContract):
    name = "rosepo/disliked"


class TestInCandidates(SamplerContract):
    name = "rosepo/in-candidates"


class TestConstant(OracleContract):
    name = "rosepo/constant"


class TestLLM(OracleContract):
    name = "rosepo/llm"


class TestPriorCorrectedLLM(OracleContract):
    name = "rosepo/llm"
    options = smoothed(score="prior-corrected")


class TestSASRec(OracleContract):
    name = "rosepo/sasrec"

    @pytest.fixture
    def options(self):
        return {"layers": 1, "hidden_size": 16, "max_epochs": 2}


class TestGRU4Rec(OracleContract):
    name = "rosepo/gru4rec"

    @pytest.fixture
    def options(self):
        return {"hidden_size": 16, "max_epochs": 2}


class TestPopularity(OracleContract):
    name = "rosepo/popularity"


class TestItemKNN(OracleContract):
    name = "rosepo/item-knn"


class TestScores(OracleContract):
    name = "rosepo/scores"

    @pytest.fixture
    def options(self, tmp_path):
        rng = np.random.default_rng(0)
        rows = [f"u{user},i{item},{rng.normal():.3f}\n" for user in range(30) for item in range(40)]
        (tmp_path / "scores.csv").write_text("user,item,score\n" + "".join(rows))
        return {"path": str(tmp_path / "scores.csv")}


class TestEnsemble(OracleContract):
    name = "rosepo/ensemble"

    @pytest.fixture
    def options(self):
        return {"oracles": ["item-knn", "popularity"], "settings": {"item-knn": {"neighbours": 5}}}


class TestTimeline(PromptContract):
    name = "rosepo/timeline"


class TestChat(PromptContract):
    name = "rosepo/chat"


class TestChatWithCandidates(PromptContract):
    name = "rosepo/chat"

    @pytest.fixture
    def options(self):
        return {"candidates": 5}


class TestTable(DatasetContract):
    name = "rosepo/table"

    @pytest.fixture
    def options(self, tmp_path):
        log = tmp_path / "log.csv"
        log.write_text("user,item,timestamp,title\nann,a,1,Alien\nann,b,2,Brazil\nbob,a,3,Alien\n")
        return {"path": str(log)}


class TestSPRec(DatasetContract):
    name = "rosepo/sprec"

    @pytest.fixture
    def options(self, tmp_path):
        row = '{"input": "Read: \\"A%d\\", \\"B\\", now?", "output": "\\"C%d\\""}'
        (tmp_path / "train.json").write_text("[" + ", ".join(row % (at, at) for at in range(9)) + "]")
        return {"path": str(tmp_path)}


class TestSDPO(DatasetContract):
    name = "rosepo/s-dpo"

    @pytest.fixture
    def options(self, tmp_path):
        row = '{"historyList": "A%d::B", "itemList": ["D", "C%d"], "trueSelection": "C%d"}'
        (tmp_path / "x-val.json").write_text("[" + ", ".join(row % (at, at, at) for at in range(9)) + "]")
        return {"path": str(tmp_path)}


METRICS = (
    *("hr", "ndcg", "mrr", "recall", "auc"),
    *("hr-valid", "valid-ratio", "semantic-hallucination", "out-of-catalogue", "repeated", "already-seen"),
    *("arp", "popularity-lift", "aplt", "popularity-confusion", "popularity-correlation"),
    *("coverage", "gini", "or-ratio", "div-ratio", "mgu", "dgu", "intra-list-distance"),
)
for metric in METRICS:
    title = f"Test{metric.title().replace('-', '')}"
    globals()[title] = type(title, (MetricContract,), {"name": f"rosepo/{metric}"})


def contracts_in_tests():
    """The contract tests that pytest collects in the folder of this file."""
    for file in sorted(Path(__file__).parent.glob("test_*.py")):
        module = import_module(file.stem)
        for name, each in vars(module).items():
            if name.startswith("Test") and isinstance(each, type) and issubclass(each, ComponentContract):
                yield each


def test_no_first_party_plugin_is_left_out():
    registry = load_plugins()
    tested = {(each.kind, registry.entry(each.kind, each.name).name) for each in contracts_in_tests() if each.name}
    registered = {(entry.kind, entry.name) for entry in registry.entries() if entry.distribution == "rosepo"}
    assert registered - tested == set()


def test_no_contract_test_is_switched_off():
    for each in contracts_in_tests():
        [contract] = [base for base in each.__mro__ if base.__module__.startswith("rosepo_core.testing.")][:1]
        promised = [name for name in dir(contract) if name.startswith("test_")]
        assert [name for name in promised if getattr(each, name) is not getattr(contract, name)] == [], each
