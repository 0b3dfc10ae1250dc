"""Count the arithmetic that a token of training needs. Over what the device does at best (`device.peak_flops`) it is the MFU.

MFU: model FLOPs utilisation (Chowdhery et al. 2022, "PaLM", arXiv 2204.02311, appendix B).
"""

from typing import Any

import torch

from leanpipe.models.attention.attention_patterns import KEY
from leanpipe.training.trainer.data import BlockDataset, evenly_spaced_blocks

_SAMPLE_TOKENS = 2**15


def flops_per_token(model: Any, blocks: BlockDataset) -> float:
    """Count the floating-point operations that training needs for each token of `blocks`: those of matrix products only.

    A weight costs 2 forward, 2 for its input's gradient, and 2 for its own if it is trained. Each pair of tokens of which
    one attends to the other costs 4 x width forward in each layer, and twice that backward; a token attends to what comes
    before it in its own document, and to itself. Work that is done twice to save memory does not count.
    """
    weights = sum(_weight_flops(module) for module in model.modules())
    config = model.config
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    sample = evenly_spaced_blocks(blocks, _SAMPLE_TOKENS)
    positions = torch.cat([torch.as_tensor(block["position_ids"]) for block in sample])
    attended = sum(attended_tokens(positions, window) for window in _windows(config))
    return weights + 12 * attended * width * config.num_attention_heads


def attended_tokens(positions: torch.Tensor, window: int | None = None) -> float:
    """Average how many tokens a token attends to, itself among them: its document's up to it, at most `window`."""
    attended = positions + 1
    return float((attended if window is None else attended.clamp(max=window)).double().mean())


def _windows(config: Any) -> list[int | None]:
    """How far back each layer looks; None for all the way. What sparse patterns see beside their window does not count."""
    window = getattr(config, "sliding_window", None) or (getattr(config, KEY, None) or {}).get("window")
    kinds = getattr(config, "layer_types", None) or ["sliding_attention"] * config.num_hidden_layers
    return [window if kind == "sliding_attention" else None for kind in kinds]


def _weight_flops(module: Any) -> float:
    from transformers.pytorch_utils import Conv1D

    if not isinstance(module, torch.nn.Linear | Conv1D):
        return 0
    # Weights of 4 bits are stored packed, so their number is that of inputs times outputs.
    linear = isinstance(module, torch.nn.Linear)
    count = module.in_features * module.out_features if linear else module.weight.numel()
    return count * (6 if module.weight.requires_grad else 4)
