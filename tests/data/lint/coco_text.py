# SPDX-License-Identifier: Apache-2.0
"""Ways to spoil the text of a JSON file: each gives the bytes, the fault they hold and the place that names it."""

from __future__ import annotations

import random
from collections.abc import Callable


def cut(data: bytes, rng: random.Random) -> tuple[bytes, str, str]:
    return data[: rng.randrange(len(data))], "not-json", ""


def nested(data: bytes, rng: random.Random) -> tuple[bytes, str, str]:
    depth = rng.choice((20_000, 100_000))
    return b'{"images": ' + b"[" * depth + b"]" * depth + b"}", "not-json", ""


def long_number(data: bytes, rng: random.Random) -> tuple[bytes, str, str]:
    return data.replace(b'"seed": ', b'"seed": ' + b"9" * rng.choice((4301, 5000, 50_000)), 1), "not-json", ""


def not_utf8(data: bytes, rng: random.Random) -> tuple[bytes, str, str]:
    k = rng.randrange(len(data))
    return data[:k] + rng.choice((b"\xff", b"\xfe\xff", b"\xc3\x28")) + data[k:], "not-json", ""


def utf16(data: bytes, rng: random.Random) -> tuple[bytes, str, str]:
    return data.decode().encode(rng.choice(("utf-16", "utf-32"))), "not-json", ""


def marked(data: bytes, rng: random.Random) -> tuple[bytes, str, str]:
    return b"\xef\xbb\xbf" + data, "byte-order-mark", ""


def nothing(data: bytes, rng: random.Random) -> tuple[bytes, str, str]:
    return rng.choice((b"", b" ", b"\n\n", b"\xef\xbb\xbf")), "not-json", ""


def no_object(data: bytes, rng: random.Random) -> tuple[bytes, str, str]:
    return rng.choice((b"[]", b"7", b'"text"', b"null", b"true", b"[1, 2]", b"NaN", b"[{}]")), "not-an-object", ""


def key_twice(data: bytes, rng: random.Random) -> tuple[bytes, str, str]:
    key = rng.choice((b'"id": ', b'"bbox": ', b'"name": ', b'"images": '))
    places = [k for k in range(len(data)) if data.startswith(key, k)]
    k = rng.choice(places)
    return data[:k] + key + b"[], " + data[k:], "key-twice", key[1:-3].decode()


def comma(data: bytes, rng: random.Random) -> tuple[bytes, str, str]:
    k = data.index(b"}]")
    return data[: k + 1] + b"," + data[k + 1 :], "not-json", ""


def junk(data: bytes, rng: random.Random) -> tuple[bytes, str, str]:
    return data + rng.choice((b"}", b"{}", b"\0", b"//end")), "not-json", ""


TEXT_MUTATIONS: dict[str, Callable[[bytes, random.Random], tuple[bytes, str, str]]] = {
    function.__name__: function
    for function in (cut, nested, long_number, not_utf8, utf16, marked, nothing, no_object, key_twice, comma, junk)
}
