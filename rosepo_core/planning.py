"""The plan of a run: its work and its cost, without running it.

Dataset, split and candidates are really made, in a temporary folder, so that examples and tokens are counted and not
guessed. Times come from a few real forward and backward passes of the run's own model on this machine. Memory is
computed from the model's size and from the tensors that these passes kept. A model that does not fit into this
machine is not loaded: its memory is forecast from its configuration, and times stay unknown.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rosepo_core.config import RunConfig
from rosepo_core.contracts.components import SmoothingOracle
from rosepo_core.contracts.records import Examples, Ints, Places, Split
from rosepo_core.contracts.sections import AlignmentOptions, SFTOptions
from rosepo_core.engine.forecast import available_memory, step_memory
from rosepo_core.engine.passes import constant_budget
from rosepo_core.engine.policy import PolicySlot
from rosepo_core.engine.prompt_trees import prompt_trees
from rosepo_core.engine.scoring import BRANCH_TOKENS
from rosepo_core.engine.title_embeddings import choose_encoder
from rosepo_core.engine.trees import TokenTree
from rosepo_core.engine.writing import longest_answer
from rosepo_core.evaluation import run_models
from rosepo_core.evaluation.candidates import draw_candidates
from rosepo_core.evaluation.context import EvaluationContext
from rosepo_core.evaluation.decision_rules import shown_scores
from rosepo_core.measured_speed import UNKNOWN_SPEED, measure_speed
from rosepo_core.pipeline import check_stage, forced_stages, to_go_on_with, train
from rosepo_core.plugins.registry import Registry, load_plugins
from rosepo_core.prompts.template import PromptTemplate
from rosepo_core.stages import prior, reference, sampling, sft
from rosepo_core.stages.rounds import FIRST, Round, rounds_of
from rosepo_core.stages.session import Handle, QuietReporter, RunReporter, Session, Settings
from rosepo_core.stages.trained import DrawnCandidates, Trained
from rosepo_core.store.artifacts import Artifact
from rosepo_core.store.run_store import RunStore

SMALL_MODEL = 50_000_000
"""Bytes of weights below which a run is not measured before it starts: its passes are fast."""


@dataclass(frozen=True)
class StagePlan:
    """The planned work of one stage.

    Attributes:
        stage: its name. ``"scores"``, ``"lists"``, ``"pools"``, ``"answers"`` and ``"grounded"`` are totals over all
            language models.
        examples: amount of work: number of interactions, training sequences (or trees), pairs, titles to score...
        unit: the unit of `examples`.
        tokens: tokens that pass through the model, counted each time, without padding; 0 if there are none.
        longest: tokens of the longest sequence or tree, 0 if there are none.
        seconds: expected time; `None` if it is unknown, 0 if it is negligible.
        reused: the run folder that the stage would be taken from.
    """

    stage: str
    examples: int
    unit: str
    tokens: int = 0
    longest: int = 0
    seconds: float | None = 0.0
    reused: str | None = None


@dataclass(frozen=True)
class Plan:
    """The planned work of a run.

    Attributes:
        stages: the stages, in their order.
        pairs: number of preference pairs.
        train_rate: tokens per second of one process in training, forward and backward; `None` if it is unknown.
        score_rate: tokens per second of one process in scoring; `None` if it is unknown.
        processes: how many train together.
        memory: bytes of one process at the moment of highest use, by purpose; with several processes under DDP, where
            each keeps the whole model.
        shared_memory: the same under FSDP or ZeRO-3, where each keeps a share; empty with one process.
        notes: more information, one line each.
    """

    stages: tuple[StagePlan, ...]
    pairs: int
    train_rate: float | None
    score_rate: float | None
    processes: int
    memory: Mapping[str, int]
    shared_memory: Mapping[str, int]
    notes: tuple[str, ...]

    @property
    def seconds(self) -> float:
        """Total time of the stages that are not reused and whose time is known."""
        return sum(stage.seconds or 0.0 for stage in self.stages if stage.reused is None)

    def up_to(self, stage: str | None) -> Plan:
        """The plan of the stages up to this one; all of it if that is `None` or has no row of its own."""
        last = next((place for place, row in enumerate(self.stages) if row.stage == stage), len(self.stages))
        return replace(self, stages=self.stages[: last + 1])

    def document(self) -> dict[str, Any]:
        """The plan as values for JSON."""
        return {**asdict(self), "seconds": self.seconds, "memory_total": sum(self.memory.values())}


class _Rehearsal(Session):
    """A session that makes the quick stages, in a temporary folder, and only looks for artifacts of the others."""

    def __init__(
        self,
        config: RunConfig,
        store: RunStore,
        scratch: RunStore,
        registry: Registry,
        reporter: RunReporter,
        forced: Callable[[str], bool],
        policy: PolicySlot | None,
    ) -> None:
        super().__init__(config, store, registry, reporter, forced=forced, policy=policy)
        self._scratch = scratch

    def provide(
        self,
        stage: str,
        settings: Settings,
        inputs: Sequence[Handle[Any]],
        build: Callable[[Path], None],
        *,
        by_all: bool = False,
    ) -> Artifact:
        """An existing artifact, a new one of a quick stage, or a planned one whose folder does not exist."""
        wanted = self.fingerprint(stage, settings, inputs)
        found = None if self.is_forced(stage, inputs) else self.find(stage, wanted)
        # A stage cannot be made from inputs that are only planned.
        if found is None and _is_quick(stage) and all(each.folder.exists() for each in inputs):

            def untimed(folder: Path) -> float:
                build(folder)
                return 0.0

            found = self._scratch.make(stage, wanted, {}, untimed)
        return found or Artifact(stage, self._scratch.folder / stage, wanted, None, 0.0)


def _is_quick(stage: str) -> bool:
    """Whether a stage is made in a moment; candidates have a stage for each part and kind of negatives."""
    return stage in ("dataset", "split") or stage.startswith("candidates")


def plan(
    config: RunConfig,
    folder: Path,
    reporter: RunReporter,
    *,
    registry: Registry | None = None,
    until: str | None = None,
    force: Sequence[str] = (),
    overwrite: bool = False,
    processes: int = 1,
    policy: PolicySlot | None = None,
) -> Plan:
    """The plan of `rosepo_core.pipeline.run` with the same arguments, in so many processes. Nothing is written into
    `folder`.

    Raises:
        RequestError: the run would end with this error before anything is trained.
    """
    if until is not None:
        check_stage(until, config.rounds)
    RunStore(folder).check_place()
    with _rehearsal(config, folder, reporter, registry, force, overwrite, policy) as session:
        return _plan(session, train(session), processes).up_to(until)


def forecast(
    config: RunConfig,
    folder: Path,
    reporter: RunReporter,
    *,
    registry: Registry | None = None,
    force: Sequence[str] = (),
    overwrite: bool = False,
    processes: int = 1,
) -> Plan | None:
    """The plan of a run that is about to start, as `plan`. `None` if measuring first is not worth it: nothing is left
    to be trained, or the model is small. Notes are not shown, because the run itself will show them."""
    reporter.stage_started("forecast")
    quiet = _ProgressOnly(reporter)
    with _rehearsal(config, folder, quiet, registry, force, overwrite) as session:
        session.policy.check_targets(session.config.sft)
        if session.policy.size(session.config.sft).weights < SMALL_MODEL:
            return None
        trained = train(session)
        if all(each.reused is not None for stage, each in session.artifacts.items() if not _is_quick(stage)):
            return None
        return _plan(session, trained, processes)


class _ProgressOnly(QuietReporter):
    """Passes progress on, and nothing else."""

    def __init__(self, reporter: RunReporter) -> None:
        self.progress = reporter.progress  # type: ignore[method-assign]


@contextmanager
def _rehearsal(
    config: RunConfig,
    folder: Path,
    reporter: RunReporter,
    registry: Registry | None,
    force: Sequence[str],
    overwrite: bool,
    policy: PolicySlot | None = None,
) -> Iterator[_Rehearsal]:
    registry = registry or load_plugins()
    forced = forced_stages(force, config.rounds)
    if not overwrite:
        config = to_go_on_with(config, folder, registry)
    with tempfile.TemporaryDirectory(prefix="rosepo-plan-") as scratch:
        made = RunStore(Path(scratch))
        with made.working(""):
            yield _Rehearsal(config, RunStore(folder), made, registry, reporter, forced, policy)


def _plan(session: _Rehearsal, planned: Trained, processes: int) -> Plan:
    data = planned.split.content
    template = session.template(planned.split)
    material = sft_lengths(session, template, data)
    material_parts = [part for parts in material for part in parts]
    examples, rejected = stand_in_pairs(session, data)
    loss = session.loss()
    mismatched = [np.roll(examples.target, 1)[:, None]] if loss.needs_mismatched else []
    responses = np.concatenate([examples.target[:, None], rejected, *mismatched], axis=1)
    lists = session.lists(examples, len(data.catalogue), rejected)
    trees = prompt_trees(template, examples, responses, shared=True, candidates=lists)
    split_trees = [tree.split_examples(_training_budget(session.config.alignment)) for tree in trees]
    parts = [part for tree in split_trees for part in tree]
    contexts = EvaluationContext.of_each_part(session, planned.split)
    context = contexts[0]
    ranking = session.config.ranking
    fitted = ranking.score == "fusion" and all(each.part != "validation" for each in contexts)
    ranked = [*contexts, context.on("validation")] if fitted else contexts
    offered = [(each, items) for each in ranked for items in _stand_in_candidates(each, planned.candidates)]
    scored = [tree for each, items in offered for tree in _scoring_trees(template, each.examples, items)]
    size = session.policy.size(session.config.sft)
    fits = size.weights + size.adapters < available_memory()
    speed = measure_speed(context, template, examples, parts, scored) if fits else UNKNOWN_SPEED
    if fits:
        size = replace(size, kept=speed.kept)
    largest = max(
        _largest_pass(material_parts, session.config.sft),
        _largest_pass([len(part) for part in parts], session.config.alignment),
    )
    memory, shared = step_memory(size, largest, processes)

    def row(stage: str, count: int, unit: str, tokens: float, lengths: Sequence[int], seconds: float | None) -> None:
        reused = session.artifacts[stage].reused if stage in session.artifacts else None
        longest = max(lengths, default=0)
        seconds = None if seconds is None or math.isnan(seconds) else seconds
        rows.append(StagePlan(stage, count, unit, round(tokens), longest, seconds, str(reused) if reused else None))

    rows: list[StagePlan] = []
    options = session.config
    tree_lengths = [len(tree) for tree in trees]
    score_lengths = [len(tree) for tree in scored]
    part_lengths = [len(part) for part in parts]
    aligned_tokens = _trained_tokens([sum(map(len, tree)) for tree in split_trees], options.alignment)
    pair_count = int((rejected >= 0).sum())
    corrected = "prior-corrected" in shown_scores(options.ranking.score)

    def prior_row(model: str, *, ranked: bool = True) -> None:
        name = prior.PREFIX + model
        if (corrected and ranked) or name in session.artifacts:
            titles = prior.every_title(len(data.catalogue))
            lengths = [len(tree) for tree in _scoring_trees(template, *titles)]
            row(name, len(data.catalogue), "titles", sum(lengths), lengths, sum(lengths) / speed.score)

    def sft_row(number: Round) -> None:
        tokens = _trained_tokens([sum(each) for each in material], sft.options_of(session, number))
        row(number.stage("sft"), len(material), "sequences", tokens, material_parts, tokens / speed.train)

    row("dataset", int(data.seen.keys.size), "interactions", 0, [], 0.0)
    row("split", len(data.users), "users", 0, [], 0.0)
    prior_row("base")
    sft_row(FIRST)
    smoothing_asks = False
    if planned.oracle is not None:
        oracle: SmoothingOracle = session.component("oracle")
        smoothing_asks = loss.needs_smoothing and "language-model" in oracle.needs
        if "language-model" in oracle.needs:
            # As long as the titles of evaluation are.
            asks = oracle.asks(data)
            tokens = asks * sum(score_lengths) / sum(len(tree.lengths) for tree in scored)
            row("oracle", asks, "titles", tokens, score_lengths, tokens / speed.score)
        else:
            row("oracle", len(data.train.items), "interactions", 0, [], None)
    # A loss of the whole step runs each pass once more without gradients.
    again = aligned_tokens / speed.score if loss.scope == "batch" else 0.0
    # A later round has other users, and about as much work as the first.
    for number in rounds_of(options.rounds):
        first = number.number == 1
        row(number.stage("sampling"), len(examples), "examples", 0, [], speed.sampling)
        if not first:
            sft_row(number)
        prior_row(number.stage("sft"), ranked=first)
        compared = tree_lengths if reference.kind(session) == "sft" else []
        row(number.stage("reference"), pair_count, "pairs", sum(compared), compared, sum(compared) / speed.score)
        # The reference has scored what an oracle asks about the pairs of the first round.
        known = first and reference.kind(session) == "sft"
        compared = tree_lengths if smoothing_asks and not known else []
        row(number.stage("preferences"), pair_count, "pairs", sum(compared), compared, sum(compared) / speed.score)
        seconds = aligned_tokens / speed.train + again
        row(number.stage("aligned"), pair_count, "pairs", aligned_tokens, part_lengths, seconds)
        prior_row(number.stage("aligned"))
    if context.embedded is not None:
        read = int(template.response_lengths.sum()) if choose_encoder() == "language-model" else 0
        row("embeddings", len(data.catalogue), "titles", read, [], read / speed.score if read else None)
    language_models = len(run_models.language_models(options.rounds))
    asked = sum(len(each.examples) for each in contexts)
    users = language_models * asked
    # Prompts of `catalogue` and `free` have no list of candidates.
    prompts = [
        len(prompt) for each in contexts if not template.candidates for prompt in template.prompts(each.examples)
    ]
    if planned.candidates:
        titles = language_models * sum(len(tree.lengths) for tree in scored)
        tokens = language_models * sum(score_lengths)
        row("scores", titles, "titles", tokens, score_lengths, tokens / speed.score)
    if "catalogue" in options.evaluation.protocols:
        row("lists", users, "users", language_models * sum(prompts), prompts, users * speed.listing)
        if ranking.score != "likelihood":
            pool = min(ranking.pool, len(data.catalogue))
            pools = [length + round(pool * template.response_lengths.mean()) for length in prompts]
            tokens = language_models * sum(pools)
            row("pools", users * pool, "titles", tokens, pools, tokens / speed.score)
    if "free" in options.evaluation.protocols:
        answered = [length + longest_answer(template) for length in prompts]
        row("answers", users, "users", language_models * sum(answered), answered, users * speed.writing)
        if options.evaluation.ground and context.embedded is not None:
            # The catalogue is embedded again together with each model's answers.
            again = language_models * (read + asked * longest_answer(template)) if read else 0
            row("grounded", users, "answers", again, [], again / speed.score if again else None)
    return Plan(
        stages=tuple(rows),
        pairs=pair_count,
        train_rate=speed.train if fits else None,
        score_rate=speed.score if fits else None,
        processes=processes,
        memory=memory,
        shared_memory=shared,
        notes=tuple(_notes(template, data, *offered[0], fits)),
    )


def sft_lengths(session: Session, template: PromptTemplate, data: Split) -> list[list[int]]:
    """Number of tokens of each sequence of supervised fine-tuning; of a tree, of each part in which it passes through
    the model."""
    options = session.config.sft
    if options.objective == "tokens":
        return [[len(ids)] for ids, _ in sft.token_sequences(session, template, data)]
    examples, sampled = sft.choices(session, template, data)
    responses = np.concatenate([examples.target[:, None], sampled], axis=1)
    trees = prompt_trees(template, examples, responses, shared=True)
    return [[len(part) for part in tree.split_examples(_training_budget(options))] for tree in trees]


def stand_in_pairs(session: Session, data: Split) -> tuple[Examples, Ints]:
    """The examples of the pairs, and items drawn uniformly instead of the rejected items, which are not known yet:
    int32 [n, K]."""
    options = session.config.preferences
    examples = sampling.choose_examples(data, options, session.rng("sampling"))
    to_rank = np.random.default_rng(0).integers(len(data.catalogue), size=(len(examples), options.negatives))
    return examples, to_rank.astype(np.int32)


def _stand_in_candidates(context: EvaluationContext, to_rank: DrawnCandidates) -> Iterator[Ints]:
    """The candidates of each kind: int32 [n, c]. If title embeddings must be made first, the same number of items
    drawn uniformly. If no candidates are needed, only the target."""
    count, seed = context.options.candidates, context.session.config.seed
    for (part, _), each in to_rank.items():
        if part != context.part:
            continue
        if each.folder.exists():
            yield each.content.items
        else:
            yield draw_candidates(context.split.content, context.examples, count, seed).items
    if not to_rank:
        yield context.examples.target[:, None]


def _scoring_trees(template: PromptTemplate, places: Places, items: Ints) -> list[TokenTree]:
    listed = items if template.candidates else None
    trees = prompt_trees(template, places, items, candidates=listed)
    return [part for tree in trees for part in tree.split(BRANCH_TOKENS)]


def _trained_tokens(lengths: Sequence[int], options: SFTOptions | AlignmentOptions) -> float:
    if not lengths:
        return 0.0
    if options.steps is None:
        return sum(lengths) * options.epochs
    step = min(options.batch_size * options.gradient_accumulation_steps, len(lengths))
    return float(np.mean(lengths)) * step * options.steps


def _training_budget(options: SFTOptions | AlignmentOptions) -> int:
    """The most tokens of a forward pass in training. On a GPU, `auto` is planned with a constant."""
    return constant_budget(options.token_budget, True, "cuda" if torch.cuda.is_available() else "cpu")


def _largest_pass(lengths: Sequence[int], options: SFTOptions | AlignmentOptions) -> int:
    """The most tokens of a forward pass in training, padding included."""
    longest = max(lengths)
    return max(longest, min(_training_budget(options), longest * options.batch_size))


def _notes(
    template: PromptTemplate, data: Split, context: EvaluationContext, offered: Ints, measured: bool
) -> Iterator[str]:
    """More information, one line each. `offered` are the candidates that prompts of evaluation list."""
    session, config = context.session, context.session.config
    lengths = data.train.lengths
    users = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    places = np.arange(len(users)) - np.repeat(data.train.offsets[:-1], lengths)
    trained = Examples.of(data.train, users, places.astype(np.int32))
    lists = session.lists(trained, len(data.catalogue))
    asked = (context.part, context.examples, False, offered)
    for what, examples, shared, listed in (("training", trained, True, lists), asked):
        truncation = template.truncation(examples, shared=shared, candidates=listed)
        if truncation.items:
            yield (
                f"prompt.max_length={template.options.max_length} cuts {truncation.items:,} items from the histories "
                f"of {truncation.examples:,} of {len(examples):,} {what} examples"
            )
    titles = template.response_lengths
    yield f"titles have {titles.mean():.1f} tokens on average and {titles.max()} at most, their end included"
    yield "rejected titles are not known yet; their tokens are estimated from titles drawn uniformly"
    asks_model = "language-model" in session.component("oracle").needs
    if "oracle" in session.artifacts and session.artifacts["oracle"].reused is None and not asks_model:
        yield f"the training time of oracle '{config.oracle.shown_name}' is unknown and not counted"
    if not measured:
        yield "the model does not fit into this machine and was not loaded: times are unknown, memory is a forecast"
    yield (
        "memory is that of one process: the weights, a gradient and two optimizer moments of each trained number, "
        f"the bytes that a training step keeps per token ({'measured' if measured else 'estimated'}) times the "
        "tokens of the largest pass, and logits; Python and its libraries need more"
    )
