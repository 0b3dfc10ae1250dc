from pathlib import Path

import pytest

from flows.cli.read_settings import read_settings
from leanpipe.core.errors import UserError
from leanpipe.settings.flows import FinetuneSettings, PipelineConfig, PretrainSettings
from leanpipe.settings.presets import Preset, smoke


def test_set_wins_over_the_file_which_wins_over_the_preset(tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_text("distill: {temperature: 3, seed: 5}\nteacher: /some/model\n")
    chosen = read_settings(PipelineConfig, Preset.SMOKE, file, ["distill.temperature=4"])
    assert (chosen.distill.temperature, chosen.distill.seed, chosen.teacher) == (4, 5, "/some/model")
    assert chosen.distill.tokens == smoke().distill.tokens


def test_a_flow_takes_of_a_preset_what_it_has():
    chosen = read_settings(FinetuneSettings, Preset.SMOKE, None, ["model=tiny"])
    assert chosen.finetune == smoke().finetune and chosen.model == "tiny"


def test_a_preset_changes_only_what_it_sets_of_a_flow():
    assert read_settings(PretrainSettings, Preset.CPU) == PretrainSettings()
    chosen = read_settings(PretrainSettings, Preset.SMOKE)
    assert (chosen.tokenize.tokenizer, chosen.tokenize.block_length) == ("bpe", smoke().tokenize.block_length)
    assert chosen.pretrain.tokens == 32_768 and chosen.corpus == smoke().corpus


def test_lists_are_written_as_yaml():
    assert read_settings(PipelineConfig, Preset.SMOKE, None, ["quantize.formats=[nf4]"]).quantize.formats == (
        "nf4",
    )


def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path):
    file = tmp_path / "list.yaml"
    file.write_text("- 1\n")
    with pytest.raises(UserError, match=r"list\.yaml must hold settings by name"):
        read_settings(PipelineConfig, Preset.SMOKE, file)


@pytest.mark.parametrize(
    ("old", "new", "value"),
    [
        ("distill.predictions", "distill.teacher_logprobs", "online"),
        ("distill.initialisation", "shrink.initialization", "random"),
        ("distill.size", "shrink.size", "0.5"),
        ("distill.width", "shrink.width", "0.5"),
        ("distill.keep", "shrink.keep", "evenly_spaced"),
        ("distill.initialization", "shrink.initialization", "random"),
        ("distill.jensen_shannon_weight", "distill.beta", "0.5"),
    ],
)
def test_an_old_name_of_a_setting_is_refused_with_the_new_one(tmp_path: Path, old: str, new: str, value: str):
    with pytest.raises(UserError, match=f"^{old}: this setting is called {new} now$"):
        read_settings(PipelineConfig, Preset.SMOKE, None, [f"{old}={value}"])
    file = tmp_path / "old.yaml"
    section, _, name = old.partition(".")
    file.write_text(f"{section}: {{{name}: {value}}}\n")
    with pytest.raises(UserError, match=f"this setting is called {new} now"):
        read_settings(PipelineConfig, Preset.SMOKE, file)
    assert read_settings(PipelineConfig, Preset.SMOKE, None, [f"{new}={value}"])
