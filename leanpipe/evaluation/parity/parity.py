"""Stage `parity`: whether the served form of a model answers as the model that was trained."""

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from pydantic import Field

from leanpipe.compression.quantize_transformers import CALIBRATED, COMPRESSED
from leanpipe.core.config import StageConfig
from leanpipe.core.device import Kind
from leanpipe.core.errors import UserError
from leanpipe.core.estimate import (
    Estimate,
    ExpectedInputs,
    Repeated,
    bytes_of_weight,
    host_bytes,
    process_bytes,
    read_arithmetic,
)
from leanpipe.core.keys import NotInKey
from leanpipe.core.lineage import MEASURES
from leanpipe.core.report import Report
from leanpipe.core.stage import Page, Summary, stage
from leanpipe.engines.open_engine import GgufEngine, check_engine
from leanpipe.evaluation.parity.auto_round_file import Grid, read_grids
from leanpipe.evaluation.parity.bounds import BOUNDS, ENGINE_MARGIN, Bounds, Fault, form_of
from leanpipe.evaluation.parity.compressed_file import read_compressed
from leanpipe.evaluation.parity.config_faults import find_config_faults
from leanpipe.evaluation.parity.gguf_faults import (
    find_gguf_config_faults,
    find_gguf_text_faults,
    find_gguf_weight_faults,
)
from leanpipe.evaluation.parity.onnx_faults import find_onnx_graph_faults, find_onnx_weight_faults
from leanpipe.evaluation.parity.parity_outcome import PAGE, Exchange, Outcome
from leanpipe.evaluation.parity.predictions import (
    MOST_TOKENS,
    Answer,
    Divergence,
    asked,
    diverge,
    find_answer_faults,
    find_prediction_faults,
    predict,
    predict_exported,
)
from leanpipe.evaluation.parity.probes import Probe, probes
from leanpipe.evaluation.parity.served_answers import NoAnswer, Serve, ask, find_count_faults, open_server
from leanpipe.evaluation.parity.text_faults import TextSide, find_text_faults, read_text_side
from leanpipe.evaluation.parity.weight_faults import TIED_HEAD_LOST, find_weight_faults
from leanpipe.models.load import MissingTensors, load_for_inference, load_model
from leanpipe.models.offload import is_exported, is_gguf, is_onnx

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)

_PROBE_TOKENS = 150
"""A guess at the longest probe, for what is planned before there is a tokenizer."""


class ParityConfig(StageConfig):
    """What the trained model and its served forms are asked, before one of them is registered."""

    models: Annotated[Literal["all", "chosen"], NotInKey("which models are asked, not what they answer")] = (
        "chosen"
    )
    """Ask only the model that would be registered, or every one that may be: slower, and then all of them are known."""

    prompts: tuple[str, ...] = Field(
        (
            "What is the capital of France?",
            "Give three tips for staying healthy.",
            "Write a sentence about the sea.",
        ),
        min_length=1,
        max_length=100,
    )
    """What both are asked, beside texts and conversations that show faults of conversion."""

    max_new_tokens: int = Field(12, ge=1, le=10_000)
    """Longest answer to a prompt, in tokens."""

    gguf_engine: GgufEngine = "llama.cpp"
    """What runs a GGUF model while it is asked. Each engine that may serve it here is asked before it is registered."""


@dataclass(frozen=True)
class ParityInputs:
    """The trained model in full precision, and a folder that was made of it and will be served."""

    model: Path
    served: Path


def check_parity(config: ParityConfig, inputs: ExpectedInputs) -> None:
    """Raise UserError if prompts and answers are longer than the model can read."""
    from leanpipe.models.count import check_context, tokenizer_folder

    model = inputs["model"]
    if config.gguf_engine == "openvino":
        check_engine("openvino")
    asked_for = "parity.max_new_tokens with the longest of parity.prompts"
    check_context(model, 1 + config.max_new_tokens, asked_for)
    if folder := tokenizer_folder(model):
        read = probes(read_text_side(folder).tokenizer, config.prompts) if model.path else []
        longest = max((len(probe.tokens) for probe in read), default=1)
        check_context(model, longest + config.max_new_tokens, asked_for)


