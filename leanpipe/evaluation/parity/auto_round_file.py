"""What a folder of the format auto_round_int4 holds, read from its file: the loaded layers hold it in their kernels' order.

GPTQ's packing: eight weights of a row of inputs lie in each 32-bit number, the first in its lowest bits, and each group of
inputs has a scale and a zero point, of which one less is stored (https://arxiv.org/abs/2210.17323, and AutoGPTQ's code).
"""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from leanpipe.models.offload import weight_files

if TYPE_CHECKING:
    import torch

_BITS, _PACKED = 4, ".qweight"
_STEP = 1.1
"""Steps of the grid by which a weight may be moved: one, and what it makes that scales were learned in 16 bits (up to 1.047 were
seen in a real student)."""
_BFLOAT16 = 2**-8
"""As a share of a weight, what rounding it to bfloat16 changes at the most."""


class Grid(NamedTuple):
    """A layer's weights [outputs, inputs] as whole numbers, and for each of them its scale and its zero point."""

    levels: "torch.Tensor"
    scales: "torch.Tensor"
    zeros: "torch.Tensor"
    bits: int = _BITS
    step: float = _STEP
    """Steps of the grid by which a weight may be moved."""

    def values(self) -> "torch.Tensor":
        """The weights in float32."""
        return (self.levels - self.zeros) * self.scales

    def admissible(self, weights: "torch.Tensor") -> "torch.Tensor":
        """What may be stored of `weights`, which are in bfloat16: each as it is stored, if that is so near, or as the nearest."""
        places = weights / self.scales
        inside = (places + self.zeros).clamp(0, 2**self.bits - 1)
        near = (self.levels - inside).abs() <= self.step + places.abs() * _BFLOAT16
        levels = self.levels.where(near, inside.round())
        return (levels - self.zeros) * self.scales


def read_grids(folder: Path) -> dict[str, Grid]:
    """Read the layers of 4 bits in a model folder, by the name of their module."""
    from safetensors import safe_open

    grids = {}
    for path in weight_files(folder):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 - it is no dictionary
                if name.endswith(_PACKED):
                    module = name.removesuffix(_PACKED)
                    parts = (file.get_tensor(f"{module}.{one}") for one in ("qweight", "qzeros", "scales"))
                    grids[module] = _grid(*parts)
    return grids


def _grid(packed: "torch.Tensor", zeros: "torch.Tensor", scales: "torch.Tensor") -> Grid:
    levels = unpacked(packed.T).float()
    each = levels.shape[1] // scales.shape[0]
    offsets = unpacked(zeros).T.float() + 1
    return Grid(
        levels, scales.T.float().repeat_interleave(each, dim=1), offsets.repeat_interleave(each, dim=1)
    )


def unpacked(packed: "torch.Tensor", bits: int = _BITS) -> "torch.Tensor":
    """Unpack the numbers of so many bits that lie in each of 32 bits in a row, the first in the lowest."""
    import torch

    shifts = torch.arange(0, 32, bits)
    return (packed.contiguous()[:, :, None] >> shifts & 2**bits - 1).flatten(1)
