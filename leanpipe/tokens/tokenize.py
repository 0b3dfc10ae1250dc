"""Stage `tokenize`: cleaned documents to blocks of tokens, by the teacher's tokenizer or one trained on them."""

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from leanpipe.core.config import StageConfig
from leanpipe.core.device import Kind
from leanpipe.core.errors import UserError
from leanpipe.core.estimate import BYTES_PER_TOKEN, Estimate, ExpectedInputs, without_device
from leanpipe.core.lineage import NOTHING, PREPARED_FROM
from leanpipe.core.report import Report
from leanpipe.core.stage import NOT_COMPARED, Inputs, Summary, stage
from leanpipe.core.store import Artifact
from leanpipe.corpus.tables import count_documents, read_texts, split_files
from leanpipe.models.load import load_tokenizer
from leanpipe.tokens.encode import Encoder, backend_of, encode
from leanpipe.tokens.incremental_blocks import find_base_blocks
from leanpipe.tokens.pack import Packing
from leanpipe.tokens.token_report import write_token_report
from leanpipe.tokens.token_shards import Packer, Shard, find_shards, make_shard
from leanpipe.tokens.train_tokenizer import train_tokenizer
from leanpipe.tokens.training_text import TrainingTextSample

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

SPLITS = ("train", "validation")

_TOKENS_PROCESS = 650_000_000
"""Bytes of a process that tokenises, beside the shard it works on. Measured on 15 and 61 MB of source code."""


class TokenizeConfig(StageConfig):
    """How text becomes numbers."""

    tokenizer: Literal["teacher", "bpe", "wordpiece", "unigram"] = "teacher"
    """The teacher's own, which distillation needs, or one of this kind trained on the corpus."""
    vocabulary: int = Field(8192, ge=300, le=1_000_000)
    """Tokens of a tokenizer that is trained; not used with the teacher's own."""
    min_occurrences: int = Field(5, ge=1, le=1_000_000)
    """A tokenizer that is trained is refused where the corpus does not show its tokens so often: a model cannot learn
    them. For translation 100 are advised (Gowda and May 2020, "Finding the Optimal Vocabulary Size for Neural
    Machine Translation")."""
    training_bytes: int = Field(100_000_000, ge=1_000, le=1_000_000_000_000)
    """A tokenizer is trained on so many bytes of the training text, taken from all of it evenly. Memory and time grow
    with it."""
    block_length: int = Field(256, ge=8, le=131_072)
    """Tokens per block: how far back a model can look while it is trained."""
    packing: Packing = "best_fit"
    """`best_fit` cuts documents only where they are longer than a block, and fills blocks with what fits best (Ding et
    al. 2024, "Fewer Truncations Improve Language Modeling"). `concatenate` puts all in a row and cuts everywhere."""
    max_padding: float = Field(0.01, ge=0, le=1)
    """Where best fit would leave more than this share of the tokens empty, because many documents are a little longer
    than half a block, the emptiest blocks are joined and cut after all. 1 never does."""


@dataclass(frozen=True)
class TokenizeInputs:
    """What `tokenize` reads."""

    documents: Path
    """What stage `clean` wrote."""
    teacher: Path
    """A model folder, of which the tokenizer is used."""
    base: Path | None = None
    """An earlier result of this stage: what it holds of the same documents is linked, not made again."""


def estimate_tokenize(config: TokenizeConfig, inputs: ExpectedInputs, kind: Kind) -> Estimate:
    """What `tokenize` takes on what cleaning leaves of a corpus: at the most all of it."""
    own = config.tokenizer != "teacher"
    vocabulary = config.vocabulary if own else _teachers_vocabulary(inputs)
    tokenizer = inputs["teacher"].path if "teacher" in inputs and not own else None
    result = {"block_length": config.block_length, "vocabulary": vocabulary, "tokenizer": tokenizer}
    corpus = inputs["documents"].facts.get("bytes", 0)
    if not corpus:
        return Estimate(result=result)
    parts = {
        "process": _TOKENS_PROCESS,
        "shard": round(1.7 * min(corpus, 64_000_000)),
        "training the tokenizer": round(3.2 * min(corpus, config.training_bytes)) if own else 0,
    }
    per_token = 4 if vocabulary <= 2**16 else 6  # the token and its position
    return without_device(kind, round(per_token * corpus / BYTES_PER_TOKEN), parts, result)


def _teachers_vocabulary(inputs: ExpectedInputs) -> int:
    from leanpipe.models.count import expected_config

    return expected_config(inputs["teacher"]).vocab_size


def _mark_bos(inputs: Inputs) -> dict[str, str]:
    """Mark a teacher whose tokenizer may put a BOS before a text: its documents began with another token once.

    Read from its files, so that a key is had without loading transformers; more may be marked than need to.
    """
    teacher = inputs.get("teacher")
    if not isinstance(teacher, Artifact):
        return {}
    files = (teacher.path / name for name in ("tokenizer.json", "tokenizer_config.json"))
    tokenizer, config = (json.loads(file.read_text()) if file.exists() else {} for file in files)
    templated = "SpecialToken" in json.dumps(tokenizer.get("post_processor"))
    return {"beginning": "bos"} if templated or config.get("add_bos_token") else {}


