"""Which layers a format fits: the kernels of bitsandbytes want some numbers of rows and columns, and others on each device."""

import functools
import logging
from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

from leanpipe.compression.quantize_transformers import (
    CALIBRATED,
    COMPRESSED,
    GROUPED,
    GROUPS,
    why_no_groups,
    why_no_kernel,
)
from leanpipe.core import device
from leanpipe.core.errors import UserError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)

_MARLIN = (128, 64)
"""What the inputs and the outputs of a layer are multiples of, for vLLM's fastest kernels (its marlin_utils.py)."""


class Shape(NamedTuple):
    """How many numbers a linear layer reads, and how many it gives."""

    inputs: int
    outputs: int


def shape_of(module: "torch.nn.Module") -> Shape | None:
    """Return the shape of a layer that can be quantised: a Linear, or what GPT-2 has in its place; None for others."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    if type(module) is nn.Linear:
        return Shape(module.in_features, module.out_features)
    return Shape(*module.weight.shape) if isinstance(module, Conv1D) else None


def split_modules(model: "PreTrainedModel", keep: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Return the names of the linear layers that stay in full precision, and of those to quantise.

    A name in `keep` matches a whole name, or its start or end at a dot. The output layer, and what shares its weights
    with another module, always stay. Raises UserError for a name that matches no linear layer, or if none is left.
    """
    from transformers.quantizers.base import get_keys_to_not_convert

    linear = [name for name, module in model.named_modules() if shape_of(module)]
    unknown = [name for name in keep if not any(_matches(name, one) for one in linear)]
    if unknown:
        ends = sorted({name.rsplit(".", 1)[-1] for name in linear})
        raise UserError(
            f"quantize.keep: no linear layer is named {', '.join(unknown)}; this model has {', '.join(ends)}, each "
            f"under a name such as {linear[0]}"
        )
    always = set(get_keys_to_not_convert(model))
    kept = [name for name in linear if name in always or any(_matches(one, name) for one in keep)]
    quantized = [name for name in linear if name not in set(kept)]
    if not quantized:
        raise UserError(
            "quantize.keep leaves no linear layer to quantise: name fewer modules"
            if keep
            else f"a model of type {model.config.model_type} has no linear layer that could be quantised: leave quantize out"
        )
    return kept, quantized


def _matches(pattern: str, name: str) -> bool:
    return f".{pattern}." in f".{name}."


def fitting(form: str, model: "PreTrainedModel", names: list[str], group_size: int = GROUPS[-1]) -> list[str]:
    """Return those of the layers `names` that fit the format; that others stay as they are is logged.

    Each shape is tried on a layer of it, so nothing is assumed of the kernels. Raises UserError if none fits.
    """
    of_shape: dict[Shape, list[str]] = defaultdict(list)
    for name in names:
        shape = shape_of(model.get_submodule(name))
        assert shape is not None, f"{name} is a linear layer"
        of_shape[shape].append(name)
    reasons = {shape: reason for shape in of_shape if (reason := why_not(form, shape, group_size))}
    unfit = {name for shape in reasons for name in of_shape[shape]}
    if reasons:
        said = ", ".join(f"{shape.inputs} x {shape.outputs} ({reason})" for shape, reason in reasons.items())
        if len(unfit) == len(names):
            raise UserError(
                f"format {form} fits no layer of this model on {device.name()}: {said}; take {form} out of "
                "quantize.formats, or choose a student whose widths are multiples of 64 (shrink.width)"
            )
        log.warning(
            "%s: %d of %d layers stay in full precision, for their shape: %s",
            form,
            len(unfit),
            len(names),
            said,
        )
    return [name for name in names if name not in unfit]


def slow_in_vllm(model: "PreTrainedModel", names: list[str]) -> str:
    """Say how many of the layers `names` vLLM's fastest kernels do not take; empty if they take all."""
    shapes = [shape for name in names if (shape := shape_of(model.get_submodule(name)))]
    slow = [shape for shape in shapes if shape.inputs % _MARLIN[0] or shape.outputs % _MARLIN[1]]
    if not slow:
        return ""
    return (
        f"{len(slow)} of {len(shapes)} layers, such as {slow[0].inputs} x {slow[0].outputs}, are not taken by Marlin, vLLM's fastest "
        f"kernels, which want inputs that are multiples of {_MARLIN[0]} and outputs of {_MARLIN[1]}"
    )


@functools.cache
def why_not(form: str, shape: Shape, group_size: int = GROUPS[-1]) -> str:
    """Say why a layer of that shape cannot be quantised and run on this device; empty if it can."""
    import torch

    if form == CALIBRATED:
        return why_no_kernel(*shape, group_size)
    if form in COMPRESSED:
        return why_no_groups(shape.inputs, group_size) if form in GROUPED else ""

    try:
        layer = _layer(form, shape).to(device.name()).eval().requires_grad_(False)
        rows = torch.ones(2, shape.inputs, dtype=torch.bfloat16, device=device.name())
        with torch.inference_mode():
            finite = bool(torch.isfinite(layer(rows)).all())
    except (
        ImportError,
        RuntimeError,
        NotImplementedError,
        AttributeError,
        ValueError,
        AssertionError,
        OSError,
    ) as error:
        return (str(error) or type(error).__name__).splitlines()[0]
    return "" if finite else "it gives no finite numbers"


def _layer(form: str, shape: Shape) -> "torch.nn.Module":
    import bitsandbytes
    import torch

    if form == "torchao_int8":
        from torchao.quantization import Int8WeightOnlyConfig, quantize_

        layer = torch.nn.Sequential(torch.nn.Linear(*shape, bias=False, dtype=torch.bfloat16))
        quantize_(layer, Int8WeightOnlyConfig())
        return layer
    if form == "int8":
        return bitsandbytes.nn.Linear8bitLt(*shape, bias=False, has_fp16_weights=False, threshold=6.0)
    return bitsandbytes.nn.Linear4bit(*shape, bias=False, quant_type="nf4", compute_dtype=torch.bfloat16)
