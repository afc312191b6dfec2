# SPDX-License-Identifier: Apache-2.0
"""Which z stands where, in few words: names of blocks and one-line rules written out as the rules they stand for.

A block is a list of rules in a YAML file under ``latents:``. Wherever a list of rules is expected, the name of a block
(``yolor``), its path, or one-line rules (``align.*=mul pre.*=add:neural post.p?=mul[w,h]``) may stand instead, or
between the others.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from unified.contracts.errors import ConfigError
from unified.contracts.source import Place, Source, read_source, shown_path

Find = Callable[[str], Path]
"""The file of a block by its name or path."""

KEY = "latents"
_WORD = re.compile(r"(?:\[[^\]=]*\]|[^\s,\[])+|\[")  # commas and spaces part words; brackets hold them together
_RULE = re.compile(r"(?P<site>[^=]+)=(?P<operator>\w+)(?:\[(?P<only>[\w\s,]+)\])?(?::(?P<latent>\w+))?")


def written_out(source: Source, find: Find, above: tuple[str, ...] = ()) -> list[Source]:
    """Every rule of a block as a mapping, or as whatever was written in its place.

    Args:
        source: a text, or a list of rules and texts.
        find: the file of a block.
        above: blocks that led here.

    Raises:
        ConfigError: an unknown block, one that holds itself, or a rule that cannot be read.
    """
    if not isinstance(source.value, str):
        items = [Source(v, {(): source.places[()], **source.below(i)}) for i, v in enumerate(source.value)]
        return [rule for item in items for rule in _rules(item, find, above)]
    return list(_rules(source, find, above))


def _rules(item: Source, find: Find, above: tuple[str, ...]) -> Iterator[Source]:
    if not isinstance(item.value, str):
        yield item
        return
    place = item.places[()]
    for word in _WORD.findall(item.value):
        if "=" in word:
            yield Source(_rule(word, place), {(): place})
        else:
            yield from _block(word, place, find, above)


def _rule(word: str, place: Place) -> dict[str, Any]:
    found = _RULE.fullmatch(word)
    if found is None:
        raise ConfigError(
            f"{place.text}: '{word}' is no rule; expected SITE=OPERATOR or SITE=OPERATOR:LATENT, as pre.*=add:neural"
        )
    rule: dict[str, Any] = {"site": found["site"], "operator": found["operator"]}
    if found["latent"]:
        rule["latent"] = found["latent"]
    if found["only"]:
        rule["only"] = found["only"].replace(",", " ").split()
    return rule


def _block(name: str, place: Place, find: Find, above: tuple[str, ...]) -> list[Source]:
    if name in above:
        raise ConfigError(f"{place.text}: the block '{name}' holds itself")
    try:
        path = find(name)
    except ConfigError as error:
        raise ConfigError(f"{place.text}: {error}; or a rule such as pre.*=add") from error
    source = read_source(path)
    if not isinstance(source.value, dict) or set(source.value) != {KEY}:
        raise ConfigError(f"{shown_path(path)}: expected one key, '{KEY}', with a list of rules")
    if not isinstance(source.value[KEY], str | list):
        raise ConfigError(f"{source.places[(KEY,)].text}: {KEY}: expected a list of rules")
    return written_out(source.under(KEY), find, (*above, name))
