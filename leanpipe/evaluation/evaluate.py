"""Stage `evaluate`: how good, how large and how fast a model is, on the same held-out text as every other model."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import Field, field_validator, model_validator

from leanpipe.compression.formats import GGUF, ONNX
from leanpipe.core import device
from leanpipe.core.config import StageConfig
from leanpipe.core.device import Kind
from leanpipe.core.estimate import (
    BYTES_PER_TOKEN,
    Estimate,
    Expected,
    ExpectedInputs,
    Repeated,
    bytes_of_weight,
    host_bytes,
    process_bytes,
    read_arithmetic,
)
from leanpipe.core.keys import SPEED, NotInKey
from leanpipe.core.lineage import MEASURES, NOTHING, TESTED_ON
from leanpipe.core.report import Report
from leanpipe.core.stage import NOT_COMPARED, Summary, stage
from leanpipe.core.store import content_digest, digest_file
from leanpipe.engines.open_engine import EngineLogits, GgufEngine, check_engine, engine_of, open_logits
from leanpipe.evaluation.answer_scores import (
    HeldOutAnswers,
    answer_quality,
    answers_digest,
    can_converse,
    held_out_answers,
    score_answers,
)
from leanpipe.evaluation.efficiency import batch_figure, measure_speed, measure_together, timed
from leanpipe.evaluation.evaluation_files import write_evaluation
from leanpipe.evaluation.generate import TOGETHER, encode_prompt, generate
from leanpipe.evaluation.held_out import Passage, held_out, text_digest
from leanpipe.evaluation.perplexity import (
    Score,
    bits_per_byte,
    quality,
    score_documents,
)
from leanpipe.evaluation.served import Served, Workload, measure_served
from leanpipe.evaluation.usage.generation_rates import rate_figures
from leanpipe.evaluation.usage.sampling import GREEDY, parse_samplings
from leanpipe.models.count import parameters_of, read_config
from leanpipe.models.load import (
    document_separator,
    document_start,
    leading_bos,
    load_for_inference,
    load_tokenizer,
    weight_bytes,
)
from leanpipe.models.offload import is_exported, is_gguf, weight_files
from leanpipe.tokens.text_tokens import encode_text

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_PLOTTING = 60_000_000
"""Bytes of matplotlib's and pandas' code on a processor. Measured on two models of different shape."""
_CONVERSATION = 150
"""Tokens of a conversation, about."""
_MOST_TOGETHER = 256
"""Requests at once, of which a speed is told."""
_PICTURES = 200_000
"""Bytes of one evaluation's report."""


