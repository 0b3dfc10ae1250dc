"""Estimate how much memory a training takes at its peak, from configs alone.

Counted for the two moments at which it can be highest: when the loss is computed, while all activations are kept but few
gradients are there yet, and when the optimiser steps, while all gradients are there and no activations. Constants marked
`measured` come from benchmarks/plan.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from leanpipe.core import device
from leanpipe.core.device import Kind
from leanpipe.core.estimate import Estimate, Repeated, host_bytes
from leanpipe.training.losses.chunk_sizes import CHUNK_TOKENS, FULL_KL_COPIES
from leanpipe.training.trainer.config import TrainingConfig

if TYPE_CHECKING:
    from transformers import PretrainedConfig

STATE = {"adamw": 8, "adamw_8bit": 2, "adafactor": 0.1}
"""Bytes of the optimiser's state per trained parameter."""


_LOST = {"fused": 1.2, "plain": 1.75}
"""What activations take, over what they hold: gaps between tensors of many sizes, and what lives for a moment; without fused
kernels also what each operation keeps. Measured, on a processor and on an H100."""


@dataclass(frozen=True)
class Size:
    """What of a model's shape decides its memory."""

    parameters: int
    head: int
    """Parameters of the output layer."""
    layers: int
    width: int
    heads_width: int
    """Heads times their size."""
    kv_width: int
    mlp_width: int
    vocabulary: int
    kind: str


@dataclass(frozen=True)
class Memory:
    """Bytes on the device by what they are for, and at the peak."""

    parts: dict[str, int]
    peak: int


def size_of(config: "PretrainedConfig") -> Size:
    """Read a model's sizes off its config; the model is made on the meta device, which takes no memory."""
    from leanpipe.models.count import parameters_of

    head_width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    heads = config.num_attention_heads
    mlp = getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None)
    return Size(
        parameters=parameters_of(config),
        head=config.vocab_size * config.hidden_size,
        layers=config.num_hidden_layers,
        width=config.hidden_size,
        heads_width=heads * head_width,
        kv_width=(getattr(config, "num_key_value_heads", None) or heads) * head_width,
        mlp_width=mlp or 4 * config.hidden_size,
        vocabulary=config.vocab_size,
        kind=config.model_type,
    )


def training_memory(
    size: Size,
    config: TrainingConfig,
    block: int,
    *,
    kind: Kind,
    process: int,
    trained: int | None = None,
    teacher: int = 0,
    kl: bool = False,
    still: int = 0,
) -> Memory:
    """Estimate a training of all parameters in float32 but `still` ones, or of `trained` ones beside a frozen model.

    A frozen model's weights are in the arithmetic's type.

    `process` is what is there before; `teacher` the bytes of another model; `kl` whether its logits are compared. Of a
    model in shards it is what one process takes, which has the whole for a moment, before it is divided.
    """
    whole = trained is None
    short = 4 if config.arithmetic == "fp32" else 2
    count = size.parameters - still if trained is None else trained
    head_learns = whole and still < size.head
    weights = 4 * size.parameters if whole else short * size.parameters + 4 * count
    divided = config.shards > 1
    copied = size.head if whole and divided else size.parameters if whole else count
    parts = {
        "weights": weights // config.shards,
        "gathered weights": _gathered(size) if divided else 0,
        "gradients": 4 * count // config.shards,
        "optimiser": round(STATE.get(config.optimizer, 8) * count / config.shards),
        "teacher": teacher,
        "low-precision copies": 2 * copied if short == 2 else 0,
        "activations": activations(size, config, block, kind),
        "logits": logits(size, config.in_memory * block, kind, short, kl),
        "output layer's gradients": 8 * size.head if head_learns else 0,
    }
    always = process + parts["weights"] + parts["gathered weights"] + parts["optimiser"] + teacher
    loss = always + parts["low-precision copies"] + parts["activations"] + parts["logits"]
    loss += parts["output layer's gradients"]
    step = always + parts["gradients"] + (4 * size.head if head_learns else 0)
    return Memory({"process": process, **parts}, max(loss, step, process + weights + teacher))


