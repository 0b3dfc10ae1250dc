"""Prefect's server on SQLite, asked by several at once: each is answered, and nobody waits long."""

import asyncio
import json
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

from tests.flows.servers import free_port, python, running_python

pytestmark = pytest.mark.timeout(300)

SECONDS = 8
LATER = {"type": "SCHEDULED", "state_details": {"scheduled_time": "2100-01-01T00:00:00Z"}}


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home, port = tmp_path_factory.mktemp("prefect"), free_port()
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