class EvaluateConfig(StageConfig):
    """How much text a model is judged on, what it is asked, and how its speed is measured."""

    text_bytes: int = Field(50_000, ge=200, le=1_000_000_000)
    """Bytes of held-out text to score, if there are so many: more make the figures more certain and take longer."""

    document_bytes: int = Field(500, ge=100, le=1_000_000_000)
    """At most so many bytes of one document, from its start: documents are what tells two models apart, and more of each tells
    little more."""

    context: int = Field(512, ge=2, le=1_000_000)
    """Tokens that the model reads at once: a document that is longer is scored in several windows, which overlap."""

    stride: int = Field(0, ge=0, le=1_000_000)
    """Tokens by which a window begins after the one before it: what is scored in it is predicted after at least context −
    stride tokens. Fewer are fairer to long documents and take longer; 0 is half of context."""

    conversations: int = Field(16, ge=0, le=1_000_000)
    """How many of the conversations that finetuning held out the assistant's answers are scored of; 0 scores none."""

    prompts: tuple[str, ...] = Field(
        (
            "What is the capital of France?",
            "Give three tips for staying healthy.",
            "Explain in two sentences why the sky is blue.",
        ),
        min_length=1,
        max_length=100,
    )
    """What the model is asked, through its chat template if it has one; the answers are shown, and how it writes is counted."""

    sampling: tuple[str, ...] = Field((GREEDY, "top_p=0.9"), min_length=1, max_length=10)
    """How the answers to the prompts are drawn, each way by itself: greedy, or any of temperature=0.8 top_k=40 top_p=0.9
    min_p=0.1 with spaces between them."""

    max_new_tokens: int = Field(40, ge=1, le=100_000)
    """Longest answer to a prompt, in tokens."""

    prefill_tokens: int = Field(256, ge=1, le=1_000_000)
    """Speed: length in tokens of the text that the model reads before it writes."""

    decode_tokens: int = Field(24, ge=1, le=100_000)
    """Speed: how many tokens the model writes."""

    repeats: int = Field(2, ge=1, le=1_000)
    """Speed: how often each is measured; the median counts, and one more goes before to warm up."""

    batch_sizes: tuple[Annotated[int, Field(ge=1, le=_MOST_TOGETHER)], ...] = Field((), max_length=10)
    """Speed: how many requests come at once, where it is measured how many tokens all of them write together."""

    gguf_engine: GgufEngine = "llama.cpp"
    """What runs a GGUF model while its quality, speed and memory are measured."""

    stored_weights: Annotated[bool, NotInKey("what else is scored, not what is found")] = False
    """Of a GGUF model that is registered, also score the weights alone, by transformers: then the report tells what its bits
    cost from what its engine costs. Takes about as long as scoring the model that it was made of."""

    model_memory: float = Field(0, ge=0, le=100_000)
    """Memory of the device that a model's weights may take, in gigabytes; the rest of them lie in the host's memory and on
    disk, which is slower and gives the same quality. 0 is what is free."""

    @model_validator(mode="after")
    def _windows_leave_nothing_out(self) -> Self:
        if self.stride > self.context:
            raise ValueError(
                f"stride ({self.stride}) is more than context ({self.context}): what lies between two windows would not be scored"
            )
        return self

    @field_validator("sampling")
    @classmethod
    def _sampling_is_known(cls, sampling: tuple[str, ...]) -> tuple[str, ...]:
        parse_samplings(sampling)
        return sampling

    @property
    def step(self) -> int:
        """Tokens from one window to the next: `stride`, or what it is by default."""
        return self.stride or max(1, self.context // 2)


@dataclass(frozen=True)
class EvaluateInputs:
    """A model folder, the clean stage's result, whose split `test` was held out, and conversations that were."""

    model: Path
    documents: Path
    instructions: Path | None = None


def check_evaluate(config: EvaluateConfig, inputs: ExpectedInputs) -> None:
    """Raise UserError for conversations that cannot be read, and for what is longer than the model can read: windows, the text
    for its speed, prompts and answers."""
    from leanpipe.models.count import check_context, tokenizer_folder

    model = inputs["model"]
    if config.gguf_engine == "openvino":
        check_engine("openvino")
    if config.conversations and "instructions" in inputs and (file := inputs["instructions"].path):
        held_out_answers(file, config.conversations)
    check_context(model, config.context, "evaluate.context")
    speed = config.prefill_tokens + config.decode_tokens
    check_context(model, speed, "evaluate.prefill_tokens + evaluate.decode_tokens")
    answered = "evaluate.max_new_tokens with the longest of evaluate.prompts"
    check_context(model, 1 + config.max_new_tokens, answered)
    if folder := tokenizer_folder(model):
        tokenizer = load_tokenizer(folder)
        longest = max(encode_prompt(tokenizer, prompt).shape[1] for prompt in config.prompts)
        check_context(model, longest + config.max_new_tokens, answered)


def estimate_evaluate(config: EvaluateConfig, inputs: ExpectedInputs, kind: Kind) -> Estimate:
    """What `evaluate` takes: the model and the logits of its longest reading."""
    from leanpipe.models.count import expected_config
    from leanpipe.models.offload import loading_bytes
    from leanpipe.training.trainer.memory import size_of

    model = expected_config(inputs["model"])
    size = size_of(model)
    weights = bytes_of_weight() * size.parameters
    # A window's logits in the arithmetic's type, and in float32 three times: they, their logarithms, what is between.
    tokens = max(config.context, config.prefill_tokens)
    parts = {
        "process": process_bytes(kind) + (_PLOTTING if kind == "cpu" else 0),
        "weights": weights,
        "logits": tokens * size.vocabulary * (bytes_of_weight() + 12),
    }
    loading = process_bytes(kind) + loading_bytes(model, size.parameters, kind)
    if form := _exported_form(inputs["model"]):
        # The engine's own copy and the head in float32 in this process, and the server beside it.
        served = round((4.3 if form == "onnx" else 1.3 if form in ONNX else 1.1) * size.parameters)
        parts |= {"weights": served + 4 * size.head, "server": process_bytes("cpu") + served}
        weights, loading = 0, 0
    peak = max(sum(parts.values()), loading)
    # Overlapping windows read long documents as often as they overlap.
    windows = config.document_bytes / BYTES_PER_TOKEN / config.context
    again = min(config.context / config.step, windows + 1) if windows > 1 else 1
    conversations = _CONVERSATION * config.conversations if "instructions" in inputs else 0
    read_tokens = config.text_bytes / BYTES_PER_TOKEN * again + conversations
    read_tokens += (config.repeats + 1) * config.prefill_tokens
    steps = math.ceil(len(config.prompts) / TOGETHER) * len(config.sampling) * config.max_new_tokens
    written = steps + (config.repeats + 1 + len(config.batch_sizes)) * config.decode_tokens
    work = 2.0 * size.parameters * (read_tokens + written)
    disk = _PICTURES + config.text_bytes
    shape: dict[str, Any] = {"length": config.prefill_tokens, "arithmetic": read_arithmetic()}
    repeated = (
        Repeated("read", model, read_tokens, **shape),
        Repeated("write", model, written, **shape),
    )
    return Estimate(peak, host_bytes(kind, peak), disk, work, parts, weights, repeated=repeated)


def _exported_form(model: Expected) -> str:
    """The format of a GGUF or ONNX file, after which a folder that is not there yet is named; empty for other weights."""
    if model.path:
        return "" if not is_exported(model.path) else GGUF[0] if is_gguf(model.path) else ONNX[0]
    name = model.origin.rpartition("/")[2]
    return name if name in (*GGUF, *ONNX) else ""


@stage(
    version=3,
    uses_device=True,
    depends_on=SPEED,
    check=check_evaluate,
    estimate=estimate_evaluate,
    reads={"model": MEASURES, "documents": TESTED_ON, "instructions": NOTHING},
    groups={
        **dict.fromkeys(("held_out_bytes", "held_out_tokens", "held_out_documents"), NOT_COMPARED),
        "answers_scored": NOT_COMPARED,
        **dict.fromkeys(("parameters", "size_bytes", "peak_memory_bytes", "first_token_seconds"), "serve"),
        **dict.fromkeys(("prefill_tokens_per_second", "decode_tokens_per_second"), "serve"),
        **dict.fromkeys(("prefill_p95_tokens_per_second", "decode_p95_tokens_per_second"), "serve"),
        **dict.fromkeys(("first_token_p95_seconds", "load_seconds", "joules_per_token"), "serve"),
        **{batch_figure(size): "serve" for size in range(1, _MOST_TOGETHER + 1)},
    },
)
def evaluate(config: EvaluateConfig, inputs: EvaluateInputs, out: Path, report: Report) -> Summary:
    """Write `evaluation.json` (every figure, each document's score), `generations.jsonl`, and pictures and answers for people.

    Sizes and memory are in bytes. `peak_memory_bytes` is what the process needed on top of what it held before the model
    was loaded, at the most, while loading, reading and writing one request at a time. A GGUF or ONNX model is served
    meanwhile, as `leanpipe serve` does, and what is measured is the server.
    """
    check_evaluate(config, {"model": Expected(inputs.model)})
    passages = held_out(inputs.documents, config.text_bytes, config.document_bytes)
    tokenizer = load_tokenizer(inputs.model)
    asked = _asked(config, inputs.instructions, tokenizer)
    model, seen = _used(config, inputs.model, tokenizer, passages)
    scores = _scores(config, model, tokenizer, passages, document_start(tokenizer), report)
    answers = score_answers(
        model, tokenizer, asked, config.context, config.step, progress_of(report, "answers")
    )
    summary = {
        **quality(scores),
        **answer_quality(answers),
        **_without_bos(config, model, tokenizer, passages, report),
        "held_out_digest": text_digest(passages, config.context, config.step),
        **({"answers_digest": answers_digest(asked, config.context, config.step)} if answers else {}),
        "parameters": _parameters(model),
        "size_bytes": weight_bytes(inputs.model),
        "weights_digest": weights_digest(inputs.model),
        "engine": engine_of(inputs.model, config.gguf_engine),
        "peak_memory_bytes": seen.peak_memory,
        **seen.speed.figures(),
        **rate_figures(seen.generations),
    }
    report.metrics({name: float(value) for name, value in summary.items() if not isinstance(value, str)})
    windows = {"context": config.context, "stride": config.step}
    write_evaluation(out, summary, passages, scores, answers, seen.speed, seen.generations, windows)
    return summary


def _asked(
    config: EvaluateConfig, instructions: Path | None, tokenizer: "PreTrainedTokenizerBase"
) -> list[HeldOutAnswers]:
    """The conversations whose answers are scored; none of a model that cannot converse."""
    if instructions is None or not config.conversations or not can_converse(tokenizer):
        return []
    return held_out_answers(instructions, config.conversations)


def _used(
    config: EvaluateConfig, folder: Path, tokenizer: "PreTrainedTokenizerBase", passages: list[Passage]
) -> "tuple[PreTrainedModel | EngineLogits, Served]":
    """Use the model as it will be used, and return it ready to be scored, with what was seen."""
    tokens, samplings = _text_tokens(config, tokenizer, passages), parse_samplings(config.sampling)
    if is_exported(folder):
        work = Workload(
            config.prompts,
            config.max_new_tokens,
            tokens,
            config.decode_tokens,
            config.repeats,
            samplings,
            config.batch_sizes,
        )
        seen = measure_served(folder, tokenizer, work, config.gguf_engine)
        return open_logits(folder, config.context, config.gguf_engine), seen
    device.reset_peak_memory()
    before = device.peak_memory()
    loading, model = timed(lambda: load_for_inference(folder, config.model_memory))
    speed = measure_speed(
        model, tokenizer, config.prompts[0], tokens, config.decode_tokens, config.repeats, loading
    )
    peak = device.peak_memory() - before
    together = measure_together(model, tokens, config.decode_tokens, config.batch_sizes)
    generations = generate(model, tokenizer, config.prompts, config.max_new_tokens, samplings)
    return model, Served(replace(speed, together=together), generations, peak)


def weights_digest(model: Path) -> str:
    """Names a model folder's weights: two folders with the same digest hold the same model."""
    return content_digest({path.name: digest_file(path) for path in weight_files(model)})


def _scores(
    config: EvaluateConfig,
    model: "PreTrainedModel | EngineLogits",
    tokenizer: "PreTrainedTokenizerBase",
    passages: list[Passage],
    start: int,
    report: Report,
) -> list[Score]:
    return score_documents(
        model,
        tokenizer,
        [passage.text for passage in passages],
        start,
        config.context,
        config.step,
        progress_of(report, "documents"),
    )


def progress_of(report: Report, what: str) -> Callable[[int, int], None]:
    """Return what tells the report how many of something are done."""
    return lambda done, total: report.progress(done, total, what)


def _without_bos(
    config: EvaluateConfig,
    model: "PreTrainedModel | EngineLogits",
    tokenizer: "PreTrainedTokenizerBase",
    passages: list[Passage],
    report: Report,
) -> Summary:
    """What a model that has a BOS before every text would be measured at if another token stood there; else nothing."""
    separator = document_separator(tokenizer)
    if leading_bos(tokenizer) in (None, separator):
        return {}
    scores = _scores(config, model, tokenizer, passages, separator, report)
    return {"bits_per_byte_without_bos": bits_per_byte(scores)}


def _parameters(model: "PreTrainedModel | EngineLogits") -> int:
    return (
        parameters_of(read_config(model.path)) if isinstance(model, EngineLogits) else model.num_parameters()
    )


def _text_tokens(
    config: EvaluateConfig, tokenizer: "PreTrainedTokenizerBase", passages: list[Passage]
) -> list[int]:
    """`prefill_tokens` tokens of the held-out text, which is begun again where it is too short."""
    tokens = encode_text(tokenizer, "\n".join(passage.text for passage in passages))
    return (tokens * (config.prefill_tokens // len(tokens) + 1))[: config.prefill_tokens]
