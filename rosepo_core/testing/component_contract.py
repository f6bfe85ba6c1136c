"""Tests for plugins of every kind, as a class. The contract tests of each kind extend it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest

from rosepo_core.contracts.components import Component
from rosepo_core.contracts.errors import RequestError
from rosepo_core.contracts.options import parse_options
from rosepo_core.plugins.registry import KINDS, Entry, load_plugins

RESERVED_KEYS = ("name", "weight", "options")


class ComponentContract:
    """Tests for every plugin. Set `name` or `component`.

    Attributes:
        kind: a key of `KINDS`; set by the contract of each kind.
        name: the name that the plugin is registered under.
        component: the class, as an alternative to its name.
    """

    kind: ClassVar[str]
    name: ClassVar[str] = ""
    component: ClassVar[type[Component] | None] = None

    @pytest.fixture
    def options(self) -> Mapping[str, Any]:
        """Options of the component under test. Override this to use others."""
        return {}

    def entry(self) -> Entry:
        """The registry's entry of the component under test."""
        if self.name:
            return load_plugins().entry(self.kind, self.name)
        assert self.component is not None, "set 'name' or 'component'"
        target = f"{self.component.__module__}:{self.component.__qualname__}"
        found = [entry for entry in load_plugins().entries(self.kind) if entry.target == target]
        assert found, f"no {self.kind} is registered with the target '{target}'"
        return found[0]

    def make(self, options: Mapping[str, Any]) -> Any:
        """A component, made in the same way as in a run."""
        return load_plugins().create(self.kind, self.entry().qualified_name, options)

    def test_is_registered(self) -> None:
        """It is found by its name, and has a summary of one line."""
        entry = self.entry()
        found = load_plugins().get(self.kind, entry.qualified_name)
        assert issubclass(found, KINDS[self.kind])
        assert self.component in (None, found)
        assert entry.summary.strip(), f"{entry} has no summary"
        assert "\n" not in entry.summary, f"the summary of {entry} has several lines"

    def test_every_option_is_described(self) -> None:
        """Every option has a description, because help texts are made from them."""
        fields = load_plugins().get(self.kind, self.entry().qualified_name).Options.model_fields
        bare = [key for key, field in fields.items() if not (field.description or "").strip()]
        assert not bare, f"without a description: {', '.join(bare)}"

    def test_no_option_takes_a_reserved_key(self) -> None:
        """No option has the name of a key of the core, because both are in the same table of a configuration."""
        fields = load_plugins().get(self.kind, self.entry().qualified_name).Options.model_fields
        taken = [key for key in RESERVED_KEYS if key in fields]
        assert not taken, f"keys of the core: {', '.join(taken)}"

    def test_options_round_trip(self, options: Mapping[str, Any]) -> None:
        """The saved configuration of a run makes the same component again."""
        made = self.make(options).options
        saved = {key: value for key, value in made.model_dump(mode="json").items() if value is not None}
        assert parse_options(type(made), saved, self.kind) == made

    def test_an_unknown_option_is_refused(self, options: Mapping[str, Any]) -> None:
        """A misspelt option is an error."""
        with pytest.raises(RequestError, match="no_such_option"):
            self.make({**options, "no_such_option": 1})
