"""Stage `quantize`: a model in 8 to 4 bits, as model folders: GGUF files for llama.cpp, and what transformers runs.

q8_0 to q4_0 are GGUF's types of blocks of 32 weights (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md). int8 is
LLM.int8() (Dettmers et al. 2022, https://arxiv.org/abs/2208.07339); nf4 and double quantisation are those of QLoRA
(Dettmers et al. 2023, https://arxiv.org/abs/2305.14314, sections 3.1 and 3.2).
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from leanpipe.compression.budget.choose import choose_measured, choose_types, read_measured
from leanpipe.compression.budget.sensitivity import SensitivityConfig
from leanpipe.compression.calibration import (
    calibration_blocks,
    calibration_texts,
    measure_importance_matrix,
    validation_texts,
)
from leanpipe.compression.formats import (
    BITSANDBYTES,
    GGUF,
    MIXED,
    ONNX,
    Format,
    chosen_formats,
    has_gguf_tokenizer,
)
from leanpipe.compression.gguf_export import check_gguf
from leanpipe.compression.logits_error import folder_logits, model_logits, probe_tokens, relative_error
from leanpipe.compression.quantize_config import BYTES_A_WEIGHT, QuantizeConfig, budget_of
from leanpipe.compression.quantize_gguf import (
    described,
    gguf_types,
    plan_folder,
    write_folder,
)
from leanpipe.compression.quantize_report import write_report, write_stored
from leanpipe.compression.quantize_transformers import (
    CALIBRATED,
    COMPRESSED,
    WEIGHT_ONLY,
    Rounding,
    check_fused,
    check_linear,
    check_weight_only,
    quantization_config,
    write_auto_round_int4,
    write_compressed,
    write_quantized,
    write_torchao_int8,
)
from leanpipe.compression.shapes import slow_in_vllm, split_modules
from leanpipe.core import device
from leanpipe.core.device import Kind
from leanpipe.core.errors import UserError
from leanpipe.core.estimate import Estimate, Expected, ExpectedInputs, host_bytes, process_bytes
from leanpipe.core.lineage import PREPARED_FROM
from leanpipe.core.report import Report
from leanpipe.core.stage import NOT_COMPARED, Summary, stage
from leanpipe.core.store import REPORT, Artifact
from leanpipe.export.onnx_export import OnnxTypes, check_onnx, unfit_modules, write_onnx_folder
from leanpipe.export.provenance import write_export_card
from leanpipe.models.card import licensed_input
from leanpipe.models.load import load_model, load_tokenizer, weight_bytes
from leanpipe.models.offload import is_quantized

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from leanpipe.compression.gguf_export import GgufPlan, GgufTypes, Importance

log = logging.getLogger(__name__)

_NO_TEXT = (
    f"format {CALIBRATED} learns how to round from text: give a corpus, and do not set quantize.calibration_tokens to 0, "
    f"or take {CALIBRATED} out of quantize.formats"
)
_BITSANDBYTES = 195_000_000
"""Bytes of bitsandbytes' code on a processor. Measured on two models of different shape."""


@dataclass(frozen=True)
class QuantizeInputs:
    """A model folder whose weights are in full precision, and what was measured for it."""

    model: Path
    documents: Path | None = None
    """The output folder of the clean stage, to calibrate on."""
    sensitivity: Path | None = None
    """The output folder of the stage `sensitivity`, for the format `mixed`."""
    speeds: Path | None = None
    """The output folder of the stage `kernel_speed`, for `mixed` with a bound of speed."""


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
    _check_budget(config, formats)
    check_formats(formats)
    if CALIBRATED in formats and not (inputs.get("documents") and config.calibration_tokens):
        raise UserError(_NO_TEXT)
    model = empty_model(found)
    kept, quantized = split_modules(model, config.keep)
    for form in formats:
        _unfit(form, model, kept, quantized, config.group_size)
        if form in GGUF and form != MIXED and folder:
            types = gguf_types(form, config.embeddings, kept)
            plan = plan_folder(found, load_tokenizer(folder), types)
            log.info("quantize will store %s as %s", form, described(plan))
        if form in COMPRESSED and (slow := slow_in_vllm(model, quantized)):
            log.warning("%s: %s", form, slow)


def _check_budget(config: QuantizeConfig, formats: Sequence[Format]) -> None:
    bounded = bool(budget_of(config))
    if MIXED in formats and not bounded:
        raise UserError(
            "format mixed needs a bound: set quantize.max_mb, quantize.max_loss or quantize.min_tokens_per_second"
        )
    if bounded and MIXED not in formats:
        raise UserError(
            "quantize.max_mb, max_loss and min_tokens_per_second are bounds of the format mixed: add it to quantize.formats"
        )


