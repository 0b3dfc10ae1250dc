"""Prefect, MLflow and `leanpipe deploy` as compose.yaml configures them, on Debian's PostgreSQL, without containers."""

import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric

from tests.docker.compose import DOCKER, environment, services

_FOUND = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
POSTGRES = _FOUND[-1].parent if _FOUND else None
PASSWORD = "p@ss/w:rd#%40 'x"
"""With everything that would need care in a URL or a connection string."""

pytestmark = pytest.mark.skipif(POSTGRES is None, reason="PostgreSQL is missing: apt-get install postgresql")


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Open to PostgreSQL's user, which pytest's own folders are not."""
    path = Path(tempfile.mkdtemp(prefix="leanpipe-postgres-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def database(folder: Path) -> Iterator[dict[str, str]]:
    """A PostgreSQL set up as its image does from compose's settings: what libpq and asyncpg read to find it."""
    given = environment("postgres", POSTGRES_PASSWORD=PASSWORD)
    data, secret = folder / "data", folder / "password"
    secret.write_text(given["POSTGRES_PASSWORD"])
    data.mkdir(mode=0o700)
    user = _somebody_else(data)
    options = ["--auth=scram-sha-256", f"--username={given['POSTGRES_USER']}", f"--pwfile={secret}"]
    _run([_program("initdb"), "--pgdata", str(data), "--no-sync", "--encoding=UTF8", *options], user=user)
    port = _free_port()
    fast = ["-c", "fsync=off", "-c", "unix_socket_directories=", "-c", "listen_addresses=127.0.0.1"]
    command = [_program("postgres"), "-D", str(data), "-p", str(port), *fast]
    reach = {
        "PGHOST": "127.0.0.1",
        "PGPORT": str(port),
        "PGUSER": given["POSTGRES_USER"],
        "PGPASSWORD": PASSWORD,
    }
    with _running(command, folder / "postgres.log", dict(os.environ), signal.SIGINT, user):
        _wait(lambda: _answers(port), folder / "postgres.log")
        _sql(reach, "postgres", f"CREATE DATABASE {given['POSTGRES_DB']}")
        _sql(reach, given["POSTGRES_DB"], (DOCKER / "postgres" / "mlflow.sql").read_text())
        yield reach


@pytest.fixture(scope="module")
def servers(database: dict[str, str], folder: Path) -> Iterator[dict[str, str]]:
    """The addresses of Prefect and MLflow, started by compose's own command lines."""
    ports = {"prefect": _free_port(), "mlflow": _free_port()}
    health = {"prefect": "/api/health", "mlflow": "/health"}
    addresses = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
    with (
        _service("prefect", ports["prefect"], database, folder),
        _service("mlflow", ports["mlflow"], database, folder),
    ):
        for name, address in addresses.items():
            _wait(lambda url=address + health[name]: _status(url) == 200, folder / f"{name}.log")
        yield addresses


def test_deploy_registers_the_pool_the_deployments_and_the_experiment(
    servers: dict[str, str], database: dict[str, str], folder: Path
) -> None:
    addresses = {"PREFECT_API_URL": servers["prefect"] + "/api", "MLFLOW_TRACKING_URI": servers["mlflow"]}
    program, *words = services()["deploy"]["command"]
    command = [str(Path(sys.executable).parent / program), *words]
    said = _run(command, env=_plain_environment(folder) | addresses)
    assert "data-to-deployment/default" in said
    assert _sql(database, "prefect", "SELECT name, concurrency_limit FROM work_pool") == "gpu|1"
    names = _sql(database, "prefect", "SELECT name FROM deployment WHERE paused OR name <> 'nightly'").split()
    assert {"default", "expert"} <= set(names)
    root = _sql(database, "mlflow", "SELECT artifact_location FROM experiments WHERE name = 'leanpipe'")
    assert root.startswith("mlflow-artifacts:/"), "clients have no access to the server's disk"


def test_mlflow_keeps_the_files_that_clients_send(servers: dict[str, str], folder: Path) -> None:
    url = servers["mlflow"] + "/api/2.0/mlflow-artifacts/artifacts/some/file.txt"
    assert _status(url, method="PUT", data=b"content") == 200
    assert (folder / "mlflow" / "mlartifacts" / "some" / "file.txt").read_bytes() == b"content"


