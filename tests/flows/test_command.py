"""The `leanpipe` command before any run: its options, its completion, and the settings that it prints."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from flows.cli.config import settings_yaml
from flows.cli.read_settings import read_settings
from leanpipe.settings.flows import SETTINGS
from leanpipe.settings.presets import Preset
from leanpipe.settings.quick import QuickSettings
from tests.flows.servers import environment, leanpipe

SCRIPT = Path(sys.executable).parent / "leanpipe"


def test_run_has_an_option_for_every_field_of_the_short_form_in_its_order(tmp_path: Path):
    shown = leanpipe(tmp_path, "run", "--help").stdout
    names = [name.replace("_", "-") for name in QuickSettings.model_fields]
    options = [f"--{name} ".replace("--other-settings", "--set") for name in names]
    places = [shown.index(option) for option in options]
    assert places == sorted(places)
    text = " ".join(shown.replace("│", " ").split())
    for name, field in QuickSettings.model_fields.items():
        assert " ".join((field.description or "").split()) in text, name


@pytest.mark.parametrize("flow", SETTINGS)
@pytest.mark.parametrize("preset", Preset)
def test_settings_that_are_printed_are_read_back(tmp_path: Path, flow: str, preset: Preset):
    settings = read_settings(SETTINGS[flow], preset)
    file = tmp_path / "mine.yaml"
    file.write_text(settings_yaml(settings))
    assert read_settings(SETTINGS[flow], Preset.CPU, file) == settings
    assert yaml.safe_load(file.read_text()) == settings.model_dump(mode="json")


def test_every_setting_is_printed_under_its_help():
    lines = settings_yaml(read_settings(SETTINGS["data-to-deployment"], Preset.CPU)).splitlines()
    assert all(len(line) <= 110 for line in lines if line.strip().startswith("#"))
    for line, before in zip(lines[1:], lines, strict=False):
        if line.strip() and not line.strip().startswith("#"):
            assert before.strip().startswith("#"), line
    text = " ".join(line.strip().removeprefix("# ") for line in lines)
    assert "Softens both distributions before they are compared; 1 leaves them as they are." in text
    assert "[above 0, at most 100] temperature: 1.0" in text
    assert "[forward_kl, reverse_kl, jensen_shannon] divergence: forward_kl" in text


def test_config_prints_a_file_that_config_reads(tmp_path: Path):
    done = leanpipe(tmp_path, "config", "--preset", "8gb", "--student-size", "0.3", "--set", "distill.seed=7")
    assert done.returncode == 0, done.stderr
    file = tmp_path / "mine.yaml"
    file.write_text(done.stdout)
    expected = QuickSettings(preset="8gb", student_size=0.3, other_settings=("distill.seed=7",)).resolve()
    assert read_settings(SETTINGS["data-to-deployment"], Preset.CPU, file) == expected
    shown = leanpipe(tmp_path, "config", "--preset", "8gb", "--diff", str(file)).stdout
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.splitlines() if "│" in line]
    assert rows == [["shrink.size", "0.3", "0.6"], ["distill.seed", "7", "0"]]


def test_a_file_that_changes_nothing_is_said_to(tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_text("distill: {temperature: 1}\n")
    shown = leanpipe(tmp_path, "config", "--diff", str(file)).stdout
    assert shown.strip() == "mine.yaml changes nothing of preset cpu."


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("leanpipe co", ["config", "compress", "compare"]),
        ("leanpipe run --preset ", ["cpu", "hour", "8gb", "24gb", "80gb", "smoke"]),
        ("leanpipe plan --preset 8", ["8gb", "80gb"]),
        ("leanpipe run ", list(SETTINGS)),
        ("leanpipe config pre", ["prepare-corpus", "pretrain"]),
        ("leanpipe run --student", ["--student-size"]),
        (
            "leanpipe run --quantize-formats q",
            ["q8_0", "q6_k", "q5_1", "q5_k", "q5_0", "q4_1", "q4_k", "q4_0"],
        ),
        ("leanpipe run --teacher t", ["tiny", "text.gguf"]),
        ("leanpipe run --corpus folder/d", ["folder/deep/"]),
    ],
)
def test_the_shell_completes(tmp_path: Path, typed: str, offered: list[str]):
    """What bash runs at a Tab."""
    (tmp_path / "folder" / "deep").mkdir(parents=True)
    (tmp_path / "text.gguf").touch()
    words = typed.split(" ")
    asked = {
        "_LEANPIPE_COMPLETE": "complete_bash",
        "COMP_WORDS": typed,
        "COMP_CWORD": str(len(words) - 1),
    }
    done = subprocess.run(
        [SCRIPT], cwd=tmp_path, env=environment(tmp_path) | asked, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split() == offered, done.stderr


def test_completion_is_installed_for_a_shell(tmp_path: Path):
    asked = {"HOME": str(tmp_path), "SHELL": "/bin/bash", "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [SCRIPT, "--install-completion", "bash"],
        env=environment(tmp_path) | asked,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "leanpipe" in (tmp_path / ".bashrc").read_text()