def with_formats(
    config: QuantizeConfig, model: Expected | Artifact, tokenizer: str = "teacher"
) -> QuantizeConfig:
    """Name the formats that are meant where none is: those that suit this device, and a model shaped as `model`.

    Where there is a bound, that is `mixed` alone. `tokenizer` is where the model has its tokenizer from, as
    `tokenize.tokenizer` names it.
    """
    from leanpipe.models.count import expected_config

    if config.formats:
        return config
    if budget_of(config):
        return config.model_copy(update={"formats": (MIXED,)})
    known = model if isinstance(model, Expected) else Expected(model.path)
    if not has_gguf_tokenizer(tokenizer):
        return config.model_copy(update={"formats": BITSANDBYTES})
    folder = known.path if tokenizer == "teacher" else None
    formats = chosen_formats((), device.name(), expected_config(known), folder)
    return config.model_copy(update={"formats": formats})


def _unfit(
    form: Format, model: "PreTrainedModel", kept: list[str], quantized: list[str], group_size: int
) -> list[str]:
    """Layers that stay as they are for their shape. Raises UserError if the format cannot hold the model at all."""
    from leanpipe.compression.shapes import fitting

    if form in GGUF:
        check_gguf(model.config)  # which layers do not fit, is told by its plan
        return []
    if form in ONNX:
        check_onnx(model.config)
        return unfit_modules(model, OnnxTypes(form))
    if form in (*WEIGHT_ONLY, *COMPRESSED):
        check_linear(form, model, quantized)
    fitted = fitting(form, model, quantized, group_size)
    whole = [name for name in quantized if name not in set(fitted)]
    if form in COMPRESSED:
        check_fused(form, fitted, [*kept, *whole])
    return whole


def estimate_quantize(config: QuantizeConfig, inputs: ExpectedInputs, kind: Kind) -> Estimate:
    """What `quantize` takes: one model in half precision, or in full for GGUF, and a smaller one beside it."""
    from leanpipe.models.count import expected_config, tokenizer_folder
    from leanpipe.models.offload import loading_bytes
    from leanpipe.training.trainer.memory import size_of

    model, folder = expected_config(inputs["model"]), tokenizer_folder(inputs["model"])
    formats = chosen_formats(config.formats, kind, model, folder)
    size = size_of(model)
    code = _BITSANDBYTES if kind == "cpu" and any(form in BITSANDBYTES for form in formats) else 0
    held = 5.3 if any(form in (*GGUF, *ONNX, *COMPRESSED, CALIBRATED) for form in formats) else 3.2
    parts = {
        "process": process_bytes(kind) + code,
        "weights": max(round(held * size.parameters), loading_bytes(model, size.parameters, kind)),
    }
    peak = sum(parts.values())
    disk = sum(BYTES_A_WEIGHT[form] * size.parameters + size.head for form in formats)
    work = 4.0 * size.parameters * 64
    result = {"model": model, "tokenizer": folder}
    return Estimate(peak, host_bytes(kind, peak), round(disk), work, parts, result=result)


@dataclass(frozen=True)
class _Source:
    """What every format is made of."""

    inputs: QuantizeInputs
    tokenizer: "PreTrainedTokenizerBase"
    importance: "Importance | None"


@stage(
    version=4,
    uses_device=True,
    check=check_quantize,
    estimate=estimate_quantize,
    marks=licensed_input("model"),
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
    unfit = {form: _unfit(form, full, kept, quantized, config.group_size) for form in formats}
    probe = probe_tokens(tokenizer, full)
    expected = model_logits(full, probe)
    source = _Source(inputs, tokenizer, _importance(config, inputs, full, tokenizer, formats))
    del full
    sizes, stored = {"full": weight_bytes(inputs.model)}, {}
    summary: Summary = {
        "full_bytes": sizes["full"],
        "modules_quantized": len(quantized),
        "modules_kept": len(kept),
    }
    for done, form in enumerate(formats):
        report.progress(done, len(formats), "formats")
        plan, figures = _write(form, config, source, out / form, kept + unfit[form])
        write_export_card(out / form, inputs.model, form)
        sizes[form] = weight_bytes(out / form)
        error = relative_error(folder_logits(out / form, probe), expected)
        figures |= {"bytes": sizes[form], "ratio": sizes[form] / sizes["full"], "logits_error": error}
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
) -> "tuple[GgufPlan | None, Summary]":
    """Write the folder of one format, in which the modules `whole` stay as they are.

    Return what is stored in a GGUF file, and what was expected of it.
    """
    import torch

    tokenizer, folder = source.tokenizer, source.inputs.model
    if form in ONNX:
        model = load_model(folder, torch.float32)
        write_onnx_folder(model, target, OnnxTypes(form, frozenset(whole)), tokenizer)
        return None, {}
    if form in (*WEIGHT_ONLY, *COMPRESSED):
        _write_weight_only(form, config, source, target, whole)
        return None, {}
    if form not in GGUF:
        write_quantized(folder, target, quantization_config(form, config, whole), tokenizer)
        return None, {}
    model, expected = load_model(folder, torch.float32), Summary()
    if form == MIXED:
        types, expected = _mixed(config, source, model, whole)
    else:
        types = gguf_types(form, config.embeddings, whole)
    return write_folder(model, target, types, tokenizer, source.importance), expected


