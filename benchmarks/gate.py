"""`python -m benchmarks.gate HOME ...`: how often the gate is wrong, by simulation from real scores.

Scores come from two places. The evaluations of default runs in the HOMEs, all on the text of a default run: students of
several recipes, adapted and quantised, which is what nights bring. And `benchmarks/gate_scores.py`, on passages of every document
of the corpus, for what needs many documents or groups. Null challengers are differences of two such models, centred, so that
neither is better, drawn anew document by document.

Goals: at most 1% of 10,000 champions ever lose their place to a challenger that is no better, in 30 nightly looks; nominal 95%
intervals cover 94 to 96.5% where documents come in groups; "N more documents" is within a quarter of what it takes.
"""

import itertools
import json
import os
import sys
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
from scipy.special import stdtrit

from benchmarks.gate_scores import KEPT
from benchmarks.report import claim, write
from leanpipe.evaluation.decide.confidence_sequence import critical_t, enough_units
from leanpipe.evaluation.decide.error_budget import LOOKS
from leanpipe.evaluation.gate import RegisterConfig
from leanpipe.evaluation.paired import Difference, ratio_error, with_unseen

WORLDS, NIGHTS = 10_000, 30
BUDGET = RegisterConfig().error_budget
LEVELS = BUDGET / LOOKS * (1 - 1 / LOOKS) ** np.arange(NIGHTS)


class Scores(NamedTuple):
    """What models need for the same documents."""

    bits: np.ndarray
    """[models, documents]"""
    bytes: np.ndarray
    """[documents]"""
    groups: np.ndarray
    """[documents]"""

    def null_pairs(self) -> np.ndarray:
        """Differences of every two models, [pairs, documents], centred so that neither needs more bits per byte."""
        pairs = [self.bits[a] - self.bits[b] for a, b in itertools.permutations(range(len(self.bits)), 2)]
        return np.array([more - more.sum() / self.bytes.sum() * self.bytes for more in pairs])


def main(homes: list[Path]) -> None:
    short, long = of_homes(homes), of_passages()
    print(
        f"{len(short.bits)} models on the {short.bits.shape[1]} documents of the default run's text",
        flush=True,
    )
    print(
        f"{len(long.bits)} models on {long.bits.shape[1]} passages of {long.groups.max() + 1} documents",
        flush=True,
    )
    rows = [*null_challengers(short, long), *coverage(long), *more_documents(long), *power(short, long)]
    write("gate", rows)


def of_homes(homes: list[Path]) -> Scores:
    """Evaluations of different models on the same text, of which there are most."""
    found: dict[str, dict[str, list]] = defaultdict(dict)
    for path in sorted(path for home in homes for path in home.glob("store/evaluate/*/evaluation.json")):
        evaluation = json.loads(path.read_text())
        summary = evaluation["summary"]
        found[summary["held_out_digest"]].setdefault(summary["weights_digest"], evaluation["documents"])
    models = max(found.values(), key=len)
    # Whoever is far from the rest, as a teacher, is no null challenger.
    total = {name: sum(one["nats"] for one in documents) for name, documents in models.items()}
    middle = np.median(list(total.values()))
    near = [documents for name, documents in models.items() if abs(total[name] / middle - 1) < 0.1]
    bits = np.array([[one["nats"] / np.log(2) for one in documents] for documents in near])
    size = np.array([one["bytes"] for one in near[0]], dtype=float)
    return Scores(bits, size, np.arange(len(size)))


def of_passages() -> Scores:
    kept = np.load(os.environ.get("LEANPIPE_BENCH_SCORES", KEPT))
    return Scores(kept["bits"], kept["bytes"].astype(float), kept["groups"])


