"""Stage `quantize`: a model in 8 to 4 bits, as model folders: GGUF files for llama.cpp, and what bitsandbytes makes.

q8_0 to q4_0 are GGUF's types of blocks of 32 weights (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md). int8 is
LLM.int8() (Dettmers et al. 2022, https://arxiv.org/abs/2208.07339); nf4 and double quantisation are those of QLoRA
(Dettmers et al. 2023, https://arxiv.org/abs/2305.14314, sections 3.1 and 3.2).
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from leanpipe.compression.calibration import calibration_texts, measure_importance_matrix
from leanpipe.compression.formats import (
    BITSANDBYTES,
    GGUF,
    ONNX,
    Format,
    chosen_formats,
    has_gguf_tokenizer,
)
from leanpipe.compression.gguf_export import check_gguf
from leanpipe.compression.gguf_types import GgufType
from leanpipe.compression.quantize_bitsandbytes import write_quantized
from leanpipe.compression.quantize_gguf import (
    described,
    engine_logits,
    gguf_types,
    plan_folder,
    write_folder,
)
from leanpipe.compression.quantize_report import write_report, write_stored
from leanpipe.core import device
from leanpipe.core.config import StageConfig
from leanpipe.core.device import Kind
from leanpipe.core.errors import UserError
from leanpipe.core.estimate import Estimate, Expected, ExpectedInputs, host_bytes, process_bytes
from leanpipe.core.lineage import PREPARED_FROM
from leanpipe.core.report import Report
from leanpipe.core.stage import NOT_COMPARED, Summary, stage
from leanpipe.core.store import REPORT, Artifact
from leanpipe.export.onnx_export import OnnxTypes, check_onnx, unfit_modules, write_onnx_folder
from leanpipe.models.load import leading_bos, load_model, load_tokenizer, weight_bytes
from leanpipe.models.offload import is_exported, is_quantized
from leanpipe.tokens.text_tokens import encode_text

if TYPE_CHECKING:
    import torch
    from transformers import BitsAndBytesConfig, PreTrainedModel, PreTrainedTokenizerBase

    from leanpipe.compression.gguf_export import GgufPlan, Importance

log = logging.getLogger(__name__)

_PROBE_TEXT = (
    "The river rises in the hills to the north, passes three small towns, and reaches the sea after ninety miles. "
    "In spring, when the snow melts, it carries twice the water that it does in autumn. Why does that matter? Because "
    "the mills along its banks were built for the wet months, and in 1874 four of them stood still from July on."
)

_BITSANDBYTES = 195_000_000
"""Bytes of bitsandbytes' code on a processor. Measured on two models of different shape."""
_BYTES_A_WEIGHT = {
    "int8": 1,
    "nf4": 0.6,
    "q8_0": 1.07,
    "q6_k": 0.95,
    "q5_1": 0.76,
    "q5_k": 0.7,
    "q5_0": 0.7,
    "q4_1": 0.64,
    "q4_k": 0.58,
    "iq4_nl": 0.58,
    "q4_0": 0.58,
    "onnx": 4,
    "onnx_int8": 1.13,
    "onnx_int4": 0.63,
}


class QuantizeConfig(StageConfig):
    """Which quantised models to make of a model, and what to leave in full precision."""

    formats: tuple[Format, ...] = Field((), max_length=len(_BYTES_A_WEIGHT))
    """The models to make: q8_0 to q4_0 are GGUF, which llama.cpp runs; int8 and nf4 are bitsandbytes', which QLoRA and GPUs
    want; the three of ONNX are for onnxruntime (float32, 8 bits, 4 bits; pip install 'leanpipe[onnx]'). By default q8_0 and q4_0 on a processor, int8 and nf4 on a GPU: in 8 bits almost nothing is lost, in 4 some."""

    calibration_tokens: int = Field(4_096, ge=0, le=10_000_000)
    """GGUF alone: tokens of the training text on which it is measured which weights matter most, so that these are rounded
    best; 0 leaves that out, and so does a run without text."""

    embeddings: GgufType = "q8_0"
    """GGUF alone: what embeddings and output layer become, which are a third of a small model; q8_0 leaves them in 8 bits."""

    double_quantization: bool = True
    """nf4 alone: quantise its scales too, which saves about 0.4 bits per weight at no loss that can be measured."""

    outlier_threshold: float = Field(6.0, ge=0.0, le=100.0)
    """int8 alone: activations larger than this are multiplied in full precision; 0 quantises all of them."""

    keep: tuple[str, ...] = Field((), max_length=1000)
    """Modules to leave in full precision, by name or by the end or start of it: `down_proj`, `model.layers.0`. The
    output layer always stays with bitsandbytes, and is as `embeddings` says in GGUF."""


