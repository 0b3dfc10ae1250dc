"""Where everything lives that leanpipe keeps: one folder, `LEANPIPE_HOME`, by default `.leanpipe/` where you stand."""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Home:
    """The folders under LEANPIPE_HOME. Nothing is created until somebody writes into it."""

    root: Path

    @classmethod
    def from_environment(cls) -> "Home":
        return cls(Path(os.environ.get("LEANPIPE_HOME", ".leanpipe")).expanduser().resolve())

    @property
    def store(self) -> Path:
        """Results of stages, by content."""
        return self.root / "store"

    @property
    def assets(self) -> Path:
        """Models and text of others, downloaded once and checked by digest."""
        return self.root / "assets"

    @property
    def digests(self) -> Path:
        """Digests of files that were read before."""
        return self.root / "digests.db"

    @property
    def listings(self) -> Path:
        """Which files a corpus consists of, by their contents."""
        return self.root / "listings"

    @property
    def votes(self) -> Path:
        """Sheets for raters, and what they voted."""
        return self.root / "votes"

    @property
    def prefect(self) -> Path:
        """Prefect's database, results and logs."""
        return self.root / "prefect"

    @property
    def mlflow_database(self) -> Path:
        return self.root / "mlflow.db"

    @property
    def mlflow_artifacts(self) -> Path:
        return self.root / "mlartifacts"

    @property
    def runs(self) -> Path:
        """A file for each run whose process lives, or was killed: see leanpipe/processes/run_lock.py."""
        return self.root / "runs"

    @property
    def spool(self) -> Path:
        """What MLflow is still to be told, by run."""
        return self.root / "mlflow-spool"

    @property
    def engines(self) -> Path:
        """How fast engines were on this machine, in ways to run them: see leanpipe/serving/engine_choice.py."""
        return self.root / "engines.json"

    @property
    def servers_file(self) -> Path:
        """Addresses of the servers that `leanpipe up` runs, while it runs them."""
        return self.root / "servers.json"
