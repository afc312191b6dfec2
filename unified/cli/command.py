# SPDX-License-Identifier: Apache-2.0
"""How every command runs: words in, an exit code out, and an error in one line.

Exit codes: 0 done; 1 something broke, or part of the work failed; 2 a word or file the person gave is not right;
130 interrupted by Ctrl-C, 143 by SIGTERM.
"""

from __future__ import annotations

import errno
import os
import re
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from unified.contracts.errors import UnifiedError

_ASSIGNMENT = re.compile(r"([a-z][a-z_-]*)=(.*)", re.DOTALL)
_FULL_OR_FORBIDDEN = {errno.ENOSPC, errno.EACCES, errno.EPERM, errno.EROFS, errno.EDQUOT}
_FULL_OR_FORBIDDEN |= {errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EIO, errno.EFBIG}

Debug = Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error.", rich_help_panel="Screen")]
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on standard output.", rich_help_panel="Screen")
]


def make_app() -> typer.Typer:
    """An empty command, which can also complete its own words in a shell (``--install-completion``)."""
    return typer.Typer(add_completion=True, rich_markup_mode="rich", pretty_exceptions_enable=False)


def run(app: typer.Typer, argv: Sequence[str] | None = None) -> None:
    """Runs a command and leaves the process with its exit code.

    Args:
        app: the command.
        argv: its words; by default the process's own.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    sys.exit(_run(app, words))


def _run(app: typer.Typer, words: list[str]) -> int:
    try:
        code = with_plugins(app)(args=assignments_as_options(app, words), standalone_mode=False)
        if code == 130:  # typer turns Ctrl-C into this code without a word
            return _say("interrupted", 130)
        return code if isinstance(code, int) else 0
    except KeyboardInterrupt:
        return _say("interrupted", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the interpreter complains at its exit
        return 0
    except Exception as error:
        if "--debug" in words:
            traceback.print_exc()
        return _say(*_explained(error))


def _explained(error: Exception) -> tuple[str, int]:
    """The line a person reads and the exit code."""
    if isinstance(error, UnifiedError):
        return f"error: {error}", 2
    if isinstance(error, typer.Abort):
        return "interrupted", 130
    if _is_usage_error(error):
        return f"error: {error.format_message().rstrip('.')}; see --help", 2  # type: ignore[attr-defined]
    if isinstance(error, OSError) and error.errno in _FULL_OR_FORBIDDEN:
        return f"error: {error.filename or 'a file'} cannot be written or read: {error.strerror}", 2
    first = (str(error).strip().splitlines() or [""])[0]
    if type(error).__name__ == "OutOfMemoryError":
        return f"error: out of memory; lower --batch or --size ({first})", 1
    if (plugin := _plugin_of(error)) is not None:
        return f"error: {plugin} failed: {type(error).__name__}: {first} (run again with --debug)", 1
    return f"internal error: {type(error).__name__}: {first} (run again with --debug)", 1


def _is_usage_error(error: Exception) -> bool:
    """Whether typer's own parser refused the words; the class stands in a private module of typer."""
    return any(cls.__name__ == "ClickException" for cls in type(error).__mro__)


def _say(text: str, code: int) -> int:
    sys.stdout.flush()
    print(text, file=sys.stderr)
    return code


def _load(files: list[str] | None) -> None:
    if files:
        from unified.contracts.plugins import load_plugin

        for file in files:
            load_plugin(file)


_plugins = make_app()


@_plugins.command()
def _of_plugins(
    plugin: Annotated[
        list[str] | None,
        typer.Option(
            "--plugin",
            metavar="FILE",
            help="A Python file that registers parts; may be repeated.",
            callback=_load,
            is_eager=True,
            rich_help_panel="Plug-ins",
        ),
    ] = None,
) -> None:
    """Holds the option that every command has."""


def with_plugins(app: typer.Typer) -> Any:
    """The command with ``--plugin FILE`` among its options: the files run before its words are looked at."""
    command: Any = typer.main.get_command(app)
    option: Any = next(p for p in typer.main.get_command(_plugins).params if p.name == "plugin")  # type: ignore[attr-defined]
    option.expose_value = False
    for each in (getattr(command, "commands", {}) or {"": command}).values():
        each.params.append(option)
    return command


def _plugin_of(error: Exception) -> str | None:
    """The plug-in in whose code an error arose, in words; None where torch was never reached, or it was none."""
    if "unified.contracts.protocols" not in sys.modules:
        return None
    from unified.contracts.plugins import part_in

    part = part_in(error)
    return None if part is None else f"{part.kind} '{part.name}' of {part.origin}"


def assignments_as_options(app: typer.Typer, words: Sequence[str]) -> list[str]:
    """``size=320`` becomes ``--size 320`` where the command has that option; other words stay as they are.

    So does ``max_minutes=null``: only a setting can take a value away.
    """
    command: Any = with_plugins(app)
    names = {opt for p in command.params if not getattr(p, "is_flag", False) for opt in p.opts if opt.startswith("--")}
    result: list[str] = []
    for i, word in enumerate(words):
        found = _ASSIGNMENT.fullmatch(word)
        option = f"--{found[1].replace('_', '-')}" if found else ""
        is_value = i > 0 and words[i - 1] in names  # the value of the option before it, as in --set lr=1
        if found and option in names and found[2] != "null" and not is_value:
            result += [option, found[2]]
        else:
            result.append(word)
    return result


def split_names(text: str | None) -> tuple[str, ...] | None:
    """``det,cls`` as names; None where nothing was given."""
    return None if text is None else tuple(part.strip() for part in text.split(",") if part.strip())
