"""Which stage lost or gained what: one paired comparison for each step from the teacher to what is served.

Both models of a step are scored on the same documents, so each step has an interval of its own (paired.py). Every model is
scored by the engine that serves it, so what the last step ends with is what a server answers from. Where a form's stored weights
were scored without their engine too, what its bits cost and what its engine costs are two steps. Against an
earlier run the *steps* are compared, document by document: a stage that lost more than it used to is named, also where it
always loses something, as a smaller student or fewer bits do.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from leanpipe.core import markdown
from leanpipe.core.plots import DROPPED, KEPT, NEUTRAL, picture
from leanpipe.evaluation.paired import Difference, Evaluated, common_documents, paired_difference
from leanpipe.evaluation.perplexity import Score
from leanpipe.evaluation.report.stored_scores import METRICS, ModelScores

CHAIN = ("teacher", "student", "adapted")
"""The models of a run that are each made of the one before; of the last one all other forms are made."""
WEIGHTS = " weights"
"""What the stored weights of a form are called, after its name, where they were scored without the engine that serves them."""
SERVE = "serve"
"""The step that is no stage of the run's: from a form's weights to what the server computes with them."""
_STAGE = {"student": "distill", "adapted": "finetune"}
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Step:
    """What one stage did to the model, by one metric."""

    stage: str
    before: str
    after: str
    metric: str
    difference: Difference

    @property
    def name(self) -> str:
        """The stage, and the model that it made."""
        return f"{self.stage}: {self.before} → {self.after}"

    @property
    def verdict(self) -> str:
        """Whether something was certainly lost or gained."""
        return verdict_of(self.difference)


def links(labels: Sequence[str]) -> list[tuple[str, str, str]]:
    """Say of each model which stage made it of which other one: (stage, before, after).

    Models that are no part of the pipeline's chain are no step.
    """
    chain = [label for label in CHAIN if label in labels]
    steps = [(_STAGE[after], before, after) for before, after in pairwise(chain)]
    forms = [label for label in labels if label not in CHAIN] if CHAIN[-1] in chain else []
    for form in (form for form in forms if not form.endswith(WEIGHTS)):
        weights = f"{form}{WEIGHTS}"
        if weights in forms:
            steps += [("quantize", CHAIN[-1], weights), (SERVE, weights, form)]
        else:
            steps.append(("quantize", CHAIN[-1], form))
    return steps


def waterfall(models: Mapping[str, ModelScores], confidence: float = CONFIDENCE) -> list[Step]:
    """One step for each link of the chain and each metric that both of its models have."""
    steps = []
    for metric in METRICS:
        for stage, before, after in links(list(models)):
            ours, theirs = models[after].by(metric), models[before].by(metric)
            documents = common_documents(ours, theirs)
            if len(documents) > 1:
                steps.append(
                    Step(
                        stage,
                        before,
                        after,
                        metric,
                        paired_difference(ours, theirs, documents, confidence),
                    )
                )
    return steps


def served_by(models: Mapping[str, ModelScores]) -> list[str]:
    """Say of each model that may be served which engine scored it, which is the one that serves it, and where what that costs is."""
    said = []
    for label, one in models.items():
        engine = one.summary.get("engine")
        if engine is None or label in CHAIN[:-1] or label.endswith(WEIGHTS):
            continue
        if f"{label}{WEIGHTS}" in models:
            told = f"the step from its weights, read by transformers, to {label} is what that costs"
        elif engine == "transformers":
            told = "serving adds nothing to its step"
        else:
            told = "what that costs is within its step (evaluate.stored_weights tells the two apart)"
        said.append(f"**served**: {label} was scored by {engine}, which serves it: {told}.")
    return said


def largest_loss(steps: Sequence[Step]) -> Step | None:
    """Find the step that certainly lost most bits; None if none certainly lost any."""
    certain = [step for step in steps if step.difference.low > 0]
    return max(certain, key=lambda step: step.difference.estimate, default=None)


def changed_steps(
    ours: Mapping[str, ModelScores], theirs: Mapping[str, ModelScores], confidence: float = CONFIDENCE
) -> list[Step]:
    """Compare what each stage did in one run with what it did in another, on the documents that both runs scored.

    The difference is how many more bits per byte the step costs in `ours`.
    """
    steps = []
    for metric in METRICS:
        for stage, before, after in links([label for label in ours if label in theirs]):
            here, there = (_change(run[before], run[after], metric) for run in (ours, theirs))
            documents = common_documents(here, there)
            if len(documents) > 1:
                difference = paired_difference(here, there, documents, confidence)
                steps.append(Step(stage, before, after, metric, difference))
    return steps


def _change(before: ModelScores, after: ModelScores, metric: str) -> Evaluated:
    """What a step changed on each document, as if that were a model's score."""
    first, then = before.by(metric), after.by(metric)
    scores = {
        id: Score(then.scores[id].nats - first.scores[id].nats, then.scores[id].tokens, then.scores[id].bytes)
        for id in common_documents(first, then)
    }
    return Evaluated({}, scores)


