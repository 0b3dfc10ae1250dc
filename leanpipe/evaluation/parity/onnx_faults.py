"""Faults of an ONNX file: its graph must be the one that the trained model's config makes, its weights what storing gives."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from leanpipe.evaluation.parity.bounds import Bounds, Fault
from leanpipe.evaluation.parity.onnx_file import OnnxFile, read_onnx
from leanpipe.evaluation.parity.weight_faults import RESTORE, Wrong, named_faults, relative_error
from leanpipe.export.onnx_blocks import Bits, dequantize_blocks, quantize_blocks
from leanpipe.export.onnx_export import biases_of, rotations
from leanpipe.export.onnx_graph import EMBEDDING, HEAD, GraphBuilder, Weight
from leanpipe.models.count import empty_model, read_config
from leanpipe.models.offload import ONNX_FILE

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import PreTrainedModel

_IN_FILE = f"in {ONNX_FILE}"
_ACCURACY = "accuracy_level"


def find_onnx_graph_faults(trained: Path, folder: Path) -> Iterator[Fault]:
    """Yield each node of the graph that does not compute what the trained model's config asks for."""
    from onnx import helper

    config, file = read_config(trained), read_onnx(folder)
    model = empty_model(config)
    weights = {
        name.removesuffix(".weight"): Weight(file.bits(name.removesuffix(".weight")), *value.shape)
        for name, value in model.state_dict().items()
        if value.dim() == 2
    }
    expected = {
        node.name: node for node in GraphBuilder(config, weights, biases_of(model)).model().graph.node
    }
    if odd := sorted(expected.keys() ^ file.nodes.keys()):
        yield Fault("graph_differs", f"{odd[0]} is a step of one graph alone {_IN_FILE}: {RESTORE}")
        return
    for name, node in expected.items():
        found = file.nodes[name]
        if (list(node.input), list(node.output), node.op_type) != (
            list(found.input),
            list(found.output),
            found.op_type,
        ):
            yield Fault("graph_differs", f"{name} computes something else {_IN_FILE}: {RESTORE}")
        was, now = (
            {one.name: helper.get_attribute_value(one) for one in two.attribute} for two in (node, found)
        )
        for attribute in sorted(key for key in was.keys() | now.keys() if was.get(key) != now.get(key)):
            yield _attribute_fault(name, attribute, was.get(attribute), now.get(attribute))


def find_onnx_weight_faults(trained: "PreTrainedModel", folder: Path, bounds: Bounds) -> Iterator[Fault]:
    """Yield what is wrong with the file's weights: each must be what storing the trained one in its form gives."""
    import numpy as np

    file = read_onnx(folder)
    for kind, expected in zip(("cos", "sin"), rotations(trained), strict=True):
        found = file.arrays.get(kind)
        if found is None or found.shape != expected.shape or not np.allclose(found, expected, atol=1e-4):
            yield Fault("rope_differs", f"the rotations {kind} of positions are others {_IN_FILE}: {RESTORE}")
            return
    tied = trained.get_output_embeddings().weight is trained.get_input_embeddings().weight
    wrong, compared, head = [], 0, 0.0
    for name, value in trained.state_dict().items():
        compared += 1
        pair = _pair(file, name, value.detach().float().cpu())
        if pair is None:
            yield Fault("tensor_missing", f"there is no tensor {name} {_IN_FILE}: {RESTORE}")
            continue
        error = relative_error(*pair)
        if not error <= bounds.tensors and tied and name == f"{HEAD}.weight":
            head = error
        elif not error <= bounds.tensors:
            kept = pair if value.dim() == 1 or name == f"{EMBEDDING}.weight" else None
            wrong.append(Wrong(name, value.dim(), error, kept))
    if head and not any(one.name == f"{EMBEDDING}.weight" for one in wrong):
        yield Fault(
            "tied_head_lost",
            f"the output layer shared the embeddings' weights in training, and has others {_IN_FILE}: {RESTORE}",
        )
    yield from named_faults(wrong, compared, f"{EMBEDDING}.weight")


def _attribute_fault(node: str, attribute: str, was: Any, now: Any) -> Fault:
    if attribute == _ACCURACY:
        return Fault(
            "accuracy_level",
            f"{_ACCURACY} of {node} is {now} {_IN_FILE}, where {was} keeps activations in float32: at 4 onnxruntime rounds "
            f"them to 8 bits, which flips greedy tokens; {RESTORE}",
        )
    kind = (
        "rope_differs"
        if "rotary" in attribute
        else "norm_differs"
        if "epsilon" in attribute
        else "graph_differs"
    )
    return Fault(kind, f"{attribute} of {node} is {now} {_IN_FILE}, and was {was} in training: {RESTORE}")


def _pair(file: OnnxFile, name: str, value: "torch.Tensor") -> "tuple[torch.Tensor, torch.Tensor] | None":
    """The tensor that should be stored, and the one that is, both in float32; None if there is none."""
    import torch

    module = name.removesuffix(".weight")
    if value.dim() != 2 or not file.bits(module):
        found = file.arrays.get(name)
        return None if found is None else (value, _tensor(found))
    bits, blocks = cast(Bits, file.bits(module)), file.blocks(module)
    anew = quantize_blocks(value.numpy(), bits)
    return torch.from_numpy(dequantize_blocks(anew, bits)), torch.from_numpy(dequantize_blocks(blocks, bits))


def _tensor(array: "np.ndarray") -> "torch.Tensor":
    import numpy as np
    import torch

    return torch.from_numpy(np.array(array))
