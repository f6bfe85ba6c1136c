from __future__ import annotations

import tomllib
from importlib.metadata import entry_points

import pytest

from rosepo_core.config import DEFAULT_METRICS, DEFAULTS, RunConfig, load_config, read_config
from rosepo_core.contracts.errors import RequestError
from rosepo_core.plugins.registry import Registry

PLUGINS = """
    from pathlib import Path
    from pydantic import Field
    from rosepo_core.api import (
        CutOffMetric, CutOffOptions, Dataset, DatasetOptions, Options, PreferenceLoss, PromptTemplate,
        RejectedSampler, SamplerOptions, SmoothingOracle, hookimpl
    )

    class FolderOptions(DatasetOptions):
        path: Path | None = Field(None, description="Folder.")
        user_column: str = Field("user", description="Column.")

    class Folder(Dataset):
        Options = FolderOptions
        def load(self, reporter): ...

    class FileOptions(DatasetOptions):
        path: Path = Field(description="File.")

    class File(Dataset):
        Options = FileOptions
        def load(self, reporter): ...

    class Any(RejectedSampler):
        def sample(self, examples, k, context): ...

    class HardOptions(SamplerOptions):
        temperature: float = Field(1.0, description="Temperature.")

    class Hard(Any):
        Options = HardOptions

    class Oracle(SmoothingOracle):
        def flip_probability(self, places, chosen, rejected): ...

    class LossOptions(Options):
        beta: float = Field(0.1, gt=0, description="Beta.")

    class Loss(PreferenceLoss):
        Options = LossOptions
        def __call__(self, log_probs): ...

    class Plain(Loss):
        Options = Options

    class TailOptions(CutOffOptions):
        head: float = Field(0.2, description="Head.")

    class Tail(CutOffMetric):
        Options = TailOptions
        def at(self, outcome, k): ...

    @hookimpl
    def rosepo_register_metrics(register):
        for name in {DEFAULT_METRICS!r}:
            register(name, "acme_config:Tail", summary="")

    class Prompt(PromptTemplate):
        terminator = item_costs = None
        def fixed_cost(self, candidates): ...
        def prompt(self, history, candidates): ...

    @hookimpl
    def rosepo_register_prompts(register):
        register("timeline", "acme_config:Prompt", summary="")

    @hookimpl
    def rosepo_register_datasets(register):
        register("movielens-100k", "acme_config:Folder", summary="")
        register("table", "acme_config:File", summary="")

    @hookimpl
    def rosepo_register_samplers(register):
        register("self-hard", "acme_config:Hard", summary="")
        register("uniform", "acme_config:Any", summary="")

    @hookimpl
    def rosepo_register_oracles(register):
        register("sasrec", "acme_config:Oracle", summary="")

    @hookimpl
    def rosepo_register_losses(register):
        register("rosepo", "acme_config:Loss", summary="")
        register("ipo", "acme_config:Loss", summary="", aliases=["ipo_trl"])
        register("sft", "acme_config:Plain", summary="")
"""


@pytest.fixture
def registry(install) -> Registry:
    install("acme-config", "1.0", "acme_config", PLUGINS.replace("{DEFAULT_METRICS!r}", repr(DEFAULT_METRICS)))
    return Registry(point for point in entry_points(group="rosepo") if point.dist.name == "acme-config")


@pytest.fixture
def write(tmp_path):
    def write(text: str):
        file = tmp_path / "run.toml"
        file.write_text(text)
        return file

    return write


def refusal(registry, file=None, *overrides) -> str:
    with pytest.raises(RequestError) as caught:
        load_config(file, overrides, registry)
    message = str(caught.value)
    assert "\n" not in message
    return message


def given(choice):
    """The options of a plugin that somebody set."""
    return choice.options.model_dump(mode="json", exclude_unset=True)


def test_defaults_are_the_main_job(registry):
    config = load_config(None, (), registry)
    assert config == read_config({}, registry)
    for section, names in DEFAULTS.items():
        assert tuple(choice.name for choice in config.choices(section)) == names
    assert (config.dataset.name, config.model.name) == ("movielens-100k", "smollm2-135m")
    assert ([each.name for each in config.sampler], config.oracle.name, config.loss[0].name) == (
        ["self-hard"],
        "sasrec",
        "rosepo",
    )