@dataclass(frozen=True)
class QuantizeInputs:
    """A model folder whose weights are in full precision, and the output folder of the clean stage, to calibrate on."""

    model: Path
    documents: Path | None = None


def check_quantize(config: QuantizeConfig, inputs: ExpectedInputs) -> None:
    """Raise UserError for a format that this device cannot run, or that cannot hold the model. Loads no weights.

    What a GGUF file will really hold, tensor by tensor, is known then, and logged.
    """
    from leanpipe.models.count import empty_model, expected_config, tokenizer_folder

    if "model" not in inputs:
        check_formats(config.formats)
        return
    found, folder = expected_config(inputs["model"]), tokenizer_folder(inputs["model"])
    formats = chosen_formats(config.formats, device.name(), found, folder)
    check_formats(formats)
    model = empty_model(found)
    kept, quantized = split_modules(model, config.keep)
    for form in formats:
        _unfit(form, model, quantized)
        if form in GGUF and folder:
            types = gguf_types(form, config.embeddings, kept)
            plan = plan_folder(found, load_tokenizer(folder), types)
            log.info("quantize will store %s as %s", form, described(plan))


def with_formats(
    config: QuantizeConfig, model: Expected | Artifact, tokenizer: str = "teacher"
) -> QuantizeConfig:
    """Name the formats that are meant where none is: those that suit this device, and a model shaped as `model`.

    `tokenizer` is where the model has its tokenizer from, as `tokenize.tokenizer` names it.
    """
    from leanpipe.models.count import expected_config

    if config.formats:
        return config
    known = model if isinstance(model, Expected) else Expected(model.path)
    if not has_gguf_tokenizer(tokenizer):
        return config.model_copy(update={"formats": BITSANDBYTES})
    folder = known.path if tokenizer == "teacher" else None
    formats = chosen_formats((), device.name(), expected_config(known), folder)
    return config.model_copy(update={"formats": formats})


def _unfit(form: Format, model: "PreTrainedModel", quantized: list[str]) -> list[str]:
    """Layers that stay as they are for their shape. Raises UserError if the format cannot hold the model at all."""
    from leanpipe.compression.shapes import fitting

    if form in GGUF:
        check_gguf(model.config)  # which layers do not fit, is told by its plan
        return []
    if form in ONNX:
        check_onnx(model.config)
        return unfit_modules(model, OnnxTypes(form))
    fitted = set(fitting(form, model, quantized))
    return [name for name in quantized if name not in fitted]


def estimate_quantize(config: QuantizeConfig, inputs: ExpectedInputs, kind: Kind) -> Estimate:
    """What `quantize` takes: one model in half precision, or in full for GGUF, and a smaller one beside it."""
    from leanpipe.models.count import expected_config, tokenizer_folder
    from leanpipe.models.offload import loading_bytes
    from leanpipe.training.trainer.memory import size_of

    model, folder = expected_config(inputs["model"]), tokenizer_folder(inputs["model"])
    formats = chosen_formats(config.formats, kind, model, folder)
    size = size_of(model)
    code = _BITSANDBYTES if kind == "cpu" and any(form in BITSANDBYTES for form in formats) else 0
    held = 5.3 if any(form in (*GGUF, *ONNX) for form in formats) else 3.2
    parts = {
        "process": process_bytes(kind) + code,
        "weights": max(round(held * size.parameters), loading_bytes(model, size.parameters, kind)),
    }
    peak = sum(parts.values())
    disk = sum(_BYTES_A_WEIGHT[form] * size.parameters + size.head for form in formats)
    work = 4.0 * size.parameters * 64
    result = {"model": model, "tokenizer": folder}
    return Estimate(peak, host_bytes(kind, peak), round(disk), work, parts, result=result)


@dataclass(frozen=True)
class _Source:
    """What every format is made of."""

    model: Path
    tokenizer: "PreTrainedTokenizerBase"
    importance: "Importance | None"


