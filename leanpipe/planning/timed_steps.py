"""Steps of each kind of work that a plan times: on models of the run's shapes, with random weights, which are as fast as any others."""

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from leanpipe.core import device
from leanpipe.core.config import StageConfig

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

WRITTEN = 8
"""Tokens that a step of writing writes."""
_RANK = 16
_FEW = 2**16
"""So many random numbers fill all weights, over and over: to draw every one takes longer than the steps that are timed."""


class WorkConfig(StageConfig):
    """One kind of work, on a model of one shape."""

    what: Literal["train", "train_layers", "adapt", "read", "write"]
    """See `Repeated`."""
    model: dict[str, Any]
    """The model's config."""
    length: int = Field(ge=1, le=10**18)
    """Tokens of a block."""
    rows: int = Field(ge=1, le=10**18)
    """Blocks at once."""
    arithmetic: str = Field(pattern="^(bf16|fp16|fp32)$")
    """Type of the matrix products."""

    @property
    def tokens(self) -> int:
        """How many tokens one step gets done."""
        return WRITTEN if self.what == "write" else self.rows * self.length


def step_of(work: WorkConfig) -> Callable[[], None]:
    """Make the model, and return a step of the work on it."""
    steps = {"read": _reading, "write": _writing}
    return steps.get(work.what, _training)(work)


def _model(work: WorkConfig, dtype: "torch.dtype") -> "PreTrainedModel":
    import torch
    from transformers import AutoConfig

    from leanpipe.models.count import FACTORED, empty_model

    if work.model["model_type"].startswith(FACTORED):
        importlib.import_module("leanpipe.models.factored")
    kind = {name: value for name, value in work.model.items() if name not in ("model_type", "dtype")}
    model = empty_model(AutoConfig.for_model(work.model["model_type"], **kind))
    model = model.to(dtype).to_empty(device=device.name())
    few = torch.empty(_FEW, device=device.name()).uniform_(-0.02, 0.02).to(dtype)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                _fill(tensor.view(-1), few)
    model.tie_weights()
    return model


def _fill(flat: "torch.Tensor", few: "torch.Tensor") -> None:
    """Write the `few` numbers over and over, until all is written."""
    whole = flat.numel() // few.numel() * few.numel()
    flat[:whole].view(-1, few.numel()).copy_(few)
    flat[whole:].copy_(few[: flat.numel() - whole])


def _tokens(work: WorkConfig) -> "torch.Tensor":
    import torch

    return torch.randint(0, work.model["vocab_size"], (work.rows, work.length), device=device.name())


def _training(work: WorkConfig) -> Callable[[], None]:
    """A step of a training: of all weights, of those of layers, or of adapters beside frozen ones."""
    import torch

    from leanpipe.models.student import freeze
    from leanpipe.training.finetune.lora import ALL_LINEAR, lora_config
    from leanpipe.training.losses.objectives import CrossEntropy
    from leanpipe.training.trainer.config import TrainingConfig
    from leanpipe.training.trainer.kernels import fast_kernels

    short = device.dtype_of(work.arithmetic)
    model: Any = _model(work, short if work.what == "adapt" else torch.float32)
    if work.what == "adapt":
        from peft import get_peft_model

        model = get_peft_model(model, lora_config(_RANK, 2 * _RANK, 0.0, (ALL_LINEAR,)))
    elif work.what == "train_layers":
        freeze(model, ("embeddings", "norms", "first_layer"))
    optimizer = torch.optim.AdamW(one for one in model.parameters() if one.requires_grad)
    tokens = _tokens(work)
    batch = {
        "input_ids": tokens,
        "labels": tokens,
        "position_ids": torch.arange(work.length, device=device.name()).expand_as(tokens),
    }
    autocast = torch.autocast(device.name(), short, enabled=short != torch.float32)

    def step() -> None:
        with fast_kernels(model, TrainingConfig(precision=work.arithmetic)):
            with autocast:
                loss = CrossEntropy()(model, batch)["loss"]
            (loss / tokens.numel()).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _reading(work: WorkConfig) -> Callable[[], None]:
    import torch

    from leanpipe.models.unwrap import unwrap_adapters
    from leanpipe.training.trainer.kernels import use_inference_kernels

    model = unwrap_adapters(_model(work, device.dtype_of(work.arithmetic)).eval())
    use_inference_kernels(model)
    tokens = _tokens(work)
    positions = torch.arange(work.length, device=device.name()).expand_as(tokens)

    @torch.inference_mode()
    def step() -> None:
        model(input_ids=tokens, position_ids=positions, use_cache=False).logits.float().log_softmax(-1)

    return step


def _writing(work: WorkConfig) -> Callable[[], None]:
    import torch

    model: Any = _model(work, device.dtype_of(work.arithmetic)).eval()
    tokens = _tokens(work)

    @torch.inference_mode()
    def step() -> None:
        model.generate(
            tokens, max_new_tokens=WRITTEN, min_new_tokens=WRITTEN, do_sample=False, pad_token_id=0
        )

    return step
