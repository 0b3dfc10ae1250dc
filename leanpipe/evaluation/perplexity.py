"""Perplexity per token and bits per byte of a model on a set of documents.

Perplexities of different tokenizers do not compare; bits per byte do, because every model is charged for the same bytes
(Gao et al. 2020, "The Pile", section 3.1, https://arxiv.org/abs/2101.00027).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from leanpipe.core.errors import UserError
from leanpipe.core.stage import Summary
from leanpipe.models.offload import input_device
from leanpipe.tokens.text_tokens import encode_text

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from leanpipe.engines.open_engine import EngineLogits


@dataclass(frozen=True)
class Score:
    """How well a model predicts one document."""

    nats: float
    """The sum over its tokens of -ln p(token | what came before it in its window)."""
    tokens: int
    bytes: int
    """Length of the document in UTF-8."""

    @property
    def bits(self) -> float:
        return self.nats / math.log(2)

    @property
    def bits_per_byte(self) -> float:
        return self.bits / self.bytes


def score_documents(
    model: "PreTrainedModel | EngineLogits",
    tokenizer: "PreTrainedTokenizerBase",
    texts: Sequence[str],
    start: int,
    context: int,
    stride: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Score]:
    """One score per text; each begins with the token `start`. Documents are read one by one: none sees another.

    `stride` is that of `windows`. Raises UserError if the model predicts anything that is not finite.
    """
    scores: list[Score] = []
    for text in texts:
        tokens = encode_text(tokenizer, text)
        nats = math.fsum(
            target_nats(model, *window) for window in windows(tokens, start, context, stride or context)
        )
        check_finite(model, nats, f"document {len(scores) + 1} of {len(texts)}")
        scores.append(Score(nats, len(tokens), len(text.encode())))
        progress(len(scores), len(texts))
    return scores


def windows(
    tokens: Sequence[int], start: int, context: int, stride: int
) -> Iterator[tuple[list[int], list[int]]]:
    """Cut a document into pairs (inputs, targets); every token is a target exactly once.

    At most `context` inputs are read at once, and the first of them is `start`. Every window but the first begins `stride`
    tokens after the one before, and only its last `stride` tokens are targets: they are predicted after at least
    `context` - `stride` tokens of the document. With `stride` = `context` each window forgets all that stood before it.
    """
    for first in (0, *range(context, len(tokens), stride)) if tokens else ():
        last = min(len(tokens), first + (stride if first else context))
        begins = max(0, last - context) if stride < context else first
        yield [start, *tokens[begins : last - 1]], list(tokens[first:last])


def check_finite(model: "PreTrainedModel | EngineLogits", nats: float, where: str) -> None:
    """Raise UserError if a loss is not finite."""
    if not math.isfinite(nats):
        raise UserError(
            f"the model {model.name_or_path} gives a loss of {nats} on {where}: its weights or its arithmetic are broken, so "
            "none of its figures would mean anything"
        )


def perplexity(scores: Sequence[Score]) -> float:
    """exp of the mean loss in nats over all tokens."""
    return math.exp(sum(score.nats for score in scores) / sum(score.tokens for score in scores))


def bits_per_byte(scores: Sequence[Score]) -> float:
    """Bits needed for all documents over their bytes."""
    return sum(score.bits for score in scores) / sum(score.bytes for score in scores)


def bits_per_byte_error(scores: Sequence[Score]) -> float:
    """Standard error of `bits_per_byte`, documents being the units sampled. At least two are needed.

    It is that of a ratio of two sums (Cochran 1977, "Sampling Techniques", section 6.4), so that long documents count
    for more, as they do in the ratio.
    """
    ratio, count = bits_per_byte(scores), len(scores)
    squares = sum((score.bits - ratio * score.bytes) ** 2 for score in scores)
    return math.sqrt(count / (count - 1) * squares) / sum(score.bytes for score in scores)


def quality(scores: list[Score]) -> Summary:
    """The figures of quality, of all documents together."""
    return {
        "bits_per_byte": bits_per_byte(scores),
        "bits_per_byte_error": bits_per_byte_error(scores),
        "perplexity": perplexity(scores),
        "held_out_bytes": sum(score.bytes for score in scores),
        "held_out_tokens": sum(score.tokens for score in scores),
        "held_out_documents": len(scores),
    }


def target_nats(model: "PreTrainedModel | EngineLogits", inputs: list[int], targets: list[int]) -> float:
    """Sum -ln p over the `targets`, which are predicted after the last of the `inputs`. Those that are -100 do not count."""
    import torch

    with torch.inference_mode():
        logits_TV = _logits(model, inputs, len(targets))
        targets_T = torch.tensor(targets, device=logits_TV.device)
        return float(torch.nn.functional.cross_entropy(logits_TV, targets_T, reduction="sum"))


def _logits(model: "PreTrainedModel | EngineLogits", inputs: list[int], last: int) -> "torch.Tensor":
    """Logits [last, V] in float32 after the last inputs, by the engine that runs the model."""
    import torch

    from leanpipe.engines.open_engine import EngineLogits

    if isinstance(model, EngineLogits):
        return model(inputs, last)
    tokens = torch.tensor([inputs], device=input_device(model))
    return model(input_ids=tokens, use_cache=False, logits_to_keep=last).logits[0].float()
