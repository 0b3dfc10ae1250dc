"""Every document's score of a run's models, small enough to lie with the run: what two runs are compared by, years later."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from leanpipe.core.errors import UserError
from leanpipe.core.stage import Summary
from leanpipe.core.store import Artifact
from leanpipe.evaluation.paired import Evaluated
from leanpipe.evaluation.perplexity import Score
from leanpipe.evaluation.task_scores.task_results import TaskResult, read_results

FILE = "scores.json"
"""The file's name among those of a run."""
METRICS = {"bits_per_byte": "held-out text", "answer_bits_per_byte": "held-out answers"}
"""What models are compared by, document by document, and what it is called."""


@dataclass(frozen=True)
class ModelScores:
    """What `evaluate` found of a model: its figures, and for each metric its score on each document."""

    summary: Summary
    scores: Mapping[str, Mapping[str, Score]] = field(default_factory=dict)
    windows: Mapping[str, int] = field(default_factory=dict)
    """Of how many tokens they are, and how far one begins after another: scores of other windows do not compare."""
    tasks: tuple[TaskResult, ...] = ()
    """What `score_tasks` found of it, if it was asked."""

    @classmethod
    def of(cls, evaluation: Artifact, tasks: Artifact | None = None) -> "ModelScores":
        """Read a result of `evaluate`, and of `score_tasks` if there is one."""
        found = json.loads((evaluation.path / "evaluation.json").read_text())
        lists = {"bits_per_byte": found["documents"], "answer_bits_per_byte": found.get("answers", [])}
        scores = {
            metric: {
                one.get("digest", one["id"]): Score(one["nats"], one["tokens"], one["bytes"]) for one in some
            }
            for metric, some in lists.items()
        }
        known = {metric: some for metric, some in scores.items() if some}
        scored = read_results(tasks) if tasks else ()
        return cls(evaluation.summary, known, found.get("windows", {}), scored)

    def by(self, metric: str) -> Evaluated:
        """Return what is compared by one metric."""
        return Evaluated(self.summary, self.scores.get(metric, {}))


def to_json(models: Mapping[str, ModelScores]) -> str:
    """Write the scores of several models, by label."""
    return json.dumps(
        {
            label: {
                "summary": one.summary,
                "windows": one.windows,
                "scores": {
                    metric: {id: [score.nats, score.tokens, score.bytes] for id, score in some.items()}
                    for metric, some in one.scores.items()
                },
                "tasks": [task.portable() for task in one.tasks],
            }
            for label, one in models.items()
        }
    )


def from_json(text: str, where: str) -> dict[str, ModelScores]:
    """Read what `to_json` wrote. Raises UserError if it is anything else."""
    try:
        found: dict[str, Any] = json.loads(text)
        return {
            label: ModelScores(
                one["summary"],
                {
                    metric: {id: Score(*score) for id, score in some.items()}
                    for metric, some in one["scores"].items()
                },
                one["windows"],
                tuple(TaskResult.of(task) for task in one.get("tasks", ())),
            )
            for label, one in found.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"the scores of {where} cannot be read: evaluate its models again") from error
