"""Two models on the same documents: how much better one is, and how certain that is.

Documents, or groups of documents that are alike, never tokens, are the units that were sampled. Both models are scored on every one of them, so what makes a document
hard for both cancels in the difference (Miller 2024, "Adding Error Bars to Evals", https://arxiv.org/abs/2411.00640, section
4.2). The difference of bits per byte is a ratio of two sums, bits that one needs more over bytes. Its standard error is that
of the delete-one jackknife, which is on the careful side where documents are few (Efron and Stein 1981, "The jackknife
estimate of variance"; Cochran 1977, "Sampling Techniques", chapter 6), and leaves out one *unit* at a time: documents of one
group hold less than as many independent ones (Cameron and Miller 2015, "A practitioner's guide to cluster-robust inference").
Its interval takes Student's t quantiles. What is promoted by itself asks for more: the bound of a confidence sequence.
"""

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np

from leanpipe.core.errors import UserError
from leanpipe.core.stage import Summary
from leanpipe.core.store import Artifact
from leanpipe.evaluation.decide.confidence_sequence import critical_t, enough_units
from leanpipe.evaluation.perplexity import Score, bits_per_byte
from leanpipe.evaluation.task_scores.task_results import TaskResult, read_results

_MOST_DOCUMENTS = 1_000_000


@dataclass(frozen=True)
class Evaluated:
    """What `evaluate` found of a model: its figures, and its score on each document by the document's id."""

    summary: Summary
    scores: Mapping[str, Score]
    answers: Mapping[str, Score] = field(default_factory=dict)
    """Its score on each held-out conversation."""
    tasks: tuple[TaskResult, ...] = ()
    """What `score_tasks` found of it, if it was asked."""

    @classmethod
    def of(cls, evaluation: Artifact, tasks: Artifact | None = None) -> "Evaluated":
        """Read a result of `evaluate`, and of `score_tasks` if there is one. Raises UserError if it holds no scores."""
        file = evaluation.path / "evaluation.json"
        try:
            found = json.loads(file.read_text())
            scores, answers = (
                {one["id"]: Score(one["nats"], one["tokens"], one["bytes"]) for one in some}
                for some in (found["documents"], found.get("answers", ()))
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{file} holds no scores ({type(error).__name__}: {error}): delete its folder, and it is made again"
            ) from error
        if not scores:
            raise UserError(
                f"{file} has scored no document: hold out more text, or raise evaluate.text_bytes"
            )
        return cls(evaluation.summary, scores, answers, read_results(tasks) if tasks else ())


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
    units: int | None = None
    """How many groups the documents fall into, if not each is one of its own."""
    level: float | None = None
    """Chance of a promotion by mistake that this look may take; None takes the interval's."""
    unseen: "tuple[float, float] | None" = None
    """How much worse it would be with a unit that nobody has seen, and the standard error with it."""

    @property
    def estimate(self) -> float:
        return self.ours - self.theirs

    @property
    def low(self) -> float:
        return self.estimate - self._width(self._units)

    @property
    def high(self) -> float:
        return self.estimate + self._width(self._units)

    @property
    def most(self) -> float:
        """The most that the difference is but for a chance of `level`, however often one looks."""
        return self.estimate + self._sure_width(self._units)

    def share(self, bits: float) -> float:
        """Return a difference in bits per byte as a share of the other model's."""
        return bits / self.theirs

    def more_documents(self, bound: float) -> int | None:
        """How many more documents like these would settle on which side of `bound` the difference is; None if too many to say.

        That is if the difference is what it looks like. To settle that it is below takes the surer bound, `most`.
        """
        distance = abs(self.estimate - bound)
        width = self._sure_width if self.estimate < bound else self._width
        least, most = self._units, _MOST_DOCUMENTS
        if width(most) >= distance:
            return None
        while least < most:
            middle = (least + most) // 2
            least, most = (least, middle) if width(middle) < distance else (middle + 1, most)
        return math.ceil((least - self._units) * self.documents / self._units)

    @property
    def _units(self) -> int:
        return self.units or self.documents

    def _width(self, units: int) -> float:
        """Half the interval's width if there were so many units."""
        # Of SciPy the quantile alone: its statistics take a second to import.
        from scipy.special import stdtrit

        return self._error_of(units) * float(stdtrit(units - 1, (1 + self.confidence) / 2))

    def _sure_width(self, units: int) -> float:
        """How far `most` would be from the estimate if there were so many units."""
        if self.level is None:
            return self._width(units)
        critical = critical_t(self.level, units)
        if math.isinf(critical):
            return critical
        if self.unseen is None or units >= enough_units(self.level):
            return critical * self._error_of(units)
        worse, error = self.unseen
        return worse * self._units / units + critical * error * math.sqrt(self._units / units)

    def _error_of(self, units: int) -> float:
        return self.error * math.sqrt(self._units / units)


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
    ours: Evaluated,
    theirs: Evaluated,
    documents: Collection[str],
    confidence: float,
    groups: Mapping[str, str] | None = None,
    level: float | None = None,
) -> Difference:
    """Compare two models on these documents, of which there are at least two; `groups` has the group of each, by its id."""
    our_scores = [ours.scores[id] for id in documents]
    their_scores = [theirs.scores[id] for id in documents]
    more_bits = np.array([one.bits - other.bits for one, other in zip(our_scores, their_scores, strict=True)])
    bytes_ = np.array([score.bytes for score in our_scores], dtype=float)
    units = units_of(documents, groups)
    more, size = (np.bincount(units, weights=values) for values in (more_bits, bytes_))
    more_unseen, size_unseen = with_unseen(more, size)
    worse = more_unseen.sum() / size_unseen.sum() - more.sum() / size.sum()
    return Difference(
        bits_per_byte(our_scores),
        bits_per_byte(their_scores),
        float(ratio_error(more, size)),
        confidence,
        len(bytes_),
        len(size),
        level,
        (float(worse), float(ratio_error(more_unseen, size_unseen))),
    )


