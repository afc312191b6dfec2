# SPDX-License-Identifier: Apache-2.0
"""Files made to run code, to exhaust memory or to lead out of their folder. Each that can run code touches a canary."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import marshal
import pickle
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch


class Called:
    """Pickles as a call of a function."""

    def __init__(self, function: Any, *given: Any) -> None:
        self.given = (function, given)

    def __reduce__(self) -> Any:
        return self.given


class Built:
    """Pickles as an object whose state is made by a call."""

    def __init__(self, function: Any, *given: Any) -> None:
        self.inner = Called(function, *given)


def pickles(command: str, python: str) -> dict[str, bytes]:
    """Every way a pickle has to call something."""
    import os
    import subprocess

    system = Called(os.system, command)
    found = {f"pickle, protocol {p}": pickle.dumps(system, protocol=p) for p in range(6)}
    found |= {
        "pickle of eval": pickle.dumps(Called(eval, python)),
        "pickle of exec": pickle.dumps(Called(exec, python)),
        "pickle of Popen": pickle.dumps(Called(subprocess.Popen, ["sh", "-c", command])),
        "pickle, nested": pickle.dumps({"model": {"weight": [1, 2, {"x": system}]}}),
        "pickle, in an object's state": pickle.dumps(Built(os.system, command)),
        "pickle by GLOBAL": f"cos\nsystem\n(S'{command}'\ntR.".encode(),
        "pickle by INST": f"(S'{command}'\nios\nsystem\n.".encode(),
        "pickle by OBJ": f"(cos\nsystem\nS'{command}'\no.".encode(),
        "pickle of __import__": pickle.dumps(Called(__import__, "antigravity")),
        "pickle in zlib": zlib.compress(pickle.dumps(system)),
        "pickle in gzip": gzip.compress(pickle.dumps(system)),
        "pickle in bzip2": bz2.compress(pickle.dumps(system)),
        "marshal": marshal.dumps(compile(python, "x", "exec")),
    }
    return found


def archives(command: str, python: str) -> dict[str, bytes]:
    """Files of torch and numpy, and archives."""
    import os

    system = Called(os.system, command)
    found: dict[str, bytes] = {}
    weights = {"w": torch.zeros(2)}
    for name, content in {"an object": system, "a state dict": {"model": weights | {"x": system}}}.items():
        for form, zipped in {"zip": True, "legacy": False}.items():
            file = io.BytesIO()
            torch.save(content, file, _use_new_zipfile_serialization=zipped)
            found[f"torch {form} of {name}"] = file.getvalue()
    objects = np.array([system], dtype=object)
    for name, write in {"npy": np.save, "npz": np.savez}.items():
        file = io.BytesIO()
        write(file, objects, allow_pickle=True)
        found[f"{name} of objects"] = file.getvalue()
    header = f"{{'descr': __import__('os').system('{command}'), 'fortran_order': False, 'shape': (1,)}}\n".encode()
    found["npy whose header is code"] = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    huge = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,)}\n"
    found["npy of 4 TB"] = b"\x93NUMPY\x01\x00" + len(huge).to_bytes(2, "little") + huge
    found["zip of pickles"] = _zip({"data.pkl": pickle.dumps(system), "archive/data.pkl": pickle.dumps(system)})
    found["zip that leads out"] = _zip({"../../../../tmp/unified-slip": b"x", "/etc/unified-slip": b"x"})
    found["zip bomb"] = _zip({"archive/data.pkl": bytes(8 << 20)})
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, data in {"pickle": pickle.dumps(system), "tensors": b"", "storages": b"", "sys_info": b""}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    found["torch tar, the oldest form"] = file.getvalue()
    return found


def _zip(files: Mapping[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return file.getvalue()


def texts(command: str, python: str) -> dict[str, bytes]:
    """YAML, JSON, XML and others that know ways to name code, files or themselves."""
    found = {
        "yaml apply": f"!!python/object/apply:os.system ['{command}']\n",
        "yaml apply, as a value": f"format: !!python/object/apply:os.system ['{command}']\nlabelled: {{det: all}}\n",
        "yaml new": f"x: !!python/object/new:os.system ['{command}']\n",
        "yaml name": "x: !!python/name:os.system\n",
        "yaml module": "x: !!python/module:antigravity\n",
        "yaml of Popen": f"!!python/object/apply:subprocess.Popen [['sh', '-c', '{command}']]\n",
        "yaml download": f"path: x\ntrain: x\nval: x\nnames: [a]\ndownload: |\n  {python}\n",
        "yaml download by bash": f"path: x\ntrain: x\nval: x\nnames: [a]\ndownload: bash -c '{command}'\n",
        "yaml of aliases": "a: &a [x, x, x, x]\n"
        + "".join(f"{chr(98 + k)}: &{chr(98 + k)} [{', '.join([f'*{chr(97 + k)}'] * 9)}]\n" for k in range(8)),
        "json, deep": "[" * 100_000,
        "json, deep objects": '{"a":' * 50_000,
        "json, a long number": '{"format": ' + "9" * 10_000 + "}",
        "json that names a class": json.dumps({"py/reduce": [{"py/function": "os.system"}, {"py/tuple": [command]}]}),
        "json with the same key twice": '{"format": 2, "format": 1, "sha256": {}, "sha256": {"x": "y"}}',
        "json of not-a-number": '{"format": NaN, "step": Infinity}',
        "xml bomb": '<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa">'
        + "".join(f'<!ENTITY {chr(98 + k)} "{f"&{chr(97 + k)};" * 10}">' for k in range(8))
        + "]><annotation><filename>&i;</filename></annotation>",
        "xml that reads a file": '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
        "<annotation><filename>&x;</filename></annotation>",
        "python": python,
        "shell": f"#!/bin/sh\n{command}\n",
        "csv formula": f"image,label\n=cmd|' /C {command}'!A0,@SUM(1)\n",
        "svg": f'<svg xmlns="http://www.w3.org/2000/svg"><script>{python}</script></svg>',
        "postscript": f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%{command}) (w) file closefile\n",
        "paths that lead out": '{"images": [{"id": 1, "file_name": "../../../etc/passwd"}], "annotations": []}',
    }
    return {name: text.encode() for name, text in found.items()}


def tensors(python: str) -> dict[str, bytes]:
    """Files that look like safetensors."""

    def file(header: Any, data: bytes = bytes(16), length: int | None = None) -> bytes:
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        return (len(text) if length is None else length).to_bytes(8, "little") + text + data

    def one(start: int, end: int, kind: str = "F32", shape: tuple[int, ...] = (4,)) -> dict[str, Any]:
        return {"dtype": kind, "shape": list(shape), "data_offsets": [start, end]}

    return {
        "header of 2^63 bytes": file({"w": one(0, 16)}, length=2**63),
        "header longer than the file": file({"w": one(0, 16)}, length=1 << 20),
        "header of 99 MB": file({"w": one(0, 16)}, length=99 << 20),
        "overlapping tensors": file({"v": one(0, 16), "w": one(0, 16)}),
        "a hole between tensors": file({"v": one(0, 4, shape=(1,)), "w": one(12, 16, shape=(1,))}),
        "a tensor behind the end": file({"w": one(0, 1 << 40, shape=(1 << 38,))}),
        "a negative place": file({"w": one(-16, 0)}),
        "a shape that overflows": file({"w": one(0, 16, shape=(1 << 62, 4, 1 << 62))}),
        "a type nobody knows": file({"w": one(0, 16, kind=python)}),
        "a header that is no text": file(b"\xff\xfe{" + bytes(20)),
        "a header that is deep": file(b'{"w":' * 20_000),
        "a tensor named as a path": file({"../../../tmp/w": one(0, 16)}),
        "code in the metadata": file({"__metadata__": {"x": python}, "w": one(0, 16)}),
        "a zip behind the tensors": file({"w": one(0, 16)}) + _zip({"data.pkl": b"x"}),
        "nothing": b"",
        "noise": np.random.default_rng(0).bytes(999),
    }


def payloads(canary: Path) -> dict[str, bytes]:
    """All hostile files by name; what runs code in one of them makes ``canary``."""
    command, python = f"touch {canary}", f"open('{canary}', 'w').close()"
    return pickles(command, python) | archives(command, python) | texts(command, python) | tensors(python)


LIVE: dict[str, Callable[[bytes], Any]] = {
    "pickle": pickle.loads,
    "torch": lambda data: torch.load(io.BytesIO(data), weights_only=False),
    "np": lambda data: np.load(io.BytesIO(data), allow_pickle=True),
}


def run_blindly(name: str, data: bytes) -> None:
    """The control: opens a file as one must not."""
    import yaml

    if name.startswith("yaml"):
        yaml.unsafe_load(data)
    elif name == "python":
        exec(data)
    elif name.startswith(("torch", "zip of")):
        LIVE["torch"](data)
    elif name.startswith("np"):
        loaded = LIVE["np"](data)
        for key in getattr(loaded, "files", ()):
            loaded[key]
    elif name == "marshal":
        exec(marshal.loads(data))
    elif name.startswith("pickle in"):
        opened = {"zlib": zlib.decompress, "gzip": gzip.decompress, "bzip2": bz2.decompress}[name.split()[-1]]
        pickle.loads(opened(data))
    elif name.startswith("pickle"):
        pickle.loads(data)


class Watch:
    """Sees processes, connections and calls out of pickles that mention the canary or come from one."""

    EVENTS = ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.spawn", "pty.spawn")
    EVENTS += ("socket.connect", "socket.getaddrinfo", "urllib.Request", "webbrowser.open")
    _installed: Watch | None = None

    def __init__(self, canary: Path) -> None:
        self.canary, self.seen, self.on = canary, list[str](), False

    @classmethod
    def over(cls, canary: Path) -> Watch:
        """The one watch of this process: such a hook can be set but never taken off."""
        import sys

        if cls._installed is None:
            cls._installed = watch = cls(canary)
            sys.addaudithook(lambda event, given: watch.hear(event, given))
        cls._installed.canary = canary
        return cls._installed

    def hear(self, event: str, given: Any) -> None:
        if not self.on:
            return
        if event == "pickle.find_class" or event in self.EVENTS:
            self.seen.append(f"{event} {str(given)[:80]}")

    @contextmanager
    def listening(self) -> Iterator[list[str]]:
        """What is seen in this context; the canary is looked for at its end."""
        self.seen, self.on = [], True
        try:
            yield self.seen
        finally:
            self.on = False
            if self.canary.exists():
                self.seen.append("the canary was made")
                self.canary.unlink()
