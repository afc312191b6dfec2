# SPDX-License-Identifier: Apache-2.0
"""Requests as no client should send them, each from its number alone.

Request k begins as a good one of some form (a picture, a form with one, JSON with one, a question without a body) and
is damaged in one of five places: the picture's bytes, the JSON's values, the form, the head, or anywhere in the bytes.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from picture_mutator import mutated, whole_pictures

PLACES = ("picture", "json", "form", "head", "bytes")
ROUTES = ("/predict", "/embed", "/healthz", "/readyz", "/metrics", "/model", "/openapi.json")
VALUES: Sequence[Any] = (
    *(None, True, 0, -1, 1, 2, 0.5, -0.0, 1e308, -1e-320, 2**31, 2**63, 2**64, -(2**70), "", " ", "0.5", "nan", "inf"),
    *(
        "true",
        "det",
        "det,cls",
        "dett",
        ",",
        "all",
        "image",
        "box",
        "binary",
        "\x00",
        "\ud800",
        "é" * 50,
        "a" * 5000,
        "../../x",
    ),
    *("http://127.0.0.1:9/a.png", "file:///etc/passwd", "data:image/png;base64,AAAA", "${jndi:x}", "{{7*7}}", "%s%n"),
    *([], [[]], ["det"], ["det", "det"], [1, None], {}, {"a": {"b": {}}}, ["x"] * 200, "=" * 64, "AAAA", "AAA", "A-_/"),
)
RAW = (
    "NaN",
    "Infinity",
    "-Infinity",
    "1e999",
    "9" * 5000,
    "0x10",
    "01",
    "[" * 3000,
    '{"a":' * 3000,
    "'a'",
    "undefined",
    "1,2",
    "",
)
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PATCH", "get", "FOO", "P" * 300, "")
VERSIONS = ("HTTP/1.1", "HTTP/1.0", "HTTP/0.9", "HTTP/2.0", "HTTP/1.9", "HTTP/11", "http/1.1", "")
PATHS = (
    *(
        "/",
        "//",
        "/predict/",
        "/PREDICT",
        "/predict/../metrics",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/predict%00",
        "/\xff",
        "*",
    ),
    *(
        "http://127.0.0.1:9/predict",
        "/predict?" + "a=b&" * 2000,
        "/predict?confidence=%ff",
        "/predict?confidence=",
        "predict",
    ),
    *(
        "/predict?%00=%00",
        "/predict?tasks=" + "d" * 5000,
        "/embed?truncate_dim=99999999999999999999",
        "/" + "a" * 40_000,
        "",
    ),
    *(
        "/embed?level=box&precision=binary&truncate_dim=3",
        "/embed?level=;",
        "/predict?=&=&",
        "/models/upload",
        "/predict#x",
    ),
)
HEADERS = (
    *(
        "Content-Length: -1",
        "Content-Length: 99999999999",
        "Content-Length: 0",
        "Content-Length: 1e3",
        "Content-Length: ",
    ),
    *(
        "Content-Length: " + "9" * 30,
        "Content-Length: 5, 6",
        "Transfer-Encoding: chunked",
        "Transfer-Encoding: gzip, chunked",
    ),
    *(
        "Transfer-Encoding: identity",
        "Expect: 100-continue",
        "Expect: 200-ok",
        "Upgrade: websocket\r\nConnection: Upgrade",
    ),
    *(
        "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQAAP__",
        "Content-Encoding: gzip",
    ),
    *("Content-Type: application/json", "Content-Type: application/json; charset=utf-16", "Content-Type: text/html"),
    *(
        "Content-Type: multipart/form-data",
        "Content-Type: multipart/form-data; boundary=",
        "Content-Type: \xff\xfe",
        "Content-Type: ;",
    ),
    *("Content-Type: multipart/form-data; boundary=" + "b" * 5000, "Content-Type: multipart/mixed; boundary=frontier"),
    *(
        "Content-Type: multipart/form-data; boundary=frontier; charset=utf-7",
        "Content-Type: image/gif",
        "Range: bytes=0-",
    ),
    *(
        "Host: evil.example",
        "Host: [::1",
        "Host: a@b:c",
        "Host: ",
        "Host: localhost:99999999",
        "Origin: null",
        "Origin: http://[",
    ),
    *(
        "Authorization: Bearer x",
        "Authorization: " + "B" * 8000,
        "Cookie: " + "a=b; " * 3000,
        "X-Request-Id: \x01",
        "X: " + "y" * 50_000,
    ),
    *(
        "X-Forwarded-For: 8.8.8.8",
        "X Y: z",
        ": z",
        "no colon",
        "X: a\r\n folded",
        "X: \x00",
        "X: a\nY: b",
        "Accept: */*;q=nan",
        "Te: trailers",
    ),
)


def requests_of(k: int, pictures: list[bytes]) -> tuple[str, bytes]:
    """Request number ``k``, and where it is damaged."""
    rng = np.random.default_rng([7, k])
    place = PLACES[int(rng.integers(len(PLACES)))]
    picture = pictures[int(rng.integers(len(pictures)))]
    if place == "picture":
        return place, good(rng, mutated(pictures, k))
    if place == "json":
        return place, head("/predict" if rng.random() < 0.5 else "/embed", _json(rng, picture), "application/json")
    if place == "form":
        body = _form(rng, picture)
        return place, head("/predict", body, "multipart/form-data; boundary=frontier")
    if place == "head":
        return place, _head(rng, picture)
    return place, _bytes(rng, good(rng, picture))


def good(rng: np.random.Generator, picture: bytes) -> bytes:
    """A request as it should be, around a picture that need not be."""
    kind = int(rng.integers(6))
    if kind == 0:
        return head(ROUTES[2 + int(rng.integers(5))])
    if kind == 1:
        return head("/predict", form(picture, {"confidence": "0.1"}), "multipart/form-data; boundary=frontier")
    if kind == 2:
        said = {"image": base64.b64encode(picture).decode(), "confidence": 0.1, "embeddings": True}
        return head("/predict", json.dumps(said).encode(), "application/json")
    if kind == 3:
        return head("/embed?level=box&precision=int8&confidence=0", picture, "image/png")
    if kind == 4:
        return chunked("/predict?tasks=cls", picture)
    return head("/predict?confidence=0.1&embeddings=true", picture, "application/octet-stream")


def head(path: str, body: bytes | None = None, kind: str = "", method: str = "", *more: str) -> bytes:
    """A whole request; the connection ends with it."""
    lines = [f"{method or ('GET' if body is None else 'POST')} {path} HTTP/1.1", "Host: localhost", "Connection: close"]
    if body is not None:
        lines += [f"Content-Type: {kind}", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, *more, "", ""]).encode("latin-1", "replace") + (body or b"")


def chunked(path: str, body: bytes) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", "Connection: close", "Content-Type: image/png"]
    pieces = [body[k : k + 700] for k in range(0, len(body), 700)]
    whole = b"".join(f"{len(piece):x}\r\n".encode() + piece + b"\r\n" for piece in pieces)
    return "\r\n".join([*lines, "Transfer-Encoding: chunked", "", ""]).encode() + whole + b"0\r\n\r\n"


def form(picture: bytes, fields: dict[str, str], name: str = "image", disposition: str = 'filename="a.png"') -> bytes:
    parts = [f'--frontier\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n' for k, v in fields.items()]
    top = f'--frontier\r\nContent-Disposition: form-data; name="{name}"; {disposition}\r\n\r\n'
    text = "".join(parts).encode("utf-8", "surrogatepass") + top.encode("utf-8", "surrogatepass")
    return text + picture + b"\r\n--frontier--\r\n"


def _json(rng: np.random.Generator, picture: bytes) -> bytes:
    said: dict[str, Any] = {"image": base64.b64encode(picture).decode(), "confidence": 0.2}
    names = (
        "image",
        "confidence",
        "tasks",
        "embeddings",
        "level",
        "precision",
        "truncate_dim",
        "url",
        "",
        "__class__",
        "model",
    )
    for _ in range(int(rng.integers(1, 4))):
        said[names[int(rng.integers(len(names)))]] = VALUES[int(rng.integers(len(VALUES)))]
    text = json.dumps(said)
    if rng.random() < 0.4:  # values that json itself would not write
        text = text.replace("0.2", RAW[int(rng.integers(len(RAW)))], 1)
    if rng.random() < 0.1:
        text = (
            text[: int(rng.integers(len(text)))] if rng.random() < 0.5 else text.replace("{", '{"image": "AAAA", ', 1)
        )
    codec = ("utf-8", "utf-16", "utf-8-sig", "latin-1")[int(rng.choice(4, p=(0.85, 0.05, 0.05, 0.05)))]
    return text.encode(codec, "replace")


def _form(rng: np.random.Generator, picture: bytes) -> bytes:
    value = str(VALUES[int(rng.integers(len(VALUES)))])
    names = ("image", "tasks", "confidence", "url", 'x"; filename="y', "a\r\nB: c", "")
    fields = {names[int(rng.integers(len(names)))]: value for _ in range(int(rng.integers(0, 4)))}
    kinds = (
        'filename="a.png"',
        "filename=",
        'filename="\x00"',
        'filename="../../a"',
        "filename*=utf-8''%ff%fe",
        "x",
        'filename="\ud800"',
    )
    body = form(
        picture,
        fields,
        names[int(rng.integers(len(names)))] if rng.random() < 0.3 else "image",
        kinds[int(rng.integers(7))],
    )
    kind = int(rng.integers(8))
    if kind == 0:
        return body + body
    if kind == 1:
        return body.replace(b"frontier", b"frontie", int(rng.integers(1, 4)))
    if kind == 2:
        return body[: int(rng.integers(len(body)))]
    if kind == 3:
        return body.replace(b"\r\n", b"\n", int(rng.integers(1, 6)))
    if kind == 4:
        return body.replace(b"Content-Disposition", b"X-" + b"y" * int(rng.integers(9000)), 1)
    if kind == 5:
        return b"--frontier\r\n" * int(rng.integers(1, 200)) + body
    return body


def _head(rng: np.random.Generator, picture: bytes) -> bytes:
    def pick(words: Sequence[str]) -> str:
        return words[int(rng.integers(len(words)))]

    method, path, version = "POST", "/predict", "HTTP/1.1"
    kind = int(rng.integers(5))
    if kind == 0:
        method = pick(METHODS)
    elif kind == 1:
        path = pick(PATHS)
    elif kind == 2:
        version = pick(VERSIONS)
    extra = [pick(HEADERS) for _ in range(int(rng.integers(0 if kind < 3 else 1, 4)))]
    usual = ["Host: localhost", "Connection: close", "Content-Type: image/png", f"Content-Length: {len(picture)}"]
    lines = [f"{method} {path} {version}", *rng.permutation([*usual, *extra])]
    if rng.random() < 0.1:
        lines += ["X: y"] * int(rng.integers(50, 3000))
    return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace") + picture


def _bytes(rng: np.random.Generator, request: bytes) -> bytes:
    data = bytearray(request)
    top = max(data.find(b"\r\n\r\n"), 40)
    for _ in range(min(int(rng.geometric(0.4)), 8)):
        place = int(rng.integers(top if rng.random() < 0.6 else max(len(data), 1)))
        run = int(rng.integers(1, 40))
        kind = int(rng.integers(6))
        if kind == 0 and place < len(data):
            data[place] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            data[place : place + 1] = rng.integers(0, 256, run, dtype=np.uint8).tobytes()
        elif kind == 2:
            del data[place : place + run]
        elif kind == 3:
            data[place:place] = data[place : place + run]
        elif kind == 4:
            data[place:place] = (b"\r\n", b"\0", b"\r\n\r\n", b"\n", b":", b"%", b"\xff")[int(rng.integers(7))]
        else:
            del data[max(place, 10) :]
    return bytes(data)


__all__ = ["good", "head", "requests_of", "whole_pictures"]
