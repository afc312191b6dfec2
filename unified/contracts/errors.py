# SPDX-License-Identifier: Apache-2.0
"""Errors a person can act on: one line that names the thing, what was got, what was known and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UnifiedError(Exception):
    """Something the person at the keyboard can mend. The command line prints its one line and exits with 2."""


class ConfigError(UnifiedError):
    """A word in a configuration or on the command line is not understood."""


class DataError(UnifiedError):
    """A dataset, annotation file or image is not as it must be."""


class CheckpointError(UnifiedError):
    """A checkpoint or model directory is missing, damaged or belongs to something else."""


def needs(what: str, package: str, extra: str) -> ConfigError:
    """The error of something that an optional package does which is not installed."""
    return ConfigError(f"{what} needs {package}, which is not installed: pip install 'unified-networks[{extra}]'")


def suggestion(got: str, choices: Iterable[str]) -> str:
    """Text such as ``; known: a, b (did you mean 'a'?)`` to end an error about an unknown name."""
    names = sorted(choices)
    near = difflib.get_close_matches(got, names, n=1, cutoff=0.6)
    hint = f" (did you mean '{near[0]}'?)" if near else ""
    return f"; known: {', '.join(names) if names else 'none'}{hint}"
