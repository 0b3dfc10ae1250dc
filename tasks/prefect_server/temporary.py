"""`python -m tasks.prefect_server.temporary`: the Prefect server of one command, where none runs.

Prefect would start one by itself, which outlives a command that is killed: it is told to end when Python ends in good order.
Ours ends with the command, however that ends; and it starts before the command has imported Prefect, which takes seconds.
"""

import atexit
import os
import socket
import subprocess
import sys
from pathlib import Path

from leanpipe.core.errors import UserError
from leanpipe.processes.parent_death import die_with_parent
from leanpipe.processes.servers import wait_until_ready
from tasks.prefect_server.sqlite import one_writer_at_a_time

_START_SECONDS = 300
_STOP_SECONDS = 5


class TemporaryServer:
    """Starts when it is made, in the main thread and before Prefect is imported, unless a server is known already."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        if "PREFECT_API_URL" in os.environ or _prefect_knows_another():
            return
        # Our own end of it is closed below: who connects before the server listens waits, and fails if it dies.
        with socket.create_server(("127.0.0.1", 0)) as listening:
            self._address = f"http://127.0.0.1:{listening.getsockname()[1]}"
            descriptor = listening.fileno()
            command = [
                sys.executable,
                "-m",
                "tasks.prefect_server.temporary",
                str(descriptor),
                str(os.getpid()),
            ]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[descriptor])
        os.environ |= {"PREFECT_API_URL": f"{self._address}/api", "PREFECT_UI_URL": ""}
        atexit.register(
            self._stop
        )  # before Prefect's own: they run after it, and have things to tell the server

    def wait(self) -> None:
        """Return once the server answers. Raises UserError if it does not."""
        if self._process:
            wait_until_ready(f"{self._address}/api/health", self._check_alive, _START_SECONDS)

    def _check_alive(self) -> None:
        if self._process and (status := self._process.poll()) is not None:
            raise UserError(
                f"Prefect's temporary server ended with status {status}: see what it said above; leanpipe up shows more in its logs"
            )

    def _stop(self) -> None:
        assert self._process
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _prefect_knows_another() -> bool:
    """Whether a person has set an API's address in one of Prefect's own files."""
    files = (Path(os.environ["PREFECT_HOME"], "profiles.toml"), Path("prefect.toml"), Path(".env"))
    return any(file.is_file() and "PREFECT_API_URL" in file.read_text() for file in files)


def main(descriptor: int, parent: int) -> None:
    """Serve Prefect's API on the socket that was inherited, as Prefect's own temporary server does."""
    die_with_parent(parent=parent)
    os.environ |= {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
    import uvicorn

    one_writer_at_a_time()
    application = "prefect.server.api.server:create_app"
    config = uvicorn.Config(application, factory=True, log_level="error", lifespan="on")
    uvicorn.Server(config).run([socket.socket(fileno=descriptor)])


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
