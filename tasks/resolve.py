"""From what the person wrote to artifacts on this machine, with every check that needs no long work."""

from dataclasses import dataclass

from prefect import task
from prefect.cache_policies import NO_CACHE

from leanpipe.assets.resolve import (
    resolve_corpus,
    resolve_evaluation_sets,
    resolve_instructions,
    resolve_model,
)
from leanpipe.core import device
from leanpipe.core.store import Artifact
from leanpipe.planning.preflight import CheckConfig, check
from tasks.run import Run


@dataclass(frozen=True)
class Given:
    """What a run starts from, by content."""

    corpus: tuple[Artifact, ...] = ()
    models: tuple[Artifact, ...] = ()
    instructions: Artifact | None = None
    evaluations: tuple[Artifact, ...] = ()

    @property
    def model(self) -> Artifact:
        return self.models[0]


@task(name="resolve", task_run_name="resolve", persist_result=False, cache_policy=NO_CACHE)
def resolve(
    run: Run,
    *,
    corpus: tuple[str, ...] = (),
    models: tuple[str, ...] = (),
    instructions: str | None = None,
    evaluations: tuple[str, ...] = (),
) -> Given:
    """Find or fetch everything that a run is given. Raises UserError naming what is not there."""
    given = Given(
        resolve_corpus(corpus, run.home) if corpus else (),
        tuple(resolve_model(reference, run.home, run.plainly) for reference in models),
        resolve_instructions(instructions, run.home) if instructions else None,
        resolve_evaluation_sets(evaluations, run.home),
    )
    named = {f"corpus.{number}": artifact for number, artifact in enumerate(given.corpus)}
    named |= {f"model.{number}": artifact for number, artifact in enumerate(given.models)}
    named |= {f"evaluation.{number}": artifact for number, artifact in enumerate(given.evaluations)}
    named |= {"instructions": given.instructions} if given.instructions else {}
    run.tracking.log_inputs(run.mlflow_run, named)
    return given


def preflight(run: Run, given: Given, **sections: object) -> None:
    """Check the settings of the stages in `sections` against the model, the instructions and this device."""
    inputs = {"model": given.model} | ({"instructions": given.instructions} if given.instructions else {})
    run.stage(check, CheckConfig(device=device.name(), **sections), **inputs)  # type: ignore[arg-type]
