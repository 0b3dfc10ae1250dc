"""Starting what a person starts: the `leanpipe` command, in a home of its own, on free ports, for a bounded time."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def environment(home: Path) -> dict[str, str]:
    """This test run's, with a home of its own and nothing that points Prefect or MLflow elsewhere."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
    return kept | {"LEANPIPE_HOME": str(home), "COLUMNS": "160"}


def leanpipe(home: Path, *arguments: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return python(home, "-m", "flows.cli.main", *arguments, timeout=timeout)


def python(home: Path, *arguments: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    """Run Python to its end, in `home`."""
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environment(home), capture_output=True, text=True, timeout=timeout
    )


_TRY_EACH = """
import json, sys
from flows.cli import main as cli
for arguments in json.loads(sys.argv[1]):
    sys.argv[1:] = ["run", "--in-place", "--preset", "smoke", *arguments]
    try:
        cli.main()
    except SystemExit as end:
        print("ended with", end.code, file=sys.stderr)
"""


def said_of_each(home: Path, tries: Sequence[Sequence[str]]) -> list[str]:
    """The one sentence with which `leanpipe run` refuses each of these arguments: all in one process, for most of each try
    would be its imports."""
    done = python(home, "-c", _TRY_EACH, json.dumps(tries))
    assert "Traceback" not in done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith(("leanpipe: ", "ended with "))]
    assert said[1::2] == ["ended with 1"] * len(tries), done.stderr
    return said[::2]


@contextlib.contextmanager
def running(home: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run the command in the background, its output in `home`; it ends by Ctrl-C."""
    with running_python(home, f"{arguments[0]}.out", "-m", "flows.cli.main", *arguments) as process:
        yield process


@contextlib.contextmanager
def running_python(
    home: Path, output: str, *arguments: str, **variables: str
) -> Iterator[subprocess.Popen[str]]:
    """Run Python in the background, with all it says in this file of `home` and more in its environment; it ends by Ctrl-C."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / output).open("w") as log:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=environment(home) | variables,
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=90)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


@dataclass(frozen=True)
class Servers:
    """What `leanpipe up` runs."""

    home: Path
    prefect: str
    mlflow: str

    def api(self, path: str, body: Any = None, method: str | None = None) -> Any:
        """Ask Prefect's REST API; a body makes it a POST unless `method` says otherwise."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"{self.prefect}/api/{path}", data, {"Content-Type": "application/json"}, method=method
        )
        text = _ask(request)
        return json.loads(text) if text else None

    def deployment(self, name: str) -> dict[str, Any]:
        return self.api(f"deployments/name/data-to-deployment/{name}")

    def runs(self, deployment: str) -> list[dict[str, Any]]:
        chosen = {"deployments": {"id": {"any_": [self.deployment(deployment)["id"]]}}}
        return self.api("flow_runs/filter", chosen | {"sort": "START_TIME_DESC"})

    def wait_until_final(self, run_id: str, seconds: float = 400) -> dict[str, Any]:
        """The flow run, when it has ended."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            run = self.api(f"flow_runs/{run_id}")
            if run["state_type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
                return run
            time.sleep(1)
        raise AssertionError(f"flow run {run_id} did not end in {seconds} s: {run['state']}")

    def task_states(self, run_id: str) -> dict[str, str]:
        """The name of each task run's state, by the task's name."""
        tasks = self.api("task_runs/filter", {"flow_runs": {"id": {"any_": [run_id]}}})
        return {task["name"]: task["state_name"] for task in tasks}


def pages(servers: Servers, key: str) -> list[str]:
    """The markdown artifacts with this key, of all flow runs."""
    chosen = {"artifacts": {"key": {"any_": [key]}, "type": {"any_": ["markdown"]}}}
    return [artifact["data"] for artifact in servers.api("artifacts/filter", chosen)]


def _ask(request: urllib.request.Request, tries: int = 10) -> bytes:
    """Prefect answers 503 while SQLite is busy, or not in time, and its own clients ask again; so do we, for what only reads."""
    while True:
        tries -= 1
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            if error.code != 503 or not tries:
                raise AssertionError(f"{request.full_url}: {error.read().decode()}") from error
            time.sleep(1)
        except TimeoutError:
            if request.get_method() != "GET" or not tries:
                raise


@contextlib.contextmanager
def up(home: Path) -> Iterator[Servers]:
    """`leanpipe up` in `home`, ready."""
    prefect, mlflow = free_port(), free_port()
    with running(home, "up", "--prefect-port", str(prefect), "--mlflow-port", str(mlflow)) as process:
        output = home / "up.out"
        deadline = time.monotonic() + 240
        while "Ctrl-C stops everything" not in output.read_text():
            assert process.poll() is None and time.monotonic() < deadline, output.read_text()
            time.sleep(0.2)
        yield Servers(home, f"http://127.0.0.1:{prefect}", f"http://127.0.0.1:{mlflow}")
