"""Faults planted in an ONNX file itself: in its graph, and in the weights beside it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from leanpipe.models.offload import ONNX_DATA, ONNX_FILE
from tests.evaluation.parity.plants import Plant


def rewrite(folder: Path, change: Callable[[Any], object]) -> None:
    """Change the graph of the file."""
    import onnx

    model = onnx.load(folder / ONNX_FILE, load_external_data=False)
    change(model.graph)
    (folder / ONNX_FILE).write_bytes(model.SerializeToString())


def attribute(kind: str, name: str, value: int | float) -> Callable[[Path], None]:
    """Give an attribute of all nodes of a kind another value."""

    def change(graph: Any) -> None:
        from onnx import helper

        for node in graph.node:
            if node.op_type == kind:
                kept = [one for one in node.attribute if one.name != name]
                del node.attribute[:]
                node.attribute.extend([*kept, helper.make_attribute(name, value)])

    return lambda folder: rewrite(folder, change)


def array(name: str, change: Callable) -> Callable[[Path], None]:
    """Store other values of an array, at the end of the file of weights."""

    def plant(folder: Path) -> None:
        import numpy as np

        from leanpipe.evaluation.parity.onnx_file import read_onnx

        found = np.ascontiguousarray(change(np.array(read_onnx(folder).arrays[name])))
        with (folder / ONNX_DATA).open("ab") as file:
            file.write(bytes(-file.tell() % 64))
            place = file.tell()
            file.write(found.tobytes())

        def point(graph: Any) -> None:
            for one in graph.initializer:
                if one.name == name:
                    for entry in one.external_data:
                        if entry.key == "offset":
                            entry.value = str(place)

        rewrite(folder, point)

    return plant


def shift(rows):
    import numpy as np

    return np.concatenate([rows[:300], rows[301:], rows[300:301]])


def shifted_vocabulary(folder: Path) -> None:
    """A row of the vocabulary was cut out, of its numbers and of its scales."""
    for name in ("model.embed_tokens.rows", "model.embed_tokens.scales", "lm_head.blocks", "lm_head.scales"):
        array(name, shift)(folder)


def interleaved(rows):
    """As llama.cpp's converter leaves them; tiny_llama has 4 heads of 16."""
    return rows.reshape(4, 2, -1, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def swapped_inputs(graph: Any) -> None:
    """The gate and what it gates change places."""
    for node in graph.node:
        if node.name.endswith("mlp.silu"):
            node.input[0] = node.input[0].replace("gate_proj", "up_proj")


_QUERY = "model.layers.0.self_attn.q_proj"
ONNX_PLANTS = (
    Plant("activations in 8 bits", "accuracy_level", attribute("MatMulNBits", "accuracy_level", 4)),
    Plant("rotated neighbours", "rope_differs", attribute("GroupQueryAttention", "rotary_interleaved", 1)),
    Plant("not rotated", "rope_differs", attribute("GroupQueryAttention", "do_rotary", 0)),
    Plant("another rotary base", "rope_differs", array("cos", lambda values: values[::-1])),
    Plant("another epsilon", "norm_differs", attribute("SimplifiedLayerNormalization", "epsilon", 1e-2)),
    Plant("norm off by one", "norm_differs", array("model.norm.weight", lambda values: values - 1)),
    Plant("attention scaled otherwise", "graph_differs", attribute("GroupQueryAttention", "scale", 1.0)),
    Plant("gate and gated swapped", "graph_differs", lambda folder: rewrite(folder, swapped_inputs)),
    Plant("rows in llama.cpp's order", "weights_differ", array(f"{_QUERY}.scales", interleaved)),
    Plant("tied head lost", "tied_head_lost", array("lm_head.scales", lambda values: values[::-1])),
    Plant("vocabulary cut wrongly", "vocabulary_shifted", shifted_vocabulary),
)
