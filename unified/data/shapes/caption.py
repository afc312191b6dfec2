# SPDX-License-Identifier: Apache-2.0
"""Plain English captions for a scene."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from .background import Ground
from .identity import IDENTITIES
from .outline import CLASSES

NUMBERS: Final = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight")
_IRREGULAR: Final = {"cross": "crosses"}
_AIR: Final = {
    "dark": "in dim light",
    "foggy": "in thick fog",
    "spotlight": "under a spotlight",
    "warm": "in warm light",
    "cool": "in cool light",
}


def plural(noun: str) -> str:
    """The plural of a class name."""
    return _IRREGULAR.get(noun, noun + "s")


def counted(count: int, words: str, noun: str) -> str:
    """`a red star`, `an orange disc`, `two red stars`; `words` are the adjectives, perhaps none."""
    if count > 1:
        return " ".join(filter(None, (NUMBERS[count], words, plural(noun))))
    text = f"{words} {noun}".strip()
    return f"{'an' if text[0] in 'aeiou' else 'a'} {text}"


def listed(parts: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _setting(ground: Ground, tags: Sequence[str]) -> str:
    """`on oak planks, in dim light`."""
    place = "in" if ground.family == "water" else "on"
    air = [_AIR[tag] for tag in _AIR if tag in tags]
    return ", ".join([f"{place} {ground.phrase}", *air[:1]])


def captions(identities: Sequence[int], areas: Sequence[int], ground: Ground, tags: Sequence[str]) -> tuple[str, str]:
    """A detailed caption (identities, largest first, at most four kinds) and a short one (classes only).

    `identities` and `areas` (visible pixels) are per object; `tags` are the attributes that hold.
    """
    size: Counter[int] = Counter()
    for identity, area in zip(identities, areas, strict=True):
        size[identity] += area
    count = Counter(identities)
    order = [identity for identity, _ in size.most_common()]
    parts = [counted(count[k], IDENTITIES[k].phrase, IDENTITIES[k].shape) for k in order[:4]]
    rest = sum(count[k] for k in order[4:])
    if rest:
        parts.append(f"{NUMBERS[rest]} more {'shape' if rest == 1 else 'shapes'}")
    classes = Counter(IDENTITIES[k].label for k in identities)
    kinds = [counted(n, "", CLASSES[label]) for label, n in classes.most_common()]
    setting = _setting(ground, tags)
    return f"{listed(parts)} {setting}", f"{listed(kinds)} {setting.split(',')[0]}"
