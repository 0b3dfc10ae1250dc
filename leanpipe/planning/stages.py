"""What each stage will take: memory, disk and work, from its config and those of the models that go in."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leanpipe.compression.quantize import QuantizeConfig
from leanpipe.core.device import Kind
from leanpipe.corpus.config import CleanConfig
from leanpipe.evaluation.evaluate import EvaluateConfig
from leanpipe.tokens.tokenize import TokenizeConfig
from leanpipe.training.distill.distill import DistillConfig, student_config
from leanpipe.training.distill.teacher_cache import CacheSettings
from leanpipe.training.finetune.finetune import FinetuneConfig
from leanpipe.training.on_policy.on_policy import OnPolicyConfig
from leanpipe.training.pretrain.pretrain import PretrainConfig
from leanpipe.training.trainer.config import TrainingConfig
from leanpipe.training.trainer.memory import PROCESS, Size, lora_parameters, size_of, training_memory

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_TEXT_PROCESS = 460_000_000
"""Bytes of a process that cleans, and below of one that tokenises, beside the shard it works on. Measured, as are the
factors of the shards, on 15 and 61 MB of source code."""
_TOKENS_PROCESS = 650_000_000
_BYTES_PER_TOKEN = 3.5
"""Of text; English with a large vocabulary has 4 to 5, code and small vocabularies fewer."""
_BITSANDBYTES = 195_000_000
"""Bytes of bitsandbytes' code, and below of matplotlib's and pandas'. Measured on two models of different shape."""
_PLOTTING = 60_000_000
_TRL_TILE = (4_096, 32_768)
"""Tokens and entries of the vocabulary that TRL compares at once (`trl.kernels.chunked_divergence`)."""
_ASKED_TOKENS = {"cpu": 2**12, "cuda": 2**15}
"""That a teacher reads at once, and below of which it predicts at once (`leanpipe.training.cache`)."""
_ASKED_LOGITS = 512
_PICTURES = 200_000
"""Bytes of one evaluation's report."""


@dataclass(frozen=True)
class StagePlan:
    """An estimate. Memory and disk in bytes; work in floating-point operations."""

    stage: str
    peak: int
    """On the device; on a processor, of the stage's process."""
    host: int
    disk: int
    work: float
    parts: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    basis: str = "computed"
    """Where the figures come from: computed, or corrected by so many earlier runs."""
    change: Callable[[dict[str, Any]], "StagePlan"] | None = None
    """The same stage with other settings."""
    settings: TrainingConfig | OnPolicyConfig | None = None
    movable: int = 0
    """Bytes of `peak` that may lie in the host's memory or on disk instead: weights that are only read."""


def plan_distill(
    config: DistillConfig, teacher: "Path | PretrainedConfig", block: int, kind: Kind
) -> StagePlan:
    """Of stage `distill` on blocks of `block` tokens. With cached predictions the teacher only lends its layers."""
    whole = read(teacher)
    size, large = size_of(student_config(config, whole)), size_of(whole)
    asks = config.kl_weight > 0 and not config.uses_cache
    memory = training_memory(
        size,
        config,
        block,
        kind=kind,
        process=_process(kind),
        teacher=_bytes_of_type() * large.parameters if asks else 0,
        kl=asks,
    )
    work = 6 * size.parameters + (2 * large.parameters if asks else 0)
    return _training(
        "distill",
        config,
        size,
        size.parameters,
        memory,
        work,
        kind,
        lambda other: plan_distill(other, teacher, block, kind),
    )


def plan_cache(
    config: CacheSettings, tokens: int, teacher: "Path | PretrainedConfig", kind: Kind
) -> StagePlan:
    """Of stage `cache_teacher` on `tokens` tokens."""
    size = size_of(read(teacher))
    short = _bytes_of_type()
    weights = short * size.parameters
    layer = 4 * size.mlp_width + 4 * size.width + 2 * size.heads_width
    parts = {
        "process": _process(kind),
        "weights": weights,
        "activations": min(tokens, _ASKED_TOKENS[kind]) * short * layer,
        "logits": _ASKED_LOGITS * size.vocabulary * (short + 1),
    }
    peak = sum(parts.values())
    # Ids take 2 or 3 bytes, probabilities 1.
    entry = 3 if size.vocabulary <= 2**16 else 4
    disk = tokens * ((config.top_k + config.tail_samples) * entry + 4)
    work = 2.0 * size.parameters * tokens
    return StagePlan("cache_teacher", peak, _host(kind, peak), disk, work, parts, movable=weights)


