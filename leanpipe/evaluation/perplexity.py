"""Perplexity per token and bits per byte of a model on a set of documents.

Perplexities of different tokenizers do not compare; bits per byte do, because every model is charged for the same bytes
(Gao et al. 2020, "The Pile", section 3.1, https://arxiv.org/abs/2101.00027).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from leanpipe.core.errors import UserError
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
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Score]:
    """One score per text; each begins with the token `start`. Documents are read one by one: none sees another.

    Raises UserError if the model predicts anything that is not finite.
    """
    scores: list[Score] = []
    for text in texts:
        tokens = encode_text(tokenizer, text)
        nats = math.fsum(_window_nats(model, *window) for window in windows(tokens, start, context))
        if not math.isfinite(nats):
            raise UserError(
                f"the model {model.name_or_path} gives a loss of {nats} on document {len(scores) + 1} of {len(texts)}: "
                "its weights or its arithmetic are broken, so none of its figures would mean anything"
            )
        scores.append(Score(nats, len(tokens), len(text.encode())))
        progress(len(scores), len(texts))
    return scores


def windows(tokens: Sequence[int], start: int, context: int) -> Iterator[tuple[list[int], list[int]]]:
    """Cut a document into pairs (inputs, targets) of at most `context` tokens; every token is a target exactly once.

    Each window is read as the beginning of a document: its first input is `start`.
    """
    for first in range(0, len(tokens), context):
        targets = list(tokens[first : first + context])
        yield [start, *targets[:-1]], targets


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


def _window_nats(model: "PreTrainedModel | EngineLogits", inputs: list[int], targets: list[int]) -> float:
    import torch

    with torch.inference_mode():
        logits_TV = _logits(model, inputs)
        targets_T = torch.tensor(targets, device=logits_TV.device)
        return float(torch.nn.functional.cross_entropy(logits_TV, targets_T, reduction="sum"))


def _logits(model: "PreTrainedModel | EngineLogits", inputs: list[int]) -> "torch.Tensor":
    """Logits [T, V] in float32, by the engine that runs the model."""
    import torch

    from leanpipe.engines.open_engine import EngineLogits

    if isinstance(model, EngineLogits):
        return model(inputs)
    tokens = torch.tensor([inputs], device=input_device(model))
    return model(input_ids=tokens, use_cache=False).logits[0].float()
