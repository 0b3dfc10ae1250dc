"""What a folder of the formats w8a16 and w4a16 holds, read from its file: the loaded layers hold it unpacked.

The numbers of a row lie behind each other in 32-bit ones, the first in the lowest bits, with half of their range added; each
row, or each group of its weights, has a scale (compressed-tensors' pack-quantized).
"""

from pathlib import Path

from leanpipe.evaluation.parity.auto_round_file import Grid, unpacked
from leanpipe.models.offload import weight_files
from leanpipe.models.quantizers import PACKED, packed_bits

_STEP = 0.501
"""Steps of the grid by which a weight may be moved: to the nearest number."""


def read_compressed(folder: Path) -> dict[str, Grid]:
    """Read the packed layers in a model folder, by the name of their module."""
    import torch
    from safetensors import safe_open

    bits, grids = packed_bits(folder), {}
    for path in weight_files(folder):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 - it is no dictionary
                if name.endswith(PACKED):
                    module = name.removesuffix(PACKED)
                    scales = file.get_tensor(f"{module}.weight_scale").float()
                    columns = int(file.get_tensor(f"{module}.weight_shape")[1])
                    levels = unpacked(file.get_tensor(name), bits)[:, :columns].float()
                    each = scales.repeat_interleave(columns // scales.shape[1], dim=1)
                    half = torch.full_like(levels, 2.0 ** (bits - 1))
                    grids[module] = Grid(levels, each, half, bits, _STEP)
    return grids
