"""Whole settings by name: each preset is a function that returns a PipelineConfig."""

from leanpipe.compression.quantize import QuantizeConfig
from leanpipe.evaluation.evaluate import EvaluateConfig
from leanpipe.pipeline import PipelineConfig
from leanpipe.tokens.tokenize import TokenizeConfig
from leanpipe.training.distill import DistillConfig
from leanpipe.training.finetune import FinetuneConfig


def default() -> PipelineConfig:
    """SmolLM2-135M to 81M parameters on a sample of the web and Wikipedia: under ten minutes on two cores."""
    return PipelineConfig()


def smoke() -> PipelineConfig:
    """Every stage on a two-layer student and Python's own help texts: under a minute, without a download."""
    return PipelineConfig(
        corpus=("python-topics",),
        teacher="tiny",
        instructions="python-docstrings",
        tokenize=TokenizeConfig(block_length=128),
        distill=DistillConfig(size=0.6, tokens=16_384, learning_rate=2e-3, validation_tokens=4_096),
        finetune=FinetuneConfig(rank=4, tokens=8_192, learning_rate=2e-3, validation_tokens=2_048),
        quantize=QuantizeConfig(),
        evaluate=EvaluateConfig(
            text_bytes=8_000, max_new_tokens=16, prefill_tokens=64, decode_tokens=8, repeats=2
        ),
    )


PRESETS = {"default": default, "smoke": smoke}
