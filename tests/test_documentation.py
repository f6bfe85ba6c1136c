"""The documentation: the site builds without a warning, and every command that it shows is one."""

from __future__ import annotations

import re
import shlex
from html.parser import HTMLParser
from pathlib import Path

import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config
from typer.main import get_command

from rosepo_cli.app import app
from rosepo_cli.arguments import overrides
from rosepo_core import config
from rosepo_core.plugins.registry import load_plugins

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` builds it; a warning is an error."""
    folder = tmp_path_factory.mktemp("site")
    build(load_config(str(ROOT / "mkdocs.yml"), strict=True, site_dir=str(folder)))
    return folder


class Loaded(HTMLParser):
    """What a page loads when it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        loads = {"script": "src", "img": "src", "iframe": "src", "link": "href"}
        if tag in loads and not (tag == "link" and values.get("rel") in ("canonical", "prev", "next")):
            self.addresses.append(values.get(loads[tag]) or "")


def test_the_site_loads_nothing_from_other_hosts(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 60
    for page in pages:
        loaded = Loaded()
        loaded.feed(page.read_text(encoding="utf-8"))
        assert [address for address in loaded.addresses if "//" in address] == [], page


def test_every_loss_has_its_formula_and_the_picture_of_its_gradient(site: Path) -> None:
    for entry in load_plugins().entries("loss"):
        if entry.distribution == "rosepo":
            page = (site / "losses" / f"{entry.name}.html").read_text(encoding="utf-8")
            assert page.count("<polyline") == 2, entry
            assert "<math" in page, entry
            assert "arithmatex" not in page, entry


def commands() -> list[tuple[str, list[str]]]:
    """Every command line of `rosepo` in an indented block of a page, with the page's name."""
    found = []
    for page in PAGES:
        lines = re.findall(r"^    (?:\.venv/bin/)?rosepo (.*)$", page.read_text(encoding="utf-8"), re.M)
        found += [(str(page.relative_to(ROOT)), shlex.split(line, comments=True)) for line in lines]
    return found


def test_every_command_of_the_pages_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its flags exist, and `train` accepts its configuration. tests/cli/test_readme.py runs those of the how-tos."""
    monkeypatch.chdir(ROOT)
    asked = commands()
    assert len(asked) > 30
    for page, words in asked:
        context = get_command(app).make_context("rosepo", [word for word in words if word != "..."])
        command, rest = context.command, list(context._protected_args) + context.args
        while hasattr(command, "commands"):
            assert rest[0] in command.commands, f"{page}: {shlex.join(words)}"
            command, rest = command.commands[rest[0]], rest[1:]
        context = command.make_context(command.name, rest)
        # A sweep writes its best configuration.
        if command.name == "train" and Path(context.params["config"] or "").name != "best.toml":
            named = ("dataset", "model", "prompt", "oracle", "seed", "sampler", "loss", "metric")
            changes = [(key, each) for key in named for each in _several(context.params[key])]
            config.load_config(context.params["config"], changes + overrides(context.params["set_"] or [], context))


def _several(value: object) -> list[object]:
    return list(value) if isinstance(value, (list, tuple)) else [] if value is None else [value]


def test_links_of_the_readme_lead_to_files() -> None:
    text = PAGES[0].read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", text)
    assert len(targets) > 10
    assert [target for target in targets if "//" not in target and not (ROOT / target).exists()] == []
