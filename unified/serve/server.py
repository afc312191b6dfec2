# SPDX-License-Identifier: Apache-2.0
"""The process: it binds, warms up, serves, and when it is told to stop finishes what it has accepted."""

from __future__ import annotations

import logging
import signal
import socket
import threading
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager

import uvicorn
from PIL import Image

from unified.contracts.errors import ConfigError
from unified.inference.model import UnifiedModel
from unified.serve.connection import Rules, connection
from unified.serve.lines import start_log as start_log
from unified.serve.metrics import Metrics
from unified.serve.routes import Desk, application
from unified.serve.service import Service
from unified.serve.settings import Settings

log = logging.getLogger("unified.serve")


class _Server(uvicorn.Server):  # type: ignore[misc, unused-ignore]  # Any where uvicorn is not installed
    """uvicorn's server, which leaves the exit code to the command and tells the desk that it stops."""

    desk: Desk

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.desk.leaving = True
        log.info("stopping", extra={"fields": {"held": self.desk.service.held}})
        await super().shutdown(sockets)


def bind(settings: Settings) -> socket.socket:
    """A listening place, taken before the model is read, so that a taken port is said at once.

    Raises:
        ConfigError: the address is not this machine's, or the port is taken or forbidden.
    """
    host = "127.0.0.1" if settings.host == "localhost" else settings.host
    place = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        place.bind((host, settings.port))
    except OSError as error:
        place.close()
        line = f"cannot listen on {host} port {settings.port}: {error.strerror}; choose another with --port or --host"
        raise ConfigError(line) from None
    return place


def address(place: socket.socket) -> str:
    """A bound socket as a URL."""
    host, port = place.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(
    model: UnifiedModel,
    settings: Settings,
    place: socket.socket,
    name: str,
    begun: Callable[[str], None] = lambda address: None,
) -> bool:
    """Serves until SIGTERM or Ctrl-C, or, from another thread than the main one, until the process ends.

    Args:
        model: whose answers are given.
        settings: the limits.
        place: of :func:`bind`.
        name: of the model.
        begun: hears the server's URL.

    Returns:
        Whether all that was accepted has been answered.
    """
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # pictures are measured before they are decoded
    metrics = Metrics()
    service = Service(model, settings, metrics.passed)
    metrics.watch(service, name)
    desk = Desk(service, metrics, name)
    server = make_server(desk, settings)
    begun(address(place))
    threading.Thread(target=_warm_up, args=(service,), name="unified-warm", daemon=True).start()
    server.run(sockets=[place])
    service.close()
    log.info("stopped", extra={"fields": {"unanswered": desk.dropped}})
    return not desk.dropped


def make_server(desk: Desk, settings: Settings) -> _Server:
    """uvicorn with everything off that this server does not need."""

    def refused(reason: str) -> None:
        desk.metrics.refused.labels(reason).inc()
        log.info("refused", extra={"fields": {"reason": reason}})

    longest = settings.read_timeout + 2 * settings.timeout
    rules = Rules(settings.connections, settings.read_timeout, longest, desk.metrics.connections.set, refused)
    config = uvicorn.Config(
        application(desk),
        http=connection(rules),
        loop="asyncio",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # who asks is who is connected
        timeout_graceful_shutdown=int(settings.grace),
        h11_max_incomplete_event_size=32 << 10,
    )
    server = _Server(config)
    server.desk = desk
    return server


def _warm_up(service: Service) -> None:
    try:
        service.warm_up()
        log.info("ready")
    except Exception:
        log.exception("the model cannot be warmed up")
