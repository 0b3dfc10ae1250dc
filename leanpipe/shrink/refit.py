"""What is left of an MLP, fitted anew: the channels that stay do, as well as they can, what those that went did."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_RIDGE = 0.01
"""Of the mean square of a channel: what few tokens say is not believed to the last digit."""


def refit(weight_FD: "torch.Tensor", moments_FF: "torch.Tensor", kept_K: "torch.Tensor") -> "torch.Tensor":
    """Return the weights (K, D) of the channels that stay, whose outputs are nearest to those of all F, by least squares.

    `moments_FF` are the sums over tokens of the products of what two channels carry. As in He et al. 2017, "Channel Pruning for Accelerating Very Deep Neural Networks", equation 3, arXiv 1707.06168.
    """
    import torch

    moments_FF = moments_FF.to(weight_FD.device)  # what was counted lies on the processor
    moments_KK = moments_FF[kept_K][:, kept_K].double()
    ridge = _RIDGE * moments_FF.diagonal().mean().double()
    moments_KK.diagonal().add_(ridge)
    wanted_KD = moments_FF[kept_K].double() @ weight_FD.double()
    wanted_KD += ridge * weight_FD[kept_K].double()  # what is not known stays as it was
    return torch.linalg.solve(moments_KK, wanted_KD).to(weight_FD.dtype)
