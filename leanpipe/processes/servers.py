"""Servers that are started as processes: a port that is free, and an answer before they count as started."""

import errno
import http.client
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable

from leanpipe.core.errors import UserError


def check_port(host: str, port: int, option: str = "--port") -> None:
    """Raise UserError, which names the `option` to set, if nobody could listen at `host`:`port`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OverflowError as error:
            raise UserError(f"{port} is no port: choose one from 1 to 65535 with {option}") from error
        except (OSError, UnicodeError) as error:  # a name that is too long for a host is no text to Python
            named = not isinstance(error, OSError) or isinstance(error, socket.gaierror)
            wrong = "--host" if named or getattr(error, "errno", 0) == errno.EADDRNOTAVAIL else option
            said = getattr(error, "strerror", None) or error
            raise UserError(
                f"cannot listen at {host}:{port} ({said}): choose another with {wrong}"
            ) from error


def wait_until_ready(address: str, check_alive: Callable[[], None], timeout: float) -> None:
    """Return once `address` answers with success. `check_alive` raises if the server's process ended.

    Raises UserError after `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        check_alive()
        if _answers(address):
            return
        time.sleep(0.2)
    raise UserError(f"{address} did not answer within {timeout:.0f} s")


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError):
        return False
