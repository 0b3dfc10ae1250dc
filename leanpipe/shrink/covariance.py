"""What goes into the products of a model on text, as sums over tokens: which directions carry much and which carry nothing.

Letters in names of tensors: N tokens, I inputs, O outputs, K the fewer of both.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from leanpipe.core.errors import UserError
from leanpipe.shrink.importance import hooked, read_blocks

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_TOGETHER = 2_000_000_000
"""Bytes of covariances that are held at once; a model whose products have more inputs reads the text several times."""
_RIDGE = 1e-6
"""Of the mean square of an input, given to each: directions that no text went along then count a little, not nothing."""


def covariances(
    model: "PreTrainedModel", names: Sequence[str], blocks: Sequence[Any]
) -> "Iterator[tuple[str, torch.Tensor]]":
    """Iterate over the products `names` with the mean of x xᵀ of their inputs (I, I), in float64, on the device.

    Products that read the same input, as queries, keys and values do, are each told its covariance.
    """
    for part in _parts(model, names):
        found = _measured(model, part, blocks)
        for name in part:
            yield name, found[name]


def _parts(model: "PreTrainedModel", names: Sequence[str]) -> Iterator[list[str]]:
    part: list[str] = []
    held = 0
    for name in names:
        inputs = model.get_submodule(name).weight.shape[1]
        if part and held + 8 * inputs**2 > _TOGETHER:
            yield part
            part, held = [], 0
        part.append(name)
        held += 8 * inputs**2
    if part:
        yield part


def _measured(
    model: "PreTrainedModel", names: Sequence[str], blocks: Sequence[Any]
) -> "Mapping[str, torch.Tensor]":
    import torch

    sums: dict[str, torch.Tensor] = {}
    last: list[Any] = [None, None]  # an input, and its products: several read the same one in a row
    tokens = sum(len(block["input_ids"]) for block in blocks)

    def watch(name: str) -> Any:
        def look(_: Any, given: Any, made: Any) -> None:
            if last[0] is not given[0]:
                rows_NI = given[0].detach().float().flatten(0, -2)
                last[:] = given[0], (rows_NI.T @ rows_NI).double()
            sums[name] = sums[name] + last[1] if name in sums else last[1]

        return look

    with hooked([(model.get_submodule(name), watch(name)) for name in names]):
        read_blocks(model, blocks)
    for name, sum_II in sums.items():
        if not sum_II.isfinite().all():
            raise UserError(
                f"what goes into {name} came out as NaN or infinite on the corpus, so it cannot be said which directions of "
                "it matter: its weights are damaged or overflow in this device's arithmetic; give another model"
            )
    return {name: sum_II / tokens for name, sum_II in sums.items()}


def output_directions(
    weight_OI: "torch.Tensor", covariance_II: "torch.Tensor"
) -> "tuple[torch.Tensor, torch.Tensor]":
    """Return the directions of a product's outputs (O, K) in falling order of their mean squares, and these (K,).

    They are the left singular vectors U of W S with S Sᵀ the covariance (Wang et al. 2024, "SVD-LLM", section 3.1, arXiv
    2403.07378): the best W' of rank R in the mean square of (W - W') x is U_R U_Rᵀ W, for which S need not be inverted. And S
    comes from eigenvectors, since there is no Cholesky factor if the text has fewer tokens than an input has entries.
    """
    import torch

    squares_I, axes_II = torch.linalg.eigh(covariance_II)
    least = _RIDGE * covariance_II.diagonal().mean().clamp(min=1e-30)
    root_II = axes_II * squares_I.clamp(min=least).sqrt()
    directions_OK, sizes_K, _ = torch.linalg.svd(weight_OI.double() @ root_II, full_matrices=False)
    return directions_OK, sizes_K.square()


def factors(
    weight_OI: "torch.Tensor", directions_OK: "torch.Tensor", rank: int
) -> "tuple[torch.Tensor, torch.Tensor]":
    """Return the factors (O, R) and (R, I) of the best product of this rank, with rows and columns of like size.

    Factors of unlike sizes would learn at unlike speeds.
    """
    up_OR = directions_OK[:, :rank].double()
    down_RI = up_OR.T @ weight_OI.double()
    size_R = down_RI.norm(dim=1).clamp(min=1e-30).sqrt()
    return (up_OR * size_R).float(), (down_RI / size_R[:, None]).float()
