"""Adapters of a pruned model, which add nothing where it has zeros: neither while they learn nor when they are merged.

peft's adapters add a product of two factors to each matrix, and so to its zeros. Here that product is multiplied by the mask
of the matrix before it is used, so that what is learnt is what is merged.

Letters in names of tensors: I inputs, O outputs.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from leanpipe.core.errors import UserError
from leanpipe.models.zeros import is_pruned, matrices

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def check_masked(folder: Path, adapter: str, base: str) -> None:
    """Raise UserError for adapters that a pruned model in the folder cannot have."""
    if not is_pruned(folder):
        return
    if adapter == "dora" or base != "full":
        raise UserError(
            "the model was pruned, and its zeros are only kept by adapters on weights in full that are plain sums: set "
            "finetune.adapter to lora or rslora and finetune.base=full, or prune.sparsity=0"
        )


def mask_adapters(model: Any, folder: Path) -> None:
    """Make the adapters on a model that was pruned in `folder` add nothing to its zeros."""
    from peft.tuners.lora.layer import Linear

    if not is_pruned(folder):
        return
    for module in model.modules():
        if isinstance(module, Linear):
            module.forward = _masked_forward.__get__(module)  # type: ignore[method-assign]


def zeros_of(model: "PreTrainedModel", folder: Path) -> dict[str, torch.Tensor]:
    """Return, by matrix, which weights of a pruned model are zero; nothing for another one."""
    if not is_pruned(folder):
        return {}
    return {name: weight.detach() == 0 for name, weight in matrices(model).items()}


def set_zeros(model: "PreTrainedModel", zeros: dict[str, torch.Tensor]) -> None:
    """Set those weights to zero again."""
    found = matrices(model)
    with torch.no_grad():
        for name, zero in zeros.items():
            found[name][zero] = 0


def _masked_forward(self: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """The forward pass of peft's `Linear`, of a matrix whose zeros stay."""
    if self.disable_adapters or self.merged or args or kwargs:
        return type(self).forward(self, x, *args, **kwargs)
    (name,) = self.active_adapters
    weight, kind = self.base_layer.weight, x.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
    added_OI = self.scaling[name] * (self.lora_B[name].weight @ self.lora_A[name].weight)
    kept_OI = (weight.T if self.fan_in_fan_out else weight) != 0
    learnt = F.linear(self.lora_dropout[name](x).to(dtype), (added_OI * kept_OI).to(dtype))
    return self.base_layer(x) + learnt
