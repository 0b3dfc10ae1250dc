"""How much worse one model's figure is than another's, on the same documents, conversations or items wherever both were asked those.

What makes an item hard for both cancels, so that the interval of a paired difference is far narrower than what the errors of
two figures say of it. A figure that is not a mean over anything both were asked, such as a size or a speed, is compared as
it is stated (`figures.loss`).
"""

import math
from collections.abc import Collection

from leanpipe.core.errors import UserError
from leanpipe.evaluation.decide.figures import TASKS, Loss, loss, share_of
from leanpipe.evaluation.paired import Evaluated, common_documents, paired_difference
from leanpipe.evaluation.task_scores.task_results import differences


def loss_of(
    name: str, ours: Evaluated, theirs: Evaluated, confidence: float, documents: Collection[str]
) -> Loss:
    """Compare a figure of two models, paired where that can be; `documents` are those that may be decided on.

    Raises UserError if one of them has no figure of that name, if it is no number, or if they were asked different things.
    """
    if name.startswith(f"{TASKS}/") and (ours.tasks or theirs.tasks):
        return _of_task(name, ours, theirs, confidence)
    stated = loss(name, ours.summary, theirs.summary, confidence)
    if name == "answer_bits_per_byte":
        ours, theirs = (Evaluated(one.summary, one.answers) for one in (ours, theirs))
        documents = common_documents(ours, theirs)
    elif name != "bits_per_byte":
        return stated
    if len(documents) < 2:
        return stated
    found = paired_difference(ours, theirs, documents, confidence)
    low, high = found.share(found.low), found.share(found.high)
    return Loss(name, found.ours, found.theirs, low, high, found.documents)


def _of_task(name: str, ours: Evaluated, theirs: Evaluated, confidence: float) -> Loss:
    found = differences(ours.tasks, theirs.tasks, confidence)
    known = {f"{TASKS}/{task}/{metric}": one for (task, metric), one in found.items()}
    if name not in known:
        raise UserError(
            f"challenger and champion were not both asked the same items of {name}, of which registration.margins asks: name its "
            "task in tasks or score_tasks.names"
        )
    one = known[name]
    sign = -1 if one.higher_is_better else 1
    ends = sorted((sign * one.low, sign * one.high))
    if not all(map(math.isfinite, (one.ours, one.theirs, *ends))):
        raise UserError(f"{name} is {one.ours} and {one.theirs}: nothing can be decided on it")
    low, high = (share_of(end, one.theirs) for end in ends)
    return Loss(name, one.ours, one.theirs, low, high, one.items)
