"""The model card of RUN/aligned, and of an export: Markdown with the metadata that the Hugging Face hub reads."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from huggingface_hub import EvalResult, ModelCardData

from rosepo_core.contracts.sections import Reference, Score
from rosepo_core.contracts.untrusted_text import markdown, markdown_code, visible
from rosepo_core.evaluation.conditional_logit import ConditionalLogit
from rosepo_core.evaluation.measurement import Column, Metrics
from rosepo_core.evaluation.run_models import RowName, by_score_in_use, last_language_model
from rosepo_core.report.display import ARROWS, feature_title, model_title, signed

TAGS = ("rosepo", "recommender-systems", "sequential-recommendation", "preference-optimization")

REFERENCES: Mapping[Reference, str] = {
    "sft": "`ref` is the model after supervised fine-tuning{of_round}",
    "prior": "`ref` is the model after supervised fine-tuning{of_round}, asked without a history",
    "none": "`log ref` is 0",
}
"""What each kind of reference is, in the objective."""

OBJECTIVE = """`pi(y)` is the probability that this model gives the title `y` after a prompt, and {reference}.
`w` is the chosen title, `l` a rejected one, and `|y|` the number of tokens of `y`. Training minimized {what}:

{losses}"""

LIMITATIONS = (
    "It was trained on one log: it knows the tastes of the people in this log and recommends from its catalogue.",
    "A table is valid for its protocol only. A table over few random candidates says nothing about the whole "
    "catalogue, and no table says what people would do with the recommendations.",
    "Logs contain the bias of the system that showed the items to people, mainly popularity bias; see ARP and Tail.",
    "Without constraints it can write titles that do not exist. `rosepo recommend` constrains it to the catalogue.",
    "Prompts must have exactly the tokens of training; `prompt_template.json` has the template.",
)


@dataclass(frozen=True)
class ModelCard:
    """The content of a model card.

    Attributes:
        name: the model's name, for the headline.
        method: whether the folder has a LoRA adapter or all weights.
        base_model: the base model for `from_pretrained`: a hub id or a folder.
        base_model_id: the base model's hub id, if it has one; it goes into the metadata.
        base_model_notes: e.g. that its weights were quantized before.
        dataset: name of the dataset.
        dataset_notes: e.g. its size and its terms of use.
        parts: how the model was made: label -> text, such as the sampler, the oracle and the loss with their options.
        protocols: the metrics by protocol and model. The tables have each language model by the score in use, and
            the last also by likelihood.
        score: the score by which the model is to rank titles.
        fusion: the fitted weights, if the score is ``fusion``.
        columns: how to read each metric's column.
        prompt: one prompt as text, with an invented history, because a card must not show that of a user.
        response: the response to this prompt.
        losses: the losses that were minimized: name -> weight and formula.
        reference: what the losses compare the model with.
        rounds: how often the model was fine-tuned and aligned in turn.
        model: which model of the run it is: ``"aligned"``, ``"sft"`` or ``"base"``.
        folder: the folder of the model, as in the code that loads it.
        base_folder: the folder of the base model, if it is beside an adapter.
        exported: whether the folder has all that recommending needs, and golden prompts.
        licence: identifier of the base model's licence on the hub (``"apache-2.0"``), if known.
        licence_notes: requirements of the licences of the base model and the data, one sentence each.
    """

    name: str
    method: Literal["lora", "full"]
    base_model: str
    dataset: str
    base_model_id: str | None = None
    base_model_notes: str = ""
    dataset_notes: str = ""
    parts: Mapping[str, str] = field(default_factory=dict)
    protocols: Mapping[str, Mapping[str, Metrics]] = field(default_factory=dict)
    score: Score = "likelihood"
    fusion: ConditionalLogit | None = None
    columns: Mapping[str, Column] = field(default_factory=dict)
    prompt: str = ""
    response: str = ""
    losses: Mapping[str, tuple[float, str]] = field(default_factory=dict)
    reference: Reference = "sft"
    rounds: int = 1
    model: str = "aligned"
    folder: str = "aligned"
    base_folder: str | None = None
    exported: bool = False
    licence: str | None = None
    licence_notes: Sequence[str] = ()


def model_card(card: ModelCard) -> str:
    """The card as Markdown with YAML front matter."""
    sections = [
        _front_matter(card),
        f"# {markdown(card.name)}",
        _introduction(card),
        _listed(
            "How it was made", [f"**{markdown(label)}**: {markdown(text)}" for label, text in card.parts.items()]
        ),
        f"## Objective\n\n{_objective(card)}" if _training(card) == "aligned" else "",
        _results(card.protocols, card.columns),
        _ranking(card.score, card.fusion),
        _loading(card),
        _recommending(card),
        _prompt(card),
        _listed("Limitations", LIMITATIONS),
        _listed("Licences", [markdown(note) for note in card.licence_notes]),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _front_matter(card: ModelCard) -> str:
    adapter = card.method == "lora"
    data = ModelCardData(
        library_name="peft" if adapter else "transformers",
        pipeline_tag="text-generation",
        base_model=card.base_model_id,
        base_model_relation=("adapter" if adapter else "finetune") if card.base_model_id else None,
        license=card.licence,
        tags=[*TAGS, *(("lora",) if adapter else ())],
        model_name=card.name,
        eval_results=list(_eval_results(card)) or None,
    )
    return f"---\n{data.to_yaml()}\n---"


def _eval_results(card: ModelCard) -> Iterator[EvalResult]:
    """The numbers of this model by likelihood, for the hub: those by fusion are not those of a language model."""
    for protocol, models in card.protocols.items():
        for name, value in models.get(card.model, {}).items():
            if math.isfinite(value):
                yield EvalResult(
                    task_type="text-generation",
                    task_name="recommendation",
                    dataset_type=card.dataset,
                    dataset_name=card.dataset,
                    dataset_config=protocol,
                    metric_type=name,
                    metric_name=card.columns[name].title,
                    metric_value=value,
                )


TRAININGS: Mapping[str, str] = {
    "aligned": "It starts from {base}, was fine-tuned on the interactions of {dataset} and then aligned by "
    "preference optimization with rosepo.{rounds}",
    "sft": "It starts from {base} and was fine-tuned on the interactions of {dataset} with rosepo.",
    "base": "It is {base} without any training, asked by rosepo about the titles of {dataset}.",
}
"""What was done to each model of a run."""


ROUNDS = (
    " Both were done {rounds} times in turn (self-play in rounds, arXiv 2412.09243), each time with rejected titles "
    "drawn again from the current model."
)


def _training(card: ModelCard) -> str:
    """The key of the model in `TRAININGS`; the model of an earlier round is an aligned one, too."""
    return card.model if card.model in TRAININGS else "aligned"


def _introduction(card: ModelCard) -> str:
    kind = "A LoRA adapter" if card.method == "lora" else "A fine-tuned model" if card.model != "base" else "A model"
    base = f"`{markdown_code(card.base_model_id or card.base_model)}`"
    rounds = ROUNDS.format(rounds=card.rounds) if card.rounds > 1 else ""
    done = TRAININGS[_training(card)].format(base=base, dataset=markdown(card.dataset), rounds=rounds)
    text = f"{kind} that recommends: given the titles that a person chose so far, it writes the next one. {done}"
    notes = [markdown(note) for note in (card.base_model_notes, card.dataset_notes) if note]
    return "\n\n".join([text, *notes])


def _objective(card: ModelCard) -> str:
    several = len(card.losses) > 1
    losses = [
        f"- `{markdown_code(name)}`{f', with weight {weight:g}' if several else ''}: {markdown(formula)}"
        for name, (weight, formula) in card.losses.items()
    ]
    what = "the sum of" if several else "the mean over pairs of"
    reference = REFERENCES[card.reference].format(of_round=" of the same round" if card.rounds > 1 else "")
    return OBJECTIVE.format(reference=reference, what=what, losses="\n".join(losses))


def _results(protocols: Mapping[str, Mapping[str, Metrics]], columns: Mapping[str, Column]) -> str:
    tables = []
    for protocol, models in protocols.items():
        if not models:
            continue
        used, last = by_score_in_use(models), last_language_model(models)
        shown = {
            name: values
            for name, values in models.items()
            if name == last or (name in used if RowName.of(name).writes else RowName.of(name).score == "likelihood")
        }
        header = ["metric", *map(model_title, shown)]
        rows = []
        for name in next(iter(models.values())):
            column = columns[name]
            title = f"{column.title} {ARROWS[column.about.direction]}".strip()
            rows.append([title, *(_number(values[name], column.about.decimals) for values in shown.values())])
        lines = [f"| {' | '.join(markdown(cell) for cell in row)} |" for row in (header, *rows)]
        lines.insert(1, "|" + " --- |" + " ---: |" * len(shown))
        tables.append(f"Protocol `{markdown_code(protocol)}`:\n\n" + "\n".join(lines))
    if not tables:
        return ""
    legend = (
        "Arrows say which way is better. ARP is the mean number of training interactions of the recommended items, "
        "Tail the share of them outside the most popular fifth of the catalogue; `rosepo plugins show` has the "
        "formula of each metric."
    )
    return "\n\n".join(["## Results", *tables, legend])


SCORE_FORMULAS: Mapping[Score, str] = {
    "likelihood": "log p(title | history)",
    "mean": "log p(title | history) / tokens of the title",
    "prior-corrected": "log p(title | history) - log p(title)",
}


def _ranking(score: Score, fusion: ConditionalLogit | None) -> str:
    """By which score the model ranks, its formula, and the weights of fusion."""
    parts = ["## Ranking"]
    if fusion is None:
        parts += [f"Rank titles by `{score}`, highest first:", _indented(f"score = {SCORE_FORMULAS[score]}")]
    else:
        sum_of_terms = " ".join(
            f"{'-' if weight < 0 else '+'} {abs(weight):.3g} {feature_title(feature)}"
            for weight, feature in zip(fusion.per_unit.tolist(), fusion.features, strict=True)
        )
        first = sum_of_terms.removeprefix("+ ").removeprefix("- ")
        formula = f"-{first}" if sum_of_terms.startswith("-") else first
        rows = [["feature", "weight per standard deviation", "95 % interval"]]
        for feature, weight, low, high in zip(fusion.features, fusion.weights, fusion.low, fusion.high, strict=True):
            rows.append([feature_title(feature), signed(weight), f"{signed(low)} to {signed(high)}"])
        lines = [f"| {' | '.join(markdown(cell) for cell in row)} |" for row in rows]
        lines.insert(1, "| --- | ---: | ---: |")
        left_out = "".join(f" {feature_title(name)} was left out: {why}." for name, why in fusion.left_out)
        about = (
            f"The weights were fitted on the choices of {fusion.users:,} validation users (conditional logit). A "
            f"standard deviation is that among the titles of one user.{left_out}"
        )
        parts += [
            "Rank titles by `fusion`, highest first. Its softmax over the offered titles is the probability of each:",
            _indented(f"score = {formula}"),
            markdown(about),
            "\n".join(lines),
        ]
    if score in ("prior-corrected", "fusion"):
        parts.append("`log p(title)` is the probability of the title after the same prompt with an empty history.")
    parts.append("`rosepo recommend` does this.")
    return "\n\n".join(parts)


def _indented(text: str) -> str:
    """Text in one line, as code."""
    return "    " + " ".join(text.split())


def _number(value: float, decimals: int) -> str:
    return f"{value:.{decimals}f}" if math.isfinite(value) else "\N{EN DASH}"


def _loading(card: ModelCard) -> str:
    folder = json.dumps(card.folder)
    if card.method == "lora":
        base = json.dumps(card.base_folder or card.base_model)
        code = f"""from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
