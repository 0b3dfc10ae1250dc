"""`python -m benchmarks.outages`: how long a stage waits for MLflow in each kind of outage, beside MLflow's own client.

The stage tells a thousand figures, a report of files and its end while the server is gone, silent or broken; what counts is
the longest single call of it, in seconds, which may be 1. The peer tells the same figures with `MlflowClient` and no more
than one retry: its longest call until that raises. A real server; two minutes.
"""

import logging
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

# Before MLflow is imported, which reads them.
os.environ |= {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}

from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException

from benchmarks.report import claim, write
from leanpipe.core.home import Home
from tasks.tracking.runs import Tracking
from tests.support.mlflow_server import OUTAGES, MlflowServer

MOST_SECONDS = 1.0
FIGURES = 1_000


def main() -> None:
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        server = MlflowServer(root / "mlflow")
        server.start()
        os.environ["MLFLOW_TRACKING_URI"] = server.address
        try:
            rows = []
            for outage in OUTAGES:
                waited, client = ours(server, root, outage), peer(server, outage)
                name = f"longest wait of a stage, MLflow {outage}"
                rows.append(claim(f"{name}, of 1 s", waited, MOST_SECONDS, "s", 1, at_most=True))
                rows.append(claim(f"{name}, of the client's", waited, client, "s", 1, at_most=True))
        finally:
            server.stop()
    write("outages", rows)


def ours(server: MlflowServer, root: Path, outage: str) -> float:
    """Seconds of the longest of the calls that a stage makes from its beginning to its end."""
    home, longest = Home(root / outage), 0.0
    report = home.root / "report"
    report.mkdir(parents=True)
    (report / "note.md").write_text("a note " * 100_000)
    tracking = Tracking(home)

    def timed(call: Callable[[], object]) -> None:
        nonlocal longest
        started = time.perf_counter()
        call()
        longest = max(longest, time.perf_counter() - started)

    with tracking.run("outage", {"leanpipe.flow_run": outage}, {}) as run:
        end_outage = server.fail(outage)
        stage = tracking.stage_run(run, "distill", "a key", {"steps": FIGURES})
        entered: list[str] = []
        timed(lambda: entered.append(stage.__enter__()))
        for step in range(FIGURES):
            values = {"loss": 1 / (step + 1)}
            timed(lambda step=step, values=values: tracking.report(entered[0]).metrics(values, step))
            time.sleep(0.005)  # the sender has its turn, as beside real work
        timed(lambda: tracking.log_files(entered[0], report, "report"))
        timed(lambda: stage.__exit__(None, None, None))
        end_outage()
    return longest


def peer(server: MlflowServer, outage: str) -> float:
    """Seconds of the one call in which MLflow's client learns of the outage."""
    client = MlflowClient()
    run = client.create_run(client.create_experiment(f"peer {outage}")).info.run_id
    end_outage = server.fail(outage)
    started = time.perf_counter()
    try:
        client.log_batch(run, [Metric("loss", 1.0, 0, 0)])
    except MlflowException:
        pass
    finally:
        took = time.perf_counter() - started
        end_outage()
    return took


if __name__ == "__main__":
    main()
