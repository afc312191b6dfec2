# SPDX-License-Identifier: Apache-2.0
"""Where the product keeps what it can make again: the user's cache folder, never a dataset's."""

from __future__ import annotations

import os
from pathlib import Path

from unified.contracts.errors import DataError


def cache_home() -> Path:
    """``$UNIFIED_CACHE``, else ``~/.cache/unified``; never a place that depends on the current folder.

    Raises:
        DataError: the variable holds a relative path.
    """
    given = os.environ.get("UNIFIED_CACHE")
    if given and not Path(given).is_absolute():
        raise DataError(f"UNIFIED_CACHE must be an absolute path, got {given!r}")
    return Path(given) if given else Path.home() / ".cache" / "unified"