def test_precedence(registry, write):
    file = write('[loss]\nname = "ipo"\nbeta = 0.2\n[sft]\nlearning-rate = 1e-3\nsteps = 10\n')
    config = load_config(file, [("sft.steps", "80"), ("alignment.batch-size", "4")], registry)
    assert (config.loss[0].name, given(config.loss[0])) == ("ipo", {"beta": 0.2})
    assert (config.sft.learning_rate, config.sft.steps, config.sft.epochs) == (1e-3, 80, 1.0)
    assert config.alignment.batch_size == 4


def test_naming_another_plugin_drops_the_options_of_the_files_one(registry, write):
    file = write("[loss]\nbeta = 0.2\n")
    assert given(load_config(file, [("loss", "ipo")], registry).loss[0]) == {}
    assert given(load_config(file, [("loss", "rosepo")], registry).loss[0]) == {"beta": 0.2}
    assert given(load_config(file, [("loss.beta", "0.3"), ("loss", "ipo")], registry).loss[0]) == {"beta": 0.3}


def test_a_bare_name_stands_for_a_table(registry, write):
    config = load_config(write('loss = "ipo"\nsampler = "uniform"\nmodel = "some/model"\n'), (), registry)
    assert (config.loss[0].name, config.sampler[0].name, config.model.name) == ("ipo", "uniform", "some/model")
    assert load_config(None, [("model", "folder")], registry).model.name == "folder"


def test_samplers(registry, write):
    file = write('[[sampler]]\nname = "self-hard"\ntemperature = 0.5\nweight = 3\n[[sampler]]\nname = "uniform"\n')
    config = load_config(file, (), registry)
    assert [(each.name, each.weight, given(each)) for each in config.sampler] == [
        ("self-hard", 3.0, {"temperature": 0.5}),
        ("uniform", 1.0, {}),
    ]
    config = load_config(file, [("sampler", "uniform=0.25"), ("sampler", "self-hard=0.75")], registry)
    assert [(each.name, each.weight, given(each)) for each in config.sampler] == [
        ("uniform", 0.25, {}),
        ("self-hard", 0.75, {"temperature": 0.5}),
    ]
    assert load_config(file, [("sampler", "uniform")], registry).sampler[0].name == "uniform"
    assert load_config(write("[sampler]\ntemperature = 2\n"), (), registry).sampler[0].options.model_dump(
        exclude_unset=True
    ) == {"temperature": 2}


def test_losses(registry, write):
    file = write('[[loss]]\nname = "rosepo"\nbeta = 0.3\n[[loss]]\nname = "sft"\nweight = 0.1\n')
    config = load_config(file, (), registry)
    assert [(each.name, each.weight, given(each)) for each in config.loss] == [
        ("rosepo", 1.0, {"beta": 0.3}),
        ("sft", 0.1, {}),
    ]
    assert config.loss_name == "rosepo+sft"
    assert [each["name"] for each in config.resolved()["loss"]] == ["rosepo", "sft"]
    config = load_config(file, [("loss", "sft=0.5"), ("loss", "rosepo=2"), ("loss.beta", "0.4")], registry)
    assert [(each.name, each.weight, given(each)) for each in config.loss] == [
        ("sft", 0.5, {}),
        ("rosepo", 2.0, {"beta": 0.4}),
    ]
    assert load_config(write(config.to_toml()), (), registry) == config
    # One loss with another factor keeps it.
    assert load_config(None, [("loss", "ipo=2")], registry).resolved()["loss"][0]["weight"] == 2.0
    assert refusal(registry, None, ("loss", "ipo"), ("loss", "ipo_trl=2")) == (
        "loss 'ipo' is named twice; name it once, with one weight"
    )
    assert refusal(registry, None, ("loss.weight", "2")) == (
        "weights are given with the names, such as --loss rosepo=0.5"
    )


