"""The served form asked over HTTP, through the server that `leanpipe serve` starts."""

import json
import socket
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from leanpipe.core.errors import UserError
from leanpipe.engines.open_engine import GgufEngine
from leanpipe.evaluation.parity.bounds import Fault
from leanpipe.evaluation.parity.probes import Probe
from leanpipe.evaluation.parity.text_faults import TextSide
from leanpipe.serving.engine_choice import Way
from leanpipe.serving.serve import MODEL_NAME, running_server

Serve = Callable[[Path], AbstractContextManager[str]]
"""Serves a model folder, and gives the server's URL."""
_PATIENCE = 600.0
"""Seconds for one answer."""
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class NoAnswer(UserError):
    """What is asked through the server gets no answer."""


class Said(NamedTuple):
    """What the server answered to a probe."""

    text: str
    prompt_tokens: int
    tokens: int


@contextmanager
def open_server(folder: Path, engine: GgufEngine = "llama.cpp") -> Iterator[str]:
    """Serve the folder as `leanpipe serve` does, at a free port, and give its URL; `engine` runs it if it is GGUF.

    Raises NoAnswer with the server's last words.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryFile() as log:
        try:
            with running_server(folder, port=port, log=log, way=Way(gguf=engine)) as (url, _):
                yield url
        except NoAnswer:
            raise
        except UserError as error:
            log.seek(0)
            words = [line for line in log.read().decode(errors="replace").splitlines() if line.strip()]
            raise NoAnswer(f"{error}{': ' + words[-1].strip() if words else ''}") from error


def ask(url: str, probe: Probe, most: int) -> Said:
    """Ask for the greedy answer to a probe. Raises NoAnswer for any answer that is none."""
    asked: dict[str, Any] = {"model": MODEL_NAME, "max_tokens": most, "temperature": 0}
    path, what = (
        ("chat/completions", {"messages": probe.turns})
        if probe.is_chat
        else ("completions", {"prompt": probe.text})
    )
    request = urllib.request.Request(
        f"{url}/v1/{path}",
        data=json.dumps(asked | what).encode(),
        headers={"Content-Type": "application/json"},
    )
    try:
        with _DIRECT.open(request, timeout=_PATIENCE) as answer:
            found = json.load(answer)
        (choice,) = found["choices"]
        text = choice["message"]["content"] if "message" in choice else choice["text"]
        return Said(text or "", found["usage"]["prompt_tokens"], found["usage"]["completion_tokens"])
    except urllib.error.HTTPError as error:
        raise NoAnswer(
            f"the server refuses {probe.called}: {error.read().decode(errors='replace')[:300]}"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NoAnswer(f"the server does not answer {probe.called}: {error}") from error


def find_count_faults(trained: TextSide, probe: Probe, said: Said) -> Iterator[Fault]:
    """Yield the fault if the server read another number of tokens than the trained model."""
    more = said.prompt_tokens - len(probe.tokens)
    if not more:
        return
    told = f"the server reads {probe.called} as {said.prompt_tokens} tokens, and {len(probe.tokens)} were trained"
    bos = trained.tokenizer.bos_token_id
    has_bos = bos is not None and probe.tokens[:1] == [bos]
    if has_bos and more == 1:
        yield Fault(
            "doubled_bos", f"{told}: it puts a second BOS before what has one; let one of them put it"
        )
    elif has_bos and more == -1:
        yield Fault(
            "bos_not_added", f"{told}: it leaves out the BOS; let the tokenizer or the template put it"
        )
    elif probe.is_chat:
        yield Fault(
            "other_template", f"{told}: it renders another chat template, or reads special tokens as text"
        )
    else:
        yield Fault("tokenizer_differs", f"{told}: it has another tokenizer than the model")
