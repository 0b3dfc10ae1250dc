"""RMS norms and gated layers in fewer passes over memory.

On a processor, what plain PyTorch does there takes longer than it should, and keeps more for the backward pass.
Each operation of PyTorch reads and writes whole tensors, which do not fit into caches; here a few rows go through all of them at
a time. And under autocast a norm's output is converted once, not once for each layer that reads it.

Letters in names of tensors: N tokens, D width.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F

_ELEMENTS = 2**17
"""Of a tensor that are worked on together: half a megabyte in float32."""


def fuse_layers(model: torch.nn.Module) -> None:
    """Put fused norms and gated layers into a model on a processor, wherever they compute the same."""
    for module in model.modules():
        fused = _fused(module)
        if fused and _is_same(module, fused):
            module.forward = fused.__get__(module)  # type: ignore[method-assign]


@contextmanager
def convert_once(model: Any) -> Iterator[None]:
    """Convert to autocast's type, on a GPU, what embeddings and norms give; a context.

    What goes from layer to layer is of that type then, half the bytes to move for all that is no product, and what a norm gives
    is converted once, not for each of its readers.
    """

    def convert(_module: Any, _given: Any, made: torch.Tensor) -> torch.Tensor:
        kind = made.device.type
        return made.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else made

    norms = [module for module in model.modules() if type(module).__name__.endswith(("RMSNorm", "LayerNorm"))]
    handles = [module.register_forward_hook(convert) for module in (model.get_input_embeddings(), *norms)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _fused(module: Any) -> Callable[..., torch.Tensor] | None:
    if module.__class__.__name__.endswith("RMSNorm") and hasattr(module, "variance_epsilon"):
        return _norm
    if isinstance(getattr(module, "act_fn", None), torch.nn.SiLU | _silus()) and hasattr(module, "gate_proj"):
        return _gated
    return None


def _silus() -> type:
    from transformers.activations import SiLUActivation

    return SiLUActivation


def _is_same(module: Any, fused: Callable[..., torch.Tensor]) -> bool:
    weight = next(module.parameters() if fused is _norm else module.gate_proj.parameters())
    offloaded = hasattr(module, "_hf_hook")  # accelerate's hook has the forward pass already
    if offloaded or weight.device.type != "cpu" or not weight.dtype.is_floating_point:
        return False
    rows = torch.linspace(-1, 1, 3 * weight.shape[-1], dtype=weight.dtype).view(1, 3, -1)
    with torch.no_grad():
        return torch.allclose(fused(module, rows), module(rows), rtol=0.02, atol=0.02)


def _norm(self: Any, hidden_states: torch.Tensor) -> torch.Tensor:
    dtype = hidden_states.dtype
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
    return _Norm.apply(hidden_states, self.weight, self.variance_epsilon, dtype)


def _gated(self: Any, x: torch.Tensor) -> torch.Tensor:
    return self.down_proj(_Gated.apply(self.gate_proj(x), self.up_proj(x)))


class _Norm(torch.autograd.Function):
    """weight x / sqrt(mean(x²) + epsilon), in float32, converted to `dtype`."""

    @staticmethod
    def forward(ctx, x, weight_D, epsilon, dtype):
        x_ND, y = _flat(x), torch.empty(x.shape, dtype=dtype)
        length_N = torch.linalg.vector_norm(x_ND, dim=-1, keepdim=True, dtype=torch.float32)
        scale_N1 = length_N.square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()
        for rows, out, scale in _rows(x_ND, y.view_as(x_ND), scale_N1):
            out.copy_((rows * scale).mul_(weight_D))
        ctx.save_for_backward(x_ND, weight_D, scale_N1)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, upstream):
        x_ND, weight_D, scale_N1 = ctx.saved_tensors
        of_x = torch.empty(upstream.shape, dtype=x_ND.dtype)
        of_weight_D = torch.zeros(weight_D.shape) if ctx.needs_input_grad[1] else None
        for rows, out, given, scale in _rows(
            x_ND, of_x.view_as(x_ND), upstream.reshape(x_ND.shape), scale_N1
        ):
            normed, given = rows * scale, given.float()
            if of_weight_D is not None:
                of_weight_D += (normed * given).sum(0)
            given = given * weight_D
            along = (given * normed).mean(-1, keepdim=True)
            out.copy_(given.sub_(normed.mul_(along)).mul_(scale))
        return of_x, None if of_weight_D is None else of_weight_D.to(weight_D.dtype), None, None


class _Gated(torch.autograd.Function):
    """silu(gate) x up; of the two factors only what they were made of is kept."""

    @staticmethod
    def forward(ctx, gate, up):
        ctx.save_for_backward(gate, up)
        output = torch.empty(gate.shape, dtype=gate.dtype)
        for one, other, out in _rows(*map(_flat, (gate, up, output))):
            torch.mul(F.silu(one), other, out=out)
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, upstream):
        gate, up = ctx.saved_tensors
        of_gate, of_up = (torch.empty(each.shape, dtype=each.dtype) for each in (gate, up))
        for one, other, given, by_one, by_other in _rows(*map(_flat, (gate, up, upstream, of_gate, of_up))):
            torch.mul(F.silu(one), given, out=by_other)
            by_one.copy_(torch.ops.aten.silu_backward(given * other, one))
        return of_gate, of_up


def _flat(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(-1, tensor.shape[-1])


def _rows(*tensors_ND: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """Iterate over views of a few rows of each tensor."""
    count = max(1, _ELEMENTS // tensors_ND[0].shape[-1])
    return zip(*(each.split(count) for each in tensors_ND), strict=True)
