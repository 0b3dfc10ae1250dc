"""A machine with `leanpipe up`, that is stopped, cut off and started again, and a run on it that is watched."""

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from mlflow import MlflowClient

from leanpipe.processes.process_tree import processes_with, send, wait_for_end
from tests.flows.servers import ROOT, Servers, environment, free_port
from tests.support.tiny_models import tiny_model

STEPS = 240
"""Of 40 ms or more: a run is stopped in their midst."""
FINETUNING = {
    "tokens": STEPS * 8 * 64,
    "batch": 8,
    "micro_batch": 8,
    "max_length": 64,
    "rank": 4,
    "precision": "fp32",
    "dropout": 0.1,
    "validation_tokens": 256,
    "validations": 3,
    "checkpoint_every_steps": 10,
    "log_every_steps": 1,
    "learning_rate": 3e-3,
}
FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


class Machine:
    """`leanpipe up` in a home of its own, on ports that stay, and what a person sees of it."""

    def __init__(self, home: Path):
        self.home = home
        self.inputs = {"model": "model", "instructions": "instructions.jsonl"}
        self._prefect, self._mlflow = free_port(), free_port()
        self.servers = Servers(home, f"http://127.0.0.1:{self._prefect}", f"http://127.0.0.1:{self._mlflow}")
        self._up: subprocess.Popen[str] | None = None
        home.mkdir(parents=True)
        tiny_model(home / "model")
        lines = [{"prompt": f"Say {n}", "completion": f"{n}, and {n + 1}, and {n * n}"} for n in range(200)]
        (home / "instructions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    @property
    def output(self) -> str:
        return (self.home / "up.out").read_text()

    def start(self) -> None:
        """Start `leanpipe up`, and wait until it is ready."""
        ports = ["--prefect-port", str(self._prefect), "--mlflow-port", str(self._mlflow)]
        with (self.home / "up.out").open("w") as log:
            self._up = subprocess.Popen(
                [sys.executable, "-m", "flows.cli.main", "up", *ports],
                cwd=ROOT,
                env=environment(self.home),
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
            )
        wait_for(lambda: "Ctrl-C stops everything" in self.output or self._up.poll() is not None, 240)  # type: ignore[union-attr]
        assert self._up.poll() is None, self.output
        assert "temporary server" not in self.output  # Prefect's, beside ours, on the same database

    def stop(self, number: int = signal.SIGINT) -> None:
        """Ctrl-C, or SIGTERM."""
        if self._up:
            self._up.send_signal(number)
            self._up.wait(timeout=120)
            self._up = None

    def cut_power(self) -> None:
        """Kill everything at once."""
        while left := self.processes():
            send(left, signal.SIGKILL)
            wait_for_end(left, 10)
        if self._up:
            self._up.wait()
        self._up = None

    def workers(self) -> list[psutil.Process]:
        """The process of the worker, if it lives."""
        return [one for one in self.processes() if {"worker", "start"} <= set(command(one))]

    def kill(self, process: psutil.Process) -> None:
        send([process], signal.SIGKILL)

    def processes(self, run: str | None = None) -> list[psutil.Process]:
        """All of this home, or those of one run."""
        if run:
            return processes_with("PREFECT__FLOW_RUN_ID", run)
        return processes_with("LEANPIPE_HOME", str(self.home))

    def create_run(self, **given_state: Any) -> str:
        """Start what a person starts with **Run**; returns the id of the flow run, whose state may be given."""
        given = {name: str(self.home / file) for name, file in self.inputs.items()}
        given_state["parameters"] = {"config": {**given, "finetune": FINETUNING}}
        deployment = self.servers.api("deployments/name/finetune/default")["id"]
        made = self.servers.api(f"deployments/{deployment}/create_flow_run", given_state)
        return made["id"]

    def state(self, run: str) -> dict[str, Any]:
        return self.servers.api(f"flow_runs/{run}")["state"]

    def wait_for_state(self, run: str, *types: str, seconds: float = 120) -> dict[str, Any]:
        """The state of the run once its type is one of these."""
        found: dict[str, Any] = {}

        def reached() -> bool:
            found.update(self.state(run))
            assert found["type"] in types or found["type"] not in FINAL, (found, self.output)
            return found["type"] in types

        wait_for(reached, seconds, lambda: f"{found} {self.output} {self.log()}")
        return found

    def log(self) -> str:
        path = self.home / "logs" / "worker.log"
        return path.read_text()[-6000:] if path.exists() else ""

    def steps(self) -> int:
        """How many steps the finetuning that goes on has reported."""
        found = list((self.home / "store" / ".partial").glob("finetune-*/report/metrics.jsonl"))
        with contextlib.suppress(FileNotFoundError):
            lines = found[0].read_text().splitlines() if found else []
            return max((json.loads(line)["step"] or 0 for line in lines if line.endswith("}")), default=0)
        return 0

    def wait_for_progress(self, run: str, steps: int = 20) -> None:
        """Wait until the run's process has reported so many steps more."""
        self.wait_for_state(run, "RUNNING", seconds=300)
        before = self.steps()
        wait_for(lambda: self.steps() >= before + steps, 300, self.log)

    def has_result(self) -> bool:
        return bool(list((self.home / "store").glob("finetune/*/manifest.json")))

    def forget_result(self) -> None:
        """Let the next run compute again."""
        subprocess.run(["rm", "-rf", str(self.home / "store" / "finetune")], check=True)

    def weights(self) -> dict[str, str]:
        """The digests of the files of the finetuned model."""
        (manifest,) = (self.home / "store").glob("finetune/*/manifest.json")
        files = json.loads(manifest.read_text())["files"]
        return {name: digest for name, digest in files.items() if not name.startswith("report/")}

    def told_steps(self, mlflow_run: str) -> list[int]:
        """The steps of which MLflow knows the loss, as it was told of them."""
        history = MlflowClient(self.servers.mlflow).get_metric_history(mlflow_run, "loss")
        return [metric.step for metric in history]

    def mlflow_runs(self, run: str) -> list[Any]:
        """The MLflow runs of a flow run: its own first, then those of its stages."""
        client = MlflowClient(self.servers.mlflow)
        experiment = client.get_experiment_by_name("leanpipe")
        assert experiment
        found = client.search_runs([experiment.experiment_id], f"tags.`leanpipe.flow_run` = '{run}'")
        ids = [one.info.run_id for one in found]
        for parent in ids:
            query = f"tags.`mlflow.parentRunId` = '{parent}'"
            found += client.search_runs([experiment.experiment_id], query)
        return found


def command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def wait_for(reached: Callable[[], bool], seconds: float, said: Callable[[], str] = str) -> float:
    """Wait until something is so, at most so long; returns the seconds that it took."""
    started = time.monotonic()
    while not reached():
        assert time.monotonic() - started < seconds, said()
        time.sleep(0.1)
    return time.monotonic() - started
