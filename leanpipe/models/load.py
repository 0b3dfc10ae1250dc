"""Read and write model folders: config.json, safetensors, tokenizer and chat template together, as every engine reads them."""

import logging
import pickle
import tempfile
import warnings
import weakref
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leanpipe.core import device
from leanpipe.core.errors import UserError, reason, refused_if_unreadable
from leanpipe.models.card import carry_licence
from leanpipe.models.count import brings_code, know_classes, read_config, refuse_code
from leanpipe.models.offload import (
    GIGABYTE,
    check_fits,
    check_runs_on_the_device,
    is_exported,
    is_gguf,
    is_quantized,
    loaded_bytes,
    max_memory,
    room,
    weight_files,
)
from leanpipe.models.quantizers import COMPRESSED_TENSORS, check_quantizer_of, method_of

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger(__name__)


def load_model(path: Path, dtype: "torch.dtype | None" = None) -> "PreTrainedModel":
    """Load the causal language model in the folder `path`, whole on this machine's device, in evaluation mode.

    `dtype` is by default the fastest that the device has (`device.compute_dtype`). Weights that were quantised when
    they were saved stay so. Shards are mapped into memory and read weight by weight, so that no second copy is made.
    Raises UserError if the folder holds no such model, or if its weights exceed the device's free memory.
    """
    dtype = dtype or device.compute_dtype()
    check_fits(path, dtype)
    return _load(path, dtype, device_map=device.name())


def load_on_host(path: Path) -> "PreTrainedModel":
    """Load a model whose weights are only moved about: in the host's memory, in the type that they were saved in."""
    import torch

    return _load(path, read_config(path).dtype or torch.float32, device_map="cpu")


def load_for_inference(path: Path, limit: float = 0, spare: int = 0) -> "PreTrainedModel":
    """Load a model that only predicts: what does not fit on the device lies in the host's memory and on the disk.

    `limit` is the memory of the device that weights may take, in gigabytes; 0 is what is free now but for `spare` bytes.
    What must be written to be read from the disk goes to a temporary folder, which is removed with the model.
    """
    dtype, available = device.compute_dtype(), room(limit, spare)
    if loaded_bytes(path, dtype) <= available:
        return _load(path, dtype, device_map=device.name())
    if is_quantized(path):
        raise UserError(
            f"the quantised weights of {path} exceed the {available / GIGABYTE:.2f} GB of device memory that they may take, "
            "and quantised weights are not offloaded: allow them more, or give the model in full precision"
        )
    folder = tempfile.TemporaryDirectory(prefix="leanpipe-offload-")
    model = _load(
        path,
        dtype,
        device_map="sequential",
        max_memory=max_memory(available),
        offload_folder=folder.name,
    )
    weakref.finalize(model, folder.cleanup)
    check_runs_on_the_device(model, available)
    log.info("%s is larger than the memory it may take: %s", path, _places(model))
    return model


def _load(path: Path, dtype: "torch.dtype", **where: Any) -> "PreTrainedModel":
    from transformers import AutoModelForCausalLM

    from leanpipe.models.attention.sparse_attention import attention_implementation

    if is_exported(path):
        file, engine = ("a GGUF file", "llama.cpp") if is_gguf(path) else ("an ONNX file", "onnxruntime")
        raise UserError(
            f"{path} holds {file}, which {engine} serves and measures, and which is neither trained nor quantised "
            "again: give the model in full precision that it was made of"
        )
    # On CPU bitsandbytes warns of every int8 layer at every token: 14,000 lines in one short conversation.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    with weights_of(path), _unpacked(path) as how:
        model, found = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=dtype,
            trust_remote_code=False,
            weights_only=True,
            attn_implementation=attention_implementation(read_config(path)),
            output_loading_info=True,
            **how,
            **where,
        )
    if missing := sorted(found["missing_keys"]):
        error = MissingTensors(
            f"the weights of {path} lack {len(missing)} of the tensors of a {type(model).__name__}, such as {missing[0]}, "
            "which would be random: give the folder of a causal language model, whole"
        )
        error.names = tuple(missing)
        raise error
    return model.eval()


@contextmanager
def _unpacked(path: Path) -> Iterator[dict[str, Any]]:
    """How weights are loaded that transformers can only unpack: into plain ones at once, and not when they are first used."""
    if method_of(path) != COMPRESSED_TENSORS:
        yield {}
        return
    from transformers import CompressedTensorsConfig

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "You passed `quantization_config`")
        yield {"quantization_config": CompressedTensorsConfig(dequantize=True)}


class MissingTensors(UserError):
    """Weights lack some of the tensors of their model; `names` are those."""

    names: tuple[str, ...] = ()


@contextmanager
def weights_of(path: Path) -> Iterator[None]:
    """Raise UserError instead of what transformers and torch raise while they read the weights in `path`.

    To be used with `weights_only=True`: what else a pickle holds may be a program.
    """
    check_quantizer_of(path)
    try:
        with _refused(path, "causal language model"):
            yield
    except UserError as error:
        if not isinstance(error.__cause__, pickle.UnpicklingError):
            raise
        raise UserError(
            f"the weights of {path} are a pickle that holds more than weights, which may be a program, and is never "
            "read: save the model as safetensors where you trust it"
        ) from error


