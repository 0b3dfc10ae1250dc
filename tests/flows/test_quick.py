"""The short form: each field does what it says, and what was chosen is never mixed up with what the preset filled in."""

from typing import Any

import pytest
from annotated_types import BaseMetadata
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from leanpipe.core.config import StageConfig, flatten
from leanpipe.core.errors import UserError
from leanpipe.settings.flows import PipelineConfig
from leanpipe.settings.overrides import merged, nested, parse_override, write_override
from leanpipe.settings.presets import PRESETS, Preset, find_preset
from leanpipe.settings.quick import PATHS, QuickSettings, differences

ANOTHER: dict[str, tuple[Any, dict[str, Any]]] = {
    "corpus": (("/my/text",), {"corpus": ["/my/text"]}),
    "instructions": ("/my/questions.jsonl", {"instructions": "/my/questions.jsonl"}),
    "teacher": ("/my/model", {"teacher": "/my/model"}),
    "student_size": (0.3, {"shrink.size": 0.3}),
    "minutes": (30, {"minutes": 30.0}),
    "distill_tokens": (1_000, {"distill.tokens": 1_000}),
    "finetune_tokens": (2_000, {"finetune.tokens": 2_000}),
    "quantize_formats": (("nf4",), {"quantize.formats": ["nf4"]}),
    "languages": (("de", "en"), {"clean.languages": ["de", "en"]}),
    "evaluation_sets": (("/my/benchmark.jsonl",), {"evaluation_sets": ["/my/benchmark.jsonl"]}),
    "model_name": ("mine", {"registration.name": "mine"}),
    "other_settings": (
        ("distill.temperature=3", "clean.redact={email: false}"),
        {"clean.redact.email": False, "distill.temperature": 3.0},
    ),
}
"""By field another value, and exactly what it changes of the whole pipeline's settings."""


def test_every_field_of_the_short_form_is_tried():
    assert set(ANOTHER) | {"preset"} == set(QuickSettings.model_fields)
    assert set(PATHS) == set(ANOTHER) - {"other_settings"}


@pytest.mark.parametrize("preset", Preset)
@pytest.mark.parametrize("name", ANOTHER)
def test_a_field_changes_what_it_says_and_nothing_else(name: str, preset: Preset):
    value, expected = ANOTHER[name]
    chosen = QuickSettings(preset=preset, **{name: value})
    assert differences(chosen.resolve(), PRESETS[preset]()) == expected
    assert set(chosen.chosen()) == set(expected)
    assert not set(chosen.filled_in()) & set(expected)


@pytest.mark.parametrize("preset", Preset)
def test_the_preset_fills_in_the_rest(preset: Preset):
    empty = QuickSettings(preset=preset)
    assert empty.resolve() == PRESETS[preset]() and empty.chosen() == {}
    assert empty.filled_in() == differences(PRESETS[preset](), PipelineConfig())


def test_every_preset_is_another():
    presets = [made() for made in PRESETS.values()]
    assert list(PRESETS) == list(Preset)
    assert all(one != other for one in presets for other in presets if one is not other)
    assert PRESETS[Preset.CPU]() == PipelineConfig()


def test_default_is_another_name_of_cpu():
    assert find_preset("default") is Preset.CPU and QuickSettings(preset="default").preset is Preset.CPU
    with pytest.raises(
        UserError, match="there is no preset huge: choose one of cpu, hour, 8gb, 24gb, 80gb, smoke"
    ):
        find_preset("huge")


@pytest.mark.parametrize("name", PATHS)
def test_a_field_has_the_bounds_of_the_setting_that_it_fills_in(name: str):
    if isinstance(ANOTHER[name][0], tuple):
        return  # of which none is chosen here, and at least one there
    assert bounds(QuickSettings.model_fields[name]) == bounds(field_at(PATHS[name]))


def field_at(path: str) -> FieldInfo:
    kind: type[StageConfig] = PipelineConfig
    *sections, name = path.split(".")
    for section in sections:
        kind = type(getattr(kind(), section))
    return kind.model_fields[name]


def bounds(field: FieldInfo) -> set[str]:
    return {repr(one) for one in field.metadata if isinstance(one, BaseMetadata)}


@pytest.mark.parametrize("preset", Preset)
def test_what_describes_settings_resolves_to_them(preset: Preset):
    config = PRESETS[Preset.SMOKE]().model_copy(update={"instructions": "a: b, [c]"})
    described = QuickSettings.describing(config, preset)
    assert described.resolve() == config
    if preset is Preset.SMOKE:
        assert described == QuickSettings(preset=preset, instructions="a: b, [c]")


def test_an_empty_list_of_a_setting_is_described_too():
    config = PRESETS[Preset.CPU]().model_copy(update={"evaluation_sets": ("a",)})
    assert QuickSettings.describing(config, Preset.CPU).evaluation_sets == ("a",)
    here = QuickSettings(other_settings=("clean.languages=[en]", "registration.max_size_mb=80"))
    assert QuickSettings.describing(here.resolve(), Preset.CPU) == QuickSettings(
        languages=("en",), other_settings=("registration.max_size_mb=80.0",)
    )


@pytest.mark.parametrize(
    "value", [1e-05, 10**12, "on", "3", "", "a: [b]", "ü", None, True, [], ["1", "b, c"], "x" * 500]
)
def test_a_setting_that_is_written_is_read_back(value: Any):
    written = write_override("shrink.size", value)
    assert "\n" not in written and parse_override(written) == ("shrink.size", value)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"other_settings": ("distill.temprature=3",)}, "there is no such setting; did you mean temperature"),
        ({"other_settings": ("distill",)}, "write it as distill.temperature=3"),
        ({"other_settings": ("tokenize.tokenizer=bpe",)}, "set distill.kl_weight=0"),
        ({"languages": ("xx",)}, "unknown language codes: xx"),
        ({"student_size": 0}, "greater than 0"),
        (
            {"minutes": 9, "distill_tokens": 9},
            "minutes and distill.tokens are both given, but minutes chooses",
        ),
        (
            {"minutes": 9, "other_settings": ("finetune.tokens=9",)},
            "minutes and finetune.tokens are both given",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_before_a_run_exists(wrong: dict[str, Any], sentence: str):
    with pytest.raises(ValidationError, match=sentence):
        QuickSettings(**wrong)


@pytest.mark.parametrize("path", ["distill.tokens", "finetune.tokens"])
def test_minutes_and_a_length_of_another_file_are_refused_in_a_sentence(path: str):
    """The command describes what was typed, or stands in a file, by the short form before it starts a run."""
    over = merged(PRESETS[Preset.CPU]().model_dump(mode="json"), nested(path, 9) | {"minutes": 9})
    with pytest.raises(UserError, match=f"minutes and {path} are both given"):
        QuickSettings.describing(PipelineConfig.model_validate(over), Preset.CPU)


def test_all_settings_are_known_by_their_paths():
    assert set(PATHS.values()) <= set(flatten(PipelineConfig()))
