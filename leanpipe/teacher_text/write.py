"""Stage `write`: the teacher goes on from openings of the corpus, or answers the instructions, for its student to learn from.

What it samples is sequence-level knowledge distillation: Kim and Rush 2016, "Sequence-Level Knowledge Distillation",
section 3.2, arXiv 1606.07947.
"""

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from leanpipe.core import device
from leanpipe.core.config import StageConfig
from leanpipe.core.device import Kind
from leanpipe.core.errors import UserError
from leanpipe.core.estimate import (
    Estimate,
    Expected,
    ExpectedInputs,
    bytes_of_weight,
    host_bytes,
    process_bytes,
)
from leanpipe.core.files import link_or_copy
from leanpipe.core.keys import NotInKey
from leanpipe.core.report import Report
from leanpipe.core.stage import NOT_COMPARED, Summary, stage
from leanpipe.core.store import CHECKPOINTS
from leanpipe.corpus.config import CleanConfig
from leanpipe.corpus.filters import QualityConfig, RepetitionConfig
from leanpipe.corpus.pii import RedactConfig
from leanpipe.models.load import load_tokenizer
from leanpipe.tokens.text_tokens import encode_text
from leanpipe.training.finetune.instruction_files import ANSWERS

if TYPE_CHECKING:
    from leanpipe.teacher_text.prompts import Prompt
    from leanpipe.teacher_text.writers import Writer, Written

log = logging.getLogger(__name__)

_LINES = "written.jsonl"
_ROWS = {"cpu": 4, "cuda": 64}
"""Texts that transformers writes at once."""


class WriteSettings(StageConfig):
    """How the teacher writes, and what of it is kept."""

    temperature: float = Field(0.8, ge=0, le=10)
    """At which tokens are drawn; 0 takes the likeliest."""
    top_p: float = Field(0.95, gt=0, le=1)
    """Tokens are drawn from the fewest that together have this share of the probability."""
    opening_tokens: int = Field(32, ge=1, le=131_072)
    """How much of a document the teacher goes on from."""
    max_prompt_tokens: int = Field(256, ge=8, le=131_072)
    """Instructions of more tokens are left out."""
    max_new_tokens: int = Field(192, ge=1, le=131_072)
    """The longest text that is written. An answer that does not end within it is dropped."""
    min_tokens: int = Field(32, ge=1, le=131_072)
    """Texts that go on from the corpus are dropped if they are shorter."""
    engine: Literal["auto", "llama_cpp", "transformers"] = "auto"
    """llama_cpp writes with the teacher in 8 bits, by far the fastest on a processor; transformers in batches with all of it.
    auto is llama_cpp on a processor, for models that GGUF holds."""
    streams: Annotated[int, NotInKey("how many are written at once, not what is drawn")] = Field(
        4, ge=1, le=256
    )
    """Texts that llama.cpp writes at once. More than one is faster, and may differ where two tokens are about as likely."""
    seed: int = Field(0, ge=0, le=2**32 - 1)
    """Together with a prompt it decides what is drawn after it."""


class WriteConfig(WriteSettings):
    """How much the teacher writes, and the rules that cleaning goes by."""

    tokens: int = Field(ge=1, le=10**12)
    """Tokens of all texts that are kept, with what they go on from. Fewer if there is no more to go on from."""
    quality: QualityConfig = QualityConfig()
    """Bounds on the words and lines of a text, as of a document of the corpus."""
    repetition: RepetitionConfig = RepetitionConfig()
    """Bounds on what a text repeats within itself."""
    redact: RedactConfig = RedactConfig()
    """Which personal data are replaced."""


@dataclass(frozen=True)
class WriteInputs:
    """The teacher's model folder, and what it goes on from: one of the two."""

    teacher: Path
    documents: Path | None = None
    """What stage `clean` wrote."""
    instructions: Path | None = None
    """A .json or .jsonl file of instructions, or a folder of them."""


def write_config(settings: WriteSettings, clean: CleanConfig, share: float, tokens: int) -> WriteConfig:
    """What stage `write` is told for a training of `tokens` tokens, of which `share` are the teacher's."""
    rules = {"quality": clean.quality, "repetition": clean.repetition, "redact": clean.redact}
    return WriteConfig(**dict(settings), **rules, tokens=max(1, round(share * tokens)))


