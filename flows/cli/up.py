"""`leanpipe up`: the Prefect server, the MLflow server and one GPU worker, started and stopped together."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from flows.cli.console import console
from leanpipe.core.errors import UserError
from leanpipe.core.home import Home
from leanpipe.processes.parent_death import die_with_parent
from leanpipe.processes.servers import check_port, wait_until_ready
from tasks.environment import addresses, environment, running_servers, write_servers

_START_SECONDS = 180


class Servers:
    """The processes of `leanpipe up`, whose logs are in `LEANPIPE_HOME/logs`."""

    def __init__(self, home: Home, prefect_port: int, mlflow_port: int):
        self._home = home
        self._ports = {"Prefect": prefect_port, "MLflow": mlflow_port}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._console = console()
        self._experiment = ""

    def run(self) -> None:
        """Start everything, say where it is, and wait until Ctrl-C, SIGTERM or the death of one of them."""
        self._check_free()
        signal.signal(signal.SIGTERM, _interrupt)
        try:
            self._start()
            self._watch()
        except KeyboardInterrupt:
            self._console.print("\nstopping…")
        finally:
            self._home.servers_file.unlink(missing_ok=True)
            self._stop()

    def _start(self) -> None:
        self._home.root.mkdir(parents=True, exist_ok=True)
        os.environ.update(environment(self._home))
        os.environ.setdefault("LEANPIPE_ROOTS", self._roots())
        self._create_experiment()
        prefect, mlflow = self._ports["Prefect"], self._ports["MLflow"]
        os.environ.update(addresses(prefect, mlflow))
        self._spawn(
            "prefect-server", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(prefect)
        )
        self._spawn("mlflow-server", "mlflow", "server", *self._mlflow_options(mlflow))
        self._wait_for(f"http://127.0.0.1:{prefect}/api/health")
        self._wait_for(f"http://127.0.0.1:{mlflow}/health")
        write_servers(self._home, prefect, mlflow)
        from flows.deployments import POOL, deploy  # not before the API's address is set

        names = deploy()
        self._spawn("worker", "prefect", "worker", "start", "--pool", POOL, "--name", f"{POOL}-worker")
        self._say(prefect, mlflow, names)

    def _roots(self) -> str:
        """List what somebody who reaches the UI may have read: what lies where we stand, at home, or in LEANPIPE_HOME."""
        return ";".join(map(str, (Path.cwd(), Path.home(), self._home.root)))

    def _mlflow_options(self, port: int) -> list[str]:
        backend = f"sqlite:///{self._home.mlflow_database}"
        destination = str(self._home.mlflow_artifacts)
        options = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
        return [*options, "--backend-store-uri", backend, "--artifacts-destination", destination]

    def _create_experiment(self) -> None:
        """Create the experiment and the database's tables once, here: two servers that both create them fail."""
        from tasks.tracking.runs import Tracking

        self._experiment = Tracking(self._home).experiment_id

    def _spawn(self, name: str, module: str, *arguments: str) -> None:
        logs = self._home.root / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        with (logs / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is ours to pass on
                preexec_fn=partial(die_with_parent, signal.SIGTERM),
            )

    def _wait_for(self, address: str) -> None:
        try:
            wait_until_ready(address, self._check_alive, _START_SECONDS)
        except UserError as error:
            raise UserError(f"{error}: see {self._home.root / 'logs'}") from error

    def _watch(self) -> None:
        while True:
            self._check_alive()
            time.sleep(1)

    def _check_alive(self) -> None:
        for name, process in self._processes.items():
            if process.poll() is not None:
                log = self._home.root / "logs" / f"{name}.log"
                raise UserError(
                    f"{name} ended with status {process.returncode}: see {log}; everything was stopped"
                )

    def _check_free(self) -> None:
        if running_servers(self._home):
            raise UserError(
                f"leanpipe up runs already for {self._home.root}: stop it first, or set LEANPIPE_HOME"
            )
        for name, port in self._ports.items():
            check_port("127.0.0.1", port, f"--{name.lower()}-port")

    def _say(self, prefect: int, mlflow: int, names: list[str]) -> None:
        self._console.print(
            f"Prefect   http://127.0.0.1:{prefect}   start and watch runs: Deployments, then Run"
        )
        runs = f"http://127.0.0.1:{mlflow}/#/experiments/{self._experiment}/runs"
        self._console.print(f"MLflow    {runs}   compare runs, models, champion", soft_wrap=True)
        self._console.print(
            f"Worker    one run at a time; logs in {self._home.root / 'logs'}", soft_wrap=True
        )
        self._console.print(f"Deployed  {', '.join(names)}", soft_wrap=True)
        self._console.print("Ctrl-C stops everything.")

    def _stop(self) -> None:
        """Stop the worker first, so that it takes no run while its server goes; nothing of ours is left behind."""
        for process in reversed(self._processes.values()):
            _signal_group(process, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=15)
            _signal_group(process, signal.SIGKILL)
            process.wait()


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt
