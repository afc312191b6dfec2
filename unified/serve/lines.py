# SPDX-License-Identifier: Apache-2.0
"""The server's log: a line an event, for people or as JSON for programs. No line holds a piece of a picture."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import IO, Final

LOGGER: Final = "unified.serve"
_LEVELS: Final = {"uvicorn.error": logging.ERROR}  # what it warns of is counted and told as a refusal


class PlainLines(logging.Formatter):
    """``08:15:02 request POST /predict 200 12.3 ms ...``."""

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        fields = getattr(record, "fields", {})
        words = " ".join(f"{key}={_word(value)}" for key, value in fields.items())
        line = f"{clock} {record.levelname.lower()} {record.getMessage()} {words}".rstrip()
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _word(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


class JsonLines(logging.Formatter):
    """One object a line: ``time`` (UTC, RFC 3339), ``level``, ``event``, and what the event has."""

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        entry = {"time": f"{clock}.{int(record.msecs):03d}Z", "level": record.levelname.lower()}
        entry["event"] = record.getMessage()
        entry |= getattr(record, "fields", {})
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


def start_log(as_json: bool, quiet: bool, stream: IO[str] | None = None) -> logging.Logger:
    """Lets the server's and uvicorn's lines out: JSON on standard output, or plain ones on standard error.

    Args:
        as_json: which of the two.
        quiet: only warnings and errors, no line a request.
        stream: another place to write to.
    """
    logging.raiseExceptions = False  # a log that nobody reads any more is no reason to stop
    handler = logging.StreamHandler(stream or (sys.stdout if as_json else sys.stderr))
    handler.setFormatter(JsonLines() if as_json else PlainLines())
    for name in (LOGGER, "uvicorn.error", "asyncio"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO if name == LOGGER and not quiet else _LEVELS.get(name, logging.WARNING))
    return logging.getLogger(LOGGER)
