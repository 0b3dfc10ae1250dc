"""An ONNX file opened to be checked: its graph, and its weights where they lie; whatever is wrong with it is one sentence."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from leanpipe.core.errors import UserError, refused_if_unreadable
from leanpipe.export.onnx_blocks import BLOCK, Blocks
from leanpipe.models.offload import ONNX_FILE

if TYPE_CHECKING:
    import numpy as np
    from onnx import NodeProto


class OnnxFile(NamedTuple):
    """The nodes of the graph by their names, and its weights as they are stored, mapped from the disk."""

    nodes: "Mapping[str, NodeProto]"
    arrays: "Mapping[str, np.ndarray]"

    def bits(self, module: str) -> int:
        """Bits of a number of the module's matrix; 0 if it is no blocks."""
        scales = self.arrays.get(f"{module}.scales")
        return 0 if scales is None else 8 * self._data(module).size // (scales.size * BLOCK)

    def blocks(self, module: str) -> Blocks:
        """The blocks of the module's matrix."""
        return Blocks(self._data(module), self.arrays[f"{module}.scales"])

    def _data(self, module: str) -> "np.ndarray":
        """Embeddings are named otherwise: their operator wants rows instead of blocks."""
        return self.arrays[f"{module}.rows" if f"{module}.rows" in self.arrays else f"{module}.blocks"]


def read_onnx(folder: Path) -> OnnxFile:
    """Open the ONNX file in a model folder. Raises UserError if it is damaged."""
    file = folder / ONNX_FILE
    try:
        changed = max(path.stat().st_mtime_ns for path in folder.glob(f"{ONNX_FILE}*"))
        return _read(file, changed)
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read ({error}): make it again") from error


# Several checks read it one after the other.
@functools.lru_cache(1)
def _read(file: Path, changed: int) -> OnnxFile:
    with refused_if_unreadable(f"the ONNX file {file}", "it is damaged or cut short, so make it again"):
        import onnx

        graph = onnx.load(file, load_external_data=False).graph
        arrays = {one.name: _array(one, file.parent) for one in graph.initializer}
        return OnnxFile({node.name: node for node in graph.node}, arrays)


def _array(tensor: Any, folder: Path) -> "np.ndarray":
    import numpy as np
    from onnx import external_data_helper, helper, numpy_helper

    if not external_data_helper.uses_external_data(tensor):
        return numpy_helper.to_array(tensor)
    place = external_data_helper.ExternalDataInfo(tensor)
    if Path(place.location).name != place.location:
        raise UserError(f"the ONNX file in {folder} names weights outside of its folder: make it again")
    kind = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    return np.memmap(folder / place.location, kind, "r", place.offset or 0, tuple(tensor.dims))
