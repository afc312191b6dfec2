# SPDX-License-Identifier: Apache-2.0
"""A plug-in package of a new task, written from the templates beside this file: complete and tested."""

from __future__ import annotations

import keyword
import os
import re
import shutil
import tempfile
from importlib import resources
from pathlib import Path
from string import Template
from typing import Final

from unified import __version__
from unified.contracts import protocols
from unified.contracts.errors import ConfigError
from unified.contracts.registry import PROTOCOL
from unified.disk import write_bytes

SUFFIX: Final = ".txt"  # of a template, behind its file's own
_NAME: Final = re.compile(r"[a-z][a-z0-9_]*")


def write_task(name: str, out: Path | None = None) -> Path:
    """Writes a package with a task, its head, tests and a README.

    Args:
        name: of the task: small letters, digits and ``_``.
        out: a new folder; by default ``unified-NAME`` here.

    Returns:
        The package's folder.

    Raises:
        ConfigError: a name that cannot be or that is taken, or a folder that is there already.
    """
    _check(name)
    dashed = name.replace("_", "-")
    folder = out or Path(f"unified-{dashed}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"'{folder}' is there already; give another folder with --out")
    camel = "".join(word.capitalize() for word in name.split("_"))
    words = {
        "task": name,
        "head": f"{name}_head",
        "module": f"unified_{name}",
        "package": f"unified-{dashed}",
        "Task": camel,
        "protocol": str(PROTOCOL),
        "version": __version__.rpartition(".")[0],
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        _fill(draft, words)
        if folder.exists():
            folder.rmdir()
        draft.chmod(0o777 & ~_umask())
        draft.rename(folder)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return folder


def _check(name: str) -> None:
    if not _NAME.fullmatch(name) or keyword.iskeyword(name):
        raise ConfigError(f"'{name}' cannot be a task's name; use small letters, digits and _, as in crowd_count")
    for registry, word in ((protocols.tasks, name), (protocols.heads, f"{name}_head")):
        if word in registry.names():
            raise ConfigError(f"{registry.named(word)} has this name already; choose another one")


def _fill(folder: Path, words: dict[str, str]) -> None:
    root = Path(str(resources.files("unified.kit"))) / "task"
    for template in sorted(root.rglob(f"*{SUFFIX}")):
        place = template.relative_to(root).as_posix().removesuffix(SUFFIX)
        place = place.replace("src/module/", f"src/{words['module']}/").replace(
            "test_task.py", f"test_{words['task']}.py"
        )
        text = Template(template.read_text(encoding="utf-8")).substitute(words)
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        write_bytes(folder / place, text.encode())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
