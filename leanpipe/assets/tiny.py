"""The model `tiny`: four layers of width 64, trained from scratch on Python's help texts with the pipeline's own stages.

A teacher for trying the pipeline and for tests, in seconds and without a download. It is real, and it is bad.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from leanpipe.assets.samples import python_topics
from leanpipe.core.config import StageConfig
from leanpipe.core.home import Home
from leanpipe.core.report import Report
from leanpipe.core.stage import Runner, Summary, stage
from leanpipe.core.store import Artifact
from leanpipe.corpus.clean import CleanConfig, clean
from leanpipe.corpus.sources.file_index import index_corpus
from leanpipe.corpus.sources.read_log import ReadLog
from leanpipe.tokens.tokenize import TokenizeConfig, tokenize
from leanpipe.training.distill.distill import DistillConfig, distill

if TYPE_CHECKING:
    from transformers import LlamaConfig

_TRAINING_BYTES = 10_000_000  # for its tokenizer


class SeedConfig(StageConfig):
    """The shape of the model."""

    layers: int = Field(4, ge=1, le=1_000)
    """Transformer blocks."""
    width: int = Field(64, ge=8, le=100_000)
    """Size of the hidden states."""
    vocabulary: int = Field(1_024, ge=300, le=1_000_000)
    """Tokens of its tokenizer."""


@dataclass(frozen=True)
class SeedInputs:
    """What stage `clean` wrote: the tokenizer is trained on it."""

    documents: Path


def seed_config(config: SeedConfig) -> "LlamaConfig":
    """The sizes of the model, without its tokenizer."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=config.vocabulary,
        hidden_size=config.width,
        intermediate_size=3 * config.width,
        num_hidden_layers=config.layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2_048,
        tie_word_embeddings=True,
    )


@stage(version=1, uses_device=True, depends_on=(), reads={"documents": {"train": "trained on it"}})
def seed_model(config: SeedConfig, inputs: SeedInputs, out: Path, report: Report) -> Summary:
    """Write a Llama with random weights, and a tokenizer that is trained on the documents, as a model folder."""
    import torch
    from transformers import LlamaForCausalLM

    from leanpipe.models.load import save_model
    from leanpipe.tokens.train_tokenizer import train_tokenizer
    from leanpipe.tokens.training_text import TrainingTextSample

    tokenizer = train_tokenizer(
        "bpe", TrainingTextSample(inputs.documents, _TRAINING_BYTES), config.vocabulary
    )
    torch.manual_seed(0)
    seeded = seed_config(config)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(seeded, name, getattr(tokenizer, name))
    model = LlamaForCausalLM(seeded)
    save_model(model, tokenizer, out, made_of=())
    return {"parameters": model.num_parameters()}


def train_tiny(home: Home, run: Runner) -> Artifact:
    """The model folder, from the store or made now by `run`."""
    file_index = index_corpus(str(python_topics(home.assets)), ReadLog(), cache=home.digests)
    documents = run(clean, CleanConfig(), {"corpus": (file_index.artifact("python-topics", home.listings),)})
    seed = run(seed_model, SeedConfig(), {"documents": documents})
    blocks = run(tokenize, TokenizeConfig(block_length=128), {"documents": documents, "teacher": seed})
    # Distillation without a teacher's opinion, at full size, is training from scratch.
    training = DistillConfig(
        kl_weight=0, tokens=65_536, learning_rate=1e-2, batch=8, micro_batch=8, precision="fp32"
    )
    return run(distill, training, {"teacher": seed, "blocks": blocks}).model_copy(update={"name": "tiny"})
