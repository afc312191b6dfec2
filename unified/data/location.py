# SPDX-License-Identifier: Apache-2.0
"""Where a dataset is: the text of a configuration's path as a folder of this machine."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from unified.contracts.errors import DataError

_VARIABLE: Final = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")


def locate(text: str, base: Path, dataset: str) -> Path:
    """``text`` with ``~``, ``${NAME}`` and ``${NAME:-default}`` filled in, relative to ``base``.

    What an environment variable gives is relative to the current folder, as everywhere else in a shell; what the file
    itself says is relative to ``base``, the file's folder.

    Raises:
        DataError: a variable without a default is not set.
    """

    def fill(match: re.Match[str]) -> str:
        name, default = match.group(1), match.group(2)
        value = os.environ.get(name)
        if value:
            return str(Path(value).expanduser().absolute()) if match.start() == 0 else value
        if default is None:
            raise DataError(
                f"path '{text}' of dataset '{dataset}': the environment variable {name} is not set; set it to a folder"
            )
        return default

    return Path(os.path.normpath(base.expanduser().absolute() / Path(_VARIABLE.sub(fill, text)).expanduser()))
