"""What a person typed is text: no markup of a terminal or a picture, no YAML 1.1, and no identifier as it is."""

import ast
import sys
from pathlib import Path

import pytest
from mlflow.utils.validation import _validate_metric_name
from PIL import Image, ImageChops

from flows.cli import main as command
from flows.cli.console import console
from flows.cli.read_settings import read_settings
from flows.cli.terminal import print_result
from flows.evaluate import identifiers
from flows.results import RunResult
from leanpipe.core.errors import UserError
from leanpipe.core.home import Home
from leanpipe.core.plots import picture
from leanpipe.core.store import Artifact
from leanpipe.settings.flows import PipelineConfig
from leanpipe.settings.overrides import parse_override, write_override
from leanpipe.settings.presets import Preset
from tasks.tracking.progress import TERMINAL, say
from tasks.tracking.registry import Registered
from tests.flows.servers import ROOT
from tests.flows.test_terminal import FIGURES

BRACKETS = ("[draft]", "[/draft]", "[bold red]", "[link=x]", "[[x]]", "\\[x]")


@pytest.mark.parametrize("typed", BRACKETS)
def test_brackets_in_a_path_are_in_the_message(typed: str, monkeypatch: pytest.MonkeyPatch, capsys):
    path = f"/nowhere/{typed}.yaml"
    monkeypatch.setattr(sys, "argv", ["leanpipe", "config", "--config", path])
    with pytest.raises(SystemExit):
        command.main()
    assert path in capsys.readouterr().err


def test_brackets_in_names_are_in_the_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setenv("COLUMNS", "400")
    artifact = Artifact(name="x", path=tmp_path, digest="d", summary={"loss": 1.0}, seconds=1.0)
    for typed in BRACKETS:
        registered = Registered(name=typed, version="1", champion=True, reason=f"better than {typed}")
        models = {f"model {typed}": FIGURES}
        stages = {f"stage {typed}": artifact}
        result = RunResult(mlflow_run="none", stages=stages, models=models, registered=registered)
        print_result(result, Home(tmp_path / typed))
        shown = capsys.readouterr().out
        for expected in (
            f"model {typed}",
            f"stage {typed}",
            f"than {typed}",
            f"{typed} version",
            f"/{typed}/",
        ):
            assert expected in shown


def test_brackets_are_in_the_lines_of_a_run(monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setenv(TERMINAL, "1")
    for typed in BRACKETS:
        say(f"chosen: {typed}", faint=typed)
        console().print(typed)
        shown = capsys.readouterr()
        assert shown.err.strip() == f"chosen: {typed}{typed}" and shown.out.strip() == typed


def test_nothing_is_printed_through_a_console_that_reads_markup():
    """Of every place, those that no test reaches too."""
    found = 0
    for file in (file for folder in ("flows", "tasks", "leanpipe") for file in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in {"Console", "TextColumn"}:
                off = [one.value for one in node.keywords if one.arg == "markup"]
                assert off and ast.unparse(off[0]) == "False", f"{file}:{node.lineno}"
                found += 1
    assert found


def test_a_name_in_a_picture_is_no_formula(tmp_path: Path):
    """One that is none would end the drawing."""
    for typed in ("$x^2$", "a $\\frac$ b"):
        with picture(tmp_path / "formula.png") as axes:
            axes.annotate(typed, (0.5, 0.5))
        with picture(tmp_path / "plain.png") as axes:
            axes.annotate(typed.replace("$", r"\\$").replace(r"\\$", "$"), (0.5, 0.5), parse_math=False)
        formula, plain = (
            Image.open(tmp_path / f"{name}.png").convert("RGB") for name in ("formula", "plain")
        )
        assert ImageChops.difference(formula, plain).getbbox() is None


def test_names_of_models_become_names_that_every_tool_takes():
    typed = [
        "/a/my@model",
        "/b/my@model",
        "lr=3,b=2",
        "{x}",
        "..",
        "a/",
        "é" * 300,
        "tiny",
        "Größe 1.5B",
        "a//b",
        "@",
    ]
    made = identifiers(typed)
    assert len(set(made)) == len(typed) and made[0] == "my-model" and made[7] == "tiny"
    for name in made:
        _validate_metric_name(f"serve/prefill_tokens_per_second/{name}")
        assert (
            f"evaluate-{name}".format() == f"evaluate-{name}" and len(name) < 130
        )  # Prefect formats a task run's name


@pytest.mark.parametrize("typed", ["no", "on", "y", "off", "1:30", "2026-01-01", "2026-13-45"])
def test_words_that_only_yaml_1_1_takes_for_something_else_stay_words(typed: str, tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_text(f"teacher: {typed}\ncorpus: [{typed}]\n")
    overrides = [f"teacher={typed}", f"corpus=[{typed}]"]
    for settings in (
        read_settings(PipelineConfig, Preset.SMOKE, file),
        read_settings(PipelineConfig, Preset.SMOKE, None, overrides),
    ):
        assert settings.teacher == typed and settings.corpus == (typed,)


def test_numbers_are_what_they_say():
    for typed, number in {"010": 10, "1_000": 1000, "1e4": 10_000, "1e-4": 1e-4, "0x10": 16}.items():
        assert parse_override(f"x={typed}") == ("x", number)
    languages = read_settings(PipelineConfig, Preset.SMOKE, None, ["clean.languages=[no]"]).clean.languages
    assert languages == ("no",)


@pytest.mark.parametrize(
    "value", ["no", "1e-4", "010", "0o7", "", "a: b", "#x", [1, "1"], {"a": [None]}, 1e-7]
)
def test_a_setting_is_written_as_it_is_read(value):
    assert parse_override(write_override("x", value)) == ("x", value)


@pytest.mark.parametrize(
    "typed", ["[a", "[a, b", "{a", "'a", "@a", "%a", "[" * 3000, "!!python/name:os.system"]
)
def test_what_is_no_yaml_is_one_short_sentence(typed: str, tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_text(f"teacher: {typed}\n")
    for given in ((None, [f"teacher={typed}"]), (file, [])):
        with pytest.raises(UserError, match=r"could not be read as YAML: [^\n]*$") as caught:
            read_settings(PipelineConfig, Preset.SMOKE, *given)
        assert "unicode string" not in str(caught.value)
