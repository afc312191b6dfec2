# SPDX-License-Identifier: Apache-2.0
"""Streamlit as this page needs it: on loopback, silent towards the network, and without what a page does not need."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any, Final

from streamlit import net_util
from streamlit.web import bootstrap

from unified.contracts.errors import ConfigError

ADDRESS: Final = "127.0.0.1"
PAGE: Final = Path(__file__).with_name("page.py")
THEME: Final = {"primaryColor": "#0072B2", "base": "light", "borderColor": "#DDE3EA", "showWidgetBorder": True}


def options(port: int, megabytes: int) -> dict[str, Any]:
    """Streamlit's settings as its command line would name them."""
    return {
        "server_address": ADDRESS,
        "server_port": port,
        "server_headless": True,  # no question on standard input, no browser opened
        "server_maxUploadSize": megabytes,
        "server_fileWatcherType": "none",
        "server_enableStaticServing": False,
        "server_enableXsrfProtection": True,
        "server_enableCORS": True,  # which means: only this page's own origin
        "browser_gatherUsageStats": False,
        "client_toolbarMode": "minimal",
        "client_showErrorDetails": "none",
        "global_developmentMode": False,
        "logger_hideWelcomeMessage": True,
        **{f"theme_{name}": value for name, value in THEME.items()},
    }


def check_port(port: int) -> None:
    """Refuses a port that is taken.

    Raises:
        ConfigError: it is, or it is forbidden.
    """
    with socket.socket() as place:
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            place.bind((ADDRESS, port))
        except OSError as error:
            raise ConfigError(f"cannot listen on {ADDRESS} port {port}: {error.strerror}; choose another") from None


def launch(port: int, megabytes: int = 16) -> None:
    """Serves the page until Ctrl-C or SIGTERM.

    Args:
        port: of loopback.
        megabytes: the largest upload.
    """
    # Streamlit would ask a server on the web for this machine's address when a page of another origin knocks.
    net_util.get_external_ip = lambda: None
    net_util.get_internal_ip = lambda: None
    words = options(port, megabytes)
    bootstrap.load_config_options(words)
    bootstrap.run(str(PAGE), False, [], words)
