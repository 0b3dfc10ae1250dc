"""Read and write model folders: config.json, safetensors, tokenizer and chat template together, as every engine reads them."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from leanpipe import device
from leanpipe.errors import UserError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_model(path: Path, dtype: "torch.dtype | None" = None) -> "PreTrainedModel":
    """The causal language model in the folder `path`, on this machine's device, in evaluation mode.

    `dtype` is by default the fastest that the device has (`device.compute_dtype`). Weights that were quantised when
    they were saved stay so. Raises UserError if the folder holds no such model.
    """
    from transformers import AutoModelForCausalLM

    from leanpipe.models.attention import implementation
    from leanpipe.models.count import read_config

    # On CPU bitsandbytes warns of every int8 layer at every token: 14,000 lines in one short conversation.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=dtype or device.compute_dtype(),
            device_map=device.name(),
            trust_remote_code=False,
            attn_implementation=implementation(read_config(path)),
        )
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"no causal language model could be loaded from {path}: {_first_line(error)}"
        ) from error
    return model.eval()


def load_tokenizer(path: Path) -> "PreTrainedTokenizerBase":
    """The tokenizer in the folder `path`. Raises UserError if there is none."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"no tokenizer could be loaded from {path}: {_first_line(error)}") from error


def save_model(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    path: Path,
    dtype: "torch.dtype | None" = None,
) -> None:
    """Write a model folder. Weights are saved in `dtype`, bfloat16 by default, which halves what fp32 would take."""
    import torch

    model.to(dtype or torch.bfloat16).save_pretrained(path)
    tokenizer.save_pretrained(path)


def weight_bytes(path: Path) -> int:
    """Size on disk of a model folder's weights, in bytes."""
    return sum(file.stat().st_size for pattern in ("*.safetensors", "*.gguf") for file in path.glob(pattern))


def document_separator(tokenizer: "PreTrainedTokenizerBase") -> int:
    """The token that stands before and after every document: `<|endoftext|>` where the vocabulary has it, else EOS.

    Chat models use another EOS, their end of turn, which was never a document's end in their pretraining.
    """
    vocabulary = tokenizer.get_vocab()
    separator = vocabulary.get("<|endoftext|>", tokenizer.eos_token_id)
    if separator is None:
        raise UserError(f"the tokenizer {tokenizer.name_or_path} has no end-of-text token: set its eos_token")
    return separator


def vocabulary_size(tokenizer: "PreTrainedTokenizerBase") -> int:
    """Ids that the tokenizer may give, unused ones between them included. A model's logits are often padded beyond it."""
    return 1 + max(tokenizer.get_vocab().values())


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
