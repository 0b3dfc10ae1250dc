"""Prefect's server on SQLite, asked by several at once: each is answered, and nobody waits long."""

import asyncio
import contextlib
import json
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import (
    PREFECT_HOME,
    PREFECT_SERVER_DATABASE_CONNECTION_URL,
    PREFECT_SERVER_DATABASE_MIGRATE_ON_START,
    temporary_settings,
)

from tasks.prefect_server.new_database import FORMS, form_of, lay_new_database
from tests.flows.servers import environment, free_port, python, running_python

pytestmark = pytest.mark.timeout(300)

SECONDS = 8
LATER = {"type": "SCHEDULED", "state_details": {"scheduled_time": "2100-01-01T00:00:00Z"}}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("prefect")


@pytest.fixture(scope="module")
def api(home: Path) -> Iterator[str]:
    port = free_port()
    arguments = ["server", "start", "--host", "127.0.0.1", "--port", str(port)]
    command = ("-m", "tasks.prefect_server", *arguments)
    with running_python(home, "prefect.out", *command, PREFECT_HOME=str(home)) as process:
        address = f"http://127.0.0.1:{port}/api"
        deadline = time.monotonic() + 120
        while ask(f"{address}/health") is None:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.2)
        yield address


def test_each_of_several_that_write_at_once_is_answered(api: str):
    """Plain Prefect refuses all but a few of the new runs with 503, and stands still for a minute."""
    flow = told(ask(f"{api}/flows/", {"name": "busy"}))["id"]
    run = told(ask(f"{api}/flow_runs/", {"flow_id": flow, "state": {"type": "PENDING"}}))["id"]
    deployment = told(ask(f"{api}/deployments/", {"name": "busy", "flow_id": flow}))["id"]
    line = {"name": "busy", "level": 20, "message": "m", "flow_run_id": run}

    def log() -> Any:
        now = datetime.now(UTC).isoformat()
        return ask(f"{api}/logs/", [line | {"timestamp": now}] * 20)

    askers: dict[str, Callable[[], Any]] = {
        "create": lambda: ask(f"{api}/deployments/{deployment}/create_flow_run", {"state": LATER}),
        "create too": lambda: ask(f"{api}/deployments/{deployment}/create_flow_run", {"state": LATER}),
        "log": log,
        "state": lambda: ask(
            f"{api}/flow_runs/{run}/set_state", {"state": {"type": "RUNNING"}, "force": True}
        ),
        "read": lambda: ask(f"{api}/flow_runs/{run}"),
    }
    answers = hammer(askers)
    assert {status for _, status in answers} <= {200, 201}, answers
    assert all(answers[name, 201] + answers[name, 200] > 5 for name in askers), answers


def test_a_transaction_within_another_does_not_wait_for_it(tmp_path: Path):
    """In a process of its own, for Prefect is changed in it; a transaction that outlives its request waits again."""
    code = (
        "import asyncio, sys\n"
        "from tasks.prefect_server.sqlite import one_writer_at_a_time\n"
        "from tests.tasks.test_prefect_server import nested\n"
        "one_writer_at_a_time(); asyncio.run(asyncio.wait_for(nested(sys.argv[1]), 30))"
    )
    done = python(tmp_path, "-c", code, str(tmp_path), timeout=60)
    assert done.returncode == 0, done.stderr


def changes(database: Path) -> tuple[int, int]:
    """How many tables and indices there are in the end, and how many there were on the way."""
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return connection.execute("SELECT count(*), max(rowid) FROM sqlite_master").fetchone()


def in_any_order(database: Path) -> list[str]:
    """The lines of a database's form: Prefect's changes put constraints and indices in another order every time."""
    return sorted(line.strip().rstrip(",") for line in form_of(database)[1].splitlines())


def test_a_server_in_a_new_home_need_not_make_its_database_change_by_change(api: str, home: Path):
    there, made = changes(home / "prefect.db")
    assert there == made > 200


