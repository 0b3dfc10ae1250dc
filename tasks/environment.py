"""The environment of Prefect and MLflow for one LEANPIPE_HOME.

Prefect reads its settings when it is imported: call `prepare_environment` before that, and start every child with it.
"""

import http.client
import json
import os
import socket
import urllib.error
import urllib.request

from leanpipe.core.errors import UserError
from leanpipe.core.files import write_text
from leanpipe.core.home import Home

_PATIENCE = 10  # seconds
_ASKS_WHO = (401, 403)  # a server is there; Prefect knows what to tell it
SUPERVISED = "LEANPIPE_SUPERVISED"
"""Set if somebody puts back the run that leaves without a word."""
WORKER_LOG = "LEANPIPE_WORKER_LOG"
"""A file that takes what a run prints: the worker's pipe would break with the worker, and the run with the pipe."""


def prepare_environment(home: Home) -> None:
    """Point Prefect and MLflow at `home`: at the servers of `leanpipe up` if they run, else at its SQLite files.

    What a person has set themselves stays as it is.
    """
    home.root.mkdir(parents=True, exist_ok=True)
    servers = running_servers(home)
    for name, value in (environment(home) | servers).items():
        os.environ.setdefault(name, value)


def environment(home: Home) -> dict[str, str]:
    """What Prefect and MLflow need to know to keep everything under `home`, and to tell nobody."""
    return {
        "LEANPIPE_HOME": str(home.root),
        "PREFECT_HOME": str(home.prefect),
        "PREFECT_LOCAL_STORAGE_PATH": str(home.prefect / "storage"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "300",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "leanpipe",
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",  # leanpipe logs outside of runs too
        "PREFECT_CLI_WRAP_LINES": "false",
        "MLFLOW_TRACKING_URI": f"sqlite:///{home.mlflow_database}",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_LOGGING_LEVEL": "WARNING",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # five processes of 240 MB each, for nothing of ours
        "DO_NOT_TRACK": "true",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",  # ours are enough
        "TQDM_DISABLE": "1",
        "TOKENIZERS_PARALLELISM": "true",
    }


def check_prefect() -> None:
    """Raise UserError if PREFECT_API_URL is set and no Prefect server answers there: a run would end where it begins."""
    address = os.environ.get("PREFECT_API_URL")
    if not address:
        return
    what = f"PREFECT_API_URL is {address}, where no Prefect server answers"
    do = "start it, set another (it ends in /api), or unset it to run without a server"
    try:
        with urllib.request.urlopen(f"{address.rstrip('/')}/health", timeout=_PATIENCE) as answer:
            if answer.read(10).strip() != b"true":
                raise UserError(f"{what}: {do}")
    except urllib.error.HTTPError as error:
        if error.code not in _ASKS_WHO:
            raise UserError(f"{what} ({error}): {do}") from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise UserError(f"{what} ({getattr(error, 'reason', error)}): {do}") from error


def terminal_environment(in_place: bool) -> dict[str, str]:
    """Return the environment of a run that a person watches: our lines instead of Prefect's, which still go to the Prefect server."""
    quiet = {"PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL", "LEANPIPE_TERMINAL": "1"}
    return quiet | ({"LEANPIPE_IN_PLACE": "1"} if in_place else {})


def running_servers(home: Home) -> dict[str, str]:
    """The addresses that `leanpipe up` left, if somebody still answers there."""
    if not home.servers_file.exists():
        return {}
    servers = json.loads(home.servers_file.read_text())
    return servers["environment"] if all(_answers(port) for port in servers["ports"]) else {}


def addresses(prefect_port: int, mlflow_port: int) -> dict[str, str]:
    """The environment that leads to servers on these ports of this machine."""
    api = f"http://127.0.0.1:{prefect_port}/api"
    return {
        "PREFECT_API_URL": api,
        "PREFECT_SERVER_UI_API_URL": api,
        "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{mlflow_port}",
    }


def write_servers(home: Home, prefect_port: int, mlflow_port: int) -> None:
    """Note for other processes where the servers listen."""
    content = {"environment": addresses(prefect_port, mlflow_port), "ports": [prefect_port, mlflow_port]}
    write_text(home.servers_file, json.dumps(content))


def _answers(port: int) -> bool:
    with socket.socket() as client:
        client.settimeout(1)
        return client.connect_ex(("127.0.0.1", port)) == 0
