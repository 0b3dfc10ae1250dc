"""How far a model's logits move when it is quantised, on a short English text."""

from pathlib import Path
from typing import TYPE_CHECKING

from leanpipe.compression.quantize_gguf import engine_logits
from leanpipe.core import device
from leanpipe.models.load import leading_bos, load_model
from leanpipe.models.offload import is_exported
from leanpipe.tokens.text_tokens import encode_text

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_PROBE_TEXT = (
    "The river rises in the hills to the north, passes three small towns, and reaches the sea after ninety miles. "
    "In spring, when the snow melts, it carries twice the water that it does in autumn. Why does that matter? Because "
    "the mills along its banks were built for the wet months, and in 1874 four of them stood still from July on."
)


def probe_tokens(tokenizer: "PreTrainedTokenizerBase", model: "PreTrainedModel") -> "torch.Tensor":
    """Token ids [1, T] of the probe text, no more than the model can read."""
    import torch

    from leanpipe.models.count import longest_text

    bos = leading_bos(tokenizer)
    tokens = [*([] if bos is None else [bos]), *encode_text(tokenizer, _PROBE_TEXT)]
    return torch.tensor([tokens[: longest_text(model.config)]], device=device.name())


def model_logits(model: "PreTrainedModel", tokens: "torch.Tensor") -> "torch.Tensor":
    """Logits [1, T, V] in float32 on the CPU."""
    import torch

    with torch.inference_mode():
        return model(input_ids=tokens, use_cache=False).logits.float().cpu()


def folder_logits(folder: Path, tokens: "torch.Tensor") -> "torch.Tensor":
    """Logits [1, T, V] of the engine that serves the folder."""
    return engine_logits(folder, tokens) if is_exported(folder) else model_logits(load_model(folder), tokens)


def relative_error(actual: "torch.Tensor", expected: "torch.Tensor") -> float:
    """Return |actual - expected| / |expected| in the L2 norm over all elements."""
    return float((actual - expected).norm() / expected.norm())