def test_the_form_of_a_new_database_is_what_prefects_own_changes_make(tmp_path: Path):
    """Of the Prefect that is installed. Of another: python -m tasks.prefect_server.new_database DATABASE keeps its form."""
    code = (
        "import asyncio\nfrom prefect.server.database import provide_database_interface as database\n"
        "asyncio.run(database().create_db())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(tmp_path) | {"PREFECT_HOME": str(tmp_path / "made")},
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    with temporary_settings({PREFECT_HOME: tmp_path / "laid"}):
        lay_new_database()
    made, laid = (tmp_path / name / "prefect.db" for name in ("made", "laid"))
    assert form_of(laid)[0] == form_of(made)[0]
    assert in_any_order(laid) == in_any_order(made)
    assert changes(laid)[0] == changes(made)[0] < changes(made)[1]
    assert [path.name for path in laid.parent.iterdir()] == ["prefect.db"]
    (form,) = FORMS.glob("form_*.sql")
    assert (form.stem, form.read_text()) == (f"form_{form_of(laid)[0]}", form_of(laid)[1])


def test_a_database_of_somebody_elses_is_left_to_prefect(tmp_path: Path):
    """One that is there, one that is no file, one that an older Prefect could not go on from."""
    there = tmp_path / "there" / "prefect.db"
    there.parent.mkdir()
    there.write_bytes(b"a person's")
    with temporary_settings({PREFECT_HOME: there.parent}):
        lay_new_database()
    assert there.read_bytes() == b"a person's"
    unknown = tmp_path / "forms" / "form_0123456789ab.sql"
    unknown.parent.mkdir()
    unknown.write_text("CREATE TABLE alembic_version (version_num);")
    with temporary_settings({PREFECT_HOME: tmp_path / "older"}):
        lay_new_database(unknown.parent)
    elsewhere = {PREFECT_HOME: tmp_path / "elsewhere"}
    for address in ("postgresql+asyncpg://somebody@nowhere/prefect", "sqlite+aiosqlite:///:memory:"):
        with temporary_settings(elsewhere | {PREFECT_SERVER_DATABASE_CONNECTION_URL: address}):
            lay_new_database()
    with temporary_settings(elsewhere | {PREFECT_SERVER_DATABASE_MIGRATE_ON_START: False}):
        lay_new_database()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["forms", "there"]


async def nested(folder: str) -> None:
    """Read within a transaction that has written, then write in a task that was made within it."""
    import sqlalchemy
    from prefect.server.database.configurations import AioSqliteConfiguration

    database = AioSqliteConfiguration(f"sqlite+aiosqlite:///{folder}/nested.db")
    engine = await database.engine()
    gone = asyncio.Event()

    async def execute(statement: str, update: bool = False) -> None:
        async with (
            await database.session(engine) as session,
            database.begin_transaction(session, with_for_update=update),
        ):
            await session.execute(sqlalchemy.text(statement))

    async def afterwards() -> None:
        await gone.wait()
        await execute("INSERT INTO t VALUES (2)")

    await execute("CREATE TABLE t (x)")
    async with await database.session(engine) as session, database.begin_transaction(session):
        await session.execute(sqlalchemy.text("INSERT INTO t VALUES (1)"))
        await execute("SELECT * FROM t")
        later = asyncio.create_task(afterwards())
    gone.set()
    await later
    await asyncio.gather(*(execute("INSERT INTO t SELECT max(x) + 1 FROM t") for _ in range(20)))
    async with engine.connect() as connection:
        assert (await connection.execute(sqlalchemy.text("SELECT count(*), max(x) FROM t"))).one() == (22, 22)
    await engine.dispose()


def hammer(askers: dict[str, Callable[[], Any]]) -> Counter[tuple[str, int]]:
    """Ask without a pause for some seconds, each asker in a thread; the answers by status."""
    answers: Counter[tuple[str, int]] = Counter()
    lock = threading.Lock()
    end = time.monotonic() + SECONDS

    def go_on(name: str) -> None:
        while time.monotonic() < end:
            status = askers[name]()[0]
            with lock:
                answers[name, status] += 1

    with ThreadPoolExecutor(len(askers)) as pool:
        list(pool.map(go_on, askers))
    return answers


def ask(address: str, body: Any = None) -> tuple[int, bytes] | None:
    """The status and the text of an answer; None if nobody listens."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=100) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
    except OSError:
        return None


def told(answer: tuple[int, bytes] | None) -> Any:
    assert answer and answer[0] in (200, 201), answer
    return json.loads(answer[1])
