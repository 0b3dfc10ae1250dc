"""Metrics that lm-eval leaves to its tasks: ROUGE of summaries, and F1 of any number of classes."""

from collections.abc import Sequence
from functools import cache
from typing import Any

ROUGE = ("rouge1", "rouge2", "rougeL")


def rouge(reference: str, said: str) -> dict[str, float]:
    """Score a summary against a reference, from 0 to 1, by Google's package rouge-score with its stemmer for English."""
    scores = _scorer().score(reference, said)
    return {name: float(scores[name].fmeasure) for name in ROUGE}


def macro_f1(pairs: Sequence[tuple[int, int]]) -> float:
    """Average the F1 of all classes that occur among (true, chosen) pairs, each counted once, however often it occurs."""
    from sklearn.metrics import f1_score

    true, chosen = zip(*pairs, strict=True)
    return float(f1_score(true, chosen, average="macro", zero_division=0))


@cache
def _scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(list(ROUGE), use_stemmer=True)
