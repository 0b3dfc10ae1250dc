"""llama.cpp in this process, by the package xllamacpp: it reads a GGUF file, completes tokens, and gives hidden states.

xllamacpp also listens on a port of this machine, with all of llama.cpp's own routes; a key that nobody is told keeps
others out of them.
"""

import contextlib
import ctypes
import importlib
import json
import logging
import secrets
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from leanpipe.core import device
from leanpipe.core.errors import UserError
from leanpipe.engines.other_work import OtherWork

if TYPE_CHECKING:
    import numpy as np

log = logging.getLogger(__name__)

_LOAD_SECONDS = 0.3
"""How long the machine is watched to see how many of its cores are free."""
_LARGEST_TWICE = 1_000_000_000
"""Bytes of a file up to which it is loaded once more where another number of threads fits."""
_BATCH = 512
"""Tokens of a prompt that are read at once, at the most."""

_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Asks this machine itself, whatever proxies there are."""

Part = Mapping[str, Any]
"""An answer of llama.cpp's, or a part of a streamed one, in the shape of OpenAI's text completions."""


class LlamaCpp:
    """A GGUF file, loaded. May be asked by several threads at once, `slots` of which are answered together.

    llama.cpp's threads are as many as they were when it was loaded. So where the number is left open, and other processes take
    cores or give them back, the next request that comes alone is answered by the same file loaded once more, with as many threads
    as fit then. The weights lie in memory once, but for those that llama.cpp rearranges.
    """

    def __init__(self, gguf: Path, context: int, slots: int = 1, threads: int | None = None):
        """Load the file; `context` tokens of all slots together are remembered. Raises UserError if it cannot be."""
        self._gguf, self._context, self._slots = gguf, context, slots
        self._lock, self._working = threading.Lock(), 0
        self.threads = threads or free_cores()
        self._loaded: dict[int, _Loaded] = {}
        self._now = self._with(self.threads)
        # Last: loading would count as other work.
        adapts = threads is None and device.cores() > 1 and gguf.stat().st_size <= _LARGEST_TWICE
        self._others = OtherWork(device.cores()) if adapts else None

    def complete(self, fields: Mapping[str, Any], on_part: Callable[[Part], bool] | None = None) -> Part:
        """Complete `fields["prompt"]`, a list of token ids; what else llama.cpp's server knows may be among the fields.

        With `on_part` the answer comes in parts, and ends early once that returns True; then an empty one is returned. Raises
        RuntimeError for what llama.cpp refuses.
        """
        with self._fitting() as server:
            return self._completed(server, fields, on_part)

    def _completed(
        self, server: Any, fields: Mapping[str, Any], on_part: Callable[[Part], bool] | None
    ) -> Part:
        if on_part is None:
            return _checked(server.handle_completions(dict(fields)))
        refused: list[Part] = []

        def each(part: Part) -> bool:
            # What is raised here would be lost: llama.cpp calls it from a thread of its own.
            if "error" in part:
                refused.append(part)
            return bool(refused) or on_part(part)

        server.handle_completions({**fields, "stream": True}, each)
        return _checked(refused[0]) if refused else {}

    def tokenize(self, text: str, special: bool = False) -> list[int]:
        """Encode a text as the file's own tokenizer does; `special` puts around it what the file says."""
        asked = {"content": text, "add_special": special, "parse_special": False}
        return self._ask("/tokenize", asked)["tokens"]

    def _ask(self, route: str, body: Mapping[str, Any]) -> Any:
        return _post(self._now.server.listening_address + route, body, self._now.key)

    @contextlib.contextmanager
    def _fitting(self) -> Iterator[Any]:
        """The server whose threads fit what is free now. While one answers, all requests go to it: two would be in each other's way."""
        with self._lock:
            if self._others and not self._working:
                self._fit(self._others.free_cores)
            self._working += 1
            server = self._now.server
        try:
            yield server
        finally:
            with self._lock:
                self._working -= 1

    def _fit(self, free: int) -> None:
        """Take the number of threads that fits so many free cores. If there is no room for another, it stays as it is for good."""
        try:
            self._now = self._with(fitting_threads(device.cores(), free, self._loaded))
        except UserError as error:
            log.warning("%d threads are kept: %s", self.threads, error)
            self._others = None

    def _parameters(self, threads: int) -> Any:
        parameters = _parameters(self._gguf, self._context, threads)
        parameters.n_parallel, parameters.kv_unified = self._slots, True
        return parameters

    def _with(self, threads: int) -> "_Loaded":
        """The file, loaded with so many threads."""
        if threads not in self._loaded:
            parameters = self._parameters(threads)
            key = _close(parameters)
            self._loaded[threads] = _Loaded(_load(self._gguf, parameters), key)
        self.threads = threads
        return self._loaded[threads]


