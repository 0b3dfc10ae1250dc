"""Whole settings by name, for machines of several sizes: each preset is a function that returns a PipelineConfig."""

from enum import StrEnum
from typing import Any

from leanpipe.compression.quantize import QuantizeConfig
from leanpipe.core.config import StageConfig
from leanpipe.core.errors import UserError
from leanpipe.corpus.clean import CleanConfig
from leanpipe.corpus.split import SplitConfig
from leanpipe.evaluation.evaluate import EvaluateConfig
from leanpipe.evaluation.parity.parity import ParityConfig
from leanpipe.quantization_aware.quantization_aware import QuantizationAwareSettings
from leanpipe.settings.flows import PipelineConfig
from leanpipe.shrink.shrink import ShrinkConfig
from leanpipe.tokens.tokenize import TokenizeConfig
from leanpipe.training.distill.distill import DistillConfig
from leanpipe.training.distill.teacher_cache import CacheSettings
from leanpipe.training.finetune.finetune import FinetuneConfig
from leanpipe.training.pretrain.pretrain import PretrainConfig


class Preset(StrEnum):
    """The machine that a run is made for."""

    CPU = "cpu"
    HOUR = "hour"
    CARD_8GB = "8gb"
    CARD_24GB = "24gb"
    CARD_80GB = "80gb"
    SMOKE = "smoke"

    @classmethod
    def _missing_(cls, value: object) -> "Preset | None":
        return cls.CPU if value == "default" else None


_TOGETHER = (4, 8)
"""How many requests come at once in what measures speed, where there is time for it."""
_FOR_CARDS = QuantizeConfig(formats=("int8", "nf4"))
"""Named here because the plan of a run on a card may be made on another machine."""


def cpu() -> PipelineConfig:
    """Make 81M parameters of SmolLM2-135M on a sample of the web and Wikipedia: under ten minutes on two cores."""
    return PipelineConfig()


def hour() -> PipelineConfig:
    """Read the sample more than twice on the machine of `cpu`: made for an hour instead of ten minutes."""
    return PipelineConfig(
        distill=DistillConfig(tokens=700_000, log_every_steps=10),
        finetune=FinetuneConfig(tokens=50_000, batch=4),
        evaluate=EvaluateConfig(text_bytes=100_000, document_bytes=1_500, batch_sizes=_TOGETHER),
    )


def card_8gb() -> PipelineConfig:
    """Fit a card of 8 GB, with teachers of up to 360M parameters: activations are computed twice instead of kept."""
    return PipelineConfig(
        tokenize=TokenizeConfig(block_length=1_024),
        distill=DistillConfig(
            tokens=20_000_000,
            frozen="none",
            batch=16,
            micro_batch=8,
            optimizer="adamw_8bit",
            gradient_checkpointing=True,
            validation_tokens=65_536,
            log_every_steps=10,
        ),
        finetune=FinetuneConfig(
            tokens=2_000_000,
            learning_rate=5e-4,
            batch=16,
            micro_batch=8,
            max_length=1_024,
            gradient_checkpointing=True,
            validation_tokens=32_768,
            general_tokens=32_768,
        ),
        quantize=_FOR_CARDS,
        evaluate=_evaluated(text_bytes=500_000, context=1_024),
    )


def card_24gb() -> PipelineConfig:
    """Fit a card of 24 GB, with teachers of up to 1B parameters: longer blocks, larger batches and more tokens."""
    return PipelineConfig(
        tokenize=TokenizeConfig(block_length=2_048),
        cache=CacheSettings(max_gigabytes=30),
        distill=DistillConfig(
            tokens=100_000_000,
            frozen="none",
            batch=32,
            micro_batch=8,
            gradient_checkpointing=True,
            validation_tokens=131_072,
            log_every_steps=10,
        ),
        finetune=FinetuneConfig(
            tokens=5_000_000,
            learning_rate=3e-4,
            batch=16,
            micro_batch=8,
            max_length=2_048,
            gradient_checkpointing=True,
            validation_tokens=65_536,
            general_tokens=65_536,
        ),
        quantize=_FOR_CARDS,
        evaluate=_evaluated(text_bytes=1_000_000, context=2_048),
    )