def test_an_alias_is_the_plugin_that_it_names(registry, write):
    named = load_config(write('[loss]\nname = "ipo"\nbeta = 0.3\n'), (), registry)
    file = write('[loss]\nname = "ipo_trl"\nbeta = 0.3\n')
    for config in (load_config(file, (), registry), load_config(file, [("loss", "ipo")], registry)):
        assert config == named
        assert config.that_decides() == named.that_decides()
    assert load_config(None, [("loss", "acme-config/ipo_trl")], registry).loss[0].name == "acme-config/ipo"


def test_an_option_goes_to_the_samplers_that_have_it(registry):
    both = [("sampler", "self-hard"), ("sampler", "uniform")]
    config = load_config(None, [*both, ("sampler.temperature", "0.7"), ("sampler.allow-seen", "true")], registry)
    assert [given(each) for each in config.sampler] == [
        {"temperature": 0.7, "allow_seen": True},
        {"allow_seen": True},
    ]
    message = refusal(registry, None, ("sampler", "uniform"), ("sampler.temperature", "0.7"))
    assert message == "unknown option 'sampler.temperature'; known: allow_seen"


@pytest.mark.parametrize(
    ("text", "value"),
    [("data/u.data", "data/u.data"), ("0", "0"), ('"0.50"', "0.50"), ("2024-01-02", "2024-01-02"), ("", "")],
)
def test_text_from_the_command_line(registry, text, value):
    config = load_config(None, [("dataset.user-column", text)], registry)
    assert config.resolved()["dataset"]["user_column"] == value


def test_array_from_the_command_line(registry):
    assert load_config(None, [("evaluation.ks", "[1, 20]")], registry).evaluation.ks == (1, 20)


def test_a_required_option_may_come_from_the_command_line(registry, write):
    file = write('[dataset]\nname = "table"\n')
    config = load_config(file, [("dataset.path", "log.csv")], registry)
    assert config.resolved()["dataset"]["path"] == "log.csv"
    assert refusal(registry, file) == f"{file}: option 'dataset.path' is required"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[sfft]\nsteps = 1", "unknown section 'sfft'; did you mean 'sft'?"),
        ("[sft]\nlearning_ratee = 1", "unknown option 'sft.learning_ratee'; did you mean 'learning_rate'?"),
        ("[loss]\nbetta = 1", "unknown option 'loss.betta'; did you mean 'beta'?"),
        ('[sft]\nsteps = "many"', "option 'sft.steps' = 'many': input should be a valid integer"),
        ("[loss]\nbeta = -1", "option 'loss.beta' = -1: input should be greater than 0"),
        ('seed = "x"', "option 'seed' = 'x': input should be a valid integer"),
        (
            '[split]\nstrategy = "random"',
            "option 'split.strategy' = 'random': input should be 'auto', 'leave-one-out' or",
        ),
        ("sft = 3", "'sft' must be a table, [sft], not 3"),
        ('[loss]\nname = "rosepoo"', "no loss is called 'rosepoo'; did you mean 'rosepo'?"),
        ('[[sampler]]\nname = "uniform"\n[[sampler]]\nweight = 1', "option 'sampler[1].name' is required"),
        ("sampler = []", "'sampler' is empty"),
        ("[sft]\nlora-rank = 1\nlora_rank = 2", "'sft.lora_rank' is given twice"),
        ("[sft]\nsteps 3", "is not valid TOML: Expected '=' after a key in a key/value pair (at line 2, column 7)"),
    ],
)
def test_a_wrong_file_is_named_with_the_key(registry, write, text, message):
    file = write(text)
    assert refusal(registry, file).startswith(f"{file}: {message}")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (("sft.stepps", "1"), "unknown option 'sft.stepps'; did you mean 'steps'"),
        (("losss", "ipo"), "unknown section 'losss'; did you mean 'loss'?"),
        (("sft", "1"), "'sft' is a section; set one of its options, such as 'sft.steps'"),
        (("seed.x", "1"), "unknown option 'seed.x'; did you mean 'seed'?"),
        (("loss", "dpoo"), "no loss is called 'dpoo'; did you mean 'ipo'?"),
        (("sampler", "uniform=much"), "option 'sampler.weight' = 'much': input should be a valid number"),
        (("sampler.weight", "1"), "weights are given with the names, such as --sampler self-hard=0.5"),
    ],
)
def test_a_wrong_override_does_not_blame_the_file(registry, write, override, message):
    assert refusal(registry, write("seed = 1"), override).startswith(message)