def looks(more: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The difference of bits per byte and its standard error, [worlds], of [worlds, units]."""
    return more.sum(-1) / size.sum(-1), ratio_error(more, size)


def most(more: np.ndarray, size: np.ndarray, level: float) -> np.ndarray:
    """The gate's bound of the difference, `Difference.most`, [worlds], of [worlds, units]."""
    units = more.shape[-1]
    if units < enough_units(level):
        more, size = with_unseen(more, size)
    estimate, error = looks(more, size)
    return estimate + critical_t(level, units) * error


def null_challengers(short: Scores, long: Scores) -> list[dict]:
    """The share of worlds in which a challenger that is no better is ever promoted, in 30 nights on one text."""
    rows = []
    for scores, called, units in (
        (short, "default text", short.bits.shape[1]),
        (grouped(long), "corpus", 100),
    ):
        random, pairs = np.random.default_rng(units), scores.null_pairs()
        drawn = random.integers(0, pairs.shape[1], (WORLDS, units))  # the same text every night
        ever, at_5 = np.zeros(WORLDS, bool), np.zeros(WORLDS, bool)
        for level in LEVELS:
            night = random.integers(0, len(pairs), WORLDS)
            more, size = pairs[night[:, None], drawn], scores.bytes[drawn]
            ever |= most(more, size, level) < 0
            estimate, error = looks(more, size)
            at_5 |= estimate + stdtrit(units - 1, 0.975) * error < 0
        name = f"ever promoted of {WORLDS}, {units} documents ({called})"
        rows.append(claim(name, float(ever.mean()), 1, "", BUDGET, at_most=True))
        print(f"   by the 95% interval of each night instead: {at_5.mean():.4f}", flush=True)
        rows.append(year(scores, units, called))
        rows.append(growing(scores, units, called))
    return rows


def year(scores: Scores, units: int, called: str) -> dict:
    """The share of worlds in which it ever happens in 365 nights."""
    random, pairs, worlds = np.random.default_rng(units + 2), scores.null_pairs(), WORLDS // 5
    drawn, ever = random.integers(0, pairs.shape[1], (worlds, units)), np.zeros(worlds, bool)
    for night in range(365):
        pair = random.integers(0, len(pairs), worlds)
        level = BUDGET / LOOKS * (1 - 1 / LOOKS) ** night
        ever |= most(pairs[pair[:, None], drawn], scores.bytes[drawn], level) < 0
    name = f"ever promoted in a year, {units} documents ({called})"
    return claim(name, float(ever.mean()), 1, "", BUDGET, at_most=True)


def growing(scores: Scores, units: int, called: str) -> dict:
    """The same challenger, looked at every night on a tenth more documents: one look's level for all of them."""
    random, pairs = np.random.default_rng(units + 1), scores.null_pairs()
    limit = int(units * 4)
    pair = random.integers(0, len(pairs), WORLDS)
    drawn = random.integers(0, pairs.shape[1], (WORLDS, limit))
    ever, level = np.zeros(WORLDS, bool), 0.01
    for count in sorted({min(limit, int(units * 1.05**night)) for night in range(NIGHTS)}):
        now = drawn[:, :count]
        ever |= most(pairs[pair[:, None], now], scores.bytes[now], level) < 0
    return claim(
        f"one challenger, 30 looks at 1% on growing text ({called})",
        float(ever.mean()),
        1,
        "",
        level,
        at_most=True,
    )


def grouped(scores: Scores) -> Scores:
    """Sums over groups: what a group is to the gate."""
    more = np.array([np.bincount(scores.groups, weights=bits) for bits in scores.bits])
    size = np.bincount(scores.groups, weights=scores.bytes)
    return Scores(more, size, np.arange(len(size)))


def coverage(long: Scores) -> list[dict]:
    """How often the 95% interval holds what is true of all groups, if groups are drawn; beside it, passages taken for units."""
    rows, scores = [], grouped(long)
    pairs, passages = scores.null_pairs(), long.null_pairs()
    members = [np.flatnonzero(long.groups == group) for group in range(long.groups.max() + 1)]
    for units in (20, 50, 100):
        random = np.random.default_rng(units)
        drawn = random.integers(0, pairs.shape[1], (WORLDS, units))
        pair = random.integers(0, len(pairs), WORLDS)
        estimate, error = looks(pairs[pair[:, None], drawn], scores.bytes[drawn])
        held = np.abs(estimate) < stdtrit(units - 1, 0.975) * error
        share = float(held.mean())
        within = min(share - 0.94, 0.965 - share)
        rows.append(claim(f"coverage of 95% intervals, {units} groups: {share:.4f}", within, 1, "", 0))
        naive = 0
        for world in range(2_000):
            chosen = np.concatenate([members[group] for group in drawn[world]])
            one = looks(passages[pair[world]][None, chosen], long.bytes[None, chosen])
            naive += abs(one[0][0]) < stdtrit(len(chosen) - 1, 0.975) * one[1][0]
        print(f"   with each passage taken for a unit: {naive / 2_000:.4f}", flush=True)
    return rows


def more_documents(long: Scores) -> list[dict]:
    """What the gate says of how many documents settle it, in the middle, against how many do.

    A challenger has a true lead; a first look on 30 documents says how many it takes in all, and then documents are added until
    it is settled.
    """
    rows, scores = [], grouped(long)
    pairs, worlds, first = scores.null_pairs(), 400, 30
    for lead in (3, 4):  # standard errors of the first look, so that it is not settled there
        random, said, took = np.random.default_rng(lead), [], []
        for _ in range(worlds):
            more, size = pairs[random.integers(len(pairs))], scores.bytes
            spread = np.std(more) / np.mean(size)
            shifted = more - lead * spread / np.sqrt(first) * size
            drawn = random.integers(0, len(size), 3_000)
            counts = np.unique(np.geomspace(first, 3_000, 120).astype(int))
            settled = next(
                (n for n in counts if most(shifted[drawn[:n]], size[drawn[:n]], LEVELS[0]) < 0), 3_000
            )
            found = looks(shifted[None, drawn[:first]], size[None, drawn[:first]])
            theirs = 1.0
            at = Difference(
                theirs + float(found[0][0]), theirs, float(found[1][0]), 0.95, first, None, LEVELS[0]
            )
            extra = at.more_documents(0.0) if at.estimate < 0 else None
            took.append(settled)
            said.append(3_000 if extra is None else first + extra)
        middle = np.median(said), np.median(took)
        rows.append(within_a_quarter(f"documents in all, lead of {lead} errors at {first}", *middle))
        spread_of = np.quantile(np.array(said) / middle[1], [0.1, 0.9])
        print(f"   what single looks say: {spread_of[0]:.2f} to {spread_of[1]:.2f} of it (80%)", flush=True)
    return rows


def within_a_quarter(name: str, said: float, took: float) -> dict:
    ratio = said / took
    return claim(f"{name}: {ratio:.2f}", float(abs(ratio - 1)), 1, "", 0.25, at_most=True) | {
        "said": float(said),
        "took": float(took),
    }


def power(short: Scores, long: Scores) -> list[dict]:
    """The smallest true difference, as a share of the champion's bits, that is promoted nine times in ten at the first look."""
    rows = []
    for scores, units, called in (
        (short, short.bits.shape[1], "the default text"),
        (grouped(long), 100, "100 documents"),
    ):
        random, pairs = np.random.default_rng(7), scores.null_pairs()
        drawn = random.integers(0, pairs.shape[1], (4_000, units))
        pair = random.integers(0, len(pairs), 4_000)
        bounds = most(pairs[pair[:, None], drawn], scores.bytes[drawn], LEVELS[0])
        whole = scores.bits.sum() / len(scores.bits) / scores.bytes.sum()
        needed = float(np.quantile(bounds, 0.9)) / whole
        needed += RegisterConfig().min_improvement
        print(f"smallest difference found nine times in ten, {called}: {needed:.2%}", flush=True)
        rows.append({"name": f"power, {called}", "smallest_difference": needed})
    return rows


if __name__ == "__main__":
    main([Path(home) for home in sys.argv[1:] or [".leanpipe"]])
