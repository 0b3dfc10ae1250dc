"""A real MLflow server with a store of its own that can be killed, stopped, broken and had back on the same port."""

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

from leanpipe.processes.servers import wait_until_ready
from tests.flows.servers import environment, free_port

OUTAGES = ("gone", "silent", "broken")
"""Nobody listens; it takes requests and says nothing; it answers that it cannot."""


def break_database(path: Path) -> Callable[[], None]:
    """Have MLflow answer that it cannot, whatever it is asked about runs; gives what mends it."""
    _rename(path, "runs", "lost")
    return lambda: _rename(path, "lost", "runs")


def _rename(path: Path, table: str, name: str) -> None:
    with closing(sqlite3.connect(path, timeout=60)) as database:
        database.execute("PRAGMA legacy_alter_table = ON")  # what refers to the table goes on doing so
        database.execute(f"ALTER TABLE {table} RENAME TO {name}")


class MlflowServer:
    """The server, its database and its files, all under `root`."""

    def __init__(self, root: Path):
        self.root, self._port = root, free_port()
        root.mkdir(parents=True, exist_ok=True)
        self._database = root / "database.db"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = ["--host", "127.0.0.1", "--port", str(self._port), "--workers", "1"]
        options += ["--backend-store-uri", f"sqlite:///{self._database}"]
        options += ["--artifacts-destination", str(self.root / "files")]
        quiet = environment(self.root) | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self.root / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", *options],
                env=quiet,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_until_ready(f"{self.address}/health", self._check_alive, 180)

    def stop(self) -> None:
        """Kill it, as a power cut does."""
        if self._process:
            with suppress(ProcessLookupError):
                self._signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def fail(self, outage: str) -> Callable[[], None]:
        """Begin one of OUTAGES; gives what ends it."""
        if outage == "gone":
            self.stop()
            return self.start
        if outage == "silent":
            self._signal(signal.SIGSTOP)
            return lambda: self._signal(signal.SIGCONT)
        return break_database(self._database)

    def _signal(self, number: signal.Signals) -> None:
        """Send a signal to it and its workers."""
        assert self._process
        os.killpg(self._process.pid, number)

    def _check_alive(self) -> None:
        assert self._process and self._process.poll() is None, (self.root / "log").read_text()
