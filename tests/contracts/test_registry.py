# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from abc import ABC, abstractmethod
from importlib.metadata import EntryPoint
from pathlib import Path

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


def test_two_packages_with_one_name_are_refused_to_whoever_asks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = offered(monkeypatch, ("alpha", "a:A"), ("alpha", "b:B"), ("dict", "collections:OrderedDict"))
    assert parts.names() == ("alpha", "dict") and parts.get("dict").__name__ == "OrderedDict"
    with pytest.raises(RegistryError, match=r"part 'alpha' is offered twice: .*\(a:A\) .*\(b:B\); uninstall one"):
        parts.get("alpha")


def test_an_installed_name_is_taken_over_only_on_purpose(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = offered(monkeypatch, ("dict", "collections:OrderedDict"))
    mine = type("Mine", (), {})
    with pytest.raises(RegistryError, match=r"part 'dict' is taken by package .*collections:OrderedDict.*replace=True"):
        parts.register("dict")(mine)
    parts.register("dict", replace=True)(mine)
    assert parts.get("dict") is mine
    assert parts.source("dict") == "this process"


def test_a_cell_run_twice_registers_again_but_another_class_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = offered(monkeypatch)
    first, second = type("Mine", (), {}), type("Mine", (), {})
    parts.register("mine")(first)
    parts.register("mine")(second)
    assert parts.get("mine") is second
    with pytest.raises(RegistryError, match="'mine' is taken by"):
        parts.register("mine")(type("Other", (), {}))


class Base(ABC):
    @abstractmethod
    def answer(self) -> int: ...


class Sound(Base):
    """Answers. And more."""

    def __init__(self, spec: object, *, gain: float = 1.0) -> None: ...

    def answer(self) -> int:
        return 1


def strict() -> Registry[Base]:
    return Registry("part", "test.strict", Base, ("spec",))


def refused(cls: object) -> str:
    with pytest.raises(RegistryError) as caught:
        strict().register("mine")(cls)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value) and str(caught.value).startswith("part 'mine' of ")
    return str(caught.value)


def test_a_sound_part_is_taken_and_told() -> None:
    parts = strict()
    parts.register("mine")(Sound)
    told = parts.part("mine")
    assert (told.summary, told.origin, told.error) == ("Answers. And more.", "this process", None)


def test_a_part_must_be_what_its_kind_is() -> None:
    assert "extends" in refused(type("Other", (), {}))
    assert "does not define answer()" in refused(type("Half", (Base,), {}))
    swapped = type("Swapped", (Sound,), {"__init__": lambda self, gain, spec: None})
    assert "is built from (gain, spec); expected (spec, *, option=default, ...)" in refused(swapped)


def test_a_plug_in_of_another_time_gets_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    newer = type("Newer", (Sound,), {"protocol": registry_module.PROTOCOL + 1})
    assert "written for plug-in protocol 2, and this unified" in refused(newer)
    assert refused(newer).endswith("speaks 1; update unified")
    assert "expected a number" in refused(type("Odd", (Sound,), {"protocol": "one"}))
    strict().register("mine")(type("Now", (Sound,), {"protocol": registry_module.PROTOCOL}))
    monkeypatch.setattr(registry_module, "PROTOCOL", 3)
    monkeypatch.setattr(registry_module, "OLDEST", 2)
    assert refused(Sound).endswith("speaks 2 to 3; update the plug-in")  # a part that says nothing is of the first


def test_a_package_for_another_version_is_not_called_broken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "of_old_times.py").write_text("from unified.contracts.protocols import Seer\n")
    monkeypatch.syspath_prepend(tmp_path)
    parts = offered(monkeypatch, ("seer", "of_old_times:Seer"))
    with pytest.raises(RegistryError, match="written for another version of unified than this one, 0") as caught:
        parts.get("seer")
    assert "cannot import name 'Seer'" in str(caught.value)


def test_what_cannot_be_used_is_told_once_and_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = offered(monkeypatch, ("dict", "collections:OrderedDict"), ("broken", "no_such_package_here:Thing"))
    monkeypatch.setattr(registry_module, "_told", set())
    lines: list[str] = []
    for _ in range(2):
        assert [name for name, _ in parts.available(lines.append)] == ["dict"]
    assert len(lines) == 1 and lines[0].startswith("note: part 'broken' of package") and "left out" in lines[0]
