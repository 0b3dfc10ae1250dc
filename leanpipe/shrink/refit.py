"""What is left of an MLP, fitted anew: the channels that stay do, as well as they can, what those that went did."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from leanpipe.shrink.cuttable import mlp_output
from leanpipe.shrink.importance import hooked, read_blocks

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_RIDGE = 0.01
"""Of the mean square of a channel: what few tokens say is not believed to the last digit."""


def channel_moments(
    model: "PreTrainedModel", layers: Sequence["torch.nn.Module"], blocks: Sequence[Any]
) -> list["torch.Tensor"]:
    """Sum, for each layer, the products of what its MLP's channels carry on `blocks`: (F, F) in float32, on the processor."""
    import torch

    found = [torch.zeros(0)] * len(layers)

    def watch(index: int) -> Callable[..., None]:
        def look(_: Any, given: Any, made: Any) -> None:
            states_NF = given[0].flatten(0, -2).float()
            products_FF = (states_NF.T @ states_NF).cpu()
            found[index] = products_FF if found[index].numel() == 0 else found[index] + products_FF

        return look

    with hooked([(mlp_output(layer), watch(index)) for index, layer in enumerate(layers)]):
        read_blocks(model, blocks)
    return found


def refit(weight_FD: "torch.Tensor", moments_FF: "torch.Tensor", kept_K: "torch.Tensor") -> "torch.Tensor":
    """Return the weights (K, D) of the channels that stay, whose outputs are nearest to those of all F, by least squares.

    As in He et al. 2017, "Channel Pruning for Accelerating Very Deep Neural Networks", equation 3, arXiv 1707.06168.
    """
    import torch

    moments_KK = moments_FF[kept_K][:, kept_K].double()
    ridge = _RIDGE * moments_FF.diagonal().mean().double()
    moments_KK.diagonal().add_(ridge)
    wanted_KD = moments_FF[kept_K].double() @ weight_FD.double()
    wanted_KD += ridge * weight_FD[kept_K].double()  # what is not known stays as it was
    return torch.linalg.solve(moments_KK, wanted_KD).to(weight_FD.dtype)