def waterfall_markdown(steps: Sequence[Step]) -> str:
    """The steps as a table, and a sentence that names the one that lost most of each metric."""
    if not steps:
        return "No two models of this run are made of one another: there is no step to show.\n"
    rows = [
        (
            step.stage,
            f"{step.before} → {step.after}",
            METRICS[step.metric],
            f"{step.difference.estimate:+.4f}",
            f"{step.difference.low:+.4f} to {step.difference.high:+.4f}",
            step.verdict,
            f"{step.difference.documents:,}",
        )
        for step in steps
    ]
    header = ("stage", "step", "on", "bits/byte", "95% interval", "", "documents")
    return f"{_sentences(steps)}\n\n{markdown.table(header, rows, 'lllrrlr')}"


def draw_waterfall(steps: Sequence[Step], path: Path, metric: str = "bits_per_byte") -> None:
    """Draw each step as a bar from where it began to where it ended, with its interval."""
    shown = [step for step in steps if step.metric == metric]
    with picture(path, width=8, height=1.6 + 0.55 * len(shown)) as axes:
        for place, step in enumerate(shown):
            difference = step.difference
            color = {"lost": DROPPED, "gained": KEPT}.get(step.verdict, NEUTRAL)
            axes.barh(place, difference.estimate, left=difference.theirs, color=color, height=0.55)
            ends = difference.theirs + difference.estimate
            around = [[difference.estimate - difference.low], [difference.high - difference.estimate]]
            axes.errorbar(ends, place, xerr=around, color="black", capsize=3, linewidth=1)
            right = max(difference.theirs, difference.theirs + difference.high)
            axes.annotate(
                f"{difference.estimate:+.3f}",
                (right, place),
                xytext=(5, 0),
                textcoords="offset points",
                va="center",
            )
        axes.set_yticks(range(len(shown)), [step.name for step in shown])
        axes.invert_yaxis()
        axes.margins(x=0.15)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set(xlabel="bits per byte: less is better", title=f"What each stage did, on {METRICS[metric]}")


def verdict_of(difference: Difference) -> str:
    """Say whether bits were certainly lost or gained."""
    if difference.low == difference.high == 0:
        return "the same"
    return "lost" if difference.low > 0 else "gained" if difference.high < 0 else "cannot be told"


def _sentences(steps: Sequence[Step]) -> str:
    said = []
    for metric, called in METRICS.items():
        some = [step for step in steps if step.metric == metric]
        if not some:
            continue
        worst = largest_loss(some)
        if worst is None:
            said.append(f"On {called} no stage certainly lost anything.")
            continue
        low, high = worst.difference.low, worst.difference.high
        said.append(
            f"On {called} most was lost by **{worst.stage}** ({worst.before} → {worst.after}): "
            f"{worst.difference.estimate:.4f} bits per byte ({low:.4f} to {high:.4f})."
        )
    return " ".join(said)
