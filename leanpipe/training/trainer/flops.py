"""Count the arithmetic that a token of training needs. Over what the device does at best (`device.peak_flops`) it is the MFU.

MFU: model FLOPs utilisation (Chowdhery et al. 2022, "PaLM", arXiv 2204.02311, appendix B).
"""

from typing import Any


def flops_per_token(model: Any, length: int) -> float:
    """Count the floating-point operations that training needs for each token of blocks of `length`: those of matrix products only.

    A weight costs 2 forward, 2 for its input's gradient, and 2 for its own if it is trained. Attention over the half of
    the scores that is not masked costs 2 x length x width forward in each layer, and twice that backward. Work that is done
    twice to save memory does not count.
    """
    weights = sum(_weight_flops(module) for module in model.modules())
    config = model.config
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return weights + 6 * length * width * config.num_attention_heads * config.num_hidden_layers


def _weight_flops(module: Any) -> float:
    import torch
    from transformers.pytorch_utils import Conv1D

    if not isinstance(module, torch.nn.Linear | Conv1D):
        return 0
    # Weights of 4 bits are stored packed, so their number is that of inputs times outputs.
    linear = isinstance(module, torch.nn.Linear)
    count = module.in_features * module.out_features if linear else module.weight.numel()
    return count * (6 if module.weight.requires_grad else 4)
