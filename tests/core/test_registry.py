from __future__ import annotations

import sys
import warnings
from pathlib import Path

import pytest

from rosepo_core.contracts.components import PreferenceLoss
from rosepo_core.contracts.errors import PluginError, RequestError
from rosepo_core.plugins.installed import PluginWarning
from rosepo_core.plugins.registry import Entry, Registry, load_plugins, running

HINGE = """
    from pydantic import Field
    from rosepo_core.api import Options, PreferenceLoss, hookimpl

    class HingeOptions(Options):
        margin: float = Field(1.0, gt=0, description="Width of the margin.")

    class Hinge(PreferenceLoss):
        Options = HingeOptions

        def __call__(self, log_probs):
            raise ZeroDivisionError("in the middle of work")

    @hookimpl
    def rosepo_register_losses(register):
        register("margin", "{module}:Hinge", summary="A margin.")
"""
REGISTERS = """
    from rosepo_core.api import hookimpl

    @hookimpl
    def rosepo_register_losses(register):
        register({name!r}, {target!r}, summary="")
"""


def hinge(module: str) -> str:
    return HINGE.replace("{module}", module)


def registers(name: str, target: str) -> str:
    return REGISTERS.format(name=name, target=target)


def quietly() -> Registry:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PluginWarning)
        return Registry.discover()


def of(registry: Registry, *distributions: str) -> list[Entry]:
    return [entry for entry in registry.entries() if entry.distribution in distributions]


def test_installed_plugin_is_listed_with_its_distribution(install):
    install("acme-hinge", "1.2", "acme_hinge", hinge("acme_hinge"))
    assert of(Registry.discover(), "acme-hinge") == [
        Entry("loss", "margin", "acme-hinge", "1.2", "acme_hinge:Hinge", "A margin.")
    ]


def test_listing_imports_no_implementation(install, tmp_path):
    install("acme-lazy", "1.0", "acme_lazy", registers("lazy", "acme_heavy:Heavy"))
    (tmp_path / "site-packages" / "acme_heavy.py").write_text("class Heavy: ...")
    registry = Registry.discover()
    assert [entry.target for entry in registry.entries("loss") if entry.name == "lazy"] == ["acme_heavy:Heavy"]
    assert "acme_heavy" not in sys.modules
    with pytest.raises(PluginError, match="no subclass"):
        registry.get("loss", "lazy")
    assert sys.modules.pop("acme_heavy")


def test_get_and_create(install):
    install("acme-hinge", "1.2", "acme_hinge", hinge("acme_hinge"))
    registry = Registry.discover()
    assert issubclass(registry.get("loss", "margin"), PreferenceLoss)
    assert registry.create("loss", "margin", {}).options.margin == 1.0
    loss = registry.create("loss", "margin", {"margin": 2.5})
    assert loss.options.margin == 2.5
    assert loss.origin == "loss 'margin' of acme-hinge 1.2"


def test_an_alias_finds_its_plugin(install):
    source = hinge("acme_hinge").replace('summary="A margin."', 'summary="A margin.", aliases=("old_margin", "relu")')
    install("acme-hinge", "1.2", "acme_hinge", source)
    registry = Registry.discover()
    assert registry.entry("loss", "old_margin") == registry.entry("loss", "margin")
    assert registry.entry("loss", "margin").aliases == ("old_margin", "relu")
    assert [registry.canonical("loss", name) for name in ("relu", "acme-hinge/relu", "margin", "none")] == [
        *("margin", "acme-hinge/margin", "margin", "none")
    ]
    with pytest.raises(RequestError, match=r"^no loss is called 'old_margn'; did you mean 'old_margin'"):
        registry.get("loss", "old_margn")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"margn": 1}, "unknown option 'loss.margn'; did you mean 'margin'?"),
        ({"margin": "wide"}, "option 'loss.margin' = 'wide': input should be a valid number"),
        ({"margin": -1}, "option 'loss.margin' = -1: input should be greater than 0"),
    ],
)
def test_create_names_the_wrong_option(install, options, message):
    install("acme-hinge", "1.2", "acme_hinge", hinge("acme_hinge"))
    with pytest.raises(RequestError) as caught:
        Registry.discover().create("loss", "margin", options)
    assert str(caught.value).startswith(message)


