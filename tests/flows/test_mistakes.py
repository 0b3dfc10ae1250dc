"""What a person does wrong: one sentence that names it, before any long work, and status 1."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.flows.servers import ROOT, environment, said_of_each

pytestmark = pytest.mark.timeout(600)


MISTAKES: list[tuple[list[str], str]] = [
    (
        ["--set", "distill.temprature=3"],
        "distill.temprature: there is no such setting; did you mean temperature?",
    ),
    (
        ["--set", "distill.temperature=-1"],
        "distill.temperature: input should be greater than 0 (you gave -1)",
    ),
    (["--set", "distill"], "--set distill: write it as distill.temperature=3"),
    (["--preset", "huge"], "there is no preset huge: choose one of cpu, hour, 8gb, 24gb, 80gb, smoke"),
    (["--student-size", "2"], "shrink.size: input should be less than or equal to 1 (you gave 2.0)"),
    (["--set", "distill.tokens=["], "--set distill.tokens=[: '[' could not be read as YAML"),
    (
        ["finetune", "--teacher", "tiny"],
        "teacher: there is no such setting; there are model, instructions",
    ),
    (["nosuchflow"], "there is no flow nosuchflow"),
    (["--config", "/nowhere.yaml"], "--config: /nowhere.yaml could not be read as YAML"),
    (["--set", "tokenize.tokenizer=bpe"], "set distill.kl_weight=0, or tokenize.tokenizer=teacher"),
]


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The sentence with which each of them is refused."""
    return said_of_each(tmp_path_factory.mktemp("home"), [arguments for arguments, _ in MISTAKES])


@pytest.mark.parametrize("number", range(len(MISTAKES)), ids=lambda number: " ".join(MISTAKES[number][0]))
def test_wrong_settings(said: list[str], number: int):
    assert MISTAKES[number][1] in said[number]


@pytest.mark.parametrize("address", ["http://127.0.0.1:9/api", "nonsense"])
def test_a_prefect_that_is_not_there(tmp_path: Path, address: str):
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli.main", "run", "--preset", "smoke"],
        cwd=ROOT,
        env=environment(tmp_path) | {"PREFECT_API_URL": address},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    said = f"leanpipe: PREFECT_API_URL is {address}, where no Prefect server answers"
    assert said in done.stderr and len(done.stderr.splitlines()) == 1
