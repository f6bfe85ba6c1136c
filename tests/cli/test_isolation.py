"""Plugins that break, installed by pip beside one that works: everything else goes on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from installing import Distribution, on_path, pip_install

from rosepo_core import __version__
from rosepo_core.plugins.registry import load_plugins

LOSS = """
    from rosepo_core.api import PreferenceLoss, hookimpl

    class Fair(PreferenceLoss):
        '''A loss that works.'''

        def __call__(self, log_probs):
            return (log_probs.rejected - log_probs.chosen[:, None]).logsumexp(1)

    @hookimpl
    def rosepo_register_losses(register):
        register("{name}", "{module}:Fair", summary="A loss that works.")
"""


def with_loss(distribution: str, name: str) -> Distribution:
    return Distribution(distribution, LOSS.format(name=name, module=distribution.replace("-", "_")))


BROKEN = (
    Distribution("bad-exception", "raise ValueError('out of\\nluck')"),
    Distribution("bad-exit", "raise SystemExit(0)"),
    Distribution("bad-interrupt", "raise KeyboardInterrupt"),
    Distribution("bad-base", "class Worse(BaseException): ...\nraise Worse('end')"),
    Distribution("bad-none", "PLUGIN = None", attribute=":PLUGIN"),
    Distribution("bad-lacking", "import acme_missing.parts"),
    Distribution("bad-old", "raise AssertionError('imported')", "2.3", ("rosepo>=0.0.1,<0.1",)),
    Distribution(
        "bad-hook",
        "from rosepo_core.api import hookimpl\n@hookimpl\ndef rosepo_register_losses(register): raise OSError('no')",
    ),
)
"""Nothing of these can be used."""

PARTLY = (
    Distribution(
        "bad-typo",
        "from rosepo_core.api import hookimpl\n@hookimpl\ndef rosepo_register_loses(register): ...",
    ),
    with_loss("own-name", "dpo"),
    Distribution(
        "bad-observer",
        "from rosepo_core.api import hookimpl\nprint('here I am')\n"
        "@hookimpl\ndef rosepo_stage_finished(stage): raise SystemExit(5)",
    ),
    Distribution(
        "bad-command",
        """
        from rosepo_core.api import hookimpl

        @hookimpl
        def rosepo_register_commands(app):
            @app.command()
            def fine(): ...
            @app.command()
            def broken(number: int | str): ...
        """,
    ),
    Distribution(
        "own-command",
        """
        from rosepo_core.api import hookimpl

        @hookimpl
        def rosepo_register_commands(app):
            @app.callback()
            def root(): raise AssertionError("called")
            @app.command()
            def train(): raise AssertionError("called")
        """,
    ),
)
"""Parts of these work."""

GOOD = (
    with_loss("acme-good", "fair"),
    with_loss("twin-one", "twin"),
    with_loss("twin-two", "twin"),
    # What only an extra requires does not count.
    Distribution(
        "acme-command",
        PARTLY[3].source.replace("broken(number: int | str)", "works(number: int)"),
        requires=("rosepo<0.1; extra=='old'",),
    ),
)
IMPORT_WARNINGS = {
    "plugin 'main' of bad-exception 1.0": "ValueError: out of luck; upgrade or uninstall bad-exception",
    "plugin 'main' of bad-exit 1.0": "SystemExit: 0; upgrade or uninstall bad-exit",
    "plugin 'main' of bad-interrupt 1.0": "KeyboardInterrupt; upgrade or uninstall bad-interrupt",
    "plugin 'main' of bad-base 1.0": "Worse: end; upgrade or uninstall bad-base",
    "plugin 'main' of bad-none 1.0": "'bad_none:PLUGIN' is a NoneType; an entry point of rosepo names a module; "
    "upgrade or uninstall bad-none",
    "plugin 'main' of bad-lacking 1.0": "ModuleNotFoundError: No module named 'acme_missing'; install what brings "
    "'acme_missing', or uninstall bad-lacking",
    "plugin 'main' of bad-old 2.3": f"it was made for rosepo <0.1,>=0.0.1, and this is rosepo {__version__}; "
    "upgrade or uninstall bad-old",
    "plugin 'main' of bad-hook 1.0": "OSError: no; upgrade or uninstall bad-hook",
    "plugin 'main' of bad-typo 1.0": "'rosepo_register_loses' is no hook; did you mean 'rosepo_register_losses'",
    "loss 'dpo' of own-name 1.0": "'dpo' is rosepo's own loss; for this one write 'own-name/dpo'",
}
"""What `rosepo plugins list` says, too."""

COMMAND_WARNINGS = {
    "plugin 'main' of bad-command 1.0": "rosepo_register_commands: AssertionError: Typer currently doesn't "
    "support Union types; upgrade or uninstall bad-command",
    "plugin 'main' of own-command 1.0": "rosepo_register_commands: there already is a command 'rosepo train'; "
    "upgrade or uninstall own-command",
}


@pytest.fixture(scope="module")
def own() -> list[str]:
    """What rosepo itself registers."""
    return [str(entry) for entry in load_plugins().entries() if entry.distribution == "rosepo"]


@pytest.fixture(scope="module", autouse=True)
def installed(own, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    every = [*BROKEN, *PARTLY, *GOOD]
    with on_path(pip_install(every, tmp_path_factory.mktemp("installed")), every):
        yield


def warned(err: str) -> dict[str, str]:
    """The warnings on stderr, by plugin; each is one line."""
    lines = [line.removeprefix("warning: ") for line in err.splitlines() if line.startswith("warning: ")]
    found = {line.partition(": ")[0]: line.partition(": ")[2] for line in lines}
    assert len(found) == len(lines)
    return found


def test_each_broken_plugin_is_one_warning_and_one_line_of_the_list(rosepo, own):
    load_plugins.cache_clear()
    listed = rosepo("plugins", "list", "--json")
    assert listed.code == 0
    found = warned(listed.err)
    assert found.pop("plugin 'main' of bad-typo 1.0").startswith(IMPORT_WARNINGS["plugin 'main' of bad-typo 1.0"])
    expected = {**IMPORT_WARNINGS, **COMMAND_WARNINGS}
    del expected["plugin 'main' of bad-typo 1.0"]
    assert found == expected
    assert {line.partition(": ")[0] for line in listed.json["problems"]} == set(IMPORT_WARNINGS)
    errors = {each["distribution"]: each["error"] for each in listed.json["plugins"] if each["error"]}
    assert {name: errors[name] for name in ("bad-exit", "bad-old", "own-name")} == {
        name.split("of ")[1].split()[0]: error
        for name, error in IMPORT_WARNINGS.items()
        if "exit" in name or "bad-old" in name or "own-name" in name
    }
    known = [f"{each['kind']} '{each['name']}' of {each['distribution']}" for each in listed.json["plugins"]]
    assert [name for name in known if name.endswith("of rosepo")] == [name.rpartition(" ")[0] for name in own]
    assert {"loss 'fair' of acme-good", "loss 'twin' of twin-one", "loss 'twin' of twin-two"} <= set(known)


def test_the_table_shows_errors(rosepo):
    table = " ".join(rosepo("plugins", "list").out.split())
    assert "bad-exit 1.0" in table
    assert "SystemExit: 0" in table


@pytest.mark.parametrize(
    ("name", "commands"),
    [
        ("fair", ["rosepo train --loss fair"]),
        ("twin-two/twin", ["rosepo train --loss twin-two/twin"]),
        ("dpo", ["rosepo train --loss own-name/dpo", "rosepo train --loss dpo --loss.beta 0.1"]),
    ],
)
def test_others_can_be_shown_with_a_command_that_finds_them(rosepo, name, commands):
    assert [each["command"] for each in rosepo("plugins", "show", name, "--json").json] == commands


def test_showing_what_did_not_load_says_why(rosepo):
    shown = rosepo("plugins", "show", "bad-hook/main")
    assert shown.code == 2
    assert "error: plugin 'main' of bad-hook 1.0: OSError: no; upgrade or uninstall bad-hook" in shown.err


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("twin", "twin-one 1.0 and twin-two 1.0 each bring a loss 'twin'; write 'twin-one/twin' or 'twin-two/twin'"),
        ("farr", "(plugin 'main' of bad-hook 1.0 did not load: OSError: no; upgrade or uninstall bad-hook)"),
    ],
)
def test_a_name_that_nobody_or_more_than_one_has_is_one_error(train, tmp_path, name, message):
    done = train(f"--loss={name}", "--run", tmp_path / "run")
    assert done.code == 2
    (error,) = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert message in error
    assert not (tmp_path / "run").exists()


def test_a_run_with_good_plugins_goes_through(train, tmp_path):
    done = train("--loss=fair", "--loss=twin-one/twin=0.5", "--loss=dpo=0.5", "--run", tmp_path / "run", "--json")
    assert done.code == 0, done.err
    assert set(done.json["metrics"]["protocols"]) == {"candidates-5"}
    observed = [line for line in done.err.splitlines() if "rosepo_stage_finished" in line]
    assert observed == [
        "warning: plugin 'main' of bad-observer 1.0: rosepo_stage_finished: SystemExit: 5; upgrade or uninstall "
        "bad-observer"
    ]
    environment = (tmp_path / "run" / "environment.json").read_text()
    assert '"loss dpo": "rosepo ' in environment
    assert '"loss twin-one/twin": "twin-one 1.0"' in environment


def test_commands_of_plugins_run(rosepo):
    assert rosepo("fine").code == 0
    assert rosepo("works", "3").code == 0


def test_ctrl_c_while_a_plugin_is_imported_ends_the_command(rosepo, tmp_path):
    source = """
        import os, signal
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except BaseException:
            raise ImportError
    """
    slow = Distribution("acme-slow", source)
    with on_path(pip_install([slow], tmp_path), [slow]):
        done = rosepo("plugins", "list")
    assert done.code == 130
    assert done.out == ""
