"""Stage `quantize`: the linear layers in 8 or 4 bits with bitsandbytes, as model folders that `from_pretrained` reloads.

int8 is LLM.int8() (Dettmers et al. 2022, https://arxiv.org/abs/2208.07339); nf4 and double quantisation are those of
QLoRA (Dettmers et al. 2023, https://arxiv.org/abs/2305.14314, sections 3.1 and 3.2).
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from leanpipe.core import device
from leanpipe.core.config import StageConfig
from leanpipe.core.device import Kind
from leanpipe.core.errors import UserError
from leanpipe.core.estimate import Estimate, ExpectedInputs, host_bytes, process_bytes
from leanpipe.core.plots import draw_bars
from leanpipe.core.report import Report
from leanpipe.core.stage import Summary, stage
from leanpipe.core.store import REPORT
from leanpipe.models.load import leading_bos, load_model, load_tokenizer, weight_bytes
from leanpipe.tokens.text_tokens import encode_text

if TYPE_CHECKING:
    import torch
    from transformers import BitsAndBytesConfig, PreTrainedModel, PreTrainedTokenizerBase

Format = Literal["int8", "nf4"]

_PROBE_TEXT = (
    "The river rises in the hills to the north, passes three small towns, and reaches the sea after ninety miles. "
    "In spring, when the snow melts, it carries twice the water that it does in autumn. Why does that matter? Because "
    "the mills along its banks were built for the wet months, and in 1874 four of them stood still from July on."
)

_BITSANDBYTES = 195_000_000
"""Bytes of bitsandbytes' code on a processor. Measured on two models of different shape."""


class QuantizeConfig(StageConfig):
    """Which quantised models to make of a model, and what to leave in full precision."""

    formats: tuple[Format, ...] = Field(("int8", "nf4"), min_length=1, max_length=2)
    """The models to make: int8 halves the linear layers and loses almost nothing, nf4 quarters them and loses some."""

    double_quantization: bool = True
    """nf4 alone: quantise its scales too, which saves about 0.4 bits per weight at no loss that can be measured."""

    outlier_threshold: float = Field(6.0, ge=0.0, le=100.0)
    """int8 alone: activations larger than this are multiplied in full precision; 0 quantises all of them."""

    keep: tuple[str, ...] = Field((), max_length=1000)
    """Modules to leave in full precision, by name or by the end or start of it: `down_proj`, `model.layers.0`. The
    output layer always stays."""


@dataclass(frozen=True)
class QuantizeInputs:
    """A model folder whose weights are in full precision."""

    model: Path


def check_quantize(config: QuantizeConfig, inputs: ExpectedInputs) -> None:
    """Raise UserError for a format that this device cannot run, or that fits none of the model's layers. Loads no weights."""
    from leanpipe.compression.shapes import fitting
    from leanpipe.models.count import empty_model, expected_config

    check_formats(config.formats)
    if "model" in inputs:
        model = empty_model(expected_config(inputs["model"]))
        _, quantized = split_modules(model, config.keep)
        for form in config.formats:
            fitting(form, model, quantized)


def estimate_quantize(config: QuantizeConfig, inputs: ExpectedInputs, kind: Kind) -> Estimate:
    """What `quantize` takes: one model in half precision, and a smaller one beside it."""
    from leanpipe.models.count import expected_config, tokenizer_folder
    from leanpipe.models.offload import loading_bytes
    from leanpipe.training.trainer.memory import size_of

    model = expected_config(inputs["model"])
    size = size_of(model)
    parts = {
        "process": process_bytes(kind) + (_BITSANDBYTES if kind == "cpu" else 0),
        "weights": max(round(3.2 * size.parameters), loading_bytes(model, size.parameters, kind)),
    }
    peak = sum(parts.values())
    disk = sum({"int8": 1, "nf4": 0.6}[form] * size.parameters + size.head for form in config.formats)
    work = 4.0 * size.parameters * 64
    result = {"model": model, "tokenizer": tokenizer_folder(inputs["model"])}
    return Estimate(peak, host_bytes(kind, peak), round(disk), work, parts, result=result)


@stage(version=1, uses_device=True, check=check_quantize, estimate=estimate_quantize)
def quantize(config: QuantizeConfig, inputs: QuantizeInputs, out: Path, report: Report) -> Summary:
    """Write one model folder per format, `out/int8` and `out/nf4`, and measure what each saves and loses.

    Sizes are those of the weights on disk, in bytes. `*_logits_error` is |quantised - full| / |full| in the L2 norm over
    all logits on a short English text, measured on the folder as reloaded.
    """
    from leanpipe.compression.shapes import fitting

    formats = tuple(dict.fromkeys(config.formats))
    check_formats(formats)
    _check_full_precision(inputs.model)
    tokenizer = load_tokenizer(inputs.model)
    full = load_model(inputs.model)
    kept, quantized = split_modules(full, config.keep)
    fitted = {form: fitting(form, full, quantized) for form in formats}
    probe = _probe(tokenizer, full)
    expected = _logits(full, probe)
    del full
    sizes = {"full": weight_bytes(inputs.model)}
    summary: Summary = {
        "full_bytes": sizes["full"],
        "modules_quantized": len(quantized),
        "modules_kept": len(kept),
    }
    for done, form in enumerate(formats):
        report.progress(done, len(formats), "formats")
        unfit = [name for name in quantized if name not in set(fitted[form])]
        write_quantized(inputs.model, out / form, quantization_config(form, config, kept + unfit), tokenizer)
        sizes[form] = weight_bytes(out / form)
        error = relative_error(_logits(load_model(out / form), probe), expected)
        figures = {"bytes": sizes[form], "ratio": sizes[form] / sizes["full"], "logits_error": error}
        if unfit:
            figures["modules_unfit"] = len(unfit)
        summary |= {f"{form}_{name}": value for name, value in figures.items()}
    report.progress(len(formats), len(formats), "formats")
    report.metrics({name: float(value) for name, value in summary.items()})
    _write_report(sizes, kept, fitted, out / REPORT)
    return summary