base = AutoModelForCausalLM.from_pretrained({base})
model = PeftModel.from_pretrained(base, {folder})
tokenizer = AutoTokenizer.from_pretrained({folder})"""
    else:
        code = f"""from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained({folder})
tokenizer = AutoTokenizer.from_pretrained({folder})"""
    return f"## Loading\n\n`{markdown_code(folder)}` is this folder.\n\n{_fenced(code, 'python')}"


def _recommending(card: ModelCard) -> str:
    if not card.exported:
        return ""
    code = f"""import rosepo_core
recommender = rosepo_core.Recommender.load({json.dumps(card.folder)})
print(recommender.recommend(recommender.titles[:3], k=5))"""
    return "\n\n".join(
        [
            "## Recommending",
            "With rosepo, it recommends titles of its catalogue (`catalogue.parquet`) and nothing else:",
            _fenced(code, "python"),
            f"`rosepo serve {markdown_code(card.folder)}` answers over HTTP. `golden_prompts.json` has the scores "
            "that the model must give to histories drawn at random from the catalogue, and "
            f"`rosepo export {markdown_code(card.folder)} --check` compares.",
        ]
    )


def _prompt(card: ModelCard) -> str:
    if not card.prompt:
        return ""
    parts = [
        "## Prompt",
        "The model was trained on prompts like this one (its titles are invented):",
        _fenced(card.prompt, "text"),
    ]
    if card.response:
        parts += ["and answers with a title and the token that ends it:", _fenced(card.response, "text")]
    return "\n\n".join(parts)


def _listed(title: str, lines: Sequence[str]) -> str:
    return "\n".join([f"## {title}\n", *(f"- {line}" for line in lines)]) if lines else ""


def _fenced(text: str, language: str) -> str:
    """A code block whose fence no line of `text` can close."""
    text = visible(text)
    runs = [len(run) for run in re.findall(r"`+", text)]
    fence = "`" * max(3, max(runs, default=0) + 1)
    return f"{fence}{language}\n{text}\n{fence}"
