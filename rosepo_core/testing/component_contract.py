"""What holds for every plugin of any kind, as a class of tests that the contracts of the kinds extend."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest

from rosepo_core.contracts.components import Component
from rosepo_core.contracts.errors import RequestError
from rosepo_core.contracts.options import parse_options
from rosepo_core.registry import KINDS, Entry, load_plugins

RESERVED_KEYS = ("name", "weight", "options")


class ComponentContract:
    """What holds for every plugin. Set `name` or `component`.

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
        """Options that the component under test is made with; override to give others."""
        return {}

    def entry(self) -> Entry:
        """The line of the component under test in the listing of plugins."""
        if self.name:
            return load_plugins().entry(self.kind, self.name)
        assert self.component is not None, "set 'name' or 'component'"
        target = f"{self.component.__module__}:{self.component.__qualname__}"
        found = [entry for entry in load_plugins().entries(self.kind) if entry.target == target]
        assert found, f"no {self.kind} is registered with the target '{target}'"
        return found[0]

    def make(self, options: Mapping[str, Any]) -> Any:
        """A component as a run would make it."""
        return load_plugins().create(self.kind, self.entry().qualified_name, options)

    def test_is_registered(self) -> None:
        """An installed distribution registers it, with a summary, and the target is what it should be."""
        entry = self.entry()
        found = load_plugins().get(self.kind, entry.qualified_name)
        assert issubclass(found, KINDS[self.kind])
        assert self.component in (None, found)
        assert entry.summary.strip(), f"{entry} has no summary"
        assert "\n" not in entry.summary

    def test_every_option_is_described(self) -> None:
        """Help is made from the descriptions."""
        fields = load_plugins().get(self.kind, self.entry().qualified_name).Options.model_fields
        assert [key for key, field in fields.items() if not (field.description or "").strip()] == []

    def test_no_option_takes_a_reserved_key(self) -> None:
        """These keys stand beside the options in a configuration and mean something else."""
        fields = load_plugins().get(self.kind, self.entry().qualified_name).Options.model_fields
        assert [key for key in RESERVED_KEYS if key in fields] == []

    def test_options_round_trip(self, options: Mapping[str, Any]) -> None:
        """What a run saves as its configuration makes the same component again."""
        made = self.make(options).options
        saved = {key: value for key, value in made.model_dump(mode="json").items() if value is not None}
        assert parse_options(type(made), saved, self.kind) == made

    def test_an_unknown_option_is_refused(self, options: Mapping[str, Any]) -> None:
        """Misspelt options must not be ignored."""
        with pytest.raises(RequestError, match="no_such_option"):
            self.make({**options, "no_such_option": 1})