def test_missing_name_offers_the_nearest(install):
    install("acme-hinge", "1.2", "acme_hinge", hinge("acme_hinge"))
    with pytest.raises(RequestError, match=r"^no loss is called 'margn'; did you mean 'margin'"):
        Registry.discover().get("loss", "margn")


def test_two_owners_of_one_name(install):
    install("acme-one", "1.0", "acme_one", hinge("acme_one"), "one")
    install("Acme.Two", "2.0", "acme_two", hinge("acme_two"), "two")
    registry = Registry.discover()
    with pytest.raises(RequestError) as caught:
        registry.get("loss", "margin")
    assert "acme-one 1.0" in str(caught.value)
    assert "Acme.Two 2.0" in str(caught.value)
    assert "'acme-one/margin'" in str(caught.value)
    assert registry.get("loss", "acme-one/margin").__module__ == "acme_one"
    assert registry.get("loss", "acme-two/margin").__module__ == "acme_two"
    assert registry.problems == ()


def test_a_reused_entry_point_name_drops_nobody(install):
    install("acme-one", "1.0", "acme_one", registers("first", "acme_one:X"), "losses")
    install("acme-two", "1.0", "acme_two", registers("second", "acme_two:X"), "losses")
    assert [entry.name for entry in of(Registry.discover(), "acme-one", "acme-two")] == ["first", "second"]


