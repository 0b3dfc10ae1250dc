"""Which implementations of the same arithmetic this device runs fastest."""

import importlib.util
import shutil
from typing import TYPE_CHECKING, Any

from leanpipe import device
from leanpipe.errors import UserError
from leanpipe.training.lora import without_wrapper

if TYPE_CHECKING:
    import torch

    from leanpipe.training.config import TrainingConfig

FLASH = "flash_attention_2"


def check_kernels(attention: str, compiled: bool) -> None:
    """Raise UserError if the device or an installed package cannot do what is asked for by name."""
    if attention == FLASH and not _on_gpu_with("flash_attn"):
        raise UserError(
            "attention_kernel flash_attention_2 needs a GPU and the package flash-attn: use auto on this machine"
        )
    if attention == "flex_attention" and device.name() == "cpu":
        raise UserError("attention_kernel flex_attention needs a GPU: use auto on this machine")
    if compiled and device.name() == "cpu" and not shutil.which("g++"):
        raise UserError(
            "compile needs a C++ compiler on a machine without a GPU: install g++, or turn it off"
        )


def attention_kernel(wanted: str) -> str:
    """The name by which transformers knows the kernel."""
    if wanted == "auto":
        return FLASH if _on_gpu_with("flash_attn") else "sdpa"
    return wanted


def use_kernels(model: Any, config: "TrainingConfig") -> None:
    """Let `model` compute by what is fastest here. Attention that is not full is left as it is."""
    from leanpipe.models.documents import attend_by_document
    from leanpipe.models.fused import fuse

    causal = without_wrapper(model)
    kernel = attention_kernel(config.attention_kernel)
    if config.attention_kernel == "auto" and not config.compile:
        attend_by_document(causal)  # on a processor
    if causal.config._attn_implementation == "sdpa" and kernel != "sdpa":
        causal.set_attn_implementation(kernel)
        if kernel == FLASH:
            _flatten(causal.base_model)
    if config.fused_kernels and not config.compile and device.name() == "cpu":
        fuse(causal)
    if config.fused_kernels and _on_gpu_with("liger_kernel"):
        from liger_kernel.transformers import _apply_liger_kernel_to_instance

        # The loss is computed in chunks already.
        _apply_liger_kernel_to_instance(model=causal, cross_entropy=False, fused_linear_cross_entropy=False)
    if config.compile:
        causal.base_model.compile()


def use_kernels_to_read(model: "torch.nn.Module") -> None:
    """The same for a model that is not trained: it reads blocks, and is asked for nothing else."""
    from leanpipe.models.documents import attend_by_document
    from leanpipe.models.fused import fuse

    if device.name() == "cpu":
        attend_by_document(model)
        fuse(model)


def _flatten(backbone: "torch.nn.Module") -> None:
    """Let the backbone read its blocks as one row: transformers sees where documents end only in batches of one."""

    rows = 0

    def to_one_row(_module: Any, arguments: Any, named: dict[str, Any]) -> Any:
        nonlocal rows
        rows = len(named["input_ids"])
        flat = {name: named[name].reshape(1, -1) for name in ("input_ids", "position_ids")}
        return arguments, named | flat

    def to_rows(_module: Any, arguments: Any, output: Any) -> Any:
        states = output.last_hidden_state
        output.last_hidden_state = states.reshape(rows, -1, states.shape[-1])
        return output

    backbone.register_forward_pre_hook(to_one_row, with_kwargs=True)
    backbone.register_forward_hook(to_rows)


def _on_gpu_with(package: str) -> bool:
    return device.name() == "cuda" and importlib.util.find_spec(package) is not None
