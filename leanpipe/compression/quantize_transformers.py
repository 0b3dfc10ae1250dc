"""Model folders of 8 and 4 bits that transformers runs: bitsandbytes' formats, torchao's and AutoRound's.

torchao_int8 has a scale for each row (https://docs.pytorch.org/ao). auto_round_int4 learns, block by block on the user's own
text, which weights to round up and which down, and where to cut each group of weights off (Cheng et al. 2023,
https://arxiv.org/abs/2309.05516), and packs them as GPTQ does. Both are plain model folders, which `from_pretrained` loads.
"""

import contextlib
import io
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

from leanpipe.core import device
from leanpipe.core.errors import UserError
from leanpipe.models.quantizers import check_quantizer

if TYPE_CHECKING:
    import torch
    from transformers import BitsAndBytesConfig, PreTrainedModel, PreTrainedTokenizerBase

    from leanpipe.compression.quantize_config import QuantizeConfig

WeightOnly = Literal["torchao_int8", "auto_round_int4"]
WEIGHT_ONLY: tuple[WeightOnly, ...] = get_args(WeightOnly)
CALIBRATED = "auto_round_int4"
"""The one that cannot be made without text."""
GROUPS = (32, 64, 128)
"""Weights of a row that may share a scale in auto_round_int4."""
_METHODS = {"torchao_int8": "torchao", "auto_round_int4": "auto-round"}
"""transformers' names of the methods."""
_PACKING = "auto_round:auto_gptq"
_BATCH = 8


class Rounding(NamedTuple):
    """How auto_round_int4 is rounded."""

    group_size: int
    """Weights of a row that share a scale."""
    steps: int
    """Steps in which each block learns its rounding."""


def check_weight_only(form: str) -> None:
    """Raise UserError if the packages of a format are not installed, or if nobody has run it on this device."""
    check_quantizer(_METHODS[form], f"format {form}")
    if form == CALIBRATED and device.name() != "cpu":
        raise UserError(
            f"format {form} is run on processors alone: take {form} out of quantize.formats, or int8 and nf4 instead"
        )


def check_linear(form: str, model: "PreTrainedModel", names: Sequence[str]) -> None:
    """Raise UserError if layers that are to be quantised are of a kind that the format's package would pass over."""
    from torch import nn

    other = [name for name in names if type(model.get_submodule(name)) is not nn.Linear]
    if other:
        kind = type(model.get_submodule(other[0])).__name__
        raise UserError(
            f"format {form} holds layers of the kind Linear, and a model of type {model.config.model_type} has {kind}, such "
            f"as {other[0]}: take q8_0, q4_0 or int8 instead"
        )


def why_no_kernel(inputs: int, outputs: int, group_size: int) -> str:
    """Say why no kernel of AutoRound's runs a layer of that shape here; empty if one does."""
    from auto_round.inference.backend import get_layer_backend

    if inputs % group_size:
        return f"rows of {inputs} are no multiple of the group of {group_size} (quantize.group_size)"
    settings = {"bits": 4, "group_size": group_size, "sym": True, "data_type": "int", "act_bits": 16}
    found = get_layer_backend(device.name(), "auto", _PACKING, settings, inputs, outputs) or ""
    return "" if found.startswith("auto_round_kernel") else "its kernels take no layer of that shape"


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


def quantization_config(form: str, config: "QuantizeConfig", kept: list[str]) -> "BitsAndBytesConfig":
    """Return transformers' settings to quantise to `form` and, saved in the folder, to reload it."""
    import torch
    from transformers import BitsAndBytesConfig

    if form == "int8":
        return BitsAndBytesConfig(
            load_in_8bit=True, llm_int8_threshold=config.outlier_threshold, llm_int8_skip_modules=kept
        )
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=config.double_quantization,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=kept,
    )


def write_torchao_int8(
    source: Path, target: Path, whole: Sequence[str], tokenizer: "PreTrainedTokenizerBase"
) -> None:
    """Quantise the model in `source` while it is loaded and save it to `target`; the modules `whole` become bf16."""
    import torch
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import AutoModelForCausalLM, TorchAoConfig

    model = AutoModelForCausalLM.from_pretrained(
        source,
        dtype=torch.bfloat16,
        device_map=device.name(),
        quantization_config=TorchAoConfig(Int8WeightOnlyConfig(), modules_to_not_convert=list(whole)),
        trust_remote_code=False,
    )
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def write_auto_round_int4(
    model: "PreTrainedModel",
    target: Path,
    whole: Sequence[str],
    tokenizer: "PreTrainedTokenizerBase",
    texts: list["torch.Tensor"],
    rounding: Rounding,
) -> None:
    """Round the model, which is used up, on texts [1, T] of one length, and write it to `target`; `whole` stays in bf16."""
    from auto_round import AutoRound

    logging.getLogger("autoround").setLevel(logging.ERROR)
    generation = model.generation_config
    target.parent.mkdir(parents=True, exist_ok=True)
    # It names its folder by the model, and draws bars that nobody sees.
    with (
        tempfile.TemporaryDirectory(dir=target.parent) as scratch,
        contextlib.redirect_stderr(io.StringIO()),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        rounder = AutoRound(
            model,
            tokenizer,
            bits=4,
            group_size=rounding.group_size,
            sym=True,
            iters=rounding.steps,
            dataset=texts,
            nsamples=len(texts),
            seqlen=texts[0].shape[1],
            batch_size=min(_BATCH, len(texts)),
            device_map=device.name(),
            ignore_layers=",".join(whole),
            enable_torch_compile=False,  # which takes a compiler, and minutes
        )
        _, written = rounder.quantize_and_save(scratch, format="auto_round")
        tokenizer.save_pretrained(written)
        if generation is not None:
            generation.save_pretrained(written)
        Path(written).rename(target)
