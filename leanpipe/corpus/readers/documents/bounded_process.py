"""A process of its own that turns documents into text, within bounds of memory and time.

The libraries are many thousand lines that read what strangers wrote, some of it made to be harmful; PDFium is C++ besides.
Whatever happens to them there (a crash, a loop, a file that unfolds to gigabytes) costs one file, not the run. One such
process serves the process that reads, document after document, and ends with it.
"""

import contextlib
import json
import os
import resource
import signal
import struct
import subprocess
import sys
import threading
from typing import IO, Any, NamedTuple

from leanpipe.corpus.readers.config import ReadConfig
from leanpipe.corpus.readers.documents.converters import CONVERTERS, Limits
from leanpipe.corpus.readers.unpack import BadFile
from leanpipe.processes.parent_death import command_that_dies_with_us

NAMES = {
    "docx": "DOCX",
    "epub": "EPUB",
    "ipynb": "notebook",
    "odt": "ODT",
    "pdf": "PDF",
    "rst": "RST",
    "rtf": "RTF",
}
"""What a person calls each kind."""
PROCESSOR_SECONDS = 300
"""Time that one document may take of a processor. A thousand pages of PDF take two seconds, a megabyte of RST five."""
_MEMORY = 512 << 20  # bytes for the interpreter and the libraries, and for …
_TIMES = 16  # … a document: the trees of XML that libraries build are many times as large as the file

_SIZE = struct.Struct(">Q")
TOO_SLOW = "takes too long to read"
TOO_LARGE = "needs too much memory to read"


class _Broken(Exception):
    """Raised when the process ended instead of answering."""


class _Answer(NamedTuple):
    text: str = ""
    reason: str = ""
    detail: str = ""


def convert(kind: str, data: bytes, config: ReadConfig) -> str:
    """Find the text of a document. Raises BadFile where there is none, and where reading it goes beyond the bounds."""
    limits = Limits(config.max_document_bytes, config.max_expansion)
    with _lock:
        answer = _ask(kind, data, limits)
    if answer.reason:
        raise BadFile(answer.reason, answer.detail)
    return answer.text


def memory_limit(limits: Limits) -> int:
    """Bytes of address space that the process may have."""
    return _MEMORY + _TIMES * limits.document_bytes


def _ask(kind: str, data: bytes, limits: Limits) -> _Answer:
    """Ask the process. One that broke after other documents may have broken of them, so a fresh one is asked as well."""
    global _process
    if _process is None or not _process.serves(limits):
        _close()
        _process = _Process(limits)
    fresh = not _process.answered
    try:
        answer = _process.ask(kind, data)
    except _Broken:
        code = _process.close()
        _process = None
        return _why(kind, code, limits) if fresh else _ask(kind, data, limits)
    if answer.reason == TOO_LARGE:
        _close()
        detail = f"more than {memory_limit(limits) >> 20} MiB"
        return answer._replace(detail=detail) if fresh else _ask(kind, data, limits)
    return answer


def _why(kind: str, code: int, limits: Limits) -> _Answer:
    if code == -signal.SIGPROF:
        return _Answer(reason=TOO_SLOW, detail=f"more than {PROCESSOR_SECONDS} seconds of a processor's time")
    if code >= 0:  # no document did that
        raise RuntimeError(f"the process that reads documents ended with status {code}")
    ended = signal.Signals(-code).name
    detail = f"its reader ended with {ended}, or it needs more than {memory_limit(limits) >> 20} MiB"
    return _Answer(reason=f"damaged {NAMES[kind]}", detail=detail)


class _Process:
    """The process that converts, seen from the one that reads."""

    def __init__(self, limits: Limits):
        # The same modules as here, wherever this process found them.
        bounds = (PROCESSOR_SECONDS, memory_limit(limits), *limits)
        code = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import serve; serve(*{bounds!r})"
        command = command_that_dies_with_us([sys.executable, "-c", code])
        self._popen = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._limits, self._owner = limits, os.getpid()
        self.answered = 0

    def serves(self, limits: Limits) -> bool:
        """Whether it is this process's own, and was started with these limits."""
        return self._owner == os.getpid() and self._limits == limits

    def ask(self, kind: str, data: bytes) -> _Answer:
        """Send a document, and wait for its text."""
        assert self._popen.stdin and self._popen.stdout
        try:
            _send(self._popen.stdin, kind.encode())
            _send(self._popen.stdin, data)
            answer = _receive(self._popen.stdout)
        except (ConnectionError, EOFError) as error:
            raise _Broken from error
        self.answered += 1
        return _Answer(*json.loads(answer))

    def close(self) -> int:
        """Let it end; returns its status."""
        for stream in (self._popen.stdin, self._popen.stdout):
            with contextlib.suppress(OSError):
                stream.close()  # type: ignore[union-attr]
        if self._owner != os.getpid():  # a fork has copies of the pipes, and no say over the process
            return 0
        return self._popen.wait()


_process: _Process | None = None
_lock = threading.Lock()


def _close() -> None:
    global _process
    if _process is not None:
        _process.close()
        _process = None


def _new_lock() -> None:
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_new_lock)  # another thread may have held it


def serve(seconds: float, memory: int, *limits: int) -> None:
    """Answer documents from standard input until it ends: the main loop of the process."""
    answers = os.fdopen(os.dup(1), "wb")
    for descriptor in (1, 2):  # libraries may print, and warn of what a file has wrong
        os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
    for interruption in (
        signal.SIGINT,
        signal.SIGTERM,
        signal.SIGHUP,
    ):  # sent to a whole group: the parent decides
        signal.signal(interruption, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            kind, data = _receive(sys.stdin.buffer).decode(), _receive(sys.stdin.buffer)
            # The signal ends the process, also in the midst of C++. Time of the processor: others' work costs nobody a file.
            signal.setitimer(signal.ITIMER_PROF, seconds)
            try:
                answer = json.dumps(_answer(kind, data, Limits(*limits))).encode()
            except MemoryError:
                answer = json.dumps(_Answer(reason=TOO_LARGE)).encode()
            signal.setitimer(signal.ITIMER_PROF, 0)
            _send(answers, answer)


def _answer(kind: str, data: bytes, limits: Limits) -> _Answer:
    try:
        text = CONVERTERS[kind](data, limits)
        # Halves of characters that a library left apart are put together.
        return _Answer(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
    except BadFile as error:
        return _Answer(reason=error.reason, detail=str(error.detail))
    except MemoryError:
        raise
    except RecursionError:
        return _Answer(reason=f"damaged {NAMES[kind]}", detail="its elements are nested too deep")
    except Exception as error:  # noqa: BLE001 - whatever a library raises of a damaged file, the file is skipped for it
        detail = f"{type(error).__name__}: {error}".partition("\n")[0]
        return _Answer(reason=f"damaged {NAMES[kind]}", detail=detail[:300])


def _send(stream: IO[bytes], data: bytes) -> None:
    stream.write(_SIZE.pack(len(data)))
    stream.write(data)
    stream.flush()


def _receive(stream: Any) -> bytes:
    (size,) = _SIZE.unpack(_exactly(stream, _SIZE.size))
    return _exactly(stream, size)


def _exactly(stream: Any, size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise EOFError
    return data