def test_unreadable_files(registry, tmp_path):
    assert refusal(registry, tmp_path / "none.toml") == f"{tmp_path / 'none.toml'}: cannot be read: " + (
        "No such file or directory"
    )
    (tmp_path / "latin.toml").write_bytes(b'[prompt]\nheader = "caf\xe9"')
    assert refusal(registry, tmp_path / "latin.toml").endswith("latin.toml: is not UTF-8 text (byte 22)")


def test_resolved_has_every_key_and_reads_back(registry, write):
    config = load_config(None, [("sampler", "self-hard=2"), ("sampler", "uniform"), ("sft.steps", "5")], registry)
    resolved = config.resolved()
    assert list(resolved) == list(RunConfig.model_fields)
    assert resolved["loss"] == {"name": "rosepo", "beta": 0.1}
    assert resolved["sampler"] == [
        {"name": "self-hard", "weight": 2.0, "allow_seen": False, "temperature": 1.0},
        {"name": "uniform", "weight": 1.0, "allow_seen": False},
    ]
    assert resolved["dataset"]["path"] is None
    text = config.to_toml()
    assert tomllib.loads(text)["sft"]["steps"] == 5
    assert "# path is unset" in text[text.index("[dataset]") : text.index("[split]")].splitlines()
    assert load_config(write(text), (), registry).resolved() == resolved


def test_every_section_describes_its_options():
    undescribed = [
        f"{section}.{key}"
        for section, field in RunConfig.model_fields.items()
        for key, option in getattr(field.annotation, "model_fields", {}).items()
        if not option.description
    ]
    assert undescribed == []


def test_metrics_are_a_list_like_samplers(registry, write):
    assert [each.name for each in load_config(None, (), registry).metric] == list(DEFAULT_METRICS)
    file = write('[[metric]]\nname = "hr"\nks = [20]\n[[metric]]\nname = "aplt"\nhead = 0.1\n')
    config = load_config(file, (), registry)
    assert [(each.name, given(each)) for each in config.metric] == [("hr", {"ks": [20]}), ("aplt", {"head": 0.1})]
    assert config.resolved()["metric"] == [
        {"name": "hr", "ks": [20], "head": 0.2},
        {"name": "aplt", "ks": None, "head": 0.1},
    ]
    assert load_config(write(config.to_toml()), (), registry).resolved() == config.resolved()
    # Named on the command line they replace the file's, and keep the options that it has for them.
    named = load_config(file, [("metric", "aplt"), ("metric", "mrr"), ("metric.ks", "[3]")], registry)
    assert [(each.name, given(each)) for each in named.metric] == [
        ("aplt", {"head": 0.1, "ks": [3]}),
        ("mrr", {"ks": [3]}),
    ]
    assert [each.name for each in load_config(write('metric = ["hr", "mrr"]\n'), (), registry).metric] == [
        "hr",
        "mrr",
    ]
    every = load_config(None, [("metric.head", "0.3")], registry)
    assert {each.options.head for each in every.metric} == {0.3}


def test_what_metrics_cannot_be(registry, write):
    assert refusal(registry, None, ("metric", "ndgc")).startswith("no metric is called 'ndgc'; did you mean 'ndcg'")
    assert refusal(registry, None, ("metric.haed", "1")) == "unknown option 'metric.haed'; did you mean 'head'?"
    twice = "metric 'hr' is named twice; name it once, with all its cut-offs in 'ks'"
    assert refusal(registry, None, ("metric", "hr"), ("metric", "acme-config/hr")) == twice
    nameless = write('[[metric]]\nname = "hr"\n[[metric]]\nks = [5]\n')
    assert refusal(registry, nameless).endswith("option 'metric[1].name' is required")
    assert refusal(registry, write("metric = []\n")).endswith("'metric' is empty; name at least one")
