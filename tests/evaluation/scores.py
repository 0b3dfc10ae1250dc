"""Evaluations with scores that are known, or resampled from those of real models."""

import functools
import math
from collections.abc import Sequence

from leanpipe.evaluation.paired import Evaluated
from leanpipe.evaluation.perplexity import (
    Score,
    bits_per_byte,
    bits_per_byte_error,
    score_documents,
)
from tests.support.tiny_models import tiny_llama, tiny_text, tiny_tokenizer

Pair = tuple[float, int]
"""Bits that a model needs for a document, and the document's bytes."""


def evaluated(
    documents: Sequence[Pair], size_mb: float = 100, weights: str | None = None, text: str = "t"
) -> Evaluated:
    """What `evaluate` would have found of a model with these scores."""
    scores = [Score(bits * math.log(2), bytes // 4 + 1, bytes) for bits, bytes in documents]
    summary = {
        "bits_per_byte": bits_per_byte(scores),
        "bits_per_byte_error": bits_per_byte_error(scores),
        "size_bytes": round(size_mb * 1e6),
        "held_out_digest": text,
        "weights_digest": weights or f"{documents} {size_mb}",
    }
    return Evaluated(summary, {str(number): score for number, score in enumerate(scores)})


@functools.cache
def real_pairs() -> list[tuple[Pair, Pair]]:
    """Score two tiny models of different random weights on the same 79 documents."""
    texts = [text[:1_500] for text in tiny_text() if len(text) > 200]
    one, other = (
        [
            (score.bits, score.bytes)
            for score in score_documents(tiny_llama(seed=seed), tiny_tokenizer(), texts, 0, 256)
        ]
        for seed in (0, 1)
    )
    return list(zip(one, other, strict=True))
