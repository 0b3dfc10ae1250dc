"""Whole settings by name: each preset is a function that returns a PipelineConfig."""

from typing import Any

from leanpipe.core.config import StageConfig
from leanpipe.corpus.clean import CleanConfig
from leanpipe.corpus.split import SplitConfig
from leanpipe.evaluation.evaluate import EvaluateConfig
from leanpipe.settings.flows import PipelineConfig
from leanpipe.tokens.tokenize import TokenizeConfig
from leanpipe.training.distill.distill import DistillConfig
from leanpipe.training.finetune.finetune import FinetuneConfig
from leanpipe.training.pretrain.pretrain import PretrainConfig


def default() -> PipelineConfig:
    """SmolLM2-135M to 81M parameters on a sample of the web and Wikipedia: under ten minutes on two cores."""
    return PipelineConfig()


def smoke() -> PipelineConfig:
    """Every stage on a two-layer student and Python's own help texts: under a minute, without a download."""
    return PipelineConfig(
        corpus=("python-topics",),
        teacher="tiny",
        instructions="python-docstrings",
        clean=CleanConfig(split=SplitConfig(validation=0.1, test=0.1)),
        tokenize=TokenizeConfig(block_length=128, vocabulary=2_048),
        distill=DistillConfig(
            initialization="random",  # so tiny a teacher has little to hand down
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
        evaluate=EvaluateConfig(
            text_bytes=8_000, max_new_tokens=12, prefill_tokens=64, decode_tokens=8, repeats=2
        ),
    )


PRESETS = {"default": default, "smoke": smoke}

_ALONE: dict[str, dict[str, StageConfig]] = {
    "smoke": {
        "pretrain": PretrainConfig(
            tokens=32_768,
            learning_rate=1e-2,
            batch=8,
            micro_batch=8,
            validation_tokens=4_096,
            precision="fp32",
        )
    }
}
"""By preset, sections of flows that are not part of the pipeline."""


def changes(preset: str) -> dict[str, Any]:
    """What the preset sets, by section, where it differs from the defaults."""
    sections = PRESETS[preset]().model_dump(mode="json", exclude_defaults=True)
    alone = _ALONE.get(preset, {})
    return sections | {
        name: section.model_dump(mode="json", exclude_defaults=True) for name, section in alone.items()
    }
