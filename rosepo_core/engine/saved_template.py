"""Saves and loads a bound prompt template. With these files and the tokenizer, a run's prompts can be written
again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rosepo_core.contracts.errors import PluginError, RequestError
from rosepo_core.engine.title_trie import TitleTrie, keep_trie, title_trie
from rosepo_core.plugins.one_file import check_recorded
from rosepo_core.plugins.recorded import check_same, lacking
from rosepo_core.plugins.registry import Registry, load_plugins
from rosepo_core.prompts.template import PromptTemplate
from rosepo_core.store.artifacts import is_own_artifact, reading

TEMPLATE_FILE = "prompt_template.json"
TRIE_FILE = "title_trie.safetensors"
SCHEMA = 2


@dataclass(frozen=True)
class SavedTemplate:
    """A prompt template as it is saved.

    Attributes:
        name: name of the plugin.
        options: its options.
        history_length: the most items of a history.
        texts: the text of each item.
        details: the attributes of each item as text, beside its text in a history.
        origin: the plugin, its distribution and version.
    """

    name: str
    options: Mapping[str, Any]
    history_length: int
    texts: Sequence[str]
    details: Sequence[str] = ()
    origin: str = ""


def save_template(template: PromptTemplate, name: str, folder: Path) -> None:
    """Write `prompt_template.json` and `title_trie.safetensors`.

    Args:
        template: a bound template.
        name: the name of its plugin.
        folder: an existing folder.
    """
    content = {
        "schema": SCHEMA,
        "name": name,
        "options": template.options.model_dump(mode="json"),
        "history_length": template.history_length,
        "texts": template.texts,
        "details": template.details if any(template.details) else (),
        "origin": template.origin,
    }
    (folder / TEMPLATE_FILE).write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")
    title_trie(template).save(folder / TRIE_FILE)


def load_template(folder: Path, tokenizer: Any, registry: Registry | None = None) -> PromptTemplate:
    """The template that `save_template` wrote, bound to its titles, which are not tokenized again.

    Raises:
        RequestError: the folder has no template, or it cannot be read; or the plugin is not installed.
    """
    saved = read_template(folder)
    if saved is None:
        raise RequestError(f"{folder} holds no {TEMPLATE_FILE}; name a run's folder 'sft' or 'aligned'")
    registry = registry or load_plugins()
    try:
        check_recorded(saved.name, folder, own=is_own_artifact(folder))
        check_same("prompt", saved.name, saved.origin, registry)
        registry.get("prompt", saved.name)
    except (RequestError, PluginError) as error:
        raise lacking(saved.origin or f"prompt '{saved.name}'", folder, error) from None
    template: PromptTemplate = registry.create("prompt", saved.name, saved.options, str(folder / TEMPLATE_FILE))
    with reading(folder):
        trie = TitleTrie.load(folder / TRIE_FILE)
        responses = trie.responses()
    if len(trie) != len(saved.texts):
        raise RequestError(f"{folder / TRIE_FILE} is not of the titles in {TEMPLATE_FILE}; make the run's stage anew")
    template.bind(tokenizer, saved.texts, saved.history_length, responses, saved.details)
    keep_trie(template, trie)
    return template


def read_template(folder: Path) -> SavedTemplate | None:
    """The template that `save_template` wrote; `None` if the folder has none.

    Raises:
        RequestError: the file cannot be read.
    """
    path = folder / TEMPLATE_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        return None
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{path} is no JSON ({error}); make the run's stage anew") from None
    if not isinstance(content, dict) or content.pop("schema", None) != SCHEMA:
        raise RequestError(f"{path} is of another version of rosepo; make the run's stage anew")
    with reading(folder):
        return SavedTemplate(**content)
