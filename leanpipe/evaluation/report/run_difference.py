"""Two past runs side by side: how much better the models of one are, and which of its stages made the difference."""

from collections.abc import Mapping
from typing import NamedTuple

from leanpipe.evaluation.paired import Difference, common_documents, paired_difference
from leanpipe.evaluation.report.stored_scores import METRICS, ModelScores
from leanpipe.evaluation.report.waterfall import CONFIDENCE, Step, changed_steps, verdict_of
from leanpipe.evaluation.task_scores.task_figures import TaskDifference
from leanpipe.evaluation.task_scores.task_results import differences


class ModelDifference(NamedTuple):
    """How many more bits per byte a run's model needs than the other run's model of the same name."""

    label: str
    metric: str
    difference: Difference

    @property
    def verdict(self) -> str:
        """Say whether it is certainly better or worse."""
        said = verdict_of(self.difference)
        return {"lost": "worse", "gained": "better"}.get(said, said)


class RunDifference(NamedTuple):
    """What two runs have in common, and what differs."""

    models: list[ModelDifference]
    steps: list[Step]
    """What a stage cost in the one beyond what it cost in the other."""
    remarks: list[str]
    """Why models that both runs have were not compared."""
    tasks: dict[tuple[str, str, str], TaskDifference]
    """By model, task and metric."""


def run_difference(
    ours: Mapping[str, ModelScores], theirs: Mapping[str, ModelScores], confidence: float = CONFIDENCE
) -> RunDifference:
    """Compare the models that both runs have, on the documents that both scored them on."""
    found: list[ModelDifference] = []
    remarks = []
    comparable = {}
    for label in (label for label in ours if label in theirs):
        if ours[label].windows != theirs[label].windows:
            remarks.append(
                f"{label} was scored in windows of other lengths (evaluate.context, evaluate.stride), so its figures do not "
                "compare: evaluate both with the same"
            )
            continue
        compared = list(_differences(label, ours[label], theirs[label], confidence))
        if not compared:
            remarks.append(
                f"{label} was scored on other documents in each run: there is nothing to compare it by"
            )
        comparable[label] = bool(compared)
        found += compared
    kept = [{label: one for label, one in run.items() if comparable.get(label)} for run in (ours, theirs)]
    tasks = {
        (label, *name): one
        for label in ours
        if label in theirs
        for name, one in differences(ours[label].tasks, theirs[label].tasks).items()
    }
    return RunDifference(found, changed_steps(kept[0], kept[1], confidence), remarks, tasks)


def named_step(steps: list[Step]) -> Step | None:
    """Find the step that certainly costs most beyond what it cost in the other run; None if none does."""
    worse = [step for step in steps if step.difference.low > 0]
    return max(worse, key=lambda step: step.difference.estimate, default=None)


def _differences(label: str, ours: ModelScores, theirs: ModelScores, confidence: float):
    for metric in METRICS:
        one, other = ours.by(metric), theirs.by(metric)
        documents = common_documents(one, other)
        if len(documents) > 1:
            yield ModelDifference(label, metric, paired_difference(one, other, documents, confidence))