def _write_weight_only(
    form: Format, config: QuantizeConfig, source: _Source, target: Path, whole: list[str]
) -> None:
    import torch

    tokenizer, folder, documents = source.tokenizer, source.inputs.model, source.inputs.documents
    if form in COMPRESSED:
        model, size = load_model(folder, torch.float32), config.group_size
        write_compressed(model, target, form, whole, tokenizer, size, source.importance)
        return
    if form != CALIBRATED:
        write_torchao_int8(folder, target, whole, tokenizer)
        return
    if documents is None or not config.calibration_tokens:
        raise UserError(_NO_TEXT)
    model = load_model(folder, torch.bfloat16)
    texts = calibration_blocks(documents, tokenizer, model.config, config.calibration_tokens)
    rounding = Rounding(config.group_size, config.rounding_steps)
    write_auto_round_int4(model, target, whole, tokenizer, texts, rounding)


def _mixed(
    config: QuantizeConfig, source: _Source, model: "PreTrainedModel", whole: list[str]
) -> "tuple[GgufTypes, Summary]":
    """The types that keep within the bounds, and what the file is expected to lose, and loses."""
    if source.inputs.sensitivity is None or source.inputs.documents is None:
        raise UserError(
            "format mixed needs text to measure on what each part of the model loses: give a corpus"
        )
    measured, speeds = read_measured(source.inputs.sensitivity, source.inputs.speeds)
    tokens = SensitivityConfig().whole_tokens
    texts = validation_texts(source.inputs.documents, source.tokenizer, model.config, tokens)
    chosen, loss = choose_measured(
        model,
        budget_of(config),
        lambda budget: choose_types(model, source.tokenizer, budget, frozenset(whole), measured, speeds),
        texts,
        source.importance,
        measured.engine,
    )
    expected: Summary = {"expected_loss": chosen.loss, "loss": loss}
    if chosen.tokens_per_second:
        expected["expected_tokens_per_second"] = chosen.tokens_per_second
    return chosen.types, expected


def _importance(
    config: QuantizeConfig,
    inputs: QuantizeInputs,
    full: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    formats: Sequence[Format],
) -> "Importance | None":
    """How much the errors of each layer's weights count, on the training text; None without text, or where it is not needed."""
    rounded = [
        form for form in formats if form in (*GGUF, "w4a16") and form != "q8_0"
    ]  # whose steps are too fine to choose
    if inputs.documents is None or not config.calibration_tokens or not rounded:
        return None
    texts = calibration_texts(inputs.documents, tokenizer, full.config, config.calibration_tokens)
    return measure_importance_matrix(full, texts)


def check_formats(formats: Sequence[Format]) -> None:
    """Raise UserError for a format that this device cannot run, found by quantising and multiplying a small matrix.

    Imports torch and bitsandbytes, and on a GPU starts CUDA in this process; for GGUF it loads llama.cpp, for ONNX onnxruntime.
    """
    from leanpipe.compression.shapes import Shape, why_not
    from leanpipe.engines.open_engine import check_engine

    for form in formats:
        if form in (*GGUF, *ONNX):
            check_engine("llama.cpp" if form in GGUF else "onnxruntime")
            continue
        if form in (*WEIGHT_ONLY, *COMPRESSED):
            check_weight_only(form)
        if reason := why_not(form, Shape(128, 128)):
            raise UserError(
                f"format {form} cannot run on {device.name()} here: {reason}; take {form} out of quantize.formats"
            )


def _check_full_precision(model: Path) -> None:
    if is_quantized(model):
        raise UserError(
            f"{model} is quantised already: give quantize the model in full precision that it was made of"
        )
