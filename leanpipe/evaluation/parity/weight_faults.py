"""Faults of a served model's weights, tensor by tensor: each must be what quantising the trained one gives.

A quantised tensor is compared with the trained one quantised anew, not with the trained one itself: so a bound can be tight,
and the weights of a neighbouring training step, which differ by less than 4 bits can tell, are found all the same.
"""

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from leanpipe.evaluation.parity.auto_round_file import Grid
from leanpipe.evaluation.parity.bounds import Bounds, Fault

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_QUANTIZED = ("Params4bit", "Int8Params", "Int8Tensor")
"""Classes of weights of bitsandbytes and torchao."""
_FURTHEST = 8
"""Rows by which a vocabulary's are looked for elsewhere."""
RESTORE = "export the model again from the trained folder"
"""What to do about most faults."""
TIED_HEAD_LOST = Fault(
    "tied_head_lost",
    "the output layer shared the embeddings' weights in training, and now has others: set "
    "tie_word_embeddings to true in config.json, or store the embeddings as lm_head.weight",
)


class Wrong(NamedTuple):
    """A weight of the served model that is not what it should be."""

    name: str
    dimensions: int
    error: float
    values: "tuple[torch.Tensor, torch.Tensor] | None"
    """What it should be and what it is, where that tells more; of all the others there may be too many to hold."""


def find_weight_faults(
    trained: "PreTrainedModel",
    served: "PreTrainedModel",
    bounds: Bounds,
    grids: Mapping[str, Grid] | None = None,
) -> Iterator[Fault]:
    """Yield what is wrong with the served weights, named by where they differ. To be asked before either model reads.

    Weights that were not loaded into memory (`load_for_inference`) are passed over. `grids` are the layers that are no longer
    in memory as they were stored (`auto_round_file`, `compressed_file`).
    """
    grids = grids or {}
    theirs = dict(served.named_parameters())
    embedding = _embedding_name(trained)
    wrong, compared = [], 0
    for name, parameter in trained.named_parameters():
        if parameter.is_meta:
            continue
        compared += 1
        if (module := name.removesuffix(".weight")) in grids:
            expected = grids[module].admissible(parameter.detach().cpu().bfloat16().float())
            # What is loaded, where that is still there as numbers; else what is in the file.
            loaded = theirs.get(name)
            found = grids[module].values() if loaded is None else loaded.detach().float().cpu()
            error = relative_error(expected, found)
            if not error <= bounds.tensors:
                wrong.append(Wrong(name, expected.dim(), error, None))
        elif name not in theirs:
            yield Fault("tensor_missing", f"the served model has no tensor {name}: {RESTORE}")
        elif not theirs[name].is_meta:
            expected, found = _pair(name, trained, served)
            error = relative_error(expected, found)
            if not error <= bounds.tensors:
                kept = (expected, found) if expected.dim() == 1 or name == embedding else None
                wrong.append(Wrong(name, expected.dim(), error, kept))
    yield from _head(trained, served, bounds)
    yield from named_faults(wrong, compared, embedding)


def relative_error(expected: "torch.Tensor", found: "torch.Tensor") -> float:
    """Return |found - expected| / |expected|; infinite if they are not even of one shape."""
    if expected.shape != found.shape:
        return math.inf
    return float((found - expected).norm() / expected.norm().clamp_min(1e-30))


def _pair(
    name: str, trained: "PreTrainedModel", served: "PreTrainedModel"
) -> tuple["torch.Tensor", "torch.Tensor"]:
    """The tensor that should be served, and the one that is, both in float32, rounded to bf16, in which models are stored."""
    import bitsandbytes.functional as bnb
    import torch
    from transformers.pytorch_utils import Conv1D

    was, now = trained.get_parameter(name).detach(), served.get_parameter(name)
    kind = type(now).__name__
    if kind not in _QUANTIZED:
        return was.bfloat16().float(), now.detach().to(was.device).bfloat16().float()
    place = name.rpartition(".")[0]
    if isinstance(trained.get_submodule(place), Conv1D):
        was = was.T.contiguous()  # GPT-2 keeps its layers the other way round
    if kind == "Int8Tensor":
        return _torchao_int8(was).to(now.device), now.detach().dequantize().float()
    if kind == "Params4bit":
        state = now.quant_state
        data, anew = bnb.quantize_4bit(
            was.to(torch.bfloat16),
            blocksize=state.blocksize,
            compress_statistics=state.nested,
            quant_type=state.quant_type,
        )
        expected, found = bnb.dequantize_4bit(data, anew), bnb.dequantize_4bit(now.data, state)
        return expected.float(), found.float().reshape(expected.shape)
    # Through bf16, in which they were loaded to be quantised.
    data, scales, _ = bnb.int8_vectorwise_quant(was.to(torch.bfloat16).to(torch.float16))
    scales_now = now.SCB if now.SCB is not None else served.get_submodule(place).state.SCB
    return data.float() * scales.view(-1, 1) / 127, now.data.float() * scales_now.float().view(-1, 1) / 127


