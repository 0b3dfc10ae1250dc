"""Choose the implementations of the same arithmetic that this device runs fastest."""

import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from leanpipe.core import device
from leanpipe.core.errors import UserError
from leanpipe.models.unwrap import unwrap_adapters

if TYPE_CHECKING:
    import torch

    from leanpipe.training.trainer.config import TrainingConfig


def check_kernels(attention: str, compiled: bool) -> None:
    """Raise UserError if the device or an installed package cannot do what is asked for by name."""
    if attention == "flex_attention" and device.name() == "cpu":
        raise UserError("attention_kernel flex_attention needs a GPU: use auto on this machine")
    if compiled and device.name() == "cpu" and not shutil.which("g++"):
        raise UserError(
            "compile needs a C++ compiler on a machine without a GPU: install g++, or turn it off"
        )


@contextmanager
def fast_kernels(model: Any, config: "TrainingConfig") -> Iterator[None]:
    """Make `model` compute by what is fastest here, in a context. Attention that is not full is left as it is."""
    from leanpipe.models.attention.varlen_attention import use_default_attention, use_varlen_attention
    from leanpipe.models.fused_layers import convert_once, fuse_layers
    from leanpipe.models.fused_lora import fused_lora
    from leanpipe.models.student import layer_list_name

    causal, kernel = unwrap_adapters(model), config.attention_kernel
    if kernel == "auto":
        use_varlen_attention(causal, device.dtype_of(config.arithmetic))
    elif kernel == "flex_attention" and causal.config._attn_implementation == "sdpa":
        causal.set_attn_implementation(kernel)
    with ExitStack() as undone:
        undone.callback(use_default_attention, causal)
        if device.name() == "cuda":
            undone.enter_context(convert_once(causal))
        if config.compile:  # which fuses by itself; layers are alike, and so compiled once
            for layer in causal.get_submodule(layer_list_name(causal)):
                layer.compile()
        elif config.fused_kernels:
            undone.enter_context(fused_lora(model))
            if device.name() == "cpu":
                fuse_layers(causal)
            else:
                undone.enter_context(_liger_kernels(causal))
        yield


def use_inference_kernels(model: "torch.nn.Module") -> None:
    """Make a model that is not trained compute by what is fastest here: it reads blocks, and is asked for nothing else."""
    from leanpipe.models.attention.varlen_attention import use_varlen_attention
    from leanpipe.models.fused_layers import fuse_layers

    use_varlen_attention(model)
    if device.name() == "cpu":
        fuse_layers(model)


@contextmanager
def _liger_kernels(causal: Any) -> Iterator[None]:
    """Put Liger's kernels in, where that package is. It changes the model's module too, and so all models that are made later."""
    if not device.has_liger():
        yield
        return
    from liger_kernel.transformers import _apply_liger_kernel_to_instance

    module = vars(sys.modules[type(causal).__module__])
    before = dict(module)
    # The loss is computed in chunks already.
    _apply_liger_kernel_to_instance(model=causal, cross_entropy=False, fused_linear_cross_entropy=False)
    try:
        yield
    finally:
        module.update(before)
