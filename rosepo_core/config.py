"""The configuration of a run: defaults, then a preset, then a TOML file, then the command line. Later values replace
earlier ones.

A plugin's options are in the same table as its name::

    [loss]
    name = "rosepo"
    beta = 0.1

    [[sampler]]
    name = "self-hard"
    weight = 0.5

Options belong to the plugin in their table. If the command line names another plugin than the file, the file's
options of that section are not used, because they are for the other plugin; and so between a file and a preset.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime, time
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tomli_w
from pydantic import BeforeValidator, ConfigDict, Field, PrivateAttr, SerializeAsAny

from rosepo_core.contracts.errors import PluginError, RequestError, RosepoError, beyond_python, nearest
from rosepo_core.contracts.options import CHANGES_NO_RESULT, Options, parse_options
from rosepo_core.contracts.sections import (
    SCORES,
    AlignmentOptions,
    CheckpointOptions,
    EvaluationOptions,
    ModelOptions,
    PreferenceOptions,
    RankingOptions,
    SFTOptions,
    SplitOptions,
    Tracker,
    one_or_several,
)
from rosepo_core.plugins.one_file import check_recorded, is_file_name, plain_name, shown_name
from rosepo_core.plugins.registry import Registry, load_plugins
from rosepo_core.presets import preset as find_preset
from rosepo_core.store.marker import is_own_run


class RecordedOptions(Options):
    """The options of a plugin that cannot be used any more, as the configuration of a finished run has them."""

    model_config = ConfigDict(extra="allow")
    _error: RosepoError = PrivateAttr()

    @classmethod
    def of(cls, options: Mapping[str, Any], error: RosepoError) -> RecordedOptions:
        """The options of a plugin that cannot be used because of `error`."""
        made = cls.model_validate(dict(options))
        made._error = error
        return made

    @property
    def error(self) -> RosepoError:
        """Why the plugin cannot be used."""
        return self._error


class PluginChoice(Options):
    """A plugin and its options, validated."""

    name: str = Field(min_length=1, description="The plugin's name, 'distribution/name', or 'path/file.py:Class'.")
    options: SerializeAsAny[Options] = Field(description="An instance of the plugin's options model.")

    @property
    def shown_name(self) -> str:
        """The name for readers: as it is, but of a plugin in a file the class."""
        return shown_name(self.name)

    def table(self, keys: Callable[[Options], dict[str, Any]]) -> dict[str, Any]:
        """The table of this choice in a file, with the options that `keys` returns."""
        return self.model_dump(mode="json", exclude={"options"}) | keys(self.options)


class SamplerChoice(PluginChoice):
    """A sampler and its share of the rejected items."""

    weight: float = Field(1.0, gt=0, description="Share of the rejected items, relative to the other samplers'.")


class LossChoice(PluginChoice):
    """A loss and its factor in the sum that is minimized."""

    weight: float = Field(1.0, gt=0, description="Factor of this loss in the sum of all losses.")


DEFAULT_METRICS = (
    *("hr", "ndcg", "mrr", "auc", "semantic-hallucination"),
    *("arp", "popularity-lift", "aplt", "popularity-confusion", "popularity-correlation"),
    *("coverage", "gini", "or-ratio", "div-ratio", "mgu", "dgu", "intra-list-distance"),
)
"""The metrics that are used by default. If the catalogue has no genres, a note names the metrics that need them."""


class RunConfig(Options):
    """Everything that determines a run. Make one with `read_config` or `load_config`, which know the plugins."""

    seed: int = Field(0, ge=0, lt=2**32, description="Seed of everything that is random.")
    deterministic: bool = Field(
        False,
        description="Repeat a run bit for bit on a GPU, with slower algorithms. On a CPU runs always repeat so.",
    )
    track: Annotated[tuple[Tracker, ...], BeforeValidator(one_or_several)] = Field(
        (),
        json_schema_extra=CHANGES_NO_RESULT,
        description="Trackers that get the numbers of training, beside RUN/metrics.jsonl: 'tensorboard', 'wandb', "
        "'mlflow' or 'trackio'.",
    )
    rounds: int = Field(
        1,
        ge=1,
        description="Rounds of self-play: SFT and alignment in turn, each time with rejected items drawn again from "
        "the current model. SFT of later rounds takes epochs and learning_rate from [alignment].",
    )
    dataset: PluginChoice = Field(description="The source of interactions and titles.")
    split: SplitOptions = Field(SplitOptions(), description="Which interactions are held out.")
    model: ModelOptions = Field(ModelOptions(), description="The language model to start from.")
    prompt: PluginChoice = Field(description="How a history is written as text.")
    sft: SFTOptions = Field(SFTOptions(), description="Supervised fine-tuning.")
    oracle: PluginChoice = Field(description="The oracle, which gives the smoothing factors.")
    sampler: tuple[SamplerChoice, ...] = Field(min_length=1, description="The samplers, which pick rejected items.")
    preferences: PreferenceOptions = Field(PreferenceOptions(), description="How many pairs are made.")
    loss: tuple[LossChoice, ...] = Field(min_length=1, description="The objective over the pairs: a sum of losses.")
    alignment: AlignmentOptions = Field(AlignmentOptions(), description="Preference optimization.")
    ranking: RankingOptions = Field(RankingOptions(), description="The score by which titles are ranked.")
    evaluation: EvaluationOptions = Field(EvaluationOptions(), description="How models are evaluated.")
    metric: tuple[PluginChoice, ...] = Field(min_length=1, description="The metrics.")
    checkpoint: CheckpointOptions = Field(CheckpointOptions(), description="What is kept of a stage in progress.")

    @property
    def loss_name(self) -> str:
        """The names of the losses, for titles: ``rosepo``, or ``rosepo+sft``."""
        return "+".join(column_name(choice.name) for choice in self.loss)

    def choices(self, section: str) -> tuple[PluginChoice, ...]:
        """The plugins that a section names."""
        value = getattr(self, section)
        return value if isinstance(value, tuple) else (value,)

    def resolved(self) -> dict[str, Any]:
        """Every key with its value, also the defaults of plugins, in the layout of the file; unset keys are
        `None`."""
        return self._tables(lambda options: options.model_dump(mode="json"))

    def that_decides(self) -> dict[str, Any]:
        """`resolved` without the keys that never change a result, see `Options.that_decide`. One round is left out,
        because it is no other run than one from the time before rounds."""
        tables = self._tables(lambda options: options.that_decide())
        return {key: tables[key] for key in tables if _decides(key) and (key, tables[key]) != ("rounds", 1)}

    def _tables(self, keys: Callable[[Options], dict[str, Any]]) -> dict[str, Any]:
        whole: dict[str, Any] = {}
        for section in RunConfig.model_fields:
            value = getattr(self, section)
            if section in PLAIN_KEYS:
                whole[section] = list(value) if isinstance(value, tuple) else value
            elif isinstance(value, tuple):
                whole[section] = [choice.table(keys) for choice in value]
                if section == "loss" and len(value) == 1 and value[0].weight == 1:
                    # One loss is written as one table, as users do.
                    whole[section] = {key: kept for key, kept in whole[section][0].items() if key != "weight"}
            elif isinstance(value, PluginChoice):
                whole[section] = value.table(keys)
            else:
                whole[section] = keys(value)
        return whole

    def to_toml(self) -> str:
        """`resolved` as the text of a file, which `load_config` reads back to the same configuration. TOML has no
        null, so an unset key is a comment."""
        text = tomli_w.dumps({key: _marked(value) for key, value in self.resolved().items()})
        text = re.sub(f'^(.+) = "{_UNSET}"$', r"# \1 is unset", text, flags=re.MULTILINE)
        # A table within a line has no place for a comment.
        return re.sub(f', [^ ]+ = "{_UNSET}"', "", text)


PLAIN_KEYS = ("seed", "deterministic", "track", "rounds")
"""The keys at the top of a configuration, outside all sections."""


def _decides(key: str) -> bool:
    """Whether a key at the top can change a result."""
    return RunConfig.model_fields[key].json_schema_extra != CHANGES_NO_RESULT


SECTIONS: Mapping[str, type[Options]] = {
    "split": SplitOptions,
    "model": ModelOptions,
    "sft": SFTOptions,
    "preferences": PreferenceOptions,
    "alignment": AlignmentOptions,
    "ranking": RankingOptions,
    "evaluation": EvaluationOptions,
    "checkpoint": CheckpointOptions,
}
"""The sections whose options belong to the core."""

PLUGIN_SECTIONS = ("dataset", "prompt", "oracle")
"""The sections that name one plugin."""

LIST_SECTIONS: Mapping[str, type[PluginChoice]] = {
    "sampler": SamplerChoice,
    "loss": LossChoice,
    "metric": PluginChoice,
}
"""The sections that name one plugin or more."""

WEIGHTED = ("sampler", "loss")
"""The sections whose plugins have weights."""

DEFAULTS: Mapping[str, tuple[str, ...]] = {
    "dataset": ("movielens-100k",),
    "prompt": ("timeline",),
    "oracle": ("sasrec",),
    "sampler": ("self-hard",),
    "loss": ("rosepo",),
    "metric": DEFAULT_METRICS,
}
"""The default plugins of each section."""


def load_config(
    file: Path | None,
    overrides: Sequence[tuple[str, Any]] = (),
    registry: Registry | None = None,
    *,
    preset: str | None = None,
    purpose: Purpose = "run",
) -> RunConfig:
    """Read a configuration. Precedence: defaults < preset < file < overrides.

    Args:
        file: a TOML file, or `None` for the defaults. Keys may be written with `-` or `_`.
        overrides: keys and values from the command line, in its order: ``("sft.steps", "80")``, ``("loss", "ipo")``
            (the same as ``loss.name``), ``("sampler", "self-hard=0.5")``, ``("loss", "sft=0.1")``,
            ``("metric", "hr")``. Named samplers, losses or metrics replace the list in the file. A string value is
            read as TOML if this gives a number, a boolean, a quoted string, an array or a table; otherwise it is used
            unchanged. An option of ``sampler``, ``loss`` or ``metric`` is set for each of them that has it.
        registry: the plugins; by default those that are installed.
        preset: the name of a preset, see `rosepo_core.presets`.
        purpose: ``"run"`` for a new run. The file of a finished run is read with ``"use"``: a plugin that it names,
            and that cannot be used, is then no error, and its options are `RecordedOptions`, as they are in the file.
            With ``"read"`` this also holds for every plugin in a file (`rosepo_core.plugins.one_file`): its code is
            not imported, because it may be that of a stranger.

    Raises:
        RequestError: the file cannot be read, a key or value is wrong, or there is no such preset; the message names
            file and key.
    """
    registry = registry or load_plugins()
    values = [(key.replace("-", "_"), _read_value(value)) for key, value in overrides]
    layer: dict[str, Any] = {} if preset is None else _normal_file(find_preset(preset).tables)
    try:
        if file is not None:
            layer = _laid_over(layer, _normal_file(_read(file), layer), registry)
    except RequestError as error:
        raise RequestError(f"{file}: {error}") from None
    parse = registry.parse if purpose == "run" else _recorded(layer, registry, file, purpose)
    try:
        return _validate(_overlay(layer, values, registry), registry, parse)
    except RequestError as error:
        message = str(error)
        raise RequestError(f"{file}: {message}" if message == _fault(layer, registry) else message) from None


def added_to(before: RunConfig, asked: RunConfig) -> RunConfig:
    """The configuration `asked`, together with everything that `before` measures: the metrics with their cut-offs,
    the values of every key of ``[evaluation]`` that takes several (protocols, parts, negatives, cut-offs), and the
    scores of ``[ranking]``.

    Raises:
        RequestError: both have a metric, and its options differ in more than the cut-offs; or both have a table with
            ``fusion``, and its options differ.
    """
    old, new = before.evaluation, asked.evaluation
    several = {key: _union(getattr(old, key), value) for key, value in new if isinstance(value, tuple)}
    metrics = {column_name(choice.name): choice for choice in before.metric}
    for choice in asked.metric:
        column = column_name(choice.name)
        metrics[column] = (
            _with_more_cut_offs(metrics[column], choice, old.ks, new.ks) if column in metrics else choice
        )
    evaluation = new.model_copy(update=several)
    return asked.model_copy(
        update={
            "ranking": _with_more_scores(before.ranking, asked.ranking),
            "evaluation": evaluation,
            "metric": tuple(metrics.values()),
        }
    )


def _with_more_scores(old: RankingOptions, new: RankingOptions) -> RankingOptions:
    """The ranking whose tables have the scores of both: a score comes with all before it in `SCORES`."""
    # Likelihood uses none of the other keys.
    if old.score == "likelihood":
        return new
    if new.score == "likelihood":
        return old
    used = ["pool", *(("features", "ridge") if old.score == new.score == "fusion" else ())]
    differing = [key for key in used if getattr(new, key) != getattr(old, key)]
    if not differing:
        return max(old, new, key=lambda ranking: SCORES.index(ranking.score))
    raise RequestError(
        f"the run has been ranked by '{old.score}' with another ranking.{differing[0]}, and its tables are added to, "
        "never replaced: run its command again with the other value and another --run beside it, which reuses all "
        "training"
    )


def _union(some: tuple[Any, ...], more: tuple[Any, ...]) -> tuple[Any, ...]:
    """Each value once: numbers in ascending order if there are new ones, and new names after the others."""
    if set(more) <= set(some):
        return some
    every = dict.fromkeys([*some, *more])
    return tuple(sorted(every)) if all(isinstance(each, int) for each in every) else tuple(every)


def _with_more_cut_offs(
    old: PluginChoice, new: PluginChoice, old_ks: tuple[int, ...], new_ks: tuple[int, ...]
) -> PluginChoice:
    """One metric at the cut-offs of both; those of ``[evaluation]`` if it names none."""
    before, now = old.options.model_dump(), new.options.model_dump()
    if type(old.options) is type(new.options) and before == now:
        return old
    some, more = before.pop("ks", None), now.pop("ks", None)
    if type(old.options) is not type(new.options) or before != now:
        differing = ", ".join(key for key in now if before.get(key) != now[key]) or new.name
        raise RequestError(
            f"the run has measured '{old.name}' with other options ({differing}), and its tables are added to, never "
            "replaced: run the command of the run again with the other options and another --run beside it, which "
            "reuses all training"
        )
    # A metric that names no cut-offs goes on with those of [evaluation], which are never fewer than they were.
    every = _union(some or old_ks, more or new_ks)
    if every == (some or old_ks):
        return old
    return old.model_copy(update={"options": old.options.model_copy(update={"ks": every})})


def read_config(tables: Mapping[str, Any], registry: Registry | None = None) -> RunConfig:
    """A configuration from tables as they are in a file, e.g. ``{"loss": {"name": "rosepo", "beta": 0.2}}``.

    Raises:
        RequestError: a key or value is wrong; the message names the key.
    """
    registry = registry or load_plugins()
    return _validate(_normal_file(tables), registry, registry.parse)


def _fault(layer: Mapping[str, Any], registry: Registry) -> str | None:
    """The error of the file alone, without overrides; `None` if it has none."""
    try:
        _validate(layer, registry, registry.parse)
    except RequestError as error:
        return str(error)
    return None


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise RequestError(f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise RequestError(f"is not UTF-8 text (byte {error.start})") from None
    except tomllib.TOMLDecodeError as error:
        raise RequestError(f"is not valid TOML: {error}") from None
    except (ValueError, RecursionError) as error:
        raise RequestError(f"is beyond what can be read: {beyond_python(error)}") from None


def as_written(value: Any) -> Any:
    """A value in the form that an override needs to give the same value. Text is put in quotes, because otherwise
    ``"5"`` would become a number."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else value