def card_80gb() -> PipelineConfig:
    """Fit a card of 80 GB, with teachers of up to 3B parameters, which are asked at every step."""
    return PipelineConfig(
        tokenize=TokenizeConfig(block_length=2_048),
        distill=DistillConfig(
            tokens=500_000_000,
            frozen="none",
            batch=128,
            micro_batch=4,
            teacher_logprobs="online",  # a cache of so many tokens would take 80 GB of disk
            validation_tokens=262_144,
            log_every_steps=10,
        ),
        finetune=FinetuneConfig(
            tokens=10_000_000,
            learning_rate=3e-4,
            batch=32,
            micro_batch=8,
            max_length=2_048,
            validation_tokens=131_072,
            general_tokens=131_072,
        ),
        quantize=_FOR_CARDS,
        evaluate=_evaluated(text_bytes=4_000_000, context=2_048),
    )


def _evaluated(text_bytes: int, context: int) -> EvaluateConfig:
    return EvaluateConfig(
        text_bytes=text_bytes,
        document_bytes=5 * context,  # about a window: of so much text at least a hundred documents
        context=context,
        max_new_tokens=100,
        prefill_tokens=512,
        decode_tokens=64,
        repeats=3,
        batch_sizes=_TOGETHER,
    )


def smoke() -> PipelineConfig:
    """Try every stage on a two-layer student and Python's own help texts: about a minute, without a download."""
    return PipelineConfig(
        corpus=("python-topics",),
        teacher="tiny",
        instructions="python-docstrings",
        clean=CleanConfig(split=SplitConfig(validation=0.1, test=0.1, min_test_documents=0)),
        tokenize=TokenizeConfig(block_length=128, vocabulary=2_048),
        shrink=ShrinkConfig(initialization="random"),  # so tiny a teacher has little to hand down
        distill=DistillConfig(
            tokens=32_768,
            learning_rate=1e-2,
            batch=8,
            micro_batch=8,
            validation_tokens=4_096,
            precision="fp32",
        ),
        finetune=FinetuneConfig(
            rank=4,
            tokens=16_384,
            learning_rate=3e-3,
            batch=8,
            micro_batch=8,
            max_length=128,
            validation_tokens=2_048,
            precision="fp32",
        ),
        quantization_aware=QuantizationAwareSettings(
            tokens=8_192,
            learning_rate=2e-3,
            batch=8,
            micro_batch=8,
            precision="fp32",
        ),
        parity=ParityConfig(max_new_tokens=8),
        evaluate=EvaluateConfig(
            text_bytes=8_000,
            document_bytes=4_000,
            max_new_tokens=12,
            prefill_tokens=64,
            decode_tokens=8,
            repeats=2,
        ),
    )


PRESETS = {
    Preset.CPU: cpu,
    Preset.HOUR: hour,
    Preset.CARD_8GB: card_8gb,
    Preset.CARD_24GB: card_24gb,
    Preset.CARD_80GB: card_80gb,
    Preset.SMOKE: smoke,
}

_ALONE: dict[Preset, dict[str, StageConfig]] = {
    Preset.CARD_8GB: {
        "pretrain": PretrainConfig(
            depth=6, micro_batch=8, optimizer="adamw_8bit", gradient_checkpointing=True
        )
    },
    Preset.CARD_24GB: {"pretrain": PretrainConfig(depth=10, micro_batch=8)},
    Preset.CARD_80GB: {"pretrain": PretrainConfig(depth=12, micro_batch=16)},
    Preset.SMOKE: {
        "pretrain": PretrainConfig(
            tokens=32_768,
            learning_rate=1e-2,
            batch=8,
            micro_batch=8,
            validation_tokens=4_096,
            precision="fp32",
        )
    },
}
"""By preset, sections of flows that are not part of the pipeline."""


def find_preset(name: str) -> Preset:
    """Find a preset by its name; `default` is another name of cpu. Raises UserError that lists them."""
    try:
        return Preset(name)
    except ValueError:
        raise UserError(f"there is no preset {name}: choose one of {', '.join(PRESETS)}") from None


def changes(preset: Preset) -> dict[str, Any]:
    """Return what the preset sets, by section, where it differs from the defaults."""
    sections = PRESETS[preset]().model_dump(mode="json", exclude_defaults=True)
    alone = _ALONE.get(preset, {})
    return sections | {
        name: section.model_dump(mode="json", exclude_defaults=True) for name, section in alone.items()
    }
