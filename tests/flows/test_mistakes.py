"""What a person does wrong: one sentence that names it, before any long work, and status 1."""

from pathlib import Path

import pytest

from tests.flows.servers import Servers, leanpipe

pytestmark = pytest.mark.timeout(600)


def sentence(home: Path, *arguments: str) -> str:
    done = leanpipe(home, "run", "--preset", "smoke", *arguments)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return " ".join(line for line in done.stderr.splitlines() if line.startswith("leanpipe: "))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["--set", "distill.temprature=3"],
            "distill.temprature: there is no such setting; did you mean temperature?",
        ),
        (
            ["--set", "distill.temperature=-1"],
            "distill.temperature: input should be greater than 0 (you gave -1)",
        ),
        (["--set", "distill"], "--set distill: write it as distill.temperature=3"),
        (["--preset", "huge"], "there is no preset huge: choose one of default, smoke"),
        (["nosuchflow"], "there is no flow nosuchflow"),
        (["--config", "/nowhere.yaml"], "--config: /nowhere.yaml could not be read as YAML"),
        (["--set", "tokenize.tokenizer=bpe"], "set distill.kl_weight=0, or tokenize.tokenizer=teacher"),
    ],
)
def test_wrong_settings(tmp_path: Path, arguments: list[str], expected: str):
    assert expected in sentence(tmp_path, *arguments)


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("empty")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["--corpus", "/nowhere"],
            "corpus: /nowhere does not exist; give a folder, a file, or one of sample",
        ),
        (["--corpus", "EMPTY"], "EMPTY"),
        (["--teacher", "no-such/model"], "model no-such/model: it is no folder, no .gguf file, none of"),
        (["--instructions", "/nowhere.json"], "instructions: /nowhere.json does not exist"),
        (["--set", "finetune.target_modules=[wrong]"], "wrong"),
        (["--set", "clean.quality.min_words=99999"], "clean.quality.min_words"),
        (["--set", "distill.precision=fp16"], "fp16 needs a GPU"),
    ],
)
def test_wrong_input(servers: Servers, empty: Path, arguments: list[str], expected: str):
    arguments = [argument.replace("EMPTY", str(empty)) for argument in arguments]
    said = sentence(servers.home, *arguments)
    assert expected.replace("EMPTY", str(empty)) in said


def test_a_second_up_says_that_the_first_one_runs(servers: Servers):
    done = leanpipe(servers.home, "up")
    assert done.returncode == 1
    assert "leanpipe up runs already for" in done.stderr