def _read_value(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        parsed = tomllib.loads(f"value = {value}")
    except (ValueError, RecursionError):
        return value
    # A value with a line break could add more keys, and a date is more likely a name.
    if len(parsed) > 1 or isinstance(parsed["value"], date | datetime | time):
        return value
    return parsed["value"]


def _laid_over(under: Mapping[str, Any], over: Mapping[str, Any], registry: Registry) -> dict[str, Any]:
    """The tables of a preset with those of a file over them. Options of a plugin that the file does not name are
    dropped."""
    merged = dict(under)
    for section, value in over.items():
        if section in PLAIN_KEYS or section not in under:
            merged[section] = value
        elif section in LIST_SECTIONS:
            merged[section] = [
                {**_options_for(section, str(table["name"]), under[section], registry), **table} for table in value
            ]
        elif section in PLUGIN_SECTIONS:
            name = str(value.get("name", _name_of(section, under[section])))
            merged[section] = {**_options_for(section, name, [under[section]], registry), "name": name, **value}
        else:
            both = {**under[section], **value}
            for key in under[section].keys() & value.keys():
                if isinstance(under[section][key], Mapping) and isinstance(value[key], Mapping):
                    both[key] = {**under[section][key], **value[key]}
            merged[section] = both
    return merged


def _options_for(section: str, name: str, tables: Sequence[Mapping[str, Any]], registry: Registry) -> dict[str, Any]:
    """The options of the first of these tables that is of the plugin `name`; empty if none is."""
    name = registry.canonical(section, name)
    for table in tables:
        if registry.canonical(section, _name_of(section, table)) == name:
            return {key: value for key, value in table.items() if key not in ("name", "weight")}
    return {}


def _normal_file(raw: Mapping[str, Any], under: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The file's tables in one form: keys with `_`, samplers, losses and metrics always as lists, a plain name as a
    table. A single sampler or loss without a name is the one of `under`, if that has one, or else the default."""
    tables = _normal_keys(raw, "")
    for section, value in tables.items():
        _check_section(section)
        if section in PLAIN_KEYS:
            continue
        if section in LIST_SECTIONS:
            listed = value if isinstance(value, list) else [value]
            tables[section] = [_normal_table(section, each) for each in listed]
            if section in WEIGHTED and len(listed) == 1:
                below = (under or {}).get(section, [])
                known = below[0]["name"] if len(below) == 1 else DEFAULTS[section][0]
                tables[section][0].setdefault("name", known)
            elif not listed:
                raise RequestError(f"'{section}' is empty; name at least one")
            for index, table in enumerate(tables[section]):
                if "name" not in table:
                    raise RequestError(f"option '{_where(section, listed, index)}.name' is required")
        else:
            tables[section] = _normal_table(section, value)
    return tables


def _normal_table(section: str, value: Any) -> dict[str, Any]:
    if isinstance(value, str) and "name" in _core_keys(section):
        return {"name": value}
    if not isinstance(value, Mapping):
        raise RequestError(f"'{section}' must be a table, [{section}], not {value!r}")
    table = _normal_keys(value, section)
    inner = {key: _normal_keys(each, f"{section}.{key}") for key, each in table.items() if isinstance(each, Mapping)}
    return table | (inner if section in SECTIONS else {})


def _normal_keys(table: Mapping[str, Any], where: str) -> dict[str, Any]:
    normal: dict[str, Any] = {}
    for key, value in table.items():
        plain = key.replace("-", "_")
        if plain in normal:
            raise RequestError(f"'{'.'.join(filter(None, (where, plain)))}' is given twice, with '-' and with '_'")
        normal[plain] = value
    return normal


def _check_section(section: str) -> None:
    if section not in RunConfig.model_fields:
        raise RequestError(f"unknown section '{section}'{nearest(section, RunConfig.model_fields)}")


def _core_keys(section: str) -> Iterable[str]:
    """The keys of a section that belong to the core."""
    if section in SECTIONS:
        return SECTIONS[section].model_fields
    return LIST_SECTIONS.get(section, PluginChoice).model_fields.keys() - {"options"}


def _overlay(layers: Mapping[str, Any], overrides: Sequence[tuple[str, Any]], registry: Registry) -> dict[str, Any]:
    """The file's tables with the overrides applied: first all names, then the options that belong to them."""
    merged = {section: value if section in PLAIN_KEYS else _copy(value) for section, value in layers.items()}
    options: list[tuple[str, str, Any]] = []
    named: dict[str, list[dict[str, Any]]] = {section: [] for section in LIST_SECTIONS}
    for key, value in overrides:
        section, _, option = key.partition(".")
        _check_section(section)
        if key in PLAIN_KEYS:
            merged[key] = value
        elif section in PLAIN_KEYS:
            raise RequestError(f"unknown option '{key}'; did you mean '{section}'?")
        elif option not in ("", "name"):
            options.append((section, option, value))
        elif "name" not in _core_keys(section):
            example = f"{section}.{next(iter(_core_keys(section)))}"
            raise RequestError(f"'{section}' is a section; set one of its options, such as '{example}'")
        elif section in LIST_SECTIONS:
            named[section].append(_table_named(section, str(value), merged.get(section, []), registry))
        elif section in PLUGIN_SECTIONS:
            name = str(value)
            kept = merged.get(section, {})
            merged[section] = {**(kept if _name_of(section, kept) == name else {}), "name": name}
        else:
            merged.setdefault(section, {})["name"] = value
    merged |= {section: tables for section, tables in named.items() if tables}
    for section, option, value in options:
        if section in LIST_SECTIONS:
            defaults = [{"name": name} for name in DEFAULTS[section]]
            for table in _tables_with(section, option, merged.setdefault(section, defaults), registry):
                table[option] = value
        else:
            # A table within a section: sft.trainer.adam_beta2.
            table = merged.setdefault(section, {})
            *outer, last = option.split(".")
            for name in outer:
                within = table.get(name, {})
                table[name] = table = dict(within) if isinstance(within, Mapping) else {}
            table[last] = value
    return merged


def _copy(value: Any) -> Any:
    return [dict(table) for table in value] if isinstance(value, list) else dict(value)


def _name_of(section: str, table: Mapping[str, Any]) -> str:
    return str(table.get("name", DEFAULTS[section][0]))


def _table_named(section: str, value: str, known: Sequence[Mapping[str, Any]], registry: Registry) -> dict[str, Any]:
    """The table of ``NAME``, or of ``NAME=WEIGHT``, with the options that the file has for this name."""
    # The path of a file may have an equals sign, too.
    before, equals, weight = value.rpartition("=") if section in WEIGHTED else ("", "", value)
    written, weight = (before, weight) if equals else (weight, "")
    name = registry.canonical(section, written)
    options = _options_for(section, name, known, registry)
    return {**options, "name": name} | ({"weight": weight} if equals else {})


def _tables_with(
    section: str, option: str, tables: Sequence[dict[str, Any]], registry: Registry
) -> Sequence[dict[str, Any]]:
    if option == "weight" and section in WEIGHTED:
        raise RequestError(f"weights are given with the names, such as --{section} {DEFAULTS[section][0]}=0.5")
    models = [registry.get(section, table["name"]).Options for table in tables]
    chosen = [table for table, model in zip(tables, models, strict=True) if option in model.model_fields]
    if not chosen:
        known = {key for model in models for key in model.model_fields}
        raise RequestError(f"unknown option '{section}.{option}'{nearest(option, known)}")
    return chosen


Purpose = Literal["run", "use", "read"]
"""What a configuration is read for, see `load_config`."""

Parse = Callable[[str, str, Mapping[str, Any], str], Options]
"""Makes the options of a plugin from its kind, its name, its table and the name of the section."""


def _recorded(layer: Mapping[str, Any], registry: Registry, file: Path | None, purpose: Purpose) -> Parse:
    """`Registry.parse` for the file of a finished run."""
    named = {
        (kind, registry.canonical(kind, _name_of(kind, table))): _name_of(kind, table)
        for kind in (*PLUGIN_SECTIONS, *LIST_SECTIONS)
        for table in (layer[kind] if isinstance(layer.get(kind), list) else [layer.get(kind, {})])
    }

    def parse(kind: str, name: str, options: Mapping[str, Any], where: str) -> Options:
        written = named.get((kind, name))
        try:
            if written is not None:
                check_recorded(written, file or Path(), own=file is not None and is_own_run(file.parent))
                if purpose == "read" and is_file_name(written):
                    raise RequestError("no code is imported from files to read a run")
            registry.get(kind, name)
        except (RequestError, PluginError) as error:
            if written is None:
                raise
            return RecordedOptions.of(options, error)
        return registry.parse(kind, name, options, where)

    return parse


def _validate(layers: Mapping[str, Any], registry: Registry, parse: Parse) -> RunConfig:
    parsed: dict[str, Any] = {key: layers[key] for key in PLAIN_KEYS if key in layers}
    for section, model in SECTIONS.items():
        parsed[section] = parse_options(model, layers.get(section, {}), section)
    for section in PLUGIN_SECTIONS:
        table = layers.get(section, {})
        named = {**table, "name": _name_of(section, table)}
        parsed[section] = _choice(section, PluginChoice, named, section, registry, parse)
    for section, choice in LIST_SECTIONS.items():
        tables = layers.get(section, [{"name": name} for name in DEFAULTS[section]])
        parsed[section] = tuple(
            _choice(section, choice, table, _where(section, tables, index), registry, parse)
            for index, table in enumerate(tables)
        )
        _check_columns(section, parsed[section])
    if parsed["model"].quantization != "none" and parsed["sft"].method == "full":
        raise RequestError(
            "model.quantization = 'nf4' and sft.method = 'full': weights of 4 bits cannot be trained; set "
            "sft.method = 'lora', or leave model.quantization at 'none'"
        )
    return parse_options(RunConfig, parsed, "")


ChoiceT = TypeVar("ChoiceT", bound=PluginChoice)


def _choice(
    kind: str, model: type[ChoiceT], table: Mapping[str, Any], where: str, registry: Registry, parse: Parse
) -> ChoiceT:
    """A plugin with its options: separates the keys of the core from those of the plugin."""
    own = model.model_fields.keys() - {"options"}
    values: dict[str, Any] = {key: value for key, value in table.items() if key in own}
    if isinstance(values["name"], str):
        values["name"] = registry.canonical(kind, values["name"])
    rest = {key: value for key, value in table.items() if key not in own}
    # Check the name and the weight before looking for the plugin.
    checked = parse_options(model, {**values, "options": Options()}, where)
    options = parse(kind, checked.name, rest, where)
    # What is not used stays as it was written.
    name = table["name"] if isinstance(options, RecordedOptions) else checked.name
    return checked.model_copy(update={"name": name, "options": options})


def _check_columns(section: str, listed: Sequence[PluginChoice]) -> None:
    """Refuse two metrics with one column of the table, or two losses with one column of the training log. Two
    samplers with one name are allowed: their options may differ."""
    names = [column_name(choice.name) for choice in listed] if section != "sampler" else []
    for name in names:
        if names.count(name) > 1:
            remedy = "with all its cut-offs in 'ks'" if section == "metric" else "with one weight"
            raise RequestError(f"{section} '{name}' is named twice; name it once, {remedy}")


def column_name(name: str) -> str:
    """The name of the columns of a metric or a loss: its own name without that of the distribution; of a plugin in a
    file, the class."""
    return plain_name(name)


def _where(section: str, listed: Sequence[Any], index: int) -> str:
    """The name of a section in error messages, as the user wrote it; with an index if there are several."""
    return section if len(listed) == 1 else f"{section}[{index}]"


_UNSET = "unset-7c1f"
"""Stands for the value of an unset key, until the text is made."""


def _marked(section: Any) -> Any:
    """A section, in which unset keys have the value `_UNSET`."""
    if isinstance(section, dict):
        return {key: _UNSET if value is None else _without_none(value) for key, value in section.items()}
    return [_marked(each) for each in section] if isinstance(section, list) else section


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(each) for key, each in value.items() if each is not None}
    return [_without_none(each) for each in value] if isinstance(value, list) else value