@stage(
    version=3,
    uses_device=True,
    check=check_quantize,
    estimate=estimate_quantize,
    reads={"documents": PREPARED_FROM},
    groups=dict.fromkeys(("full_bytes", "modules_quantized", "modules_kept"), NOT_COMPARED),
)
def quantize(config: QuantizeConfig, inputs: QuantizeInputs, out: Path, report: Report) -> Summary:
    """Write one model folder per format, such as `out/q4_0`, and measure what each saves and loses.

    Sizes are those of the weights on disk, in bytes. `*_logits_error` is |quantised - full| / |full| in the L2 norm over
    all logits on a short English text, measured on the folder as reloaded, by the engine that serves it.
    """
    from leanpipe.models.count import read_config

    _check_full_precision(inputs.model)
    formats = chosen_formats(config.formats, device.name(), read_config(inputs.model), inputs.model)
    check_formats(formats)
    tokenizer = load_tokenizer(inputs.model)
    full = load_model(inputs.model)
    kept, quantized = split_modules(full, config.keep)
    unfit = {form: _unfit(form, full, quantized) for form in formats}
    probe = _probe(tokenizer, full)
    expected = _logits(full, probe)
    source = _Source(inputs.model, tokenizer, _importance(config, inputs, full, tokenizer, formats))
    del full
    sizes, stored = {"full": weight_bytes(inputs.model)}, {}
    summary: Summary = {
        "full_bytes": sizes["full"],
        "modules_quantized": len(quantized),
        "modules_kept": len(kept),
    }
    for done, form in enumerate(formats):
        report.progress(done, len(formats), "formats")
        plan = _write(form, config, source, out / form, kept + unfit[form])
        sizes[form] = weight_bytes(out / form)
        error = relative_error(_predicted(out / form, probe), expected)
        figures: Summary = {"bytes": sizes[form], "ratio": sizes[form] / sizes["full"], "logits_error": error}
        if plan:
            stored[form], unfit[form] = plan, plan.unfit_modules
            figures |= {"bits_per_weight": plan.bits_per_weight, "types": described(plan)}
        figures |= {"modules_unfit": len(unfit[form])} if unfit[form] else {}
        summary |= {f"{form}_{name}": value for name, value in figures.items()}
    report.progress(len(formats), len(formats), "formats")
    report.metrics({name: float(value) for name, value in summary.items() if not isinstance(value, str)})
    write_report(sizes, kept, quantized, unfit, out / REPORT)
    write_stored(stored, out / REPORT)
    return summary


def _write(
    form: Format, config: QuantizeConfig, source: _Source, target: Path, whole: list[str]
) -> "GgufPlan | None":
    """Write the folder of one format, in which the modules `whole` stay as they are; of a GGUF file say what is stored."""
    import torch

    if form in GGUF:
        types = gguf_types(form, config.embeddings, whole)
        model = load_model(source.model, torch.float32)
        return write_folder(model, target, types, source.tokenizer, source.importance)
    if form in ONNX:
        model = load_model(source.model, torch.float32)
        write_onnx_folder(model, target, OnnxTypes(form, frozenset(whole)), source.tokenizer)
        return None
    write_quantized(source.model, target, quantization_config(form, config, whole), source.tokenizer)
    return None


def _importance(
    config: QuantizeConfig,
    inputs: QuantizeInputs,
    full: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    formats: Sequence[Format],
) -> "Importance | None":
    """How much the errors of each layer's weights count, on the training text; None without text, or where it is not needed."""
    if inputs.documents is None or not config.calibration_tokens or not any(form in GGUF for form in formats):
        return None
    texts = calibration_texts(inputs.documents, tokenizer, full.config, config.calibration_tokens)
    return measure_importance_matrix(full, texts)


def _predicted(folder: Path, tokens: "torch.Tensor") -> "torch.Tensor":
    """Logits [1, T, V] of the engine that serves the folder."""
    return engine_logits(folder, tokens) if is_exported(folder) else _logits(load_model(folder), tokens)


def check_formats(formats: Sequence[Format]) -> None:
    """Raise UserError for a format that this device cannot run, found by quantising and multiplying a small matrix.

    Imports torch and bitsandbytes, and on a GPU starts CUDA in this process; for GGUF it loads llama.cpp, for ONNX onnxruntime.
    """
    from leanpipe.compression.shapes import Shape, why_not
    from leanpipe.engines.open_engine import check_engine

    for form in formats:
        if form in (*GGUF, *ONNX):
            check_engine("llama.cpp" if form in GGUF else "onnxruntime")
        elif reason := why_not(form, Shape(64, 64)):
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


def quantization_config(form: str, config: QuantizeConfig, kept: list[str]) -> "BitsAndBytesConfig":
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


def relative_error(actual: "torch.Tensor", expected: "torch.Tensor") -> float:
    """Return |actual - expected| / |expected| in the L2 norm over all elements."""
    return float((actual - expected).norm() / expected.norm())


def _matches(pattern: str, name: str) -> bool:
    return f".{pattern}." in f".{name}."


def _check_full_precision(model: Path) -> None:
    if is_quantized(model):
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