def _places(model: "PreTrainedModel") -> str:
    """How many of its modules lie where, for people."""
    counts = Counter(
        "cpu" if place == "cpu" else "disk" if place == "disk" else "device"
        for place in model.hf_device_map.values()
    )
    return ", ".join(f"{count} of its modules on {place}" for place, count in counts.items())


def load_tokenizer(path: Path) -> "PreTrainedTokenizerBase":
    """Load the tokenizer in the folder `path`. Raises UserError if there is none."""
    from transformers import AutoTokenizer

    know_classes(path)
    with _refused(path, "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        tokenizer("a")  # of some damaged files each half is well
    _check_template_is_jinja(path, tokenizer)
    return tokenizer


def _check_template_is_jinja(path: Path, tokenizer: "PreTrainedTokenizerBase") -> None:
    """What it makes of conversations is for others to check; a strict template refuses this one."""
    from jinja2 import TemplateSyntaxError

    if not tokenizer.chat_template:
        return
    try:
        tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False)
    except TemplateSyntaxError as error:
        raise UserError(
            f"the chat template of {path} is no Jinja template (line {error.lineno}: {reason(error)}): mend its "
            "chat_template.jinja, or the chat_template in its tokenizer_config.json"
        ) from error
    except Exception as error:  # noqa: BLE001
        log.debug("the chat template of %s refuses a question alone: %s", path, error)


def check_tokenizer(path: Path) -> None:
    """Raise UserError if the model in the folder `path` and its tokenizer are no pair. Loads no weights.

    A token without a row in the embeddings ends a training in the middle, and without an end of text no answer ends.
    """
    tokenizer, rows = load_tokenizer(path), read_config(path).get_text_config().vocab_size
    known = vocabulary_size(tokenizer)
    if known > rows:
        raise UserError(
            f"the tokenizer of {path} has {known:,} tokens, and the model's embeddings have {rows:,} rows: take the "
            "tokenizer that the model was trained with, or resize the model's embeddings (resize_token_embeddings)"
        )
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"the tokenizer of {path} names no end of text: put eos_token into its tokenizer_config.json"
        )


def check_numbers(model: "PreTrainedModel", path: Path) -> None:
    """Raise UserError if a weight of the model, which was read from `path`, is no number: nothing can be told or learnt from it."""
    for name, weight in model.named_parameters():
        if not weight.isfinite().all():
            raise UserError(
                f"the weights of {path} are damaged: {name} holds NaN or infinite numbers; fetch the model again, or give another"
            )


def save_model(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    path: Path,
    dtype: "torch.dtype | None" = None,
    made_of: Sequence[Path] | None = None,
) -> None:
    """Write a model folder. Weights are saved in `dtype`, bfloat16 by default, which halves what fp32 would take.

    The licence of the models in the folders `made_of`, as their cards name it, is the new one's, and so are their base
    models. By default that is the folder that the tokenizer was read from.
    """
    import torch

    model.to(dtype or torch.bfloat16).save_pretrained(path)
    tokenizer.save_pretrained(path)
    if made_of is None:
        made_of = [Path(tokenizer.name_or_path)] if tokenizer.name_or_path else []
    carry_licence(made_of, path)


def weight_bytes(path: Path) -> int:
    """Size on disk of a model folder's weights, in bytes. Raises UserError if it has none."""
    return sum(file.stat().st_size for file in weight_files(path))


def document_separator(tokenizer: "PreTrainedTokenizerBase") -> int:
    """Return the token that stands after every document: `<|endoftext|>` where the vocabulary has it, else EOS.

    Chat models use another EOS, their end of turn, which was never a document's end in their pretraining.
    """
    vocabulary = tokenizer.get_vocab()
    separator = vocabulary.get("<|endoftext|>", tokenizer.eos_token_id)
    if separator is None:
        raise UserError(f"the tokenizer {tokenizer.name_or_path} has no end-of-text token: set its eos_token")
    return separator


def document_start(tokenizer: "PreTrainedTokenizerBase") -> int:
    """Return the token that stands before every document: the BOS where the tokenizer puts one, else the separator."""
    bos = leading_bos(tokenizer)
    return document_separator(tokenizer) if bos is None else bos


def leading_bos(tokenizer: "PreTrainedTokenizerBase") -> int | None:
    """Return the BOS that the tokenizer puts before a text by itself, as Llama's and Gemma's do; None if it puts none.

    Such models read nothing in their training that did not begin with it, and predict badly without. To name a BOS, as
    most tokenizers do, says nothing.
    """
    first = tokenizer("a")["input_ids"][0]
    return first if first == tokenizer.bos_token_id else None


def vocabulary_size(tokenizer: "PreTrainedTokenizerBase") -> int:
    """Count the ids that the tokenizer may give, unused ones included. A model's logits are often padded beyond it."""
    return 1 + max(tokenizer.get_vocab().values())


@contextmanager
def _refused(path: Path, what: str) -> Iterator[None]:
    """Say what code that is never run has to do with it, where there is some."""
    try:
        with refused_if_unreadable(f"the {what} in {path}", "give a whole one, or fetch it again"):
            yield
    except UserError as error:
        if error.__cause__ and brings_code(path):
            raise UserError(refuse_code(path)) from error
        raise