def _torchao_int8(weight: "torch.Tensor") -> "torch.Tensor":
    """The weight as torchao stores it, read back."""
    import torch
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    layer = torch.nn.Sequential(
        torch.nn.Linear(*weight.T.shape, bias=False, dtype=torch.bfloat16, device="meta")
    )
    layer[0].weight = torch.nn.Parameter(weight.to(torch.bfloat16), requires_grad=False)
    quantize_(layer, Int8WeightOnlyConfig())
    return layer[0].weight.detach().dequantize().float()


def _embedding_name(model: "PreTrainedModel") -> str:
    embedding = model.get_input_embeddings().weight
    return next((name for name, parameter in model.named_parameters() if parameter is embedding), "")


def _head(trained: "PreTrainedModel", served: "PreTrainedModel", bounds: Bounds) -> Iterator[Fault]:
    """A head that shared the embeddings' weights in training, and now has others."""
    was, head = trained.get_input_embeddings().weight, served.get_output_embeddings()
    tied = trained.get_output_embeddings() is not None and trained.get_output_embeddings().weight is was
    if not tied or head is None or head.weight is served.get_input_embeddings().weight or was.is_meta:
        return
    if type(head.weight).__name__ in _QUANTIZED or head.weight.is_meta:
        return
    expected, found = was.detach().float(), head.weight.detach().float().to(was.device)
    if not relative_error(expected, found) <= bounds.tensors:
        yield TIED_HEAD_LOST


def named_faults(wrong: list[Wrong], compared: int, embedding: str) -> Iterator[Fault]:
    """Name what is wrong by which of the `compared` tensors differ, and how; `embedding` is the vocabulary's."""
    matrices = [one for one in wrong if one.dimensions > 1]
    if len(matrices) > 2 and len(wrong) > compared / 4:
        worst = max(wrong, key=lambda one: one.error)
        yield Fault(
            "stale_weights",
            f"{len(wrong)} of {compared} tensors are of another model than the trained one, such as one of another "
            f"step of its training ({worst.name} differs by {worst.error:.1%}): {RESTORE}",
        )
        return
    for one in wrong:
        if one.name == embedding and one.values:
            yield _vocabulary_fault(*one.values)
        elif one.dimensions == 1 and one.values and ("norm" in one.name or ".ln_" in one.name):
            yield _norm_fault(one.name, *one.values)
        else:
            yield Fault(
                "weights_differ",
                f"{one.name} differs by {one.error:.1%} from what the trained tensor is in this format: {RESTORE}",
            )


def _norm_fault(name: str, expected: "torch.Tensor", found: "torch.Tensor") -> Fault:
    how = "is another than the trained one"
    if expected.shape == found.shape:
        offset = (found - expected).mean()
        if relative_error(expected, found - offset) < 0.02:
            how = f"is off by {float(offset):+.2f} in every channel"
    return Fault("norm_differs", f"the norm {name} was converted wrongly: it {how}; {RESTORE}")


def _vocabulary_fault(expected: "torch.Tensor", found: "torch.Tensor") -> Fault:
    rows_now, rows_was = len(found), len(expected)
    if found.shape != expected.shape:
        return Fault(
            "vocabulary_shifted",
            f"the vocabulary has {rows_now} rows, and {rows_was} in training: {RESTORE}",
        )
    differ = _row_errors(found, expected) > 0.01
    rows = differ.nonzero().flatten()
    for shift in (step * sign for step in range(1, _FURTHEST + 1) for sign in (1, -1)):
        inside = rows[(rows + shift >= 0) & (rows + shift < rows_was)]
        if len(inside) * 10 < len(rows) * 8 or not len(inside):
            continue
        if float((_row_errors(found[inside], expected[inside + shift]) < 0.01).float().mean()) > 0.9:
            return Fault(
                "vocabulary_shifted",
                f"the vocabulary was cut wrongly: from row {int(rows[0])} on, {len(rows)} rows are those of the token "
                f"{abs(shift)} {'after' if shift > 0 else 'before'} it; {RESTORE}",
            )
    return Fault(
        "vocabulary_differs",
        f"{len(rows)} of {rows_was} rows of the vocabulary are others than the trained ones: {RESTORE}",
    )


def _row_errors(found: "torch.Tensor", expected: "torch.Tensor") -> "torch.Tensor":
    return (found - expected).norm(dim=1) / expected.norm(dim=1).clamp_min(1e-30)