def estimate_parity(config: ParityConfig, inputs: ExpectedInputs, kind: Kind) -> Estimate:
    """What `parity` takes: both models, the logits of both, and on a GPU the server's model too."""
    from leanpipe.models.count import expected_config
    from leanpipe.models.offload import loading_bytes
    from leanpipe.training.trainer.memory import size_of

    model = expected_config(inputs["model"])
    size = size_of(model)
    weights = bytes_of_weight() * size.parameters
    parts = {
        "process": process_bytes(kind),
        "weights": (3 if kind == "cuda" else 2) * weights,
        "logits": 4 * 3 * MOST_TOKENS * size.vocabulary,
    }
    peak = max(sum(parts.values()), process_bytes(kind) + loading_bytes(model, size.parameters, kind))
    host = host_bytes(kind, peak) + process_bytes("cpu") + (weights if kind == "cpu" else 0)
    questions = len(config.prompts)
    read, written = 2.0 * MOST_TOKENS, 3.0 * questions * config.max_new_tokens
    shape: dict[str, Any] = {"length": _PROBE_TOKENS, "arithmetic": read_arithmetic()}
    repeated = (Repeated("read", model, read, **shape), Repeated("write", model, written, **shape))
    work = 2.0 * size.parameters * (read + written)
    return Estimate(peak, host, 100_000, work, parts, weights, repeated=repeated)


@stage(
    version=1,
    uses_device=True,
    check=check_parity,
    estimate=estimate_parity,
    reads={"model": MEASURES, "served": MEASURES},
    pages=(Page(PAGE, "parity", "Whether a served model answers as the trained one"),),
)
def parity(config: ParityConfig, inputs: ParityInputs, out: Path, report: Report) -> Summary:
    """Write `parity.json` and a page: whether the folder `served`, asked through its server, is the trained model.

    A fault is no error: it is in the summary (`passed`, `fault`), and what has one is not registered.
    """
    by_its_engine = partial(open_server, engine=config.gguf_engine)
    outcome = compare(config, inputs.model, inputs.served, by_its_engine)
    outcome.write(out)
    summary = outcome.summary()
    report.metrics({name: float(value) for name, value in summary.items() if not isinstance(value, str)})
    for fault in outcome.faults:
        log.warning("the %s form does not answer as it was trained: %s", outcome.form, fault.sentence)
    return summary


def compare(config: ParityConfig, model: Path, folder: Path, serve: Serve | None = open_server) -> Outcome:
    """Compare the stored form in `folder`, behind `serve`, with the trained `model`: files, then weights, then answers.

    The checks end with the first kind that finds a fault: what comes after it would only show what comes of it. Without
    `serve` the last kind is left out.
    """
    trained = read_text_side(model)
    try:
        form, served = form_of(folder), read_text_side(folder)
    except UserError as error:
        return Outcome("unknown", [Fault("unreadable", str(error))])
    read = probes(trained.tokenizer, config.prompts)
    faults = [*find_text_faults(trained, served, read), *find_config_faults(model, folder)]
    if is_gguf(folder):
        faults += [*find_gguf_text_faults(trained, folder), *find_gguf_config_faults(model, folder)]
    if is_onnx(folder):
        faults += find_onnx_graph_faults(model, folder)
    if faults:
        return Outcome(form, faults)
    questions = asked(read, len(config.prompts))
    task = _Task(trained, served, read, questions, config.max_new_tokens, BOUNDS[form], config.gguf_engine)
    if serve is None:
        found = _compare_in_process(task)
        return Outcome(form, found.faults, found.divergence)
    # A server takes seconds to start, on one core: meanwhile both models are compared in process.
    with ThreadPoolExecutor(1) as pool:
        comparing = pool.submit(_compare_in_process, task)
        try:
            with serve(folder) as url:
                found = comparing.result()
                faults, exchanges = ([], []) if found.faults else _compare_served(task, found, url)
        except NoAnswer as error:
            found, exchanges = comparing.result(), []
            faults = [
                Fault("does_not_answer", f"{error}; look at the model's files, or serve another format")
            ]
    return Outcome(form, found.faults or faults, found.divergence, exchanges)


