"""The short form: the dozen settings that a person meets first, over a preset that fills in all others."""

from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field, model_validator

from leanpipe.compression.formats import Format
from leanpipe.core.config import StageConfig, flatten
from leanpipe.core.errors import UserError
from leanpipe.planning.within_minutes import LENGTHS
from leanpipe.settings.flows import PipelineConfig
from leanpipe.settings.overrides import leaves, merged, nested, parse_override, validated, write_override
from leanpipe.settings.presets import PRESETS, Preset


def _empty(**bounds: Any) -> Any:
    """Declare a field that may stay empty."""
    return Field(None, json_schema_extra=_of_one_type, **bounds)


def _of_one_type(schema: dict[str, Any]) -> None:
    """Prefect shows a number or nothing as a choice between two types, and a number without a default as an empty field."""
    content, _null = schema.pop("anyOf")
    schema.pop("default")
    schema.update(content)


class QuickSettings(StageConfig):
    """What to make a small model of, and how small. What is left empty is as the preset says."""

    corpus: tuple[str, ...] = ()
    """Your text: folders, files or URLs. By default a sample of web pages and Wikipedia."""
    instructions: str | None = _empty(min_length=1)
    """What the model learns to answer: a .json or .jsonl file of instructions, or a folder of them. By default a sample of
    Alpaca."""
    teacher: str | None = _empty(min_length=1)
    """The large model to learn from: a folder, a .gguf file or a hub id. By default SmolLM2-135M-Instruct."""
    preset: Preset = Preset.CPU
    """The machine that this will run on: cpu for one without a GPU (ten minutes on two cores), hour for the same with more
    time; 8gb, 24gb or 80gb for a GPU with that memory (learns from 20, 100 or 500 million tokens); smoke to try every stage
    in a minute, with a tiny teacher and texts of its own."""
    student_size: float | None = _empty(gt=0, le=1)
    """How small: the student's share of the teacher's parameters, at most. By default 0.6."""
    minutes: float | None = _empty(ge=0, le=1_000_000)
    """How long the whole run may take on this machine: how many tokens are learnt from is then chosen by what it can do. By
    default the preset says how many."""
    distill_tokens: int | None = _empty(ge=1, le=10**12)
    """How long: tokens of the corpus that the student learns from. Text that is shorter is read again. By default as many as
    suit the machine."""
    finetune_tokens: int | None = _empty(ge=1, le=10**12)
    """How long it then learns to answer: tokens of the instructions. By default as many as suit the machine."""
    quantize_formats: tuple[Format, ...] = Field((), max_length=20)
    """The quantized models to make: q8_0 to q4_0 for llama.cpp, int8 and nf4 for bitsandbytes. 8 bits lose almost nothing, 4
    some. By default q8_0 and q4_0 on a processor, int8 and nf4 on a GPU."""
    languages: tuple[str, ...] = ()
    """Languages of the corpus that are kept, as ISO 639 codes such as en or de. By default all."""
    evaluation_sets: tuple[str, ...] = Field((), max_length=100)
    """Files of evaluation sets, of which no document may hold a passage: .jsonl, .json, .csv, .txt or .parquet."""
    model_name: str | None = _empty(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    """Name under which the best model is registered in MLflow. By default leanpipe."""
    other_settings: tuple[str, ...] = ()
    """Any other setting of the expert form, by its path, as `distill.temperature=3`."""

    @model_validator(mode="after")
    def _can_be_resolved(self) -> Self:
        try:
            self.resolve()
        except UserError as error:
            raise ValueError(str(error)) from error
        return self

    def chosen(self) -> dict[str, Any]:
        """Return what a person chose, by the paths of the settings in PipelineConfig."""
        named = {path: getattr(self, name) for name, path in PATHS.items()}
        found = {path: _plain(value) for path, value in named.items() if value not in (None, ())}
        for text in self.other_settings:
            found |= leaves(*parse_override(text))
        return found

    def resolve(self) -> PipelineConfig:
        """Lay what was chosen over what the preset says. Raises UserError for what does not go together."""
        chosen = self.chosen()
        if chosen.get("minutes") and (given := [path for path in LENGTHS if path in chosen]):
            raise UserError(
                f"minutes and {' and '.join(given)} are both given, but minutes chooses {' and '.join(LENGTHS)}: leave out one or the other"
            )
        values = PRESETS[self.preset]().model_dump(mode="json")
        for path, value in chosen.items():
            values = merged(values, nested(path, value))
        return validated(PipelineConfig, values)

    def filled_in(self) -> dict[str, Any]:
        """Return what the preset says otherwise than the defaults, but for what a person chose, by path."""
        found = differences(self.resolve(), PipelineConfig())
        return {path: value for path, value in found.items() if path not in self.chosen()}

    @classmethod
    def describing(cls, config: PipelineConfig, preset: Preset) -> Self:
        """Fill in the short form so that it resolves to `config`, with as little as possible over the preset."""
        values: dict[str, Any] = {"preset": preset}
        others = []
        fields = {path: name for name, path in PATHS.items()}
        for path, value in differences(config, PRESETS[preset]()).items():
            if path in fields and value not in (None, []):
                values[fields[path]] = value
            else:
                others.append(write_override(path, value))
        return validated(cls, values | {"other_settings": tuple(others)})


PATHS: Mapping[str, str] = {
    "corpus": "corpus",
    "instructions": "instructions",
    "teacher": "teacher",
    "student_size": "shrink.size",
    "minutes": "minutes",
    "distill_tokens": "distill.tokens",
    "finetune_tokens": "finetune.tokens",
    "quantize_formats": "quantize.formats",
    "languages": "clean.languages",
    "evaluation_sets": "evaluation_sets",
    "model_name": "registration.name",
}
"""The setting of the pipeline that each field of the short form fills in."""


def differences(config: StageConfig, base: StageConfig) -> dict[str, Any]:
    """Return the settings of `config`, by path, that are not as in `base`."""
    before = flatten(base)
    return {path: value for path, value in flatten(config).items() if value != before[path]}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
