"""A model folder behind the OpenAI API, answered by llama.cpp, OpenVINO or onnxruntime if it holds a GGUF or ONNX file, else by
`transformers serve`'s handlers.

The latter pin one model and answer only requests that name it as it was named to them. So the folder is shown to them as the
model `leanpipe` in a private hub cache: clients then say `model="leanpipe"` wherever the folder lies, `/v1/models` lists
that name, and nothing is ever looked up on a hub.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from leanpipe.core import device
from leanpipe.core.errors import UserError
from leanpipe.core.home import Home
from leanpipe.engines.open_engine import engine_of
from leanpipe.models.offload import is_gguf
from leanpipe.processes.servers import check_port, wait_until_ready
from leanpipe.serving.engine_choice import AUTO, Way, choose

REFUSAL = Path("refusal.txt")
"""Where the engine writes, in the folder in which it runs, why it does not serve the model."""
MODEL_NAME = "leanpipe"
"""What clients call the model that is served."""


def serve(
    model: Path, host: str = "127.0.0.1", port: int = 8000, name: str = MODEL_NAME, engine: str = AUTO
) -> None:
    """Serve the model folder until Ctrl-C; killing this process ends the engine too.

    `engine` says how it is run (see `engine_choice`), by default as is fastest here.

    There is no authentication: another `host` than this machine opens the model to everyone who reaches it. Raises
    UserError if the folder holds no model, the port is taken, or the engine ends by itself.
    """
    _check_model(model)
    check_port(host, port)  # before anything is measured
    choice = choose(model, engine, Home.from_environment())
    way = choice.way
    if (
        engine == AUTO
        and way.gguf == "llama.cpp"
        and is_gguf(model)
        and not (choice.measured and way.threads == 1)
    ):
        way = way._replace(threads=None)  # as many as are free, whatever else comes and goes
    with running_server(model, host, port, name, way=way) as (url, process):
        print(
            f"{name} answers at {url}/v1 (chat/completions, completions, models). Ctrl-C stops it.\n"
            f"Its engine is {engine_of(model, way.gguf)}: {choice}.",
            flush=True,
        )
        try:
            code = process.wait()
        except KeyboardInterrupt:
            return
    raise UserError(f"the server ended by itself with code {code}: what it said last is above")


@contextmanager
def running_server(
    model: Path,
    host: str = "127.0.0.1",
    port: int = 8000,
    name: str = MODEL_NAME,
    timeout: float = 600,
    measured: int = 0,
    log: IO[bytes] | None = None,
    way: Way = Way(),  # noqa: B008 - it cannot be changed
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The server's URL and process while it runs, ready to answer; it is stopped on leaving. Errors as `serve`.

    `measured` is not 0 where single requests of so many tokens are measured: then llama.cpp takes memory for no more, keeps
    nothing from one request to the next, and requests are not logged. What the server says goes to `log`, by default to
    where this process speaks. `way` is how the engine is run.
    """
    _check_model(model)
    check_port(host, port)
    url = f"http://{_reachable(host)}:{port}"
    with tempfile.TemporaryDirectory(prefix="leanpipe-serve-") as cache:
        show_in_cache(model, Path(cache), name)
        # Started in the cache, because a folder of that name where we stand would be taken for the model.
        command = [*serve_command(name, model.resolve(), host, port, way), str(measured)]
        said = {"stdout": log, "stderr": log} if log else {}
        process = subprocess.Popen(command, cwd=cache, env=_environment(Path(cache), way), **said)  # type: ignore[call-overload]
        try:
            wait_for_engine(url, process, timeout, Path(cache) / REFUSAL)
            yield url, process
        finally:
            stop(process)


def serve_command(name: str, model: Path, host: str, port: int, way: Way = Way()) -> list[str]:  # noqa: B008
    """The engine's command line; `name` is the model's in the engine's hub cache, `model` its folder."""
    arithmetic = way.arithmetic or device.arithmetic_of("auto")
    dtype = "bfloat16" if arithmetic == "bf16" else "float32"
    return [
        sys.executable,
        "-m",
        "leanpipe.serving.engine",
        *(
            str(os.getpid()),
            name,
            str(model),
            host,
            str(port),
            device.name(),
            dtype,
            way.gguf,
            str(way.threads or 0),
        ),
    ]


def show_in_cache(model: Path, cache: Path, name: str = MODEL_NAME) -> None:
    """Lay out `cache` as a Hugging Face hub cache that holds the model folder, by link, as the model `name`."""
    repository = cache / f"models--{name}"
    revision = "0" * 40
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(revision)
    (repository / "blobs").mkdir()
    snapshot = repository / "snapshots" / revision
    snapshot.mkdir(parents=True)
    for file in model.resolve().iterdir():
        if file.is_file():
            (snapshot / file.name).symlink_to(file)


def wait_for_engine(
    url: str, process: subprocess.Popen[bytes], timeout: float = 600, refusal: Path = REFUSAL
) -> None:
    """Return once the engine at `url` says that it is well. Raises UserError if its process ends or time runs out."""

    def check_alive() -> None:
        if process.poll() is not None:
            if refusal.exists():
                raise UserError(refusal.read_text())
            raise UserError(
                f"the server ended with code {process.returncode} before it answered: see what it said above"
            )

    wait_until_ready(f"{url}/health", check_alive, timeout)


def stop(process: subprocess.Popen[bytes], patience: float = 10) -> None:
    """End the process, by force if it does not go."""
    process.terminate()
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _check_model(model: Path) -> None:
    if not (model / "config.json").exists():
        raise UserError(f"{model} holds no model (config.json is missing): give a model folder")


def _environment(cache: Path, way: Way) -> dict[str, str]:
    return {
        **way.environment(),
        "HF_HUB_CACHE": str(cache),
        "HF_HUB_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1",
    }


def _reachable(host: str) -> str:
    """An address at which a client on this machine reaches a server that listens at `host`."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{host}]" if ":" in host else host
