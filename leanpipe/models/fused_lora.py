"""Compute a linear layer with its low-rank adapter as one operation.

peft adds the adapter's output to the layer's: it converts the input to float32 for the adapter of every layer, and goes over
the outputs once to multiply by the scaling and once more to add. Here all products are in the arithmetic's type, what they
give is added as they are made, and layers that read the same input keep it once for the backward pass.

Letters in names of tensors: N tokens, I inputs, O outputs, R rank.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F


@contextmanager
def fused_lora(model: torch.nn.Module) -> Iterator[None]:
    """Fuse the plain adapters of a peft model with their layers, in a context.

    Plain are LoRA and rsLoRA without dropout, on weights in full; others are left to peft.
    """
    found = [module for module in model.modules() if _is_plain(module)]
    for module in found:
        module.forward = _fused_forward.__get__(module)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for module in found:
            del module.forward


def _is_plain(module: Any) -> bool:
    from peft.tuners.lora.layer import Linear

    if type(module) is not Linear or type(module.base_layer) is not torch.nn.Linear:
        return False
    if "forward" in vars(module):  # has one of its own, as where zeros are kept
        return False
    if len(module.active_adapters) != 1 or module.fan_in_fan_out:
        return False
    (name,) = module.active_adapters
    special = name in module.lora_variant or module.lora_bias[name]
    return name in module.lora_A and not special and isinstance(module.lora_dropout[name], torch.nn.Identity)


def _fused_forward(self: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """The forward pass of peft's `Linear`."""
    if self.disable_adapters or self.merged or args or kwargs:
        return type(self).forward(self, x, *args, **kwargs)
    (name,) = self.active_adapters
    base, kind = self.base_layer, x.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
    given = (x, base.weight, self.lora_A[name].weight, self.lora_B[name].weight)
    bias = None if base.bias is None else base.bias.to(dtype)
    return _FusedLora.apply(*(each.to(dtype) for each in given), bias, self.scaling[name])


class _FusedLora(torch.autograd.Function):
    """x W' + bias + scaling x A' B', where W and the bias are not trained."""

    @staticmethod
    def forward(ctx, x, weight_OI, down_RI, up_OR, bias_O, scaling):
        x_NI = x.reshape(-1, x.shape[-1])
        low_NR = x_NI @ down_RI.t()
        output_NO = F.linear(x_NI, weight_OI, bias_O).addmm_(low_NR, up_OR.t(), alpha=scaling)
        ctx.save_for_backward(x, weight_OI, down_RI, up_OR, low_NR)
        ctx.scaling = scaling
        return output_NO.view(*x.shape[:-1], -1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, upstream):
        x, weight_OI, down_RI, up_OR, low_NR = ctx.saved_tensors
        x_NI, upstream_NO = (each.reshape(-1, each.shape[-1]) for each in (x, upstream))
        of_low_NR = (upstream_NO @ up_OR).mul_(ctx.scaling)
        of_up_OR = (upstream_NO.t() @ low_NR).mul_(ctx.scaling)
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = (upstream_NO @ weight_OI).addmm_(of_low_NR, down_RI).view(x.shape)
        return of_x, None, of_low_NR.t() @ x_NI, of_up_OR, None, None