def units_of(documents: Collection[str], groups: Mapping[str, str] | None) -> "np.ndarray":
    """The number of the unit that each document belongs to: its group, or its own where it has none."""
    names = [(groups or {}).get(id) or f"document {id}" for id in documents]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([numbers[name] for name in names])


def count_units(documents: Collection[str], groups: Mapping[str, str] | None) -> int:
    """How many units the documents fall into."""
    return len(set(units_of(documents, groups).tolist()))


def ratio_error(more_bits: "np.ndarray", bytes_: "np.ndarray") -> "np.ndarray":
    """Standard error of the ratio of two sums over units (the last axis), by leaving out one unit at a time.

    Unknown, so infinite, for one unit.
    """
    count = bytes_.shape[-1]
    if count < 2:
        return np.full(bytes_.shape[:-1], math.inf)
    sums = more_bits.sum(-1, keepdims=True), bytes_.sum(-1, keepdims=True)
    without_one = (sums[0] - more_bits) / (sums[1] - bytes_)
    spread = ((without_one - without_one.mean(-1, keepdims=True)) ** 2).sum(-1)
    return np.sqrt((count - 1) / count * spread)


def with_unseen(more_bits: "np.ndarray", bytes_: "np.ndarray") -> "tuple[np.ndarray, np.ndarray]":
    """Add to units (the last axis) one of mean length, twice as far from the rest as any, and against the challenger."""
    ratio = more_bits.sum(-1, keepdims=True) / bytes_.sum(-1, keepdims=True)
    farthest = np.abs(more_bits - ratio * bytes_).max(-1, keepdims=True)
    size = bytes_.mean(-1, keepdims=True)
    unseen = ratio * size + 2 * farthest
    return np.concatenate([more_bits, unseen], -1), np.concatenate([bytes_, size], -1)
