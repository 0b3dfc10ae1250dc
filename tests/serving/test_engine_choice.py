"""How an engine is run is measured once for a machine, kept, told, and may be overridden."""

import json
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from leanpipe.core import device
from leanpipe.core.errors import UserError
from leanpipe.core.home import Home
from leanpipe.models.load import load_model, load_tokenizer
from leanpipe.serving import engine_choice
from leanpipe.serving.engine_choice import (
    AUTO,
    Choice,
    Way,
    best,
    candidates,
    choose,
    read_way,
    tokens_per_second,
)
from leanpipe.serving.serve import running_server
from tests.support.tiny_models import tiny_model

WAYS = (Way(2, 1_000), Way(2, 100), Way(2, 0), Way(1, 1_000))


@pytest.fixture(scope="module")
def gguf(tmp_path_factory) -> Path:
    import torch

    from leanpipe.compression.quantize_gguf import gguf_types, write_folder

    source = tiny_model(tmp_path_factory.mktemp("source"))
    target = tmp_path_factory.mktemp("gguf") / "q4_0"
    write_folder(
        load_model(source, torch.float32), target, gguf_types("q4_0", "auto", []), load_tokenizer(source)
    )
    return target


@pytest.mark.parametrize(
    ("speeds", "chosen"),
    [
        ((150, 145, 80, 110), Way(2, 100)),
        ((150, 120, 80, 110), Way(2, 1_000)),
        ((150, 148, 149, 110), Way(2, 0)),
        ((40, 41, 42, 110), Way(1, 1_000)),
    ],
    ids=["a little less spinning", "spinning pays", "no spinning", "one thread"],
)
def test_of_ways_that_are_about_as_fast_the_one_that_spins_least_is_taken(speeds, chosen):
    assert best(WAYS, dict(zip(map(str, WAYS), speeds, strict=True))) == chosen


def test_what_was_measured_is_kept_until_the_machine_or_the_model_changes(gguf, tmp_path, monkeypatch):
    monkeypatch.setattr(engine_choice, "_free_cores", lambda folder: 2)  # whatever else runs now
    monkeypatch.setattr(engine_choice, "gguf_engines", lambda folder: ("llama.cpp",))
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    asked: list[Way] = []

    def measure(folder: Path, way: Way) -> float:
        asked.append(way)
        return {1_000: 150.0, 100: 149.0, 0: 0.0}[way.spins or 0] / (3 - (way.threads or 1))

    home = Home(tmp_path)
    first = choose(gguf, AUTO, home, measure)
    assert set(asked) == set(WAYS) and first.way == Way(2, 100) and "threads=2,spins=0" not in first.measured
    assert choose(gguf, AUTO, home, measure) == first and len(asked) == 4
    assert str(first).startswith(
        "threads=2,spins=100, 149 tokens/s here (instead of threads=2,spins=1000 150, "
    )
    monkeypatch.setattr(device, "model", lambda: "another processor")
    choose(gguf, AUTO, home, measure)
    assert len(asked) == 8 and len(json.loads(home.engines.read_text())) == 2
    home.engines.write_text("{")
    with pytest.raises(UserError, match=r"engines\.json cannot be read .*: delete it"):
        choose(gguf, AUTO, home, measure)


def test_with_one_free_core_and_one_engine_there_is_nothing_to_measure(gguf, tmp_path, monkeypatch):
    monkeypatch.setattr(engine_choice, "gguf_engines", lambda folder: ("llama.cpp",))
    monkeypatch.setattr(engine_choice, "_free_cores", lambda folder: 1)
    assert choose(gguf, AUTO, Home(tmp_path)) == Choice(Way(1)) and not Home(tmp_path).engines.exists()


def test_how_threads_wait_is_left_to_who_says_so_already():
    assert Way(2, 100).environment({})["GOMP_SPINCOUNT"] == "100"
    for own in ({"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "PASSIVE"}):
        assert Way(2, 100).environment(own).items() >= own.items()
        assert Way(2, 100).environment(own).get("GOMP_SPINCOUNT") == own.get("GOMP_SPINCOUNT")


@pytest.mark.parametrize(
    ("asked", "named"),
    [("fast", "fast"), ("threads=0", "threads=0"), ("arithmetic=bf16", "arithmetic=bf16"), ("", "nothing")],
)
def test_a_setting_that_the_engine_does_not_have_is_refused(gguf, asked, named):
    with pytest.raises(
        UserError,
        match=rf"--engine {asked}: {named} is no setting .* llama.cpp or openvino, threads and spins",
    ):
        read_way(gguf, asked)


def test_what_a_person_writes_is_read(gguf, tmp_path):
    assert read_way(gguf, "threads=1, spins=100") == Way(1, 100)
    assert read_way(tiny_model(tmp_path / "whole"), "arithmetic=fp32") == Way(arithmetic="fp32")
    assert str(candidates(tmp_path / "whole", 2)[0]) == f"arithmetic={device.arithmetic_of(AUTO)}"


def test_a_way_is_measured_by_the_engine_itself_and_one_that_does_not_run_is_none(gguf, tmp_path):
    assert tokens_per_second(gguf, Way(1, 0)) > 0
    assert tokens_per_second(tmp_path, Way(1)) == 0.0


def test_a_server_runs_as_it_is_told(gguf, free_port):
    with running_server(gguf, port=free_port, way=Way(1, 0)) as (url, process):
        with urllib.request.urlopen(f"{url}/health") as answer:
            assert json.load(answer)["threads"] == 1
        environment = Path(f"/proc/{process.pid}/environ").read_text().split("\0")
        assert "GOMP_SPINCOUNT=0" in environment


def test_the_command_refuses_before_it_serves(gguf):
    command = [sys.executable, "-m", "flows.cli.main", "serve", str(gguf), "--engine", "threads=99999"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "is no setting of this model's engine" in done.stderr
