"""What `leanpipe run` prints at the end can be read in a terminal of any width."""

from pathlib import Path
from typing import Any

import pytest

from flows.cli.terminal import print_result
from flows.results import RunResult
from leanpipe.core.home import Home
from tasks.tracking.registry import Registered

FIGURES: dict[str, Any] = {
    "bits_per_byte": 1.5,
    "bits_per_byte_error": 0.01,
    "perplexity": 10.0,
    "parameters": 81_000_000,
    "size_bytes": 162_000_000,
    "decode_tokens_per_second": 26.0,
    "prefill_tokens_per_second": 1_000.0,
    "first_token_seconds": 0.1,
    "peak_memory_bytes": 204_000_000,
}
FIRST = ("bits/byte", "± error", "size, MB", "decode tok/s", "peak memory, MB")
OTHERS = ("perplexity", "parameters, M", "prefill tok/s", "first token, s")


def printed(width: int, monkeypatch, capsys, registered: str = "leanpipe") -> str:
    monkeypatch.setenv("COLUMNS", str(width))
    result = RunResult(
        mlflow_run="none",
        stages={},
        models={"teacher": FIGURES, "student": FIGURES},
        registered=Registered(name=registered, version="1", champion=True, reason="It is the first."),
    )
    print_result(result, Home(Path("/home/of/it")))
    return capsys.readouterr().out


def test_a_wide_terminal_shows_every_figure(monkeypatch: pytest.MonkeyPatch, capsys):
    shown = printed(160, monkeypatch, capsys)
    assert all(name in shown for name in FIRST + OTHERS)
    assert "A wider terminal" not in shown and "…" not in shown


def test_a_narrow_one_shows_what_matters_most_whole(monkeypatch: pytest.MonkeyPatch, capsys):
    shown = printed(80, monkeypatch, capsys)
    assert all(name in shown for name in FIRST) and not any(name in shown for name in OTHERS)
    assert "A wider terminal shows more" in shown and "…" not in shown
    assert all(len(line) <= 80 for line in shown.splitlines() if line.startswith(("┏", "│", "└")))


def test_what_comes_next_names_the_model_that_was_registered(monkeypatch: pytest.MonkeyPatch, capsys):
    assert "  leanpipe serve mine  answer chat" in printed(120, monkeypatch, capsys, "mine")