def check_write(config: WriteConfig, inputs: ExpectedInputs) -> None:
    """Raise UserError for texts longer than the teacher can read, and for an engine that cannot load it."""
    from leanpipe.compression.gguf_export import check_gguf
    from leanpipe.models.count import check_context, expected_config, tokenizer_folder
    from leanpipe.training.finetune.template import check_template

    teacher = inputs["teacher"]
    prompt = config.max_prompt_tokens if "instructions" in inputs else config.opening_tokens + 1
    check_context(teacher, prompt + config.max_new_tokens, "write.max_new_tokens, with what comes before")
    folder = tokenizer_folder(teacher)
    if folder and "instructions" in inputs:
        check_template(load_tokenizer(folder))
    if config.engine == "llama_cpp":
        check_gguf(expected_config(teacher), load_tokenizer(folder) if folder else None)


def estimate_write(config: WriteConfig, inputs: ExpectedInputs, kind: Kind) -> Estimate:
    """What `write` takes: the teacher, and what it remembers of the texts that are written at once."""
    from leanpipe.models.count import expected_config, tokenizer_folder
    from leanpipe.training.trainer.memory import size_of

    teacher = expected_config(inputs["teacher"])
    size, short = size_of(teacher), bytes_of_weight()
    weights = short * size.parameters
    rows = max(config.streams, _ROWS[kind])
    length = config.max_prompt_tokens + config.max_new_tokens
    parts = {
        "process": process_bytes(kind),
        "weights": weights,
        "texts": rows * length * teacher.num_hidden_layers * 2 * short * size.width,
        "logits": rows * size.vocabulary * 4 * 6,
    }
    peak = sum(parts.values())
    facts = inputs["documents"].facts if "documents" in inputs else {}
    result = {"bytes": 4 * config.tokens, "tokenizer": tokenizer_folder(inputs["teacher"])} if facts else {}
    disk = weights + 8 * config.tokens
    return Estimate(
        peak, host_bytes(kind, peak), disk, 2.0 * size.parameters * config.tokens, parts, result=result
    )


@stage(
    version=1,
    uses_device=True,
    check=check_write,
    estimate=estimate_write,
    reads={
        "teacher": {"train": "prepared from it"},
        "documents": {"train": "prepared from it"},
        "instructions": {"train": "prepared from it"},
    },
    groups=dict.fromkeys(("texts", "tokens", "prompts"), NOT_COMPARED),
)
def write(config: WriteConfig, inputs: WriteInputs, out: Path, report: Report) -> Summary:
    """Keep what the teacher writes and is worth learning from: documents in `train/`, or conversations in `answers.jsonl`.

    Every text is on the disk once it is written, and a computation that was killed goes on after the last one.
    """
    from leanpipe.teacher_text.keep import Keeper

    check_write(config, _expected(inputs))
    tokenizer = load_tokenizer(inputs.teacher)
    prompts = _prompts(config, inputs, tokenizer)
    rules = CleanConfig(quality=config.quality, repetition=config.repetition, redact=config.redact)
    keeper, kept, tokens, read = Keeper(rules, tokenizer, config.min_tokens), [], 0, 0
    for written in _written(config, inputs.teacher, prompts, out / CHECKPOINTS):
        read += 1
        if (text := keeper.keep(written)) is not None:
            kept.append((written.prompt, text))
            tokens += _length(tokenizer, written, text)
            report.progress(min(tokens, config.tokens), config.tokens, "tokens")
        if tokens >= config.tokens:
            break
    if not kept:
        raise UserError(
            f"of {read} texts that the teacher {inputs.teacher} wrote none is worth learning from ({keeper.describe()}): set "
            "the share of what it writes to 0, or write.max_new_tokens higher"
        )
    if tokens < config.tokens:
        log.warning(
            "the teacher wrote %d of %d tokens: there is no more to go on from", tokens, config.tokens
        )
    _publish(inputs, kept, out)
    return {
        "texts": len(kept),
        "tokens": tokens,
        "prompts": read,
        "kept_share": round(len(kept) / read, 4),
        "dropped": keeper.describe(),
        "peak_memory": device.peak_memory(),
    }


def _expected(inputs: WriteInputs) -> dict[str, Expected]:
    return {role: Expected(path) for role, path in vars(inputs).items() if path is not None}


