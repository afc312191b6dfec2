# SPDX-License-Identifier: Apache-2.0
"""What a server may take, hold and wait for."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from unified.contracts.errors import ConfigError
from unified.hardware import cores

TOKEN: Final = "UNIFIED_SERVE_TOKEN"
"""The environment variable that holds the token."""

SHORTEST: Final = 16  # characters of a token; one that is guessed in an afternoon protects nothing


@dataclass(frozen=True)
class Settings:
    """Every limit has a number: what is not bounded here is not accepted."""

    host: str = "127.0.0.1"  # an address of this machine
    port: int = 8000  # 0: any that is free
    token: str | None = field(default=None, repr=False)
    hosts: tuple[str, ...] = ()  # names, beside loopback's own, by which a server without a token may be called
    size: int | None = None  # pixels: side of the network's input; the model's own if None
    max_batch: int = 8  # pictures a pass
    max_wait: float = 0.005  # seconds the first of a pass waits for others
    queue: int = 64  # pictures taken and not yet answered
    connections: int = 256
    body: int = 16 << 20  # bytes of a request
    held: int = 256 << 20  # bytes of all requests together
    pixels: int = 50_000_000  # of a picture, by its header
    read_timeout: float = 10.0  # seconds for a request to arrive
    timeout: float = 30.0  # seconds from there to the answer
    grace: float = 30.0  # seconds for what was accepted, once the server is told to stop
    threads: int = field(default_factory=lambda: min(4, cores()))  # that decode pictures

    def __post_init__(self) -> None:
        if not is_loopback(self.host) and self.token is None:
            raise ConfigError(
                f"host {self.host} can be reached by others, and there is no token; "
                f"put one into the environment as {TOKEN}, or give --token-file, or stay on 127.0.0.1"
            )
        if self.token is not None and len(self.token) < SHORTEST:
            raise ConfigError(f"the token has {len(self.token)} characters; give one of {SHORTEST} or more")
        if self.token is not None and not (self.token.isascii() and self.token.isprintable() and " " not in self.token):
            raise ConfigError("the token must be printable ASCII without blanks, as it travels in a header")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address.

    Raises:
        ConfigError: no address; a name could mean anything.
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        raise ConfigError(f"host '{host}' is no IP address; give one of this machine, such as 127.0.0.1") from None


def token_from(file: Path | None) -> str | None:
    """The token in a file, or in the environment; None for none. It is never a word of the command line: those are seen
    by everybody on the machine.

    Raises:
        ConfigError: the file cannot be read or holds none.
    """
    if file is None:
        return os.environ.get(TOKEN) or None
    try:
        word = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"--token-file {file}: cannot be read ({getattr(error, 'strerror', None) or error})"
        ) from None
    if not word:
        raise ConfigError(f"--token-file {file}: holds no token")
    return word
