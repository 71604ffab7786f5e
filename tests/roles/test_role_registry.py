"""From the name of a role to its class, for ours and for a user's own."""

import sys
from importlib.metadata import EntryPoint, EntryPoints
from types import ModuleType

import pytest

from roles import registry
from roles.config import ConfigError
from roles.registry import BUILT_IN, load_role
from roles.role import Role


class Gardener(Role):
    name = "gardener"

    def handle(self, event, now_ms):
        return []


@pytest.fixture
def garden(monkeypatch):
    """A user's module on the import path."""
    module = ModuleType("garden")
    module.Gardener, module.not_a_role, module.Nameless = Gardener, dict, type("Nameless", (Gardener,), {"name": ""})
    monkeypatch.setitem(sys.modules, "garden", module)


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_each_of_our_roles_is_found_under_its_own_name(name):
    assert load_role(name).name == name


def test_a_class_on_the_import_path_is_a_role(garden):
    assert load_role("garden:Gardener") is Gardener


def test_an_installed_package_brings_its_roles_along(garden, monkeypatch):
    found = EntryPoints([EntryPoint("gardener", "garden:Gardener", registry.ENTRY_POINTS)])
    monkeypatch.setattr(registry, "entry_points", lambda **wanted: found.select(**wanted))

    assert load_role("gardener") is Gardener
    with pytest.raises(ConfigError) as caught:
        load_role("baker")
    assert "gardener" in caught.value.hint


@pytest.mark.parametrize(
    "name",
    ["baker", "garden:not_a_role", "garden:Nameless", "garden:Missing", "no.such.module:Role", "garden:", ":", ""],
)
def test_what_is_no_role_is_refused_with_a_next_step(garden, name):
    with pytest.raises(ConfigError) as caught:
        load_role(name)

    assert caught.value.hint