def _prompts(config: WriteConfig, inputs: WriteInputs, tokenizer) -> "list[Prompt]":
    from leanpipe.teacher_text.prompts import openings, questions

    if inputs.instructions is not None:
        found = questions(inputs.instructions, tokenizer, config.max_prompt_tokens)
        where, what = inputs.instructions, f"instruction of at most {config.max_prompt_tokens} tokens"
    else:
        assert inputs.documents is not None
        found = openings(inputs.documents, tokenizer, config.opening_tokens)
        where, what = inputs.documents, f"training document of more than {config.opening_tokens} tokens"
    if not found:
        raise UserError(
            f"{where} has no {what} for the teacher to go on from: set the share of what it writes to 0"
        )
    return found


def _written(
    config: WriteConfig, teacher: Path, prompts: "list[Prompt]", folder: Path
) -> "Iterator[Written]":
    """Yield what is written after each prompt, in their order: first what an earlier attempt left, then what is new."""
    from leanpipe.teacher_text.writers import Sampling, Written

    path = folder / _LINES
    folder.mkdir(parents=True, exist_ok=True)
    earlier = _lines(path)
    for prompt, line in zip(prompts, earlier, strict=False):
        yield Written(prompt, line["text"], line["ended"])
    left = prompts[len(earlier) :]
    if not left:
        return
    sampling = Sampling(config.temperature, config.top_p, config.max_new_tokens, config.seed)
    with path.open("a", encoding="utf-8") as file:
        for written in _writer(config, teacher, folder).write(left, sampling):
            line = {"id": written.prompt.id, "text": written.text, "ended": written.ended}
            file.write(json.dumps(line) + "\n")
            file.flush()
            yield written


def _lines(path: Path) -> list[dict]:
    """What an earlier attempt wrote. A last line that it did not end is taken off."""
    if not path.exists():
        return []
    whole = path.read_bytes().rpartition(b"\n")[0]
    path.write_bytes(whole + b"\n" if whole else b"")
    return [json.loads(line) for line in whole.splitlines()]


def _writer(config: WriteConfig, teacher: Path, folder: Path) -> "Writer":
    from leanpipe.teacher_text.writers import LlamaCppWriter, TransformersWriter

    longest = config.max_new_tokens + max(config.max_prompt_tokens, config.opening_tokens + 1)
    if config.engine == "llama_cpp" or (config.engine == "auto" and _fits_llama_cpp(teacher)):
        return LlamaCppWriter(teacher, folder, longest, config.streams)
    return TransformersWriter(teacher, _ROWS[device.name()])


def _fits_llama_cpp(teacher: Path) -> bool:
    from leanpipe.compression.gguf_export import check_gguf
    from leanpipe.models.count import read_config

    if device.name() != "cpu":
        return False
    try:
        check_gguf(read_config(teacher), load_tokenizer(teacher))
    except UserError as reason:
        log.info("transformers writes instead of llama.cpp: %s", reason)
        return False
    return True


def _length(tokenizer, written: "Written", text: str) -> int:
    """Tokens of a text with what it goes on from; a document's text begins with that."""
    tokens = len(encode_text(tokenizer, text))
    return tokens if written.prompt.conversation is None else tokens + len(written.prompt.tokens)


def _publish(inputs: WriteInputs, kept: "list[tuple[Prompt, str]]", out: Path) -> None:
    from leanpipe.corpus.tables import DOCUMENTS, TableWriter, split_files

    if inputs.documents is None:
        with (out / ANSWERS).open("w", encoding="utf-8") as file:
            file.writelines(_line(prompt, text) for prompt, text in kept)
        return
    with TableWriter(out / "train" / "written.parquet", DOCUMENTS) as table:
        for prompt, text in kept:
            table.write({"id": prompt.id, "text": text, "source": "written by the teacher", "language": ""})
    for held_out in split_files(inputs.documents, "validation"):
        if not (target := out / "validation" / held_out.name).exists():
            link_or_copy(held_out, target)  # whoever makes tokens of it wants some to validate on


def _line(prompt: "Prompt", text: str) -> str:
    conversation = prompt.conversation
    assert conversation is not None
    messages = [*conversation.messages, {"role": "assistant", "content": text}]
    return (
        json.dumps({"messages": messages, **({"tools": conversation.tools} if conversation.tools else {})})
        + "\n"
    )