class _Loaded(NamedTuple):
    server: Any
    key: str


def fitting_threads(cores: int, free: int, loaded: Iterable[int] = ()) -> int:
    """Choose as many threads as are free: all cores, all but one, a half, a quarter or what is loaded, for each number is loaded once."""
    halves = (cores >> step for step in range(cores.bit_length()))
    return max(one for one in {cores - 1, *halves, *loaded, 1} if 1 <= one <= max(1, free))


class HiddenStates:
    """A GGUF file, loaded to give the last hidden state of every token instead of the next token."""

    def __init__(self, gguf: Path, longest: int, threads: int | None = None):
        """Load the file for texts of at most so many tokens. Raises UserError if it cannot be loaded."""
        import xllamacpp

        parameters = _parameters(gguf, longest, threads or free_cores())
        parameters.n_batch = parameters.n_ubatch = longest
        parameters.embedding, parameters.embd_normalize = True, -1
        parameters.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_NONE
        self._key = _close(parameters)
        self._server = _load(gguf, parameters)

    def of(self, tokens: Sequence[int]) -> "np.ndarray":
        """Return the hidden states [tokens, width] in float32 after the last norm, from which the head predicts."""
        import numpy as np

        asked = {"content": list(tokens), "embd_normalize": -1}
        answer = _post(self._server.listening_address + "/embedding", asked, self._key)
        return np.array(answer[0]["embedding"], dtype=np.float32)


def check_engine() -> None:
    """Raise UserError if llama.cpp cannot be loaded here."""
    _library()


def free_cores() -> int:
    """Count the cores that this process may use and nobody else keeps busy now; at least one.

    llama.cpp's threads wait for each other at every step, so one more than there are free cores slows all of them.
    """
    import os

    import psutil

    ours = sorted(os.sched_getaffinity(0))
    shares = psutil.cpu_percent(_LOAD_SECONDS, percpu=True)
    busy = sum(shares[core] for core in ours if core < len(shares)) / 100
    return max(1, min(device.cores(), round(len(ours) - busy)))


def _parameters(gguf: Path, context: int, threads: int) -> Any:
    parameters = _library().CommonParams()
    parameters.model.path = str(gguf)
    parameters.n_ctx = context
    parameters.n_batch = parameters.n_ubatch = _BATCH
    for pool in (parameters.cpuparams, parameters.cpuparams_batch):
        pool.n_threads = threads
    parameters.verbosity = -1  # it would write pages to stderr
    parameters.warmup = False
    parameters.cache_ram_mib = 0  # it would keep up to 8 GB of earlier requests
    parameters.ui = False
    return parameters


def _library() -> Any:
    try:
        return importlib.import_module("xllamacpp")
    except ImportError:
        # PyTorch brings the OpenMP library that xllamacpp expects of the system.
        importlib.import_module("torch")
    try:
        return importlib.import_module("xllamacpp")
    except ImportError as error:
        raise UserError(
            f"GGUF models are run by the package xllamacpp, which cannot be loaded here ({error}): install it with make "
            "install, or give a model in another format"
        ) from error


def _close(parameters: Any) -> str:
    """Lock llama.cpp's own routes, and return the key."""
    key = secrets.token_hex(32)
    parameters.api_keys = [key]
    parameters.port = 0
    return key


def _load(gguf: Path, parameters: Any) -> Any:
    try:
        server = _library().Server(parameters)
    except RuntimeError as error:
        raise UserError(
            f"llama.cpp cannot load {gguf} ({' '.join(str(error).split())}): the file may be damaged or cut short; make it "
            "again"
        ) from error
    # Its destructor may wait for ever for a connection, with the interpreter's lock, so that no signal ends the process.
    keep_for_good(server)
    return server


def keep_for_good(held: object) -> None:
    """Never destroy what an engine holds: it goes with the process, which stages and servers have to themselves."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(held))


def _checked(answer: Part) -> Part:
    if "error" in answer:
        raise RuntimeError(f"llama.cpp refused a request: {answer['error'].get('message')}")
    return answer


def _post(address: str, body: Mapping[str, Any], key: str) -> Any:
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
    request = urllib.request.Request(address, json.dumps(body).encode(), headers)
    try:
        with _DIRECT.open(request) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise RuntimeError(f"llama.cpp refused a request to {address}: {error.read().decode()}") from error
