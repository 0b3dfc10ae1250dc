"""MLflow or Prefect away while something runs, against the servers of the tests of the whole, which collect these."""

import subprocess
import time
from collections.abc import Callable

import psutil
from prefect.settings import PREFECT_API_URL, temporary_settings

from tasks.tracking.background import calls
from tasks.tracking.pages import show_page
from tasks.tracking.progress import PrefectProgress
from tests.flows.mlflow_runs import children, client, files, parents
from tests.flows.servers import Servers, pages, running
from tests.support.mlflow_server import break_database


def test_a_run_goes_on_while_mlflow_cannot_answer(first_run, servers: Servers):
    """From its first stage on, until it waits for nothing else."""
    before = len(parents(client(servers)))
    settings = ["--set", "tokenize.block_length=96"]
    with running(servers.home, "run", "prepare-corpus", "--preset", "smoke", *settings) as run:
        output = servers.home / "run.out"
        wait_until(lambda: len(parents(client(servers))) > before, run)
        mend = break_database(servers.home / "mlflow.db")
        try:
            wait_until(lambda: "the end of the run waits for it" in output.read_text(), run)
        finally:
            mend()
        assert run.wait(120) == 0, output.read_text()
    assert "Traceback" not in output.read_text()
    parent = parents(client(servers))[0]
    tokenize = children(client(servers), parent)["tokenize"]
    assert (parent.info.status, tokenize.info.status) == ("FINISHED", "FINISHED")  # type: ignore[attr-defined]
    told = tokenize.data.metrics  # type: ignore[attr-defined]
    assert told["tokens"] > 0 and told["tokens"] == parent.data.metrics["text/tokenize/tokens"]
    assert "summary.md" in files(client(servers), parent.info.run_id)


def test_no_stage_waits_for_a_prefect_that_says_nothing(servers: Servers):
    """Its server is stopped, and goes on when everything was told."""
    server = next(one for one in psutil.process_iter() if _serves(one, servers.prefect))
    with temporary_settings({PREFECT_API_URL: f"{servers.prefect}/api"}):
        server.suspend()
        try:
            PrefectProgress("outage").progress(1, 1, "tokens")
            show_page("# Shown late", "outage-page", "made while nobody answered")
            assert not calls.finish(0)
        finally:
            server.resume()
        assert calls.finish(120)
    assert pages(servers, "outage-page") == ["# Shown late"]


def _serves(process: psutil.Process, address: str) -> bool:
    """Whether it is the process that listens there."""
    try:
        listening = [one.laddr for one in process.net_connections("tcp") if one.status == psutil.CONN_LISTEN]
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False
    return address.endswith(tuple(f":{one.port}" for one in listening)) if listening else False


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait until the condition holds, while the process lives."""
    deadline = time.monotonic() + 240
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.2)
