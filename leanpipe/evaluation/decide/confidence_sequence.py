"""How far a difference may be from what it looks like, whenever one looks: a confidence sequence for a mean.

A Student's t interval holds for a number of documents that was fixed beforehand. Who looks, takes more documents because it
was not clear yet, and looks again, is wrong more often than it says. A confidence sequence holds at all numbers of documents at
once, so that one may stop, or go on, for whatever reason (Howard, Ramdas, McAuliffe and Sekhon 2021, "Time-uniform,
nonparametric, nonasymptotic confidence sequences", Annals of Statistics 49; by betting: Waudby-Smith and Ramdas 2023,
"Estimating means of bounded random variables by betting", JRSS B 86).

Differences in bits per byte have no bound that is both true and of use, so this is not the betting sequence but the one of the
t statistic (Wang and Ramdas 2024, "Anytime-valid t-tests and confidence sequences for Gaussian means with unknown variance",
https://arxiv.org/abs/2310.03722, after Lai 1976). Its e-process is the ratio of how likely the t statistic is if the mean, in
units of the standard deviation, is drawn from N(0, PRIOR), to how likely it is if the mean is nought; it is a martingale
there whatever the variance, so that by Ville's inequality it ever reaches 1/level with a probability of `level` at most.

What it assumes is that units are drawn independently and that their mean is about normal. At the small levels that a year of
nights leaves to each that is an assumption about far tails, which no test on few documents can be rid of (Bahadur and Savage
1956): a kind of document that makes up a third of all, and on which the challenger is much worse, is missing among twelve once
in 130 times. So where a third could go unseen more often than the level allows (`enough_units`), the bound is computed as if one
more unit had been seen, which speaks against the challenger twice as loudly as any did (`paired.with_unseen`). `make bench-gate`
measures both on real scores: without that unit 3.4% of champions lost their place by chance in a simulated year on twelve
documents of 4,000 bytes, with it 1.0%, and from 24 documents on 1.0% without it.
"""

import math

PRIOR = 3.0
"""Variance of the mean, in units of the variance, that the sequence is narrowest for. Fixed before anything was seen: it
narrows the sequence at some twenty documents, and costs at most a fifteenth of the width at a thousand."""


def critical_t(level: float, units: int, prior: float = PRIOR) -> float:
    """How many standard errors the mean of so many units may be off, at all numbers of units at once but for a chance of `level`.

    Infinite where so few units cannot tell at that level.
    """
    if level <= 0 or units < 2:
        return math.inf
    spread = 1 + units * prior
    # The e-process is spread^(-1/2) ((1 + x) / (1 + x / spread))^(units / 2), with x the squared t over its freedom.
    reach = math.exp(2 / units * (math.log(spread) / 2 - math.log(level)))
    if reach >= spread:
        return math.inf
    return math.sqrt((units - 1) * (reach - 1) / (1 - reach / spread))


def log_e_value(t: float, units: int, prior: float = PRIOR) -> float:
    """Natural logarithm of the e-process at this t statistic of so many units."""
    spread = 1 + units * prior
    squared = t * t / (units - 1)
    return units / 2 * (math.log1p(squared) - math.log1p(squared / spread)) - math.log(spread) / 2


def enough_units(level: float) -> int:
    """How many units there must be, so that a third of all kinds of them goes unseen no more often than `level`."""
    return math.ceil(math.log(level) / math.log(2 / 3)) if level > 0 else 0
