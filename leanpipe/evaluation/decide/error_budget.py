"""How small a chance of a false promotion each look at the held-out text may take, so that a year of them stays in its budget.

A challenger that is no better is promoted by chance with a probability of at most the level of its look. Every night brings
another challenger, so levels add up: thirty independent looks at 5% each promote one of thirty equal models with a probability
of 79%. Hence the levels are made to sum to the budget: the chance that *any* model that is not better is promoted is then at
most the budget, by the union bound (alpha spending: Lan and DeMets 1983; for a stream of hypotheses: Foster and Stine 2008,
"Alpha-investing").

The union bound asks for no independence, and that is why it is taken instead of an online procedure for the false discovery
rate (LORD, SAFFRON), which does: all challengers are scored on the *same* documents, so that documents that happen to suit one
suit the next as well. It is also why models are safe that were trained after a verdict was read, as long as the verdict is all
that was learnt from the text: a policy that answers yes or no, rarely yes, has few histories, and most nights the history is "no"
(Blum and Hardt 2015, "The Ladder", https://arxiv.org/abs/1502.04585). Who reads each document's scores and trains for them
overfits, whatever is computed here: then take other held-out text.

Three rules follow.
1. A look may spend 1/365 of what is left of the budget of the 365 days before it. Any 365 days together spend at most the
   budget, however many looks there are; with one a night a level falls from 1/365 of the budget to 1/2.7 of that; and more
   looks make each stricter, never impossible.
2. The same two models looked at again, on more documents of the same text, are no new look: the confidence sequence allows for that
   (`confidence_sequence`). They keep their level.
3. If the challenger was chosen among several models by the same text, each of them might have been it: the level is divided by
   their number.

A promotion by either road, "better" or "smaller and not worse", needs no division: both ask that the same upper bound is below a
limit. Nor do further margins: each must hold, and more conditions make no promotion likelier (Berger 1982, intersection-union).
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

from pydantic import BaseModel

LOOKS = 365
YEAR = timedelta(days=365)


class Look(BaseModel):
    """A challenger was compared with a champion on some text, at this level."""

    time: datetime
    pair: str
    """Names both models and the text."""
    level: float


def level_of(looks: Sequence[Look], pair: str, budget: float, now: datetime) -> float:
    """The chance of a false promotion that a look at `pair` may take; that of an earlier one at the same pair."""
    for look in reversed(looks):
        if look.pair == pair:
            return look.level
    spent = sum(look.level for look in looks if now - look.time < YEAR)
    return max(budget - spent, 0.0) / LOOKS