class _Task(NamedTuple):
    """What is compared."""

    trained: TextSide
    served: TextSide
    read: Sequence[Probe]
    questions: Sequence[Probe]
    tokens: int
    bounds: Bounds
    engine: GgufEngine


class _InProcess(NamedTuple):
    """What came of comparing both models in this process."""

    faults: list[Fault]
    divergence: Divergence | None = None
    trained: Sequence[Answer] = ()
    served: Sequence[Answer] = ()


def _compare_in_process(task: _Task) -> _InProcess:
    import torch

    folder = task.served.folder
    served = None if is_exported(folder) else _load_served(folder)
    # GGUF and ONNX are made of the weights in float32, and their engines compute in it.
    trained = (
        load_model(task.trained.folder, torch.float32)
        if served is None
        else load_for_inference(task.trained.folder)
    )
    if isinstance(served, Fault):
        return _InProcess([served])
    # Before either reads: on a processor, 4-bit weights are repacked for their first product.
    if served is None:
        find = find_gguf_weight_faults if is_gguf(folder) else find_onnx_weight_faults
        faults = list(find(trained, folder, task.bounds))
    else:
        faults = list(find_weight_faults(trained, served, task.bounds, _grids(folder)))
    if faults:
        return _InProcess(faults)
    first = predict(trained, task.trained, task.read, task.questions, task.tokens)
    del trained
    if served is None:
        second = predict_exported(folder, task.served, task.read, task.questions, first.answers, task.engine)
    else:
        second = predict(served, task.served, task.read, task.questions, task.tokens)
    divergence = diverge(first, second)
    return _InProcess(
        list(find_prediction_faults(divergence, task.bounds)), divergence, first.answers, second.answers
    )


def _grids(folder: Path) -> dict[str, Grid]:
    """The layers that are no longer as they were stored, once they are loaded."""
    form = form_of(folder)
    return read_grids(folder) if form == CALIBRATED else read_compressed(folder) if form in COMPRESSED else {}


def _load_served(folder: Path) -> "PreTrainedModel | Fault":
    import torch

    try:
        return load_for_inference(folder)
    except torch.OutOfMemoryError:
        raise
    except MissingTensors as error:
        if all("lm_head" in name or "embed_out" in name for name in error.names):
            return TIED_HEAD_LOST
        return Fault("tensor_missing", f"{error}; export it again")
    except (
        UserError,
        RuntimeError,
    ) as error:  # a tensor of another shape than config.json says is a RuntimeError
        said = " ".join(str(error).split())[:300]
        return Fault("unreadable", f"the served model cannot be loaded: {said}; export it again")


def _compare_served(task: _Task, found: _InProcess, url: str) -> tuple[list[Fault], list[Exchange]]:
    faults: list[Fault] = []
    exchanges: list[Exchange] = []
    answers = {
        probe.called: pair for probe, *pair in zip(task.questions, found.trained, found.served, strict=True)
    }
    for probe in task.read:
        was, now = answers.get(probe.called, (None, None))
        said = ask(url, probe, task.tokens if was else 1)
        faults += find_count_faults(task.trained, probe, said)
        exchanges.append(
            Exchange(
                probe.called,
                len(probe.tokens),
                said.prompt_tokens,
                was.text if was else None,
                said.text if was else None,
            )
        )
        if was and now:
            judged = list(
                find_answer_faults(now, said, ENGINE_MARGIN, "the same model in process", probe.called)
            )
            faults += judged or find_answer_faults(
                was, said, task.bounds.margin, "the trained model", probe.called
            )
    return faults, exchanges
