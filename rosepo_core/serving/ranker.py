"""The decision rule of a finished run, for recommending: the same rules as in evaluation, on a pool of titles."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rosepo_core.contracts.components import SmoothingOracle
from rosepo_core.contracts.errors import PluginError, RequestError
from rosepo_core.contracts.options import parse_options
from rosepo_core.contracts.ranking import best_items
from rosepo_core.contracts.records import Catalogue, Doubles, Floats, Ints, Longs, Places
from rosepo_core.contracts.sections import EvaluationOptions, RankingOptions, Score
from rosepo_core.data.catalogue_in_use import CatalogueInUse
from rosepo_core.engine.title_model import TitleModel
from rosepo_core.evaluation.context import SHORTEST_LIST
from rosepo_core.evaluation.decision_rules import DecisionRule, needed_models
from rosepo_core.evaluation.pools import PoolSources
from rosepo_core.evaluation.run_models import language_models
from rosepo_core.plugins.one_file import check_recorded
from rosepo_core.plugins.recorded import check_same, lacking, origin_of, read_records
from rosepo_core.plugins.registry import load_plugins, running
from rosepo_core.serving.places import with_known_items
from rosepo_core.stages import embeddings, fusion, prior
from rosepo_core.stages.oracle import load_state
from rosepo_core.store.marker import is_own_run
from rosepo_core.store.run_store import RunStore, has_stage


@dataclass(frozen=True)
class Ranker:
    """Ranks the titles of a pool by a decision rule.

    Attributes:
        rule: the rule of one language model.
        sources: the sources of pools other than the model's search.
        pool: the most titles of a pool.
        searched: how many titles of the model's own search are a source of pools.
        beams: width of this search.
        oracle: the run's oracle; `None` if it has none.
        others: other language models whose scores the rule uses, by name.
        known: the number of items of the training. Those from there on are new; see `oracle_scores`.
    """

    rule: DecisionRule
    sources: PoolSources
    pool: int
    searched: int
    beams: int
    oracle: SmoothingOracle | None
    others: Mapping[str, TitleModel]
    known: int

    def with_items(self, catalogue: Catalogue, items: Collection[int], model: TitleModel) -> Ranker:
        """The ranker of a catalogue that has changed since training.

        Args:
            catalogue: all items: those of the training under their numbers, then the new ones.
            items: the numbers of all items that are new or renamed since the training.
            model: the language model of the rule, over `catalogue`.

        Raises:
            UnusableTitleError: as `TitleModel.with_items`.
        """
        known_prior = self.rule.prior
        rule = replace(
            self.rule,
            popularity=catalogue.popularity,
            lengths=model.title_lengths,
            prior=None if known_prior is None else _with_priors(known_prior, model, model.template.changed_items),
        )
        others = {name: each.with_items(catalogue, items) for name, each in self.others.items()}
        titles = None if self.sources.titles is None else _with_blank_rows(self.sources.titles, len(catalogue))
        sources = replace(self.sources, popularity=catalogue.popularity, titles=titles)
        return replace(self, rule=rule, others=others, sources=sources)

    def top(
        self, model: TitleModel, places: Places, exclude: Sequence[NDArray[np.integer]], k: int
    ) -> tuple[Ints, Floats, Doubles]:
        """The best `k` titles at each place.

        Args:
            model: the language model of the rule.
            places: n places.
            exclude: items that must not be recommended, one array for each place.
            k: number of titles.

        Returns:
            items int32 [n, k] and their scores by the rule, float32 [n, k], best first; -1 and -inf if there are
            fewer; and the logarithm of the sum of exp(score) over the pool, float64 [n].
        """
        searched = np.empty((len(places), 0), dtype=np.int32)
        size = max(self.pool, k)
        if len(self.sources.popularity) > size:
            searched, _ = model.top(places, self.searched, exclude=exclude, beams=self.beams, exact=False)
        items = self.sources.pools(places, exclude, searched, size)
        scores = self.scores(model, places, items)
        total: Doubles = np.logaddexp.reduce(scores.astype(np.float64), axis=1)
        return *best_items(scores, items, k), total

    def scores(self, model: TitleModel, places: Places, items: Ints) -> Floats:
        """The scores of items by the rule: float32 [n, c], -inf for an empty slot.

        Args:
            model: the language model of the rule.
            places: n places.
            items: int32 [n, c], -1 for an empty slot.
        """
        models = {self.rule.model: model, **self.others}
        raw = {name: each.log_probs(places, items) for name, each in models.items()}
        if "oracle" in self.rule.models:
            assert self.oracle is not None
            scores = oracle_scores(self.oracle, places, items, self.known)
            assert scores is not None
            raw["oracle"] = scores
        return self.rule.scores(items, raw)


def oracle_scores(oracle: SmoothingOracle, places: Places, items: Ints, known: int) -> Floats | None:
    """Scores of items under an oracle, which knows the items of its training only. New ones are left out of
    histories, and get the lowest score of their row: nobody has chosen them yet. If a history has new items alone,
    all scores are 0.

    Args:
        oracle: the oracle.
        places: n places.
        items: int32 [n, c], -1 for an empty slot.
        known: the number of items of the training; those from there on are new.

    Returns:
        float32 [n, c], -inf for an empty slot; `None` if the oracle ranks nothing.
    """
    if not oracle.ranks:
        return None
    rows, asked = with_known_items(places, known)
    is_known = (items >= 0) & (items < known)
    scores = np.zeros(items.shape, dtype=np.float32)
    if len(rows) or not len(places):
        with running(oracle):
            found = oracle.score(asked, np.where(is_known, items, 0)[rows])
        if found is None:
            return None
        scores[rows] = found
        lowest = np.where(is_known, scores, np.inf).min(axis=1, keepdims=True, initial=np.inf)
        scores = np.where(is_known, scores, np.where(np.isfinite(lowest), lowest, 0.0))
    return np.where(items >= 0, scores, -np.inf).astype(np.float32)


def _with_priors(known: Floats, model: TitleModel, items: Longs) -> Floats:
    """log p(title) of all items, after that of some was asked of the model: float32 [items]."""
    found = np.zeros(len(model.title_lengths), dtype=np.float32)
    found[: len(known)] = known
    if len(items):
        found[items] = model.log_probs(prior.no_history(), items[None].astype(np.int32))[0]
    return found


def _with_blank_rows(titles: Floats, count: int) -> Floats:
    """Title embeddings with rows of zeros for new items, which are near to nothing."""
    return np.pad(titles, ((0, count - len(titles)), (0, 0)))


class Parts(Protocol):
    """The artifacts of a run that ranking needs beside the language model."""

    @property
    def is_own(self) -> bool:
        """Whether this user made them, and the configuration beside them."""

    def find(self, name: str, command: str = "") -> Path | None:
        """The folder of an artifact; `None` if it is not there.

        Args:
            name: its name.
            command: what makes it, for errors.

        Raises:
            RequestError: it is damaged, or what it was made from has changed since.
        """

    def folder(self, name: str, score: Score) -> Path:
        """The folder of an artifact that a score needs.

        Raises:
            RequestError: it is not there, or damaged.
        """


@dataclass(frozen=True)
class RunParts:
    """The artifacts in a run folder."""

    store: RunStore

    @property
    def is_own(self) -> bool:
        """See `Parts`."""
        return is_own_run(self.store.folder)

    def find(self, name: str, command: str = "") -> Path | None:
        """See `Parts`."""
        return self.store.artifact(name, command).folder if has_stage(self.store.folder, name) else None

    def folder(self, name: str, score: Score) -> Path:
        """See `Parts`."""
        command = f"rosepo evaluate {self.store.folder} --ranking.score {score}"
        return self.store.artifact(name, command).folder


def load_ranker(
    parts: Parts,
    config: Mapping[str, Any],
    stage: str,
    score: Score,
    in_use: CatalogueInUse,
    load: Callable[[str], TitleModel],
) -> Ranker | None:
    """The ranker of a language model.

    Args:
        parts: the artifacts of its run.
        config: the tables of the run's config.toml.
        stage: the language model: ``"aligned"``, ``"sft"``, ``"base"``, or that of an earlier round.
        score: the score to rank by.
        in_use: the run's catalogue, with all changes since the training.
        load: loads a language model of the run by its name, over this catalogue.

    Returns:
        `None` if the score is likelihood, which needs no pool.

    Raises:
        RequestError: the run was not evaluated with this score, or its fusion uses the scores of a model that is not
            of the run.
    """
    if score == "likelihood":
        return None
    options = parse_options(RankingOptions, config.get("ranking", {}), "ranking")
    own_prior, logit = None, None
    if score in ("prior-corrected", "fusion"):
        own_prior = prior.load(parts.folder(f"prior-{stage}", score))
    if score == "fusion":
        logit = fusion.load(parts.folder(f"fusion-{stage}", score))
    features = logit.features if logit is not None else ()
    others = [name for name in needed_models(features, stage) if name not in (stage, "oracle")]
    for name in others:
        if name not in language_models(config.get("rounds", 1)):
            raise RequestError(
                f"the fusion of this run uses scores of '{name}', which is no model of the run: recommend by another "
                "score (--score), or evaluate with other ranking.features"
            )
    oracle = load_oracle(parts, config)
    embedded = parts.find("embeddings")
    titles = None if embedded is None else embeddings.load(embedded)
    model, catalogue = load(stage), in_use.items
    known = len(in_use.trained)
    if own_prior is not None:
        own_prior = _with_priors(own_prior, model, np.array(in_use.retitled, dtype=np.int64))
    rule = DecisionRule(stage, score, catalogue.popularity, model.title_lengths, own_prior, features, logit)
    evaluation = parse_options(EvaluationOptions, config.get("evaluation", {}), "evaluation")
    scores = None if oracle is None else partial(oracle_scores, oracle, known=known)
    if titles is not None:
        titles = _with_blank_rows(titles, len(catalogue))
    sources = PoolSources(catalogue.popularity, scores, titles)
    searched = max(SHORTEST_LIST, *evaluation.ks)
    models = {name: load(name) for name in others}
    return Ranker(rule, sources, options.pool, searched, evaluation.beams, oracle, models, known)


def load_oracle(parts: Parts, config: Mapping[str, Any]) -> SmoothingOracle | None:
    """The run's oracle; `None` if it has none.

    Raises:
        RequestError: its plugin is not installed.
    """
    folder = parts.find("oracle")
    if folder is None:
        return None
    section = dict(config.get("oracle", {}))
    name, registry = str(section.pop("name")), load_plugins()
    origin = origin_of(read_records(folder.parent), "oracle", name)
    try:
        check_recorded(name, folder, own=parts.is_own)
        check_same("oracle", name, origin, registry)
        registry.get("oracle", name)
    except (RequestError, PluginError) as error:
        raise lacking(origin, folder, error) from None
    oracle: SmoothingOracle = registry.create("oracle", name, section)
    load_state(oracle, folder)
    return oracle
