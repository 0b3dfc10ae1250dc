"""`leanpipe up`: the Prefect server, the MLflow server and one GPU worker, started and stopped together."""

import os
import signal
import time
from pathlib import Path

from flows.cli.console import console
from flows.cli.worker import Worker, end_at_once, interrupt, only_supervisor
from leanpipe.core.errors import UserError
from leanpipe.core.home import Home
from leanpipe.processes.servers import check_port, wait_until_ready
from leanpipe.processes.service import Service
from tasks.environment import addresses, check_home, environment, running_servers, write_servers

_START_SECONDS = 180
_MOST_FAILURES = 5
"""So often in a row a server may end soon after its start."""


class Servers:
    """The processes of `leanpipe up`, whose logs are in `LEANPIPE_HOME/logs`."""

    def __init__(self, home: Home, prefect_port: int, mlflow_port: int):
        self._home = home
        self._ports = {"Prefect": prefect_port, "MLflow": mlflow_port}
        self._servers: list[Service] = []
        self._worker: Worker | None = None
        self._console = console()
        self._experiment = ""

    def run(self) -> None:
        """Start everything, say where it is, and keep it running until Ctrl-C or SIGTERM."""
        self._check_free()
        signal.signal(signal.SIGTERM, interrupt)
        with only_supervisor(self._home):
            try:
                self._start()
                self._watch()
            except KeyboardInterrupt:
                self._tell("\nstopping… a run that trains writes a checkpoint first")
            finally:
                self._home.servers_file.unlink(missing_ok=True)
                self._stop()
        end_at_once()

    def _start(self) -> None:
        self._home.root.mkdir(parents=True, exist_ok=True)
        prefect, mlflow = self._ports["Prefect"], self._ports["MLflow"]
        own, reached = environment(self._home), addresses(prefect, mlflow)
        # Before anything imports Prefect, which would start a server of its own.
        os.environ.update(own | reached)
        os.environ.setdefault("LEANPIPE_ROOTS", self._roots())
        where = ["--host", "127.0.0.1", "--port", str(prefect)]
        self._serve("prefect-server", "tasks.prefect_server", "server", "start", *where)
        os.environ["MLFLOW_TRACKING_URI"] = own["MLFLOW_TRACKING_URI"]
        self._create_experiment()
        os.environ["MLFLOW_TRACKING_URI"] = reached["MLFLOW_TRACKING_URI"]
        self._serve("mlflow-server", "mlflow", "server", *self._mlflow_options(mlflow))
        self._wait_for(f"http://127.0.0.1:{prefect}/api/health")
        self._wait_for(f"http://127.0.0.1:{mlflow}/health")
        write_servers(self._home, prefect, mlflow)
        from flows.deployments import deploy  # not before the API's address is set

        names = deploy()
        self._worker = Worker(self._home, self._tell, self._log("worker"))
        self._worker.start()
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

    def _serve(self, name: str, *command: str) -> None:
        self._servers.append(Service(name, command, self._log(name), _MOST_FAILURES))
        self._servers[-1].start()

    def _log(self, name: str) -> Path:
        return self._home.root / "logs" / f"{name}.log"

    def _wait_for(self, address: str) -> None:
        try:
            wait_until_ready(address, self._check_alive, _START_SECONDS)
        except UserError as error:
            raise UserError(f"{error}: see {self._home.root / 'logs'}") from error

    def _check_alive(self) -> None:
        for server in self._servers:
            server.check()

    def _watch(self) -> None:
        assert self._worker
        while True:
            for server in self._servers:
                if said := server.notice_end():
                    self._tell(said)
                if server.is_due():
                    server.start()
            self._worker.watch()
            time.sleep(1)

    def _tell(self, sentence: str) -> None:
        self._console.print(sentence, soft_wrap=True, markup=False)

    def _check_free(self) -> None:
        check_home(self._home)
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
        """Stop the worker and its runs first, for they have something to tell the servers; nothing of ours is left behind."""
        if self._worker:
            self._worker.stop()
        for server in reversed(self._servers):
            server.stop()