@stage(
    version=2,
    shortcuts=("base",),
    marks=_mark_bos,
    estimate=estimate_tokenize,
    base=find_base_blocks,
    reads={"documents": PREPARED_FROM, "teacher": NOTHING},
    groups=dict.fromkeys(("documents", "vocabulary", "teacher_vocabulary"), NOT_COMPARED),
)
def tokenize(config: TokenizeConfig, inputs: TokenizeInputs, out: Path, report: Report) -> Summary:
    """Write `tokenizer/` and the shards of `train/` and `validation/`, one for each file of documents (see `shards`).

    `Blocks` reads them. Raises UserError if the training text fills no block, or there is nothing to validate on.
    """
    teacher = load_tokenizer(inputs.teacher)
    tokenizer = teacher if config.tokenizer == "teacher" else _train(config, inputs.documents)
    tokenizer.save_pretrained(out / "tokenizer")
    packer = Packer(tokenizer, config.block_length, config.packing, config.max_padding)
    shards = _make_shards(packer, inputs, out, report)
    _check_enough(shards, config.block_length, inputs.documents)
    summary = _summary(shards["train"], shards["validation"], config.block_length, len(tokenizer))
    if config.tokenizer != "teacher":
        summary |= _teachers(teacher, read_texts(inputs.documents, "validation"))
    write_token_report(out / "report", shards["train"], config.block_length, summary)
    report.metrics(summary)
    return summary


def _train(config: TokenizeConfig, documents: Path) -> "PreTrainedTokenizerBase":
    assert config.tokenizer != "teacher"
    sample = TrainingTextSample(documents, config.training_bytes)
    return train_tokenizer(config.tokenizer, sample, config.vocabulary, config.min_occurrences)


def _make_shards(packer: Packer, inputs: TokenizeInputs, out: Path, report: Report) -> dict[str, list[Shard]]:
    total = sum(count_documents(inputs.documents, split) for split in SPLITS)
    done = 0

    def progress(documents: int) -> None:
        nonlocal done
        done += documents
        report.progress(done, total, "documents")

    shards: dict[str, list[Shard]] = {}
    for split in SPLITS:
        known = (find_shards(inputs.base / split) if inputs.base else {}) | find_shards(out / split)
        for unfinished in (out / split).glob("*.part"):
            unfinished.unlink()
        sources = split_files(inputs.documents, split)
        shards[split] = [
            make_shard(packer, source, out / split / source.stem, known, progress) for source in sources
        ]
        log.info(
            "%s: %d of %d shards were there already",
            split,
            sum(shard.key in known for shard in shards[split]),
            len(sources),
        )
    return shards


def _check_enough(shards: dict[str, list[Shard]], length: int, documents: Path) -> None:
    if (tokens := _sum(shards["train"], "tokens")) < length:
        raise UserError(
            f"the training text in {documents} is {tokens} tokens, less than one block of {length}: "
            "give more text or lower tokenize.block_length"
        )
    if not _sum(shards["validation"], "documents"):
        raise UserError(
            f"{documents} holds no validation text: give more documents or raise clean.split.validation"
        )


def _summary(train: Sequence[Shard], validation: Sequence[Shard], length: int, vocabulary: int) -> Summary:
    """Tokens count separators, but no padding. How well text is compressed is measured where the tokenizer was not
    trained."""
    text_tokens = _sum(validation, "tokens") - 2 * _sum(validation, "documents")
    return {
        "documents": _sum(train, "documents"),
        "tokens": _sum(train, "tokens"),
        "blocks": _sum(train, "blocks"),
        "padding": round(1 - _sum(train, "tokens") / (_sum(train, "blocks") * length), 6),
        "validation_tokens": _sum(validation, "tokens"),
        "validation_blocks": _sum(validation, "blocks"),
        **_compression(_sum(validation, "bytes"), _sum(validation, "words"), text_tokens),
        "vocabulary": vocabulary,
    }


def _teachers(teacher: "PreTrainedTokenizerBase", texts: Iterable[str]) -> Summary:
    """What the teacher's tokenizer does with the same text."""
    batches = [
        (batch.bytes, batch.words, len(batch.tokens))
        for batch in encode(Encoder(backend_of(teacher)), texts, None)
    ]
    figures = _compression(*map(sum, zip(*batches, strict=True))) | {"vocabulary": len(teacher)}
    return {f"teacher_{name}": value for name, value in figures.items()}


def _compression(size: int, words: int, tokens: int) -> Summary:
    return {
        "bytes_per_token": round(size / max(1, tokens), 4),
        "tokens_per_word": round(tokens / max(1, words), 4),
    }


def _sum(shards: Sequence[Shard], name: str) -> int:
    return sum(getattr(shard, name) for shard in shards)
