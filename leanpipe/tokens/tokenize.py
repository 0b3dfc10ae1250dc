"""Stage `tokenize`: cleaned documents to blocks of tokens, by the teacher's tokenizer or one trained on them."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from leanpipe.config import StageConfig
from leanpipe.errors import UserError
from leanpipe.models.load import document_separator, load_tokenizer
from leanpipe.report import Report
from leanpipe.stage import Summary, stage
from leanpipe.text.tables import count_documents, read_texts
from leanpipe.tokens.describe import describe
from leanpipe.tokens.encode import Encoded, encode
from leanpipe.tokens.pack import Packed, join, pack
from leanpipe.tokens.train import Kind, train_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SPLITS = ("train", "validation")


class TokenizeConfig(StageConfig):
    """How text becomes numbers."""

    tokenizer: Literal["teacher", "bpe", "wordpiece", "unigram"] = "teacher"
    """The teacher's own, which distillation needs, or one of this kind trained on the corpus."""
    vocabulary: int = Field(8192, ge=300, le=1_000_000)
    """Tokens of a tokenizer that is trained; not used with the teacher's own."""
    block_length: int = Field(256, ge=8, le=131_072)
    """Tokens per block: how far back a model can look while it is trained."""


@dataclass(frozen=True)
class TokenizeInputs:
    documents: Path
    """What stage `clean` wrote."""
    teacher: Path
    """A model folder, of which the tokenizer is used."""


@stage(version=1)
def tokenize(config: TokenizeConfig, inputs: TokenizeInputs, out: Path, report: Report) -> Summary:
    """Write `tokenizer/` and, for train and validation, `<split>.tokens.npy` and `<split>.positions.npy` (N, T).

    `Blocks` reads them. Raises UserError if the training text fills no block.
    """
    teacher = load_tokenizer(inputs.teacher)
    tokenizer = (
        teacher if config.tokenizer == "teacher" else _train(config.tokenizer, config.vocabulary, inputs)
    )
    tokenizer.save_pretrained(out / "tokenizer")
    encoded = {split: _encode_split(tokenizer, inputs.documents, split, report) for split in SPLITS}
    packed = {split: _pack(encoded[split], tokenizer, config.block_length) for split in SPLITS}
    _check_enough(packed["train"], config.block_length, inputs.documents)
    for split, blocks in packed.items():
        np.save(out / f"{split}.tokens.npy", blocks.tokens)
        np.save(out / f"{split}.positions.npy", blocks.positions)
    summary = _summary(encoded, packed, len(tokenizer))
    if config.tokenizer != "teacher":
        by_teacher = _encode_split(teacher, inputs.documents, "validation", report)
        summary["teacher_bytes_per_token"] = by_teacher.bytes_per_token
    describe(
        out / "report", [len(tokens) for tokens in encoded["train"].documents], config.block_length, summary
    )
    report.metrics(summary)
    return summary


def _train(kind: Kind, vocabulary: int, inputs: TokenizeInputs) -> "PreTrainedTokenizerBase":
    return train_tokenizer(kind, list(read_texts(inputs.documents / "train.parquet")), vocabulary)


def _encode_split(
    tokenizer: "PreTrainedTokenizerBase", documents: Path, split: str, report: Report
) -> Encoded:
    path = documents / f"{split}.parquet"
    return encode(
        tokenizer,
        read_texts(path),
        lambda done: report.progress(done, count_documents(path), f"documents for {split}"),
    )


def _pack(encoded: Encoded, tokenizer: "PreTrainedTokenizerBase", length: int) -> Packed:
    separator = document_separator(tokenizer)
    row, starts = join(encoded.documents, separator, len(tokenizer))
    return pack(row, starts, length, separator)


def _check_enough(train: Packed, length: int, documents: Path) -> None:
    if train.used < length:
        raise UserError(
            f"the training text in {documents} is {train.used} tokens, less than one block of {length}: "
            "give more text or lower tokenize.block_length"
        )


def _summary(encoded: dict[str, Encoded], packed: dict[str, Packed], vocabulary: int) -> Summary:
    """Tokens count separators, and only what lies in blocks; bytes per token are of validation text, unseen."""
    return {
        "tokens": packed["train"].used,
        "blocks": len(packed["train"].tokens),
        "validation_tokens": packed["validation"].used,
        "validation_blocks": len(packed["validation"].tokens),
        "bytes_per_token": encoded["validation"].bytes_per_token,
        "vocabulary": vocabulary,
    }
