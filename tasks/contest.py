"""A challenger against the champion: measured on the same text, decided, and the alias moved if the champion is still that one."""

import dataclasses
import json
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import NamedTuple, TypeVar

from leanpipe.core.errors import UserError
from leanpipe.core.store import Artifact
from leanpipe.evaluation.evaluate import EvaluateConfig, evaluate
from leanpipe.evaluation.gate import RegisterConfig
from leanpipe.evaluation.paired import Evaluated
from leanpipe.evaluation.verdict import Outcome, Verdict, first_champion, judge
from tasks.run import Run
from tasks.tracking import champion_history
from tasks.tracking.champion_history import Champion, Move
from tasks.tracking.registry import Registered, find_version, model_of, note_verdict
from tasks.tracking.versions import Version
from tasks.training_text import Origin, find_learned, origin_of

log = logging.getLogger("leanpipe.registry")

_CANNOT_MEASURE = (UserError, RuntimeError, OSError)
"""What a stage raises, whatever goes wrong in its process: for another model's fault nothing of this run's is lost."""


T = TypeVar("T")


class _Contestant(NamedTuple):
    """A model that is compared."""

    evaluated: Evaluated
    origin: Origin


class Contest:
    """What a challenger is measured by: the policy, and the text that all are scored on."""

    def __init__(
        self,
        run: Run,
        policy: RegisterConfig,
        config: EvaluateConfig,
        documents: Artifact,
        instructions: Artifact | None = None,
    ):
        self._instructions = instructions
        self._run, self._policy, self._config, self._documents = run, policy, config, documents
        self._client = run.tracking.client
        name = self._ask(lambda: self._client.get_run(run.mlflow_run).info.run_name)
        self._by = f"the run {name} ({run.mlflow_run})"

    def decide(self, challenger: Version, evaluation: Artifact) -> Registered:
        """Make the version champion if that is the verdict, which holds for the champion whom it was given against.

        Measuring takes minutes, in which another run may promote its model: then the challenger meets that one.
        """
        while True:
            with self._locked():
                champion = self._look()
            verdict = self._judge(challenger, Evaluated.of(evaluation), champion)
            evidence = self._keep_evidence(challenger, champion, verdict)
            with self._locked():
                if self._look().number == champion.number:
                    settle = partial(
                        self._settle, challenger, champion, verdict, evidence, champion_history.now()
                    )
                    self._ask(settle)
                    break
            log.info("another version became champion meanwhile: comparing with that one")
        is_champion = verdict.promote or champion.number == challenger.version
        return Registered(
            name=challenger.name,
            version=challenger.version,
            champion=is_champion,
            reason=verdict.reason,
        )

    def _locked(self) -> AbstractContextManager[None]:
        """Hold the model's place of champion; a file's lock, so it is held against runs of the same home only."""
        return self._run.store.locked(f"champion-{self._policy.name}")

    def _look(self) -> Champion:
        return self._ask(lambda: champion_history.look(self._client, self._policy.name, self._by))

    def _ask(self, question: Callable[[], T]) -> T:
        """Get an answer of MLflow's, and wait for it if it is away."""
        return self._run.tracking.answer("the choice of the champion", question)

    def _judge(self, challenger: Version, evaluated: Evaluated, champion: Champion) -> Verdict:
        name, number = challenger.name, challenger.version
        if champion.number == number:
            return Verdict(Outcome.KEEP, "This is the champion itself.")
        if taken := champion.taken_back(number):
            return Verdict(
                Outcome.KEEP,
                f"Version {number} was champion, and a person took the alias from it ({taken.time}): it gets it back by "
                "hand only.",
            )
        if champion.version is None:
            if not champion.moves:
                return first_champion(evaluated.summary)
            return Verdict(
                Outcome.BROKEN,
                f"The champion, version {champion.moves[-1].before}, was deleted or the alias was taken from it: give the "
                f"alias champion of {name} to a version in MLflow, this one ({number}) for example.",
            )
        try:
            rival = self._measure("evaluate-champion", "the champion", champion.version)
        except _CANNOT_MEASURE as error:
            return Verdict(
                Outcome.BROKEN,
                f"{_unmeasured(f'The champion, version {champion.number},', error)}: mend that, or give the alias champion to "
                "another version in MLflow, and run again.",
            )
        contestants = [self._contestant("the challenger", challenger, challenger.digest, evaluated), rival]
        best, lost = None, ""
        if champion.best not in ("", champion.number):
            try:
                best = self._measure("evaluate-best", "the best champion so far", self._find(champion.best))
                contestants.append(best)
            except _CANNOT_MEASURE as error:
                lost = f"{_unmeasured(f'the best champion so far, version {champion.best},', error)}, so only a better one is promoted"
        left_out = find_learned(self._documents.path, [one.origin for one in contestants])
        return judge(evaluated, rival.evaluated, self._policy, best and best.evaluated, lost, left_out)

    def _measure(self, label: str, called: str, version: Version) -> "_Contestant":
        """Score a registered version on this run's text: its old figures may come from another."""
        model = model_of(version.name, version.version)
        found = self._run.stage(
            evaluate,
            self._config,
            label=label,
            model=model,
            documents=self._documents,
            **({"instructions": self._instructions} if self._instructions else {}),
        )
        return self._contestant(called, version, model.digest, Evaluated.of(found))

    def _contestant(self, called: str, version: Version, digest: str, evaluated: Evaluated) -> "_Contestant":
        digests = [one for one in (digest, version.documents) if one]
        return _Contestant(evaluated, origin_of(self._run.store, called, digests, version.trained_on))

    def _find(self, number: str) -> Version:
        version = self._ask(lambda: find_version(self._client, self._policy.name, number))
        if version is None:
            raise UserError("it was deleted")
        return version

    def _keep_evidence(self, challenger: Version, champion: Champion, verdict: Verdict) -> str:
        """Log what the verdict rests on with the run, and return where."""
        against = f"against-{champion.number}" if champion.number else "alone"
        file = f"registration/version-{challenger.version}-{against}.json"
        content = {
            "challenger": challenger.version,
            "champion": champion.number,
            "best_champion": champion.best,
            "policy": self._policy.model_dump(mode="json"),
            "documents": self._documents.digest,
            "verdict": dataclasses.asdict(verdict),
        }
        self._run.tracking.log_text(self._run.mlflow_run, json.dumps(content, indent=2), file)
        return f"runs:/{self._run.mlflow_run}/{file}"

    def _settle(
        self, challenger: Version, champion: Champion, verdict: Verdict, evidence: str, time: str
    ) -> None:
        """Move the alias if that is the verdict, and keep it with the version; twice is as good as once."""
        number = challenger.version
        if verdict.promote:
            move = Move(
                time=time,
                version=number,
                before=champion.number,
                by=self._by,
                why=verdict.reason,
                best=number if verdict.best else champion.best,
                evidence=evidence,
            )
            champion_history.move_champion(self._client, challenger.name, move)
        note_verdict(self._client, challenger, time, f"{verdict.outcome}: {verdict.reason}")


def _unmeasured(what: str, error: Exception) -> str:
    reason = str(error).strip().rpartition("\n")[2][:300]
    return f"{what} cannot be measured here ({reason})"
