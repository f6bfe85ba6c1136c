"""The model card, as the hub's own library reads it and as Markdown shows it."""

from __future__ import annotations

import ast
import math
import re
from dataclasses import replace

import pytest
from huggingface_hub import ModelCard as HubCard

from rosepo_core.contracts.outcome import Measure
from rosepo_core.evaluation.conditional_logit import ConditionalLogit
from rosepo_core.evaluation.measurement import Column
from rosepo_core.report.model_card import ModelCard, model_card

METRICS = {
    "base": {"hr@1": 0.1, "ndcg@10": 0.4, "arp@10": 83.14},
    "aligned": {"hr@1": 0.25, "ndcg@10": math.nan, "arp@10": 97.0},
}


def make(**changes):
    values = {
        "name": "Toy recommender",
        "method": "lora",
        "base_model": "/somewhere/base",
        "base_model_id": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "dataset": "movielens-100k",
        "parts": {"Loss": "rosepo, beta 0.1", "Sampler": "self-hard"},
        "protocols": {"candidates-20": METRICS},
        "columns": {
            "hr@1": Column(Measure("HR", "higher", "Accuracy"), "@1", ""),
            "ndcg@10": Column(Measure("NDCG", "higher", "Accuracy"), "@10", ""),
            "arp@10": Column(Measure("ARP", "lower", "Popularity bias", high=math.inf, decimals=1), "@10", ""),
        },
        "prompt": "Titles:\nToy Story (1995)\n",
        "response": "Twelve Monkeys (1995)",
        "licence": "apache-2.0",
        "licence_notes": ("MovieLens may not be redistributed.",),
    }
    return ModelCard(**(values | changes))


def test_the_hub_reads_its_metadata():
    data = HubCard(model_card(make())).data
    assert data.library_name == "peft"
    assert data.base_model == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert data.base_model_relation == "adapter"
    assert data.license == "apache-2.0"
    assert data.pipeline_tag == "text-generation"
    assert {"rosepo", "recommender-systems", "preference-optimization", "lora"} <= set(data.tags)


def test_the_hub_reads_the_numbers_of_the_language_model_itself():
    models = {**METRICS, "aligned fusion": {"hr@1": 0.9, "ndcg@10": 0.9, "arp@10": 1.0}}
    data = HubCard(model_card(make(protocols={"candidates-20": models}, score="fusion", fusion=FUSION))).data
    found = [
        (each.metric_type, each.metric_name, each.metric_value, each.dataset_config) for each in data.eval_results
    ]
    # NDCG is missing for lack of a number.
    assert found == [("hr@1", "HR@1", 0.25, "candidates-20"), ("arp@10", "ARP@10", 97.0, "candidates-20")]
    assert data.eval_results[0].dataset_name == "movielens-100k"


def test_an_export_says_what_it_is():
    changes = {"exported": True, "model": "sft", "folder": "demo", "base_folder": "demo/base"}
    text = model_card(make(**changes, losses={"dpo": (1.0, "x")}))
    assert "It starts from `HuggingFaceTB/SmolLM2-135M-Instruct` and was fine-tuned on the" in text
    assert "## Objective" not in text
    assert 'from_pretrained("demo/base")' in text
    assert "`rosepo export demo --check` compares" in text


def test_a_full_model_without_a_hub_id():
    data = HubCard(model_card(make(method="full", base_model_id=None, licence=None))).data
    assert data.library_name == "transformers"
    assert data.base_model is None
    assert data.license is None
    assert "lora" not in data.tags


def test_sections_in_order():
    headings = re.findall(r"^#+ (.*)$", HubCard(model_card(make())).text, re.M)
    assert headings == [
        *(
            "Toy recommender",
            "How it was made",
            "Objective",
            "Results",
            "Ranking",
            "Loading",
            "Prompt",
            "Limitations",
            "Licences",
        ),
    ]
    bare = model_card(ModelCard(name="bare", method="lora", base_model="b", dataset="d"))
    assert re.findall(r"^#+ (.*)$", HubCard(bare).text, re.M) == [
        "bare",
        "Objective",
        "Ranking",
        "Loading",
        "Limitations",
    ]


def test_the_objective_is_that_of_the_run():
    text = model_card(make(losses={"dpo": (1.0, "-log sigmoid(Delta)")}, reference="prior"))
    section = text.split("## Objective\n")[1].split("\n## ")[0]
    assert "asked without a history" in section
    assert "Training minimized the mean over pairs of:\n\n- `dpo`: -log sigmoid(Delta)" in section
    text = model_card(make(losses={"dpo": (1.0, "one"), "sft": (0.1, "two\nlines")}))
    assert "the sum of:\n\n- `dpo`, with weight 1: one\n- `sft`, with weight 0.1: two lines\n" in text


