"""What llama.cpp's arithmetic costs besides the rounded weights: it rounds what is multiplied with them to 8 bits, too."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from leanpipe.compression.budget.divergence import mean_divergence, rounded
from leanpipe.compression.budget.weight_groups import WeightGroup, chosen_modules
from leanpipe.compression.gguf_export import GgufTypes, write_gguf
from leanpipe.models.offload import GGUF_FILE

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_TYPE = "q8_0"
"""The type whose weights lose so little that what the engine adds is seen. It adds nearly as much to every other."""


def engine_loss(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    groups: Sequence[WeightGroup],
    texts: "Sequence[torch.Tensor]",
    beside: Path,
) -> float:
    """Return how many nats per token llama.cpp moves further from the model than the weights that it reads; `beside` has room."""
    import torch

    from leanpipe.engines.gguf_logits import GgufLogits

    with TemporaryDirectory(dir=beside if beside.is_dir() else None) as folder:
        model.config.save_pretrained(folder)
        chosen = chosen_modules(groups, {group.name: _TYPE for group in groups})
        whole = frozenset(name for name, _ in model.named_modules())
        write_gguf(model, tokenizer, GgufTypes(_TYPE, _TYPE, whole, chosen), Path(folder, GGUF_FILE))
        engine = GgufLogits(Path(folder), max(text.numel() for text in texts))
    with torch.inference_mode():
        exact = [model(input_ids=text).logits[0].float().cpu() for text in texts]
        with rounded(model, chosen, None):
            by_weights = [model(input_ids=text).logits[0].float().cpu() for text in texts]
    by_engine = [engine(text[0].tolist()) for text in texts]
    return max(0.0, mean_divergence(exact, by_engine) - mean_divergence(exact, by_weights))
