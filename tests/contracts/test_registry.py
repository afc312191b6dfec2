# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from unified.contracts import registry as registry_module
from unified.contracts.registry import Registry, RegistryError


def offered(monkeypatch: pytest.MonkeyPatch, *pairs: tuple[str, str]) -> Registry[object]:
    """A registry that finds these (name, value) entry points installed."""
    points = [EntryPoint(name=name, value=value, group="test.parts") for name, value in pairs]
    monkeypatch.setattr(registry_module, "entry_points", lambda group: [p for p in points if p.group == group])
    return Registry("part", "test.parts")


def test_an_installed_part_is_imported_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = offered(monkeypatch, ("dict", "collections:OrderedDict"), ("broken", "no_such_package_here:Thing"))
    assert parts.names() == ("broken", "dict")
    assert parts.get("dict").__name__ == "OrderedDict"


def test_a_broken_package_is_named_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = offered(monkeypatch, ("broken", "no_such_package_here:Thing"))
    with pytest.raises(RegistryError, match=r"part 'broken' .*no_such_package_here:Thing.* cannot be imported"):
        parts.get("broken")


def test_an_unknown_name_lists_the_known_nearest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = offered(monkeypatch, ("alpha", "a:A"), ("beta", "b:B"))
    with pytest.raises(RegistryError) as caught:
        parts.get("betta")
    assert str(caught.value) == "unknown part 'betta'; known: alpha, beta (did you mean 'beta'?)"


def test_two_packages_with_one_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = offered(monkeypatch, ("alpha", "a:A"), ("alpha", "b:B"))
    with pytest.raises(RegistryError, match="offered twice"):
        parts.names()


def test_a_local_part_comes_before_an_installed_one(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = offered(monkeypatch, ("dict", "collections:OrderedDict"))

    @parts.register("dict")
    class Mine: ...

    assert parts.get("dict") is Mine
    assert parts.source("dict") == "this process"


def test_a_cell_run_twice_registers_again_but_another_class_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = offered(monkeypatch)
    first, second = type("Mine", (), {}), type("Mine", (), {})
    parts.register("mine")(first)
    parts.register("mine")(second)
    assert parts.get("mine") is second
    with pytest.raises(RegistryError, match="'mine' is taken by"):
        parts.register("mine")(type("Other", (), {}))