def test_the_table():
    lines = [line for line in model_card(make()).splitlines() if line.startswith("|")]
    assert lines == [
        "| metric | Base | Aligned |",
        "| --- | ---: | ---: |",
        "| HR@1 \N{UPWARDS ARROW} | 0.100 | 0.250 |",
        "| NDCG@10 \N{UPWARDS ARROW} | 0.400 | \N{EN DASH} |",
        "| ARP@10 \N{DOWNWARDS ARROW} | 83.1 | 97.0 |",
    ]


FUSION = ConditionalLogit(
    ("likelihood", "prior", "oracle"),
    *((20.0, 25.0, 2.0), (0.4, -0.5, 0.246), (0.1, -0.75, -0.05), (0.7, -0.25, 0.542)),
    1234,
    (("popularity", "it is the same for all candidates of each user"),),
)


def test_fusion_has_its_formula_and_its_weights():
    text = model_card(make(score="fusion", fusion=FUSION))
    section = text.split("## Ranking\n")[1].split("\n## ")[0]
    # Weights per standard deviation, divided by the standard deviations.
    formula = "    score = 0.02 log p(title | history) - 0.02 log p(title) + 0.123 score of the oracle"
    assert formula in section.splitlines()
    assert "1,234 validation users" in section
    turned = model_card(make(score="fusion", fusion=replace(FUSION, weights=(-0.4, 0.5, 0.246))))
    assert "    score = -0.02 log p(title | history) + 0.02 log p(title) + 0.123 score of the oracle\n" in turned
    assert "log(1 + interactions) was left out: it is the same for all candidates of each user." in section
    assert [line for line in section.splitlines() if line.startswith("|")] == [
        "| feature | weight per standard deviation | 95 % interval |",
        "| --- | ---: | ---: |",
        "| log p(title \\| history) | +0.400 | +0.100 to +0.700 |",
        "| log p(title) | \N{MINUS SIGN}0.500 | \N{MINUS SIGN}0.750 to \N{MINUS SIGN}0.250 |",
        "| score of the oracle | +0.246 | \N{MINUS SIGN}0.050 to +0.542 |",
    ]


@pytest.mark.parametrize(
    ("score", "formula"),
    [
        ("likelihood", "score = log p(title | history)"),
        ("mean", "score = log p(title | history) / tokens of the title"),
        ("prior-corrected", "score = log p(title | history) - log p(title)"),
    ],
)
def test_other_scores_have_their_formula(score, formula):
    section = model_card(make(score=score)).split("## Ranking\n")[1].split("\n## ")[0]
    assert f"Rank titles by `{score}`" in section
    assert f"    {formula}" in section.splitlines()
    assert ("empty history" in section) == (score == "prior-corrected")


def test_the_table_has_few_of_many_rows():
    names = ["popularity", "oracle", "oracle fusion"]
    names += [
        f"{model}{score}" for model in ("base", "aligned") for score in ("", " mean", " prior-corrected", " fusion")
    ]
    text = model_card(make(protocols={"candidates-20": {name: {"hr@1": 0.5} for name in names}}))
    header = next(line for line in text.splitlines() if line.startswith("| metric"))
    assert header == "| metric | Popularity | Oracle | Base fusion | Aligned | Aligned fusion |"
    assert "| --- | ---: | ---: | ---: | ---: | ---: |\n" in text


@pytest.mark.parametrize(("method", "count"), [("lora", 5), ("full", 3)])
def test_loading_is_python_in_at_most_five_lines(method, count):
    code = re.search(r"```python\n(.*?)\n```", model_card(make(method=method, base_model='a "b"\\c')), re.S).group(1)
    assert len(code.splitlines()) == count
    strings = {node.value for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Constant)}
    assert strings == ({'a "b"\\c', "aligned"} if method == "lora" else {"aligned"})


def test_names_and_titles_cannot_break_out():
    text = model_card(
        make(
            name="evil\n---\n# two",
            base_model_id='x: "y"\n- z',
            dataset="a | <script>b</script> *c*",
            prompt="```\n# no heading\n````",
            protocols={"p`q": {"a|b": {"hr@1": 0.5}}},
        )
    )
    card = HubCard(text)
    assert card.data.base_model == 'x: "y"\n- z'
    assert "# evil --- \\# two" in card.text
    assert "a \\| \\<script\\>b\\</script\\> \\*c\\*" in card.text
    assert "`````text\n```\n# no heading\n````\n`````" in card.text
    assert "| metric | a\\|b |" in card.text
    assert "Protocol `p'q`:" in card.text
