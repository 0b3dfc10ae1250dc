"""Text to calibrate on: what goes into each layer of a model, and so which of its weights matter most.

A layer's output moves with the error of a weight times its input, so the mean square of each input says how much the errors
of its weights count: llama.cpp's importance matrix (https://github.com/ggml-org/llama.cpp/pull/4861).
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leanpipe.compression.shapes import shape_of
from leanpipe.core import device
from leanpipe.core.errors import UserError, refused_if_unreadable
from leanpipe.core.files import written_whole
from leanpipe.models.count import longest_text
from leanpipe.models.load import document_start
from leanpipe.tokens.text_tokens import encode_text
from leanpipe.tokens.training_text import TrainingTextSample

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from leanpipe.compression.gguf_export import Importance

IMPORTANCE_FILE = "importance.safetensors"
"""Lies beside a GGUF file whose weights were rounded by it."""
_LENGTH = 256
"""Tokens of a text."""
_BYTES_A_TOKEN = 40
"""Bytes of text that are looked at for each token that is taken: texts are only read at their beginning."""
_SHORTEST = 32
"""Tokens at the end of a document that are still a text of their own."""


def calibration_texts(
    documents: Path, tokenizer: "PreTrainedTokenizerBase", config: Any, tokens: int
) -> list["torch.Tensor"]:
    """Read about so many tokens of the training text of `documents`, evenly from all of it, as texts [1, T].

    Raises UserError if there is none.
    """
    import torch

    length = min(_LENGTH, longest_text(config) or _LENGTH)
    first = document_start(tokenizer)
    texts = []
    for text in TrainingTextSample(documents, max(_BYTES_A_TOKEN * tokens, 1_000_000)):
        ids = [first, *encode_text(tokenizer, text[: 16 * length])][:length]
        if len(ids) > 1:
            texts.append(ids)
    wanted = max(1, tokens // length)
    chosen = (
        [texts[index * len(texts) // wanted] for index in range(wanted)] if len(texts) > wanted else texts
    )
    if not chosen:
        raise UserError(
            f"{documents} has no training text to calibrate on: give the output folder of the clean stage"
        )
    return [torch.tensor([ids], device=device.name()) for ids in chosen]


def calibration_blocks(
    documents: Path, tokenizer: "PreTrainedTokenizerBase", config: Any, tokens: int
) -> list["torch.Tensor"]:
    """Read about so many tokens as `calibration_texts` does, put behind each other and cut into texts [1, T] of one length."""
    import torch

    together = torch.cat(calibration_texts(documents, tokenizer, config, tokens), dim=1).cpu()
    length = min(_LENGTH, longest_text(config) or _LENGTH, together.shape[1])
    return list(together[:, : together.shape[1] // length * length].split(length, dim=1))


def validation_texts(
    documents: Path, tokenizer: "PreTrainedTokenizerBase", config: Any, tokens: int, split: str = "validation"
) -> list["torch.Tensor"]:
    """Cut about so many tokens of the validation split, evenly from all of it, into texts [1, T] of one length.

    Neither the model nor the importance matrix was fitted to them, so what is lost on them is what will be lost on others.
    Where the split has fewer, training text makes up for it. Raises UserError if there is none of that either.
    """
    import torch

    length = min(_LENGTH, longest_text(config) or _LENGTH)
    first, texts = document_start(tokenizer), []
    for text in TrainingTextSample(documents, max(_BYTES_A_TOKEN * tokens, 1_000_000), split):
        ids = encode_text(tokenizer, text)
        cut = ([first, *ids[at : at + length - 1]] for at in range(0, len(ids), length - 1))
        texts += [ids for ids in cut if len(ids) >= min(_SHORTEST, length)]
    wanted = max(1, tokens // length)
    chosen = (
        [texts[index * len(texts) // wanted] for index in range(wanted)] if len(texts) > wanted else texts
    )
    found = [torch.tensor([ids], device=device.name()) for ids in chosen]
    missing = tokens - sum(map(len, chosen))
    if missing >= length or not found:
        found += calibration_texts(documents, tokenizer, config, max(missing, length))
    return found


def measure_importance_matrix(model: "PreTrainedModel", texts: list["torch.Tensor"]) -> "Importance":
    """Return the mean square of each input [inputs] of every linear layer on the texts, in float32, by module.

    Embeddings that are the output layer too count by what goes into that.
    """
    import torch

    sums: dict[str, torch.Tensor] = {}
    with _watched(model, sums), torch.inference_mode():
        for text in texts:
            model(input_ids=text, use_cache=False)
    count = sum(text.numel() for text in texts)
    found = {name: (total / count).float().cpu() for name, total in sums.items()}
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    if head.weight is embeddings.weight:
        names = {id(module): name for name, module in model.named_modules()}
        found[names[id(embeddings)]] = found[names[id(head)]]
    return found


@contextlib.contextmanager
def _watched(model: "PreTrainedModel", sums: "dict[str, torch.Tensor]") -> Iterator[None]:
    """Add up the squares of what goes into each linear layer."""

    def watch(name: str):
        def look(_: Any, given: tuple["torch.Tensor", ...]) -> None:
            squares = given[0].detach().flatten(0, -2).double().square().sum(0)
            sums[name] = sums[name] + squares if name in sums else squares

        return look

    hooks = [
        module.register_forward_pre_hook(watch(name))
        for name, module in model.named_modules()
        if shape_of(module)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def save_importance(importance: "Importance", folder: Path) -> None:
    """Write what the weights in a model folder were rounded by beside them."""
    from safetensors.torch import save_file

    with written_whole(folder / IMPORTANCE_FILE) as half:
        # Embeddings that are the output layer too have the same numbers under two names.
        save_file({name: values.clone() for name, values in importance.items()}, half)


def read_importance(folder: Path) -> "Importance":
    """Read what the weights in a model folder were rounded by; nothing if all of them counted the same."""
    from safetensors.torch import load_file

    file = folder / IMPORTANCE_FILE
    if not file.is_file():
        return {}
    with refused_if_unreadable(str(file), "quantise the model again"):
        return load_file(file)
