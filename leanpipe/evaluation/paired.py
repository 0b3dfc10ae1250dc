"""Two models on the same documents: how much better one is, and how certain that is.

Documents, never tokens, are the units that were sampled. Both models are scored on every one of them, so what makes a document
hard for both cancels in the difference (Miller 2024, "Adding Error Bars to Evals", https://arxiv.org/abs/2411.00640, section
4.2). The difference of bits per byte is a ratio of two sums, bits that one needs more over bytes. Its standard error is that
of the delete-one jackknife, which is on the careful side where documents are few (Efron and Stein 1981, "The jackknife
estimate of variance"; Cochran 1977, "Sampling Techniques", chapter 6), its interval takes Student's t quantiles.
"""

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from leanpipe.core.errors import UserError
from leanpipe.core.stage import Summary
from leanpipe.core.store import Artifact
from leanpipe.evaluation.perplexity import Score, bits_per_byte

_MOST_DOCUMENTS = 1_000_000


@dataclass(frozen=True)
class Evaluated:
    """What `evaluate` found of a model: its figures, and its score on each document by the document's id."""

    summary: Summary
    scores: Mapping[str, Score]

    @classmethod
    def of(cls, evaluation: Artifact) -> "Evaluated":
        """Read a result of `evaluate`."""
        documents = json.loads((evaluation.path / "evaluation.json").read_text())["documents"]
        scores = {one["id"]: Score(one["nats"], one["tokens"], one["bytes"]) for one in documents}
        return cls(evaluation.summary, scores)


@dataclass(frozen=True)
class Difference:
    """How many more bits per byte one model needs than another, on the same documents; below 0 it is better."""

    ours: float
    """Bits per byte of the one, on these documents."""
    theirs: float
    """Bits per byte of the other."""
    error: float
    """Standard error of the difference."""
    confidence: float
    documents: int

    @property
    def estimate(self) -> float:
        return self.ours - self.theirs

    @property
    def low(self) -> float:
        return self.estimate - self._width(self.documents)

    @property
    def high(self) -> float:
        return self.estimate + self._width(self.documents)

    def share(self, bits: float) -> float:
        """Return a difference in bits per byte as a share of the other model's."""
        return bits / self.theirs

    def more_documents(self, bound: float) -> int | None:
        """How many more documents like these would put the whole interval on one side of `bound`; None if too many to say.

        That is if the difference is what it looks like.
        """
        distance = abs(self.estimate - bound)
        least, most = self.documents, _MOST_DOCUMENTS
        if self._width(most) >= distance:
            return None
        while least < most:
            middle = (least + most) // 2
            least, most = (least, middle) if self._width(middle) < distance else (middle + 1, most)
        return least - self.documents

    def _width(self, documents: int) -> float:
        """Half the interval's width if there were so many documents."""
        # Of SciPy the quantile alone: its statistics take a second to import.
        from scipy.special import stdtrit

        quantile = float(stdtrit(documents - 1, (1 + self.confidence) / 2))
        return quantile * self.error * math.sqrt(self.documents / documents)


def common_documents(*models: Evaluated, without: Collection[str] = ()) -> list[str]:
    """Ids of the documents that every model was scored on, but those `without`.

    Raises UserError if a score is not finite: nothing can be decided on it.
    """
    first, *others = models
    ids = [id for id in first.scores if id not in without and all(id in other.scores for other in others)]
    for id in ids:
        if not all(math.isfinite(model.scores[id].nats) for model in models):
            raise UserError(f"a score of document {id} is not finite: nothing can be decided on it")
    return ids


def paired_difference(
    ours: Evaluated, theirs: Evaluated, documents: Collection[str], confidence: float
) -> Difference:
    """Compare two models on these documents, of which there are at least two."""
    our_scores = [ours.scores[id] for id in documents]
    their_scores = [theirs.scores[id] for id in documents]
    more_bits = np.array([one.bits - other.bits for one, other in zip(our_scores, their_scores, strict=True)])
    bytes_ = np.array([score.bytes for score in our_scores], dtype=float)
    without_one = (more_bits.sum() - more_bits) / (bytes_.sum() - bytes_)
    count = len(bytes_)
    error = math.sqrt((count - 1) / count * float(((without_one - without_one.mean()) ** 2).sum()))
    return Difference(bits_per_byte(our_scores), bits_per_byte(their_scores), error, confidence, count)