def plan_on_policy(
    config: OnPolicyConfig, teacher: "Path | PretrainedConfig", student: "Path | PretrainedConfig", kind: Kind
) -> StagePlan:
    """Of stage `on_policy`. Time is reckoned as if answers were written as fast as they are read: a lower bound."""
    size, large = size_of(read(student)), size_of(read(teacher))
    length = config.max_prompt_tokens + config.max_new_tokens
    alike = TrainingConfig(batch=config.batch, micro_batch=config.micro_batch, precision=config.precision)
    weights = _bytes_of_type() * large.parameters
    memory = training_memory(size, alike, length, kind=kind, process=_process(kind), teacher=weights)
    # TRL compares both models' logits in float32, in tiles; on a processor with what lies between.
    rows = min(config.in_memory * config.max_new_tokens, _TRL_TILE[0])
    tiles = rows * min(size.vocabulary, _TRL_TILE[1]) * 4 * (2 if kind == "cuda" else 8)
    work = 6 * size.parameters + 2 * large.parameters + config.student_share * 2 * size.parameters
    return StagePlan(
        "on_policy",
        memory.peak + tiles,
        _host(kind, memory.peak + tiles),
        2 * 12 * size.parameters + 2 * size.parameters,
        work * config.steps * config.batch * length,
        memory.parts | {"logits": tiles},
        change=lambda update: plan_on_policy(
            OnPolicyConfig.model_validate(config.model_dump() | update), teacher, student, kind
        ),
        settings=config,
    )


def plan_pretrain(config: PretrainConfig, vocabulary: int, block: int, kind: Kind) -> StagePlan:
    """Of stage `pretrain` with a tokenizer of `vocabulary` tokens."""
    from leanpipe.models.build import decoder_config
    from leanpipe.training.pretrain.depth import derive, shape_of

    derived = derive(config, vocabulary, block)
    size = size_of(decoder_config(config.architecture, shape_of(config, block), config.attention, vocabulary))
    memory = training_memory(size, derived, block, kind=kind, process=_process(kind))
    return _training(
        "pretrain",
        derived,
        size,
        size.parameters,
        memory,
        6 * size.parameters,
        kind,
        lambda other: plan_pretrain(other, vocabulary, block, kind),
    )


def plan_finetune(config: FinetuneConfig, model: "Path | PretrainedConfig", kind: Kind) -> StagePlan:
    """Of stage `finetune`. Afterwards the adapters are merged into a second copy of the model, in float32."""
    model_config = read(model)
    size = size_of(model_config)
    trained = lora_parameters(model_config, config.rank, config.target_modules)
    memory = training_memory(
        size, config, config.max_length, kind=kind, process=_process(kind), trained=trained
    )
    short = 4 if config.arithmetic == "fp32" else 2
    # On a processor the memory of the training is kept by the process.
    merged = 4 * size.parameters
    merging = merged + (memory.peak if kind == "cpu" else short * size.parameters)
    parts = memory.parts | {"merging": merged}
    memory = replace(memory, peak=max(memory.peak, merging), parts=parts)
    return _training(
        "finetune",
        config,
        size,
        trained,
        memory,
        4 * size.parameters + 2 * trained,
        kind,
        lambda other: plan_finetune(other, model, kind),
    )


def plan_quantize(config: QuantizeConfig, model: "Path | PretrainedConfig", kind: Kind) -> StagePlan:
    """Of stage `quantize`: one model in half precision, and a smaller one beside it."""
    size = size_of(read(model))
    parts = {
        "process": _process(kind) + (_BITSANDBYTES if kind == "cpu" else 0),
        "weights": max(round(3.2 * size.parameters), _loading(read(model), size, kind)),
    }
    peak = sum(parts.values())
    disk = sum({"int8": 1, "nf4": 0.6}[form] * size.parameters + size.head for form in config.formats)
    return StagePlan("quantize", peak, _host(kind, peak), round(disk), 4.0 * size.parameters * 64, parts)


