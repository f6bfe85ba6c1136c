"""What mkdocs calls while it builds the site: pages of plugins and tables come from the code, formulas as MathML."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from docs_site.command_line import command_pages
from docs_site.formulas import with_mathml
from docs_site.option_tables import option_table
from docs_site.plugin_pages import FOLDERS, all_metrics, own_plugins, page_of, table_of
from rosepo_core.config import RunConfig

GENERATED = re.compile(r"<!-- generated: (?P<what>[a-z ]+) -->")
PICTURE = re.compile(r"!\[([^\]]*)\]\((?:\.\./)+benchmarks/results/([^)]+\.(?:svg|png))\)")
"""A picture that a benchmark made. The site takes a copy."""


def on_files(files: Files, config: Any) -> Files:
    """Make each plugin's page, from what is written by hand and from its class."""
    for kind, folder in FOLDERS.items():
        for entry in own_plugins(kind):
            path = f"{folder}/{entry.name}.md"
            written = files.get_file_from_path(path)
            content = page_of(entry, written.content_string if written else None)
            if written:
                files.remove(written)
            files.append(File.generated(config, path, content=content))
    results = Path(config.config_file_path).parent / "benchmarks" / "results"
    for picture in sorted([*results.glob("*.svg"), *results.glob("*.png")]):
        files.append(File.generated(config, f"pictures/{picture.name}", abs_src_path=str(picture.resolve())))
    config.nav = _in_full(config.nav, files)
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Fill in what is generated. A link to a file of the repository that is no page becomes the file's name."""
    depth = page.file.src_uri.count("/")
    markdown = PICTURE.sub(rf"![\1]({'../' * depth}pictures/\2)", GENERATED.sub(_generated, markdown))
    out_of_docs = re.compile(rf"\[([^\]]+)\]\((?:\.\./){{{depth + 1}}}([^)]*)\)")
    return out_of_docs.sub(_file_name, markdown)


def on_page_content(html: str, page: Any, config: Any, files: Files) -> str:
    """Formulas as MathML."""
    return with_mathml(html)


def _file_name(found: re.Match[str]) -> str:
    text, path = found[1].strip("`"), found[2]
    return f"`{path}`" if text in path else f"{text} (`{path}`)"


def _in_full(nav: list[Any], files: Files) -> list[Any]:
    """The navigation with the pages of a folder in place of ``folder/*``; ``*`` are those that it does not name."""
    pages = sorted(file.src_uri for file in files.documentation_pages())
    named = set(re.findall(r"[\w/.-]+\.md", repr(nav)))

    def expanded(entries: list[Any]) -> list[Any]:
        full: list[Any] = []
        for entry in entries:
            if isinstance(entry, dict):
                full += [
                    {title: expanded(inner) if isinstance(inner, list) else inner} for title, inner in entry.items()
                ]
            elif entry.endswith("*"):
                folder = entry[:-1]
                full += [
                    page for page in pages if page not in named and page.rpartition("/")[0] + "/" == (folder or "/")
                ]
            else:
                full.append(entry)
        return full

    return expanded(nav)


def _generated(found: re.Match[str]) -> str:
    what, _, kind = found["what"].partition(" ")
    if what == "table":
        return table_of(kind)
    if what == "metrics":
        return all_metrics()
    if what == "commands":
        return command_pages()
    assert what == "configuration", what
    return _configuration()


def _configuration() -> str:
    """A table for each section that belongs to the core."""
    parts, plain = [], []
    for name, field in RunConfig.model_fields.items():
        model: Any = field.annotation
        if hasattr(model, "model_fields") and "options" not in model.model_fields:
            parts.append(f"## [{name}]\n\n{field.description}\n\n{option_table(model)}")
        elif name in ("seed", "deterministic", "track"):
            plain.append(name)
    top = option_table(RunConfig, frozenset(set(RunConfig.model_fields) - set(plain)))
    return "\n\n".join(["## Top of the file\n\n" + top, *parts])