@pytest.mark.parametrize(
    ("source", "error"),
    [
        (
            "import acme_not_there",
            "ModuleNotFoundError: No module named 'acme_not_there'; install what brings 'acme_not_there', or "
            "uninstall acme-broken",
        ),
        (
            "import acme_broken.lost",
            "ModuleNotFoundError: No module named 'acme_broken.lost'; 'acme_broken' is not a package",
        ),
        ("def broken(:", "SyntaxError: invalid syntax (acme_broken.py, line 1)"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("raise ValueError('\\x1b[31m' + 'x' * 1000)", f"ValueError: \ufffd[31m{'x' * 495} ..."),
        (
            "import warnings\nwarnings.simplefilter('error')\nimport acme_no",
            "ModuleNotFoundError: No module named 'acme_no'; install what brings 'acme_no', or uninstall acme-broken",
        ),
        ("class Worse(BaseException): ...\nraise Worse('end')", "Worse: end"),
        ("class Mute(Exception):\n    def __str__(self): raise OSError\nraise Mute", "Mute"),
        (
            "import sys; sys.modules[__name__] = {}",
            "'acme_broken' is a dict; an entry point of rosepo names a module",
        ),
        (
            registers("fine", "a:B").replace('summary=""', "summary=None"),
            "the summary of loss 'fine' is None, and not a text",
        ),
        (
            registers("fine", "a:B").replace('summary=""', 'summary="", aliases="good"'),
            "the aliases of loss 'fine' are 'good', and not a list of texts",
        ),
        (registers("Not_Kebab", "a:B"), "the name of loss 'Not_Kebab' is not kebab-case, as in 'self-hard'"),
        (
            registers("fine", "a:B").replace('summary=""', 'summary="", aliases=["A b"]'),
            "the alias 'A b' of loss 'fine' has more than letters, digits, - and _",
        ),
        (
            registers("fine", "a:B").replace('summary=""', 'summary="", aliases=["fine"]'),
            "it registers loss 'fine' under one name twice",
        ),
        (registers("fine", "a.B"), "the target of loss 'fine' is 'a.B', not 'package.module:Class'"),
    ],
)
def test_a_plugin_that_fails_to_load_is_one_warning_and_one_line(install, source, error):
    install("acme-broken", "0.1", "acme_broken", source)
    install("acme-hinge", "1.2", "acme_hinge", hinge("acme_hinge"))
    if "uninstall" not in error:
        error += "; upgrade or uninstall acme-broken"
    with pytest.warns(PluginWarning) as caught:
        registry = Registry.discover()
    assert [str(warning.message) for warning in caught] == [f"plugin 'main' of acme-broken 0.1: {error}"]
    assert registry.problems == (f"plugin 'main' of acme-broken 0.1: {error}",)
    assert of(registry, "acme-broken") == [Entry("plugin", "main", "acme-broken", "0.1", "acme_broken", "", error)]
    assert registry.create("loss", "margin", {}).options.margin == 1.0
    with pytest.raises(RequestError, match=r"plugin 'main' of acme-broken 0\.1 did not load"):
        registry.get("loss", "fine")


def test_registering_a_name_twice(install):
    source = registers("twin", "a:B") + '        register("twin", "a:C", summary="")\n'
    install("acme-twice", "1.0", "acme_twice", source)
    (entry,) = of(quietly(), "acme-twice")
    assert entry.error == "it registers loss 'twin' a second time; upgrade or uninstall acme-twice"


@pytest.mark.parametrize(
    ("misspelt", "error"),
    [
        ("@hookimpl\ndef rosepo_register_loses(register): pass", "'rosepo_register_loses' is no hook; did you mean"),
        ("def rosepo_register_losses(register): pass", "'rosepo_register_losses' is not marked with @hookimpl"),
    ],
)
def test_a_misspelt_hook_is_that_plugins_warning(install, misspelt, error):
    source = "from rosepo_core.api import hookimpl\n" + misspelt + "\n@hookimpl\n"
    source += "def rosepo_register_oracles(register): register('kept', 'a:B', summary='')\n"
    install("acme-typo", "1.0", "acme_typo", source)
    with pytest.warns(PluginWarning, match=r"acme-typo 1\.0"):
        registry = Registry.discover()
    kept, broken = of(registry, "acme-typo")
    assert (kept.kind, kept.name) == ("oracle", "kept")
    assert broken.kind == "plugin"
    assert broken.error.startswith(error)


def test_a_hook_with_wrong_arguments_is_reported(install):
    source = "from rosepo_core.api import hookimpl\n@hookimpl\ndef rosepo_register_losses(registry): pass\n"
    install("acme-arguments", "1.0", "acme_arguments", source)
    (entry,) = of(quietly(), "acme-arguments")
    assert "PluginValidationError" in entry.error


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("acme_gone:X", "cannot import 'acme_gone:X': ModuleNotFoundError"),
        ("json:Nothing", "cannot import 'json:Nothing': AttributeError"),
        ("json:JSONDecoder", "'json:JSONDecoder' is no subclass of PreferenceLoss"),
        ("json:dumps", "'json:dumps' is no subclass of PreferenceLoss"),
        ("rosepo_core.contracts.components:PreferenceLoss", "does not implement __call__"),
    ],
)
def test_a_bad_target_names_its_plugin(install, target, message):
    install("acme-target", "3.1", "acme_target", registers("bad", target))
    with pytest.raises(PluginError) as caught:
        Registry.discover().get("loss", "bad")
    assert str(caught.value).startswith("loss 'bad' of acme-target 3.1: ")
    assert message in str(caught.value)


def test_options_that_drop_the_core_ones_are_refused(install):
    source = """
        from rosepo_core.api import Options, RejectedSampler, hookimpl

        class Bare(RejectedSampler):
            Options = Options

            def sample(self, examples, k, context): ...

        @hookimpl
        def rosepo_register_samplers(register):
            register("bare", "acme_bare:Bare", summary="")
    """
    install("acme-bare", "1.0", "acme_bare", source)
    with pytest.raises(PluginError, match=r"'acme_bare:Bare\.Options' is no subclass of SamplerOptions"):
        Registry.discover().get("sampler", "bare")


def test_a_failure_while_running_keeps_its_exception_and_names_the_plugin(install):
    install("acme-hinge", "1.2", "acme_hinge", hinge("acme_hinge"))
    loss = Registry.discover().create("loss", "margin", {})
    with pytest.raises(ZeroDivisionError, match="in the middle of work") as caught, running(loss), running(loss):
        loss(None)
    assert caught.value.__notes__ == ["raised by loss 'margin' of acme-hinge 1.2"]


