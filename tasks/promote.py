"""From the evaluations of a run's models to a version in the registry, or to the reason why there is none."""

import json
from collections.abc import Mapping

from leanpipe.core.store import Artifact
from leanpipe.evaluation.evaluate import evaluate
from leanpipe.evaluation.gate import Choice, beats, choose
from leanpipe.evaluation.generate import Generation
from leanpipe.evaluation.model_card import model_card
from leanpipe.settings.flows import PipelineConfig
from tasks.run import Run
from tasks.tracking.registry import Candidate, Registered, champion, register

REFERENCES = ("teacher", "student")  # measured to compare with, never registered


def promote(
    run: Run,
    config: PipelineConfig,
    models: Mapping[str, Artifact],
    evaluations: Mapping[str, Artifact],
    documents: Artifact,
) -> Registered | None:
    """Register the best model that meets the policy; None if none does. The reason is in the run's tags."""
    policy = config.registration
    candidates = {label: evaluations[label].summary for label in models if label not in REFERENCES}
    choice = choose(candidates, policy)
    run.tracking.log_figures(run.mlflow_run, {"registration.choice": choice.reason})
    if choice.label is None:
        return None
    # The champion is measured again, on this run's text: its old figures may come from another.
    current = run.tracking.answer("the look-up of the champion", lambda: champion(policy.name))
    rival = current and run.stage(
        evaluate, config.evaluate, label="evaluate-champion", model=current, documents=documents
    )
    verdict = beats(candidates[choice.label], rival.summary if rival else None, policy)
    candidate = Candidate(
        label=choice.label,
        model=models[choice.label],
        figures=candidates[choice.label],
        card=_card(run, config, choice, evaluations),
        reason=choice.reason,
        documents=documents.digest,
    )
    registered = run.tracking.answer(
        "the registration", lambda: register(run, policy.name, candidate, verdict)
    )
    figures = {
        "version": registered.version,
        "verdict": registered.reason,
        "champion": str(registered.champion),
    }
    run.tracking.log_figures(
        run.mlflow_run, {f"registration.{name}": value for name, value in figures.items()}
    )
    return registered


def _card(run: Run, config: PipelineConfig, choice: Choice, evaluations: Mapping[str, Artifact]) -> str:
    assert choice.label is not None
    answers = (evaluations[choice.label].path / "generations.jsonl").read_text().splitlines()
    return model_card(
        name=config.registration.name,
        label=choice.label,
        teacher=config.teacher,
        corpus=", ".join(config.corpus),
        stages={label: artifact.key or "" for label, artifact in run.results.items()},
        rows={label: artifact.summary for label, artifact in evaluations.items()},
        reason=choice.reason,
        generations=[Generation(**json.loads(line)) for line in answers],
    )