def plan_evaluate(
    config: EvaluateConfig, model: "Path | PretrainedConfig", kind: Kind, models: int = 1
) -> StagePlan:
    """Of stage `evaluate` on `models` models, of which this is the largest."""
    size = size_of(read(model))
    weights = _bytes_of_type() * size.parameters
    # A window's logits in the arithmetic's type, and in float32 three times: they, their logarithms, what is between.
    tokens = max(config.context, config.prefill_tokens)
    scores = tokens * size.vocabulary * (_bytes_of_type() + 12)
    parts = {
        "process": _process(kind) + (_PLOTTING if kind == "cpu" else 0),
        "weights": weights,
        "logits": scores,
    }
    peak = max(sum(parts.values()), _process(kind) + _loading(read(model), size, kind))
    read_tokens = config.text_bytes / _BYTES_PER_TOKEN + (config.repeats + 1) * config.prefill_tokens
    written = (len(config.prompts) * config.max_new_tokens) + (config.repeats + 1) * config.decode_tokens
    work = 2.0 * size.parameters * (read_tokens + written)
    return StagePlan(
        "evaluate",
        peak,
        _host(kind, peak),
        models * (_PICTURES + config.text_bytes),
        models * work,
        parts,
        movable=weights,
    )


def _loading(config: "PretrainedConfig", size: Size, kind: Kind) -> int:
    """Bytes of the device while weights are loaded: a processor maps the files too, and copies what is of another type."""
    used = _bytes_of_type()
    stored = 4 if str(config.dtype).endswith("float32") else 2
    copies = stored if kind == "cpu" and stored != used else 0
    return (used + copies) * size.parameters


def plan_clean(config: CleanConfig, corpus: int, kind: Kind) -> StagePlan:
    """Of stage `clean` on a corpus whose files are `corpus` bytes."""
    shard = min(corpus, round(config.execution.shard_megabytes * 1e6))
    workers = min(config.execution.workers or os.cpu_count() or 1, max(1, corpus // max(1, shard)))
    if config.execution.executor != "local":
        workers = 1  # the others are on other machines
    parts = {"processes": workers * _TEXT_PROCESS, "shards": round(workers * 1.6 * shard)}
    return _without_device("clean", sum(parts.values()), round(0.5 * corpus), parts, kind)


def plan_tokenize(config: TokenizeConfig, corpus: int, vocabulary: int, kind: Kind) -> StagePlan:
    """Of stage `tokenize` on what is left of a corpus whose files are `corpus` bytes: at the most all of it."""
    trained = 0 if config.tokenizer == "teacher" else min(corpus, config.training_bytes)
    parts = {
        "process": _TOKENS_PROCESS,
        "shard": round(1.7 * min(corpus, 64_000_000)),
        "training the tokenizer": round(3.2 * trained),
    }
    per_token = 4 if vocabulary <= 2**16 else 6  # the token and its position
    disk = round(per_token * corpus / _BYTES_PER_TOKEN)
    return _without_device("tokenize", sum(parts.values()), disk, parts, kind)


def _without_device(stage: str, host: int, disk: int, parts: dict[str, int], kind: Kind) -> StagePlan:
    return StagePlan(stage, host if kind == "cpu" else 0, host, disk, 0.0, parts)


def _training(
    stage: str,
    config: TrainingConfig,
    size: Size,
    trained: int,
    memory: Any,
    work: float,
    kind: Kind,
    again: Callable[[Any], StagePlan],
) -> StagePlan:
    """Disk holds two checkpoints with the optimiser's state, and the model in bfloat16.

    Of a model in shards, the first process keeps the whole in main memory.
    """
    state = memory.parts["optimiser"] * config.shards + 4 * trained
    kept = 4 * size.parameters if config.shards > 1 else 0
    peak = memory.peak + (kept if kind == "cpu" else 0)
    return StagePlan(
        stage,
        peak,
        _host(kind, peak) + (kept if kind == "cuda" else 0),
        2 * state + 2 * size.parameters,
        work * config.tokens,
        memory.parts,
        change=lambda update: again(type(config).model_validate(config.model_dump() | update)),
        settings=config,
        movable=memory.parts["teacher"],
    )


def _process(kind: Kind) -> int:
    """A card holds nothing of the process itself; what CUDA takes is left out of the card's memory."""
    return PROCESS if kind == "cpu" else 0


def _host(kind: Kind, peak: int) -> int:
    return (
        peak if kind == "cpu" else 4_000_000_000
    )  # CUDA's libraries, pinned buffers, a checkpoint being written


def _bytes_of_type() -> int:
    from leanpipe.core import device

    return 2 if device.has_bfloat16() else 4


def read(model: "Path | PretrainedConfig") -> "PretrainedConfig":
    """The config of a model folder; a config is its own."""

    from leanpipe.models.count import read_config

    return read_config(model) if isinstance(model, Path) else model