def check_formats(formats: tuple[Format, ...]) -> None:
    """Raise UserError for a format that this device cannot run, found by quantising and multiplying a small matrix.

    Imports torch and bitsandbytes, and on a GPU starts CUDA in this process.
    """
    from leanpipe.compression.shapes import Shape, why_not

    for form in formats:
        if reason := why_not(form, Shape(64, 64)):
            raise UserError(
                f"format {form} cannot run on {device.name()} here: {reason}; take {form} out of quantize.formats"
            )


def split_modules(model: "PreTrainedModel", keep: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Return the names of the linear layers that stay in full precision, and of those to quantise.

    A name in `keep` matches a whole name, or its start or end at a dot. The output layer, and what shares its weights
    with another module, always stay. Raises UserError for a name that matches no linear layer, or if none is left.
    """
    from transformers.quantizers.base import get_keys_to_not_convert

    from leanpipe.compression.shapes import shape_of

    linear = [name for name, module in model.named_modules() if shape_of(module)]
    unknown = [name for name in keep if not any(_matches(name, one) for one in linear)]
    if unknown:
        ends = sorted({name.rsplit(".", 1)[-1] for name in linear})
        raise UserError(
            f"quantize.keep: no linear layer is named {', '.join(unknown)}; this model has {', '.join(ends)}, each "
            f"under a name such as {linear[0]}"
        )
    always = set(get_keys_to_not_convert(model))
    kept = [name for name in linear if name in always or any(_matches(one, name) for one in keep)]
    quantized = [name for name in linear if name not in set(kept)]
    if not quantized:
        raise UserError(
            "quantize.keep leaves no linear layer to quantise: name fewer modules"
            if keep
            else f"a model of type {model.config.model_type} has no linear layer that could be quantised: leave quantize out"
        )
    return kept, quantized


def quantization_config(form: Format, config: QuantizeConfig, kept: list[str]) -> "BitsAndBytesConfig":
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


def relative_error(actual: "torch.Tensor", expected: "torch.Tensor") -> float:
    """Return |actual - expected| / |expected| in the L2 norm over all elements."""
    return float((actual - expected).norm() / expected.norm())


def _matches(pattern: str, name: str) -> bool:
    return f".{pattern}." in f".{name}."


def _check_full_precision(model: Path) -> None:
    config = model / "config.json"
    if config.exists() and "quantization_config" in json.loads(config.read_text()):
        raise UserError(
            f"{model} is quantised already: give quantize the model in full precision that it was made of"
        )


def _probe(tokenizer: "PreTrainedTokenizerBase", model: "PreTrainedModel") -> "torch.Tensor":
    """Token ids [1, T] of the probe text, no more than the model can read."""
    import torch

    from leanpipe.models.count import longest_text

    bos = leading_bos(tokenizer)
    tokens = [*([] if bos is None else [bos]), *encode_text(tokenizer, _PROBE_TEXT)]
    return torch.tensor([tokens[: longest_text(model.config)]], device=device.name())


def _logits(model: "PreTrainedModel", tokens: "torch.Tensor") -> "torch.Tensor":
    """Logits [1, T, V] in float32 on the CPU."""
    import torch

    with torch.inference_mode():
        return model(input_ids=tokens, use_cache=False).logits.float().cpu()


def _write_report(
    sizes: dict[str, int], kept: list[str], fitted: dict[Format, list[str]], folder: Path
) -> None:
    """List for each module which formats it is in, and draw the sizes."""
    folder.mkdir(parents=True, exist_ok=True)
    modules = sorted({*kept, *(name for names in fitted.values() for name in names)})
    rows = [f"{name}," + ",".join(str(name not in names) for names in fitted.values()) for name in modules]
    header = "module," + ",".join(f"{form} full precision" for form in fitted)
    (folder / "modules.csv").write_text("\n".join([header, *rows]) + "\n")
    bars = [(name, size / 1e6) for name, size in sizes.items()]
    written = [f"{size:,.1f} MB, {size / bars[0][1]:.0%}" for _, size in bars]
    draw_bars(folder / "size.png", "Weights on disk", bars, unit="MB", written=written)