def test_figures_that_are_sent_twice_are_there_once(servers: dict[str, str]) -> None:
    """A spool is sent again from where it is known to have been sent: see tasks/tracking/spool.py."""
    client = MlflowClient(servers["mlflow"])
    run = client.create_run(client.create_experiment("twice")).info.run_id
    metrics = [Metric("loss", 1 / step, 1000 + step, step) for step in range(1, 5)]
    for sent in (metrics[:3], metrics, metrics[2:]):
        client.log_batch(run, metrics=sent)
    history = client.get_metric_history(run, "loss")
    assert sorted(metric.step for metric in history) == [1, 2, 3, 4]
    given = DatasetInput(
        Dataset("text", "d" * 36, "local", "{}"), [InputTag("mlflow.data.context", "corpus")]
    )
    for _ in range(2):
        client.log_inputs(run, [given])
    assert len(client.get_run(run).inputs.dataset_inputs) == 1


@pytest.mark.parametrize(
    ("host", "status"),
    [("mlflow:5000", 200), ("localhost:5000", 200), ("127.0.0.1:5055", 200), ("mlflow.example.com", 403)],
)
def test_mlflow_answers_to_the_names_it_has_in_compose(
    servers: dict[str, str], host: str, status: int
) -> None:
    url = servers["mlflow"] + "/api/2.0/mlflow/experiments/search"
    body = json.dumps({"max_results": 1}).encode()
    headers = {"Host": host, "Content-Type": "application/json"}
    assert _status(url, method="POST", data=body, headers=headers) == status


def test_prefect_tells_the_browser_where_its_api_is(servers: dict[str, str]) -> None:
    with urllib.request.urlopen(servers["prefect"] + "/ui-settings", timeout=10) as response:
        assert json.load(response)["api_url"] == "http://127.0.0.1:4200/api"


def _service(name: str, port: int, database: dict[str, str], folder: Path):  # type: ignore[no-untyped-def]
    """compose's command and environment, but for this test's port, folder and database server."""
    given = " ".join(services()[name]["command"])
    listening = given.replace("0.0.0.0", "127.0.0.1").replace("--port 4200", f"--port {port}")
    listening = listening.replace("--port=5000", f"--port={port}")
    program, *words = listening.replace("/var/lib/leanpipe", str(folder / name)).split()
    command = [str(Path(sys.executable).parent / program), *words]
    configured = environment(name, POSTGRES_PASSWORD=PASSWORD)
    assert configured.keys() >= database.keys() - {"PGPORT"}
    assert configured["PGUSER"] == database["PGUSER"]
    values = _plain_environment(folder / name) | configured | database
    return _running(command, folder / f"{name}.log", values, signal.SIGTERM)


def _plain_environment(home: Path) -> dict[str, str]:
    """This process's, without what tells Prefect and MLflow of other servers; both write under `home`."""
    home.mkdir(exist_ok=True)
    kept = {
        name: os.environ[name] for name in os.environ if not name.startswith(("PREFECT_", "MLFLOW_", "PG"))
    }
    quiet = {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    return kept | quiet | {"LEANPIPE_HOME": str(home), "PREFECT_HOME": str(home / "prefect")}


@contextmanager
def _running(
    command: list[str], log: Path, env: dict[str, str], end: signal.Signals, user: str | None = None
) -> Iterator[None]:
    """The program, in a process group of its own; it is asked to `end`, then killed with all that it started."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=env, user=user, cwd=log.parent, stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield
    finally:
        process.send_signal(end)
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _somebody_else(data: Path) -> str | None:
    """PostgreSQL refuses to run as root: the user `postgres` then, to whom `data` is given."""
    if os.geteuid() != 0:
        return None
    try:
        owner = pwd.getpwnam("postgres")
    except KeyError:
        pytest.skip(
            "PostgreSQL does not run as root, and there is no user postgres: apt-get install postgresql"
        )
    os.chown(data, owner.pw_uid, owner.pw_gid)
    return owner.pw_name


def _sql(reach: dict[str, str], database: str, statement: str) -> str:
    command = [_program("psql"), "--no-psqlrc", "-v", "ON_ERROR_STOP=1", "-AtX", "--dbname", database]
    return _run(command, env=dict(os.environ) | reach, input=statement).strip()


def _run(command: list[str], **options) -> str:  # type: ignore[no-untyped-def]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, cwd="/", **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _program(name: str) -> str:
    assert POSTGRES is not None
    return str(POSTGRES / name)


def _wait(ready, log: Path, seconds: float = 120) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.2)


def _answers(port: int) -> bool:
    with socket.socket() as client:
        client.settimeout(1)
        return client.connect_ex(("127.0.0.1", port)) == 0


def _status(url: str, **request) -> int:  # type: ignore[no-untyped-def]
    """The status of the answer, or 0 while nobody answers."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, **request), timeout=10) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]