def test_a_component_cannot_end_the_program(install):
    install("acme-hinge", "1.2", "acme_hinge", hinge("acme_hinge"))
    loss = Registry.discover().create("loss", "margin", {})
    with pytest.raises(PluginError, match=r"^SystemExit: 0") as caught, running(loss):
        sys.exit(0)
    assert caught.value.__notes__ == ["raised by loss 'margin' of acme-hinge 1.2"]
    with pytest.raises(KeyboardInterrupt), running(loss):
        raise KeyboardInterrupt


def test_a_name_of_rosepo_stays_rosepos(install):
    install(
        "acme-own",
        "1.0",
        "acme_own",
        registers("squeezed", "acme_own:X").replace('summary=""', 'summary="", aliases=["dpo"]'),
    )
    with pytest.warns(PluginWarning) as caught:
        registry = Registry.discover()
    assert [str(warning.message) for warning in caught] == [
        "loss 'squeezed' of acme-own 1.0: 'dpo' is rosepo's own loss; for this one write 'acme-own/dpo'"
    ]
    assert registry.entry("loss", "dpo").distribution == "rosepo"
    assert registry.canonical("loss", "dpo") == "dpo"
    assert registry.entry("loss", "acme-own/dpo").name == "squeezed"


def test_one_module_of_two_distributions_is_the_first_ones(install, tmp_path):
    install("acme-one", "1.0", "acme_shared", registers("first", "acme_one:X"))
    install("acme-two", "1.0", "acme_shared", registers("second", "acme_two:X"))
    (entry, broken) = of(quietly(), "acme-one", "acme-two")
    assert (entry.distribution, entry.name) == ("acme-one", "second")
    assert broken.error == ("'acme_shared' is the module of 'acme-one/main', too; upgrade or uninstall acme-two")


def test_a_distribution_whose_entry_points_cannot_be_read_hides_no_other(install, tmp_path):
    install("acme-hinge", "1.2", "acme_hinge", hinge("acme_hinge"))
    install("acme-torn", "1.0", "acme_torn", "")
    (tmp_path / "site-packages" / "acme_torn-1.0.dist-info" / "entry_points.txt").write_text("[rosepo]\nno equals\n")
    with pytest.warns(
        PluginWarning, match=r"^acme-torn 1\.0: its entry_points\.txt cannot be read .*uninstall acme-torn$"
    ):
        registry = Registry.discover()
    assert registry.entry("loss", "margin").distribution == "acme-hinge"
    assert registry.entry("loss", "dpo").distribution == "rosepo"


def test_observers_are_told_and_one_that_fails_is_a_warning(install):
    good = """
        from rosepo_core.api import hookimpl
        calls = []

        @hookimpl
        def rosepo_stage_finished(run, stage, reused):
            calls.append((run, stage, reused))
    """
    bad = """
        from rosepo_core.api import hookimpl

        @hookimpl
        def rosepo_stage_finished(stage):
            raise OSError("disk full")
    """
    install("acme-bad", "1.0", "acme_bad", bad)
    install("acme-good", "1.0", "acme_good", good)
    registry = Registry.discover()
    with pytest.warns(PluginWarning, match="'main' of acme-bad 1.0: rosepo_stage_finished: OSError: disk full"):
        registry.stage_finished(Path("run"), "sft", Path("run/sft"), reused=True)
    assert sys.modules["acme_good"].calls == [(Path("run"), "sft", True)]


def test_commands_are_registered_and_one_that_fails_is_a_warning(install):
    source = """
        from rosepo_core.api import hookimpl

        @hookimpl
        def rosepo_register_commands(app):
            app.append("{0}") if "{0}" == "good" else app.missing()
    """
    install("acme-bad", "1.0", "acme_bad", source.format("bad"))
    install("acme-good", "1.0", "acme_good", source.format("good"))
    app: list[str] = []
    with pytest.warns(PluginWarning, match="acme-bad"):
        Registry.discover().register_commands(lambda hook: hook(app))
    assert app == ["good"]


def test_loading_happens_once():
    assert load_plugins() is load_plugins()
