"""A model folder that bitsandbytes has quantised while it was loaded."""

from pathlib import Path
from typing import TYPE_CHECKING

from leanpipe.core import device

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig, PreTrainedTokenizerBase


def write_quantized(
    source: Path, target: Path, config: "BitsAndBytesConfig", tokenizer: "PreTrainedTokenizerBase"
) -> None:
    """Quantise the model in `source` while it is loaded and save it to `target`. What is not quantised becomes bf16."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        source,
        dtype=torch.bfloat16,
        device_map=device.name(),
        quantization_config=config,
        trust_remote_code=False,
    )
    # Saved before any forward pass: the CPU kernels repack the weights on first use.
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
