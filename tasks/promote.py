"""From the evaluations of a run's models to a version in the registry, or to the reason why there is none."""

import logging
from collections.abc import Mapping

from leanpipe.core.stage import Summary
from leanpipe.core.store import Artifact
from leanpipe.engines.open_engine import gguf_engines
from leanpipe.evaluation.gate import Choice, choose
from leanpipe.evaluation.model_card import model_card
from leanpipe.evaluation.parity.parity import parity
from leanpipe.evaluation.report.waterfall import waterfall, waterfall_markdown
from leanpipe.evaluation.task_scores.score_tasks import score_tasks
from leanpipe.evaluation.usage.score_weights import LABEL, ScoreWeightsConfig, score_weights
from leanpipe.models.offload import is_gguf
from leanpipe.planning.steps import StageRunner
from leanpipe.settings.flows import PipelineConfig
from tasks.contest import Asked, Contest
from tasks.report import read_generations, read_scores
from tasks.run import Run
from tasks.tracking.registry import Candidate, Registered, register
from tasks.training_text import corpora_of

log = logging.getLogger("leanpipe.registry")

REFERENCES = ("teacher", "student")  # measured to compare with, never registered
TRAINED = "adapted"
"""Of which all that may be registered are forms, but for those of which it is said otherwise."""
_PARITY = f"{parity.name}-"


def promote(
    run: Run,
    config: PipelineConfig,
    models: Mapping[str, Artifact],
    evaluations: Mapping[str, Artifact],
    documents: Artifact,
    held_out: Artifact | None = None,
    trained: Mapping[str, Artifact] | None = None,
    tasks: tuple[Artifact, ...] = (),
) -> Registered | None:
    """Register the best model that meets the policy and answers as it was trained; None if none does. The reason is in
    the run's tags. `trained` has, by label, the model that a form was made of.

    It is a version, and `challenger`, before anybody asks whether it becomes champion: whatever the answer, it is not lost.
    """
    policy = config.registration
    candidates = {
        label: _figures(run, label, evaluations[label].summary) for label in models if label not in REFERENCES
    }
    choice = choose_sound(run, config, models, candidates, trained or {})
    run.tracking.log_figures(run.mlflow_run, {"registration.choice": choice.reason})
    if choice.label is None:
        log.warning("%s", choice.reason)
        return None
    model = models[choice.label]
    score_without_engine(run, config, choice.label, model, documents, held_out)
    candidate = Candidate(
        label=choice.label,
        model=model,
        figures=evaluations[choice.label].summary,
        card=_card(run, config, choice, evaluations, model),
        reason=choice.reason,
        documents=documents.digest,
        trained_on=tuple(corpora_of(run.store, (model.digest, documents.digest))),
    )
    version = run.tracking.answer("the registration", lambda: register(run, policy.name, candidate))
    scored = run.results.get(f"{score_tasks.name}-{choice.label}")
    asked = Asked(config.score_tasks, tasks, scored) if scored else None
    contest = Contest(run, policy, config.evaluate, documents, held_out, among=len(candidates), tasks=asked)
    registered = contest.decide(version, evaluations[choice.label])
    figures = {
        "version": registered.version,
        "verdict": registered.reason,
        "champion": str(registered.champion),
    }
    run.tracking.log_figures(
        run.mlflow_run, {f"registration.{name}": value for name, value in figures.items()}
    )
    return registered


def score_without_engine(
    run: StageRunner,
    config: PipelineConfig,
    label: str,
    model: Artifact,
    documents: Artifact,
    held_out: Artifact | None = None,
) -> None:
    """Score the weights alone of a GGUF model that is registered, if that is wanted: the report finds it among the results."""
    if config.evaluate.stored_weights and is_gguf(model.path):
        asked = ScoreWeightsConfig.of(config.evaluate)
        answers = {"instructions": held_out} if held_out else {}
        run.stage(score_weights, asked, label=f"{LABEL}{label}", model=model, documents=documents, **answers)


def choose_sound(
    run: Run,
    config: PipelineConfig,
    models: Mapping[str, Artifact],
    candidates: Mapping[str, Summary],
    trained: Mapping[str, Artifact],
) -> Choice:
    """Choose, and choose again without those whose served form does not answer as the trained model does."""
    known = {
        label: run.results[f"{_PARITY}{label}"] for label in candidates if f"{_PARITY}{label}" in run.results
    }
    asked: set[str] = set()
    while True:
        faults = {
            label: found.summary["fault"] for label, found in known.items() if not found.summary["passed"]
        }
        choice = choose(candidates, config.registration, faults)
        label = choice.label
        if label is None or label in asked:
            return choice
        asked.add(label)
        known[label] = _compare_answers(
            run, config, label, trained.get(label, models[TRAINED]), models[label], known.get(label)
        )


def _compare_answers(
    run: Run,
    config: PipelineConfig,
    label: str,
    model: Artifact,
    served: Artifact,
    known: Artifact | None,
) -> Artifact:
    """Compare a served form with the trained `model` by each engine that may serve it here; return what failed, or the last."""
    asked, inputs = config.parity, {"model": model, "served": served}
    found = known or run.stage(parity, asked, label=f"{_PARITY}{label}", **inputs)
    for engine in gguf_engines(served.path) if is_gguf(served.path) else ():
        if engine != asked.gguf_engine and found.summary["passed"]:
            by_it = asked.model_copy(update={"gguf_engine": engine})
            found = run.stage(parity, by_it, label=f"{_PARITY}{label}-{engine}", **inputs)
    return found


def _figures(run: Run, label: str, evaluation: Summary) -> Summary:
    """What `evaluate` and `score_tasks` measured of a model, and what the run's stages found, as `finetune.validation_loss`: all
    that has bounds."""
    found = {
        f"{label}.{name}": value
        for label, result in run.results.items()
        for name, value in result.summary.items()
    }
    scored = run.results.get(f"{score_tasks.name}-{label}")
    return found | (scored.summary if scored else {}) | evaluation


def _card(
    run: Run, config: PipelineConfig, choice: Choice, evaluations: Mapping[str, Artifact], model: Artifact
) -> str:
    assert choice.label is not None
    scores = read_scores(evaluations, run.results)
    return model_card(
        name=config.registration.name,
        label=choice.label,
        teacher=config.teacher,
        corpus=", ".join(config.corpus),
        stages={label: artifact.key or "" for label, artifact in run.results.items()},
        rows={label: artifact.summary for label, artifact in evaluations.items()},
        reason=choice.reason,
        generations=read_generations(evaluations[choice.label]),
        steps=waterfall_markdown(waterfall(scores)),
        tasks={label: one.tasks for label, one in scores.items() if one.tasks},
        folder=model.path,
    )
