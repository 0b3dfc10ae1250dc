"""The report of a run: gathered from its results at the end, and sent to MLflow with every document's scores."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from prefect.runtime import flow_run

from leanpipe.core.errors import UserError
from leanpipe.core.stage import Summary
from leanpipe.core.store import MANIFEST, REPORT, Artifact, read_manifest
from leanpipe.corpus.report.data_card import for_a_page
from leanpipe.evaluation.evaluate import evaluate
from leanpipe.evaluation.generate import Generation
from leanpipe.evaluation.report.run_difference import RunDifference, run_difference
from leanpipe.evaluation.report.run_report import NAME, SIZES, RunFacts, write_run_report
from leanpipe.evaluation.report.stored_scores import FILE, ModelScores, from_json, to_json
from leanpipe.evaluation.report.waterfall import WEIGHTS
from leanpipe.evaluation.task_scores.score_tasks import score_tasks
from leanpipe.evaluation.usage.score_weights import LABEL, score_weights
from tasks.run import Run
from tasks.tracking.runs import read_run_file

log = logging.getLogger("leanpipe.run")

FOLDER = "report"
"""Where the report lies among the files of the run."""
REPORT_FILE = f"{FOLDER}/{NAME}.html"
SCORES_FILE = f"{FOLDER}/{FILE}"


def read_scores(
    evaluations: Mapping[str, Artifact], results: Mapping[str, Artifact] = {}
) -> dict[str, ModelScores]:
    """Every document's score of each model, by its label, and of each item of a task and of weights alone, if `results` has them."""
    labels = {one.digest: label for label, one in results.items() if one.name == evaluate.name}
    scores = {
        label: ModelScores.of(one, results.get(_scored_as(labels.get(one.digest, ""))))
        for label, one in evaluations.items()
    }
    alone = {label: one for label, one in results.items() if one.name == score_weights.name}
    return scores | {
        f"{label.removeprefix(LABEL)}{WEIGHTS}": ModelScores.of(one) for label, one in alone.items()
    }


def _scored_as(evaluated: str) -> str:
    """The label under which a model is asked tasks that is evaluated under another."""
    return f"{score_tasks.name}-{evaluated.removeprefix(f'{evaluate.name}-')}"


def write_report(
    run: Run, evaluations: Mapping[str, Artifact], verdict: str, stages: str, link: str | None
) -> None:
    """Write the report of a run, and send it to MLflow. A run that has made its models does not fail by it."""
    scores = read_scores(evaluations, run.results)
    with TemporaryDirectory() as folder:
        try:
            facts = _facts(run, evaluations, scores, verdict, stages, link)
            write_run_report(facts, Path(folder))
        except (OSError, ValueError, KeyError, UserError) as error:
            log.warning("the report of this run could not be written: %s", error)
        (Path(folder) / FILE).write_text(to_json(scores))
        run.tracking.log_files(run.mlflow_run, Path(folder), FOLDER)
        if (Path(folder) / SIZES).exists():
            run.tracking.log_file(run.mlflow_run, Path(folder) / SIZES)


def _facts(
    run: Run,
    evaluations: Mapping[str, Artifact],
    scores: Mapping[str, ModelScores],
    verdict: str,
    stages: str,
    link: str | None,
) -> RunFacts:
    results = run.results
    return RunFacts(
        title=f"{flow_run.name} ({flow_run.flow_name})",
        verdict=verdict,
        models=scores,
        collections={label: _evaluation(one).get("collections", {}) for label, one in evaluations.items()},
        generations={label: read_generations(one) for label, one in evaluations.items()},
        parity=_parity(results),
        stages=stages,
        lineage=[(label, one.key or "", _made_from(one, results)) for label, one in results.items()],
        data_card=_data_card(results),
        link=link or "",
    )


class ComparedRuns(NamedTuple):
    """Two past runs, by their names, and what differs between their models."""

    name: str
    other: str
    found: RunDifference


def compare_runs(run: str, other: str) -> ComparedRuns:
    """Compare the models of two past runs, by what was logged with them. Raises UserError if that is not there."""
    names, scores = [], []
    for reference in (run, other):
        name, text = read_run_file(reference, SCORES_FILE)
        names.append(name)
        scores.append(from_json(text, name))
    found = run_difference(scores[0], scores[1])
    if not found.models and not found.remarks:
        raise UserError(f"{names[0]} and {names[1]} evaluated no models of the same name")
    return ComparedRuns(names[0], names[1], found)


def read_generations(evaluation: Artifact) -> list[Generation]:
    """What the model answered when it was evaluated."""
    # Not splitlines: a model may write U+2028, at which that breaks a line and JSON does not.
    lines = (evaluation.path / "generations.jsonl").read_text().split("\n")
    return [Generation(**json.loads(line)) for line in lines if line]


def _evaluation(artifact: Artifact) -> dict[str, Any]:
    return json.loads((artifact.path / "evaluation.json").read_text())


def _parity(results: Mapping[str, Artifact]) -> dict[str, Summary]:
    found = {label: one.summary for label, one in results.items() if one.name == "parity"}
    return {label.removeprefix("parity-"): summary for label, summary in found.items()}


def _made_from(artifact: Artifact, results: Mapping[str, Artifact]) -> str:
    """Name what a result was made from: earlier results of the run by their labels, others by their digests."""
    manifest = read_manifest(artifact.path / MANIFEST)
    if manifest is None:
        return ""
    labels = {one.digest: label for label, one in results.items()}
    named = []
    for role, digests in manifest.inputs.items():
        each = digests if isinstance(digests, list) else [digests]
        named.append(f"{role}: {', '.join(labels.get(one, str(one)[:12]) for one in each)}")
    return "; ".join(named)


def _data_card(results: Mapping[str, Artifact]) -> str:
    cards = (one.path / REPORT / "card.md" for one in results.values() if one.name == "clean")
    return next((for_a_page(card.read_text()) for card in cards if card.exists()), "")
