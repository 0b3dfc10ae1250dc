"""The environment of Prefect and MLflow for one LEANPIPE_HOME.

Prefect reads its settings when it is imported: call `prepare_environment` before that, and start every child with it.
"""

import http.client
import json
import os
import shutil
import socket
import urllib.error
import urllib.request

from leanpipe.core.errors import UserError
from leanpipe.core.files import read_object, write_text
from leanpipe.core.home import Home
from leanpipe.processes.threads import thread_environment

SUPERVISED = "LEANPIPE_SUPERVISED"
"""Set if somebody puts back the run that leaves without a word."""
WORKER_LOG = "LEANPIPE_WORKER_LOG"
"""A file that takes what a run prints: the worker's pipe would break with the worker, and the run with the pipe."""
_PATIENCE = 10  # seconds
_LEAST_FREE = 20_000_000  # bytes
_ASKS_WHO = (401, 403)  # a server is there; Prefect knows what to tell it


def prepare_environment(home: Home) -> None:
    """Point Prefect and MLflow at `home`: at the servers of `leanpipe up` if they run, else at its SQLite files.

    What a person has set themselves stays as it is.
    """
    check_home(home)
    servers = running_servers(home)
    for name, value in (thread_environment() | environment(home) | servers).items():
        os.environ.setdefault(name, value)


def check_home(home: Home) -> None:
    """Create LEANPIPE_HOME. Raises UserError if it, or something in it, cannot be written."""
    do = "change its owner or mode, or set LEANPIPE_HOME to another folder"
    try:
        home.root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"LEANPIPE_HOME is {home.root}, which is no folder ({error.strerror}): {do}"
        ) from error
    except ValueError as error:
        raise UserError(f"LEANPIPE_HOME is {str(home.root)!r}, which is no path ({error}): {do}") from error
    folders = (
        home.root,
        home.store,
        home.assets,
        home.prefect,
        home.runs,
        home.spool,
        home.listings,
        home.votes,
    )
    for place in (*folders, home.mlflow_database, home.mlflow_artifacts, home.digests):
        if place.exists() and not os.access(place, os.W_OK):
            raise UserError(f"{place} cannot be written: {do}")
    for place in folders:
        if place.exists() and not place.is_dir():
            raise UserError(f"{place} is no folder, and leanpipe keeps one there: take it away, or {do}")
    if (free := shutil.disk_usage(home.root).free) < _LEAST_FREE:
        raise UserError(
            f"the disk of LEANPIPE_HOME ({home.root}) is full: {free / 1e6:.1f} MB are free, and the databases of a run "
            "alone take more; free some, or set LEANPIPE_HOME to another disk"
        )


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
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # to the experiment's empty page, at each stage
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
    servers = read_object(home.servers_file)
    ports = servers.get("ports", ())
    return servers["environment"] if ports and all(_answers(port) for port in ports) else {}


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
