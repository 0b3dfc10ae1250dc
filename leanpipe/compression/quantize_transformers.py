"""Model folders of 8 and 4 bits that transformers runs: bitsandbytes' formats, torchao's, AutoRound's and vLLM's.

torchao_int8 has a scale for each row (https://docs.pytorch.org/ao). auto_round_int4 learns, block by block on the user's own
text, which weights to round up and which down, and where to cut each group of weights off (Cheng et al. 2023,
https://arxiv.org/abs/2309.05516), and packs them as GPTQ does. w8a16 and w4a16 are compressed-tensors' packed whole numbers, under
the names that llm-compressor has for them: vLLM multiplies with them as they are, transformers unpacks them when it loads them
(https://github.com/vllm-project/compressed-tensors). All are plain model folders, which `from_pretrained` loads.
"""

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

from leanpipe.compression.q_blocks import COARSE, best_scale
from leanpipe.core import device
from leanpipe.core.errors import UserError
from leanpipe.models.quantizers import check_quantizer

if TYPE_CHECKING:
    import torch
    from transformers import BitsAndBytesConfig, PreTrainedModel, PreTrainedTokenizerBase

    from leanpipe.compression.gguf_export import Importance
    from leanpipe.compression.quantize_config import QuantizeConfig

WeightOnly = Literal["torchao_int8", "auto_round_int4"]
WEIGHT_ONLY: tuple[WeightOnly, ...] = get_args(WeightOnly)
CALIBRATED = "auto_round_int4"
"""The one that cannot be made without text."""
Compressed = Literal["w8a16", "w4a16"]
COMPRESSED: dict[Compressed, int] = {"w8a16": 8, "w4a16": 4}
"""Formats of compressed-tensors, which vLLM runs, with the bits of a weight."""
GROUPED = (CALIBRATED, "w4a16")
"""Those with a scale for each group of a row's weights."""
GROUPS = (32, 64, 128)
"""Weights of a row that may share a scale."""
_FUSED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Layers that vLLM makes one of, and which are all in one format therefore."""
_METHODS: dict[str, str] = {
    "torchao_int8": "torchao",
    "auto_round_int4": "auto-round",
    "w8a16": "compressed-tensors",
    "w4a16": "compressed-tensors",
}
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


def check_fused(form: str, names: Sequence[str], whole: Sequence[str]) -> None:
    """Raise UserError if of layers that vLLM makes one of some are to be quantised and some are not."""
    kept = set(whole)
    for name in names:
        block, _, last = name.rpartition(".")
        together = next((parts for parts in _FUSED if last in parts), ())
        if apart := [one for one in together if f"{block}.{one}" in kept]:
            raise UserError(
                f"vLLM makes one layer of {', '.join(together)}, so in format {form} they are quantised all or not at all: "
                f"name all of them in quantize.keep beside {apart[0]}, or none"
            )


def why_no_groups(inputs: int, group_size: int) -> str:
    """Say why rows of so many weights are not cut into groups; empty if they are."""
    if inputs % group_size:
        return f"rows of {inputs} are no multiple of the group of {group_size} (quantize.group_size)"
    return ""


def why_no_kernel(inputs: int, outputs: int, group_size: int) -> str:
    """Say why no kernel of AutoRound's runs a layer of that shape here; empty if one does."""
    from auto_round.inference.backend import get_layer_backend

    if reason := why_no_groups(inputs, group_size):
        return reason
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


def write_compressed(
    model: "PreTrainedModel",
    target: Path,
    form: Compressed,
    whole: Sequence[str],
    tokenizer: "PreTrainedTokenizerBase",
    group_size: int,
    importance: "Importance | None" = None,
) -> None:
    """Pack the model, loaded in float32 and used up, and write it to `target`; the modules `whole` and all that is no layer become bf16.

    In w8a16 a row has a scale, in w4a16 each group of its weights, so that the errors lose least where `importance` says how much
    those of each input count.
    """
    import torch
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import apply_quantization_config

    with _without_bars():
        apply_quantization_config(model, _packing(form, whole, group_size))
        for name, layer in _scaled(model):
            counts = (importance or {}).get(name)
            # Rounded first: the numbers are those that are nearest by the scale that is stored.
            layer.weight_scale.data = _scales(layer.weight, form, group_size, counts).bfloat16().float()
        packer = ModelCompressor.from_pretrained_model(model)
        packer.compress_model(model)
        packer.remove_decompression_hook(model)
        model.to(torch.bfloat16).save_pretrained(target)
        packer.update_config(str(target))
    tokenizer.save_pretrained(target)


def _packing(form: Compressed, whole: Sequence[str], group_size: int):
    from compressed_tensors.quantization import QuantizationArgs, QuantizationConfig, QuantizationScheme

    grouped = {"strategy": "group", "group_size": group_size} if form in GROUPED else {"strategy": "channel"}
    weights = QuantizationArgs(num_bits=COMPRESSED[form], type="int", symmetric=True, **grouped)
    scheme = QuantizationScheme(targets=["Linear"], weights=weights)
    return QuantizationConfig(
        config_groups={"group_0": scheme},
        ignore=list(whole),
        format="pack-quantized",
        quantization_status="frozen",
    )


def _scaled(model: "PreTrainedModel") -> "Iterator[tuple[str, torch.nn.Module]]":
    for name, module in model.named_modules():
        if hasattr(module, "weight_scale"):
            yield name, module


def _scales(
    weight: "torch.Tensor", form: Compressed, group_size: int, counts: "torch.Tensor | None"
) -> "torch.Tensor":
    """The scales [outputs, groups] of a layer's weights [outputs, inputs]."""
    import torch

    most = 2 ** (COMPRESSED[form] - 1)
    if form not in GROUPED:
        return weight.abs().amax(-1, keepdim=True) / (most - 1)
    groups = weight.detach().unflatten(-1, (-1, group_size))
    weighed = torch.ones_like(weight) if counts is None else counts.to(weight.device).expand_as(weight)
    return best_scale(
        groups, weighed.unflatten(-1, (-1, group_size)), _within(most), -float(most), COARSE
    ).squeeze(-1)


def _within(most: int):
    def rounded(values: "torch.Tensor") -> "torch.Tensor":
        return values.round().clamp(-most, most - 1)

    return rounded


def _without_bars() -> contextlib.AbstractContextManager[object]:
    """Keep the bars that a package draws, which nobody sees, out of the log."""
    return contextlib.redirect_stderr(io.StringIO())
