# SPDX-License-Identifier: Apache-2.0
"""Classes: ids, names, and names that look like one class written in two ways."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from unified.data.lint.finding import Findings, shown
from unified.data.lint.sheet import Rows, Sheet, identify, listed

_IRREGULAR: Final = {
    "person": "people",
    "man": "men",
    "child": "children",
    "mouse": "mice",
    "goose": "geese",
    "foot": "feet",
    "tooth": "teeth",
    "knife": "knives",
    "leaf": "leaves",
}
_LONG: Final = 6  # letters: shorter words that differ in one letter are often two words
_BACKGROUND: Final = {"background", "__background__", "_background_", "bg"}


@dataclass(frozen=True)
class Classes:
    """A file's classes: names in its order, each once, and the index of every id that can be told apart."""

    names: tuple[str, ...]
    index: Mapping[int | str, int]


def check_categories(sheet: Sheet, aliases: Mapping[str, str], findings: Findings) -> Classes:
    """Faults of the list of categories. ``aliases``: the run's names for some of them."""
    rows = sheet.categories
    first, twice = identify(rows, "category", sheet.file, findings)
    if not len(rows) and sheet.native:
        findings.add("no-categories", sheet.file, "", "categories", "the list is empty")
    names: dict[str, int] = {}
    index: dict[int | str, int] = {}
    for k, record in enumerate(rows.records):
        name = _name(rows, k, sheet.file, findings)
        if name is None:
            continue
        if name in names:
            findings.add("category-name-twice", sheet.file, rows.at(k), "name", f"{shown(name)} is named before")
        names.setdefault(name, len(names))
        ident = record.get("id")
        if isinstance(ident, int | str) and first.get(ident) == k and ident not in twice:
            index[ident] = names[name]
    told_alike(dict.fromkeys(undecided(names, aliases), sheet.file), findings)
    return Classes(tuple(names), index)


def _name(rows: Rows, k: int, file: str, findings: Findings) -> str | None:
    name = rows.records[k].get("name")
    if name is None or name == "":
        findings.add("category-name-missing", file, rows.at(k), "name", "is missing" if name is None else "is empty")
        return None
    if not isinstance(name, int | str) or isinstance(name, bool):
        findings.add("category-name-type", file, rows.at(k), "name", f"must be a text, got {shown(name)}")
        return None
    text = str(name)
    if text != text.strip():
        findings.add("category-name-spaces", file, rows.at(k), "name", f"{shown(text)} has spaces at its ends")
    if not text.strip():
        findings.add("category-name-missing", file, rows.at(k), "name", "is empty")
        return None
    if text.casefold() in _BACKGROUND:
        findings.add("category-background", file, rows.at(k), "name", f"{shown(text)} is a class like any other here")
    return text.strip()


def undecided(names: Iterable[str], aliases: Mapping[str, str]) -> list[str]:
    """The names as the run has them, less those that an alias gives as they are: someone has looked at these."""
    return [aliases.get(name, name) for name in names if aliases.get(name) != name]


def told_alike(names: Mapping[str, str], findings: Findings) -> None:
    """Names that look like one class. ``names`` maps each to the file or data set it is told under."""
    alike = set(alike_names(names))
    for one, other, how in sorted(alike):
        reason = f"{shown(one)} and {shown(other)} differ only in {how}"
        if names[one] != names[other]:
            reason += f" ({shown(one)} is of {names[one]})"
        findings.add("names-alike", names[other], "categories", "name", reason)
    told = {frozenset(pair[:2]) for pair in alike}
    for one, other in sorted(similar_names(names)):
        if frozenset((one, other)) not in told:
            reason = f"{shown(one)} and {shown(other)} differ in one letter"
            findings.add("names-similar", names[other], "categories", "name", reason)


def folded(name: str) -> str:
    """A name without its case, spaces, hyphens and underscores."""
    text = unicodedata.normalize("NFKC", name).casefold()
    return "".join(char for char in text if not char.isspace() and char not in "-_.")


def alike_names(names: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    """Pairs of names that differ only in case and spaces, or in being plural, and which it is."""
    first: dict[str, str] = {}
    for name in names:
        key = folded(name)
        if first.setdefault(key, name) != name:
            yield first[key], name, "case, spaces or hyphens"
    for key, name in first.items():
        for plural in _plurals(key):
            if plural in first:
                yield name, first[plural], "being plural"


def _plurals(word: str) -> Iterator[str]:
    yield from (f"{word}s", f"{word}es")
    if word.endswith("y"):
        yield f"{word[:-1]}ies"
    for one, many in _IRREGULAR.items():
        if word.endswith(one):
            yield word.removesuffix(one) + many


def similar_names(names: Iterable[str]) -> set[tuple[str, str]]:
    """Pairs of long names that one letter added, left out or changed makes equal."""
    by_rest: dict[str, list[str]] = {}
    for name in names:
        word = folded(name)
        if len(word) >= _LONG and word.isalpha():
            for rest in {word, *(word[:k] + word[k + 1 :] for k in range(len(word)))}:
                by_rest.setdefault(rest, []).append(name)
    pairs = ((a, b) for group in by_rest.values() for a in group for b in group if a < b)
    return {(a, b) for a, b in pairs if _one_edit(folded(a), folded(b))}


def _one_edit(one: str, other: str) -> bool:
    if len(one) > len(other):
        one, other = other, one
    if len(other) - len(one) > 1 or one == other:
        return False
    k = next((k for k, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), len(one))
    return one[k + (len(one) == len(other)) :] == other[k + 1 :]


def told_unused(sheet: Sheet, classes: Classes, used: Iterable[int], findings: Findings) -> None:
    """Classes that no box of the file has."""
    seen = set(used)
    idle = [name for k, name in enumerate(classes.names) if k not in seen]
    if idle and len(idle) < len(classes.names):
        reason = f"{len(idle)} of {len(classes.names)} classes have no box: {listed(idle)}"
        findings.add("categories-unused", sheet.file, "", "categories", reason)