def _gathered(size: Size) -> int:
    """Bytes that are whole at once of a model in shards: the output layer, two layers, and the gradients of one."""
    return 4 * (size.head + 3 * (size.parameters - size.head) // size.layers)


def activations(size: Size, config: TrainingConfig, block: int, kind: Kind) -> int:
    """Estimate the bytes of activations that are kept for the backward pass."""
    fused = config.fused_kernels and not config.compile and (kind == "cpu" or device.has_liger())
    tokens, short = config.in_memory * block, 4 if config.arithmetic == "fp32" else 2
    layer = round(_LOST["fused" if fused else "plain"] * tokens * _per_token(size, short))
    if config.gradient_checkpointing:
        return size.layers * tokens * 4 * size.width + layer
    return size.layers * layer


def _per_token(size: Size, short: int) -> int:
    """Bytes of one layer for each token: what goes into both norms, in float32, and comes out; queries, keys, values and what attention makes of
    them; the neurons' two factors and their product."""
    norms = 2 * (4 + short) * size.width
    attention = 2 * short * (size.heads_width + size.kv_width)
    return norms + attention + 3 * short * size.mlp_width


def logits(size: Size, tokens: int, kind: Kind, short: int, kl: bool) -> int:
    """Estimate the bytes of one chunk of logits: they, their logarithms of probabilities and the gradients of both, and the teacher's."""
    chunk = CHUNK_TOKENS[kind] // (FULL_KL_COPIES if kl else 1)
    per_logit = 12 + (4 if short == 2 else 0) + (16 if kl else 0)
    return min(tokens, chunk) * size.vocabulary * per_logit


def lora_parameters(config: "PretrainedConfig", rank: int, targets: Sequence[str]) -> int:
    """Count the parameters of adapters of this rank on the linear layers that `targets` name."""
    import torch
    from transformers.pytorch_utils import Conv1D

    from leanpipe.models.count import empty_model

    model = empty_model(config)
    head = model.get_output_embeddings()
    shapes: list[Any] = [
        module.weight.shape
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D)
        and module is not head
        and ("all-linear" in targets or any(name == one or name.endswith(f".{one}") for one in targets))
    ]
    return sum(rank * (one + other) for one, other in shapes)


def training_estimate(
    config: TrainingConfig,
    size: Size,
    memory: Memory,
    kind: Kind,
    *,
    trained: int,
    work: float,
    result: Mapping[str, Any],
    repeated: tuple[Repeated, ...] = (),
) -> Estimate:
    """What a training takes of `trained` parameters, with `work` operations a token.

    Disk holds two checkpoints with the optimiser's state, the weights in the end, and the model in bfloat16. Of a model in
    shards, the first process keeps the whole in main memory.
    """
    state = memory.parts["optimiser"] * config.shards + 4 * trained
    kept = 4 * size.parameters if config.shards > 1 else 0
    peak = memory.peak + (kept if kind == "cpu" else 0)
    return Estimate(
        peak,
        host_bytes(kind, peak) + (kept if kind == "cuda" else 0),
        2 * state + 4 * trained + 2 * size.parameters,
        work * config.tokens,
        memory.parts,
        memory.parts["teacher"],
        result,
        repeated,
    )


def repeated_training(
    config: TrainingConfig,
    model: "PretrainedConfig",
    block: int,
    what: Literal["train", "train_layers", "adapt"] = "train",
) -> tuple[Repeated, Repeated]:
    """The steps of a training, and the readings of its validation text."""
    shape: dict[str, Any] = {"length": block, "rows": config.in_memory, "arithmetic": config.arithmetic}
    validated = config.validations * config.validation_tokens
    return (
        Repeated(what, model, config.tokens, **shape),
        Repeated("read", model, validated, **shape),
    )
