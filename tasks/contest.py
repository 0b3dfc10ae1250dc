"""A challenger against the champion: measured on the same text, decided, and the alias moved if the champion is still that one."""

import dataclasses
import json
import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

from leanpipe.core.errors import UserError
from leanpipe.core.store import Artifact
from leanpipe.evaluation.decide.units import read_units
from leanpipe.evaluation.evaluate import EvaluateConfig, evaluate
from leanpipe.evaluation.gate import RegisterConfig
from leanpipe.evaluation.paired import Evaluated
from leanpipe.evaluation.task_scores.score_tasks import ScoreTasksConfig, score_tasks
from leanpipe.evaluation.verdict import Look, Outcome, Verdict, first_champion, judge
from tasks.approval import approved
from tasks.run import Run
from tasks.tracking import champion_history
from tasks.tracking.champion.lock import Held, HeldTooLong, champion_lock
from tasks.tracking.champion.looks import take_look
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


class Asked(NamedTuple):
    """The tasks that the challenger was asked, and what it scored: the champion is asked the same."""

    config: ScoreTasksConfig
    tasks: tuple[Artifact, ...]
    scored: Artifact


class Contest:
    """What a challenger is measured by: the policy, and the text that all are scored on."""

    def __init__(
        self,
        run: Run,
        policy: RegisterConfig,
        config: EvaluateConfig,
        documents: Artifact,
        instructions: Artifact | None = None,
        among: int = 1,
        tasks: "Asked | None" = None,
    ):
        """`among` is of how many models this text chose the challenger; `tasks` is what it was asked besides."""
        self._tasks = tasks
        self._instructions = instructions
        self._run, self._policy, self._config, self._documents = run, policy, config, documents
        self._among = among
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
            verdict = self._verdict(challenger, evaluation, champion)
            evidence = self._keep_evidence(challenger, champion, verdict)
            if verdict.promote and champion.version and self._policy.approval:
                verdict = approved(verdict, challenger, champion.number, self._policy)
            try:
                with self._locked() as held:
                    if self._look().number == champion.number:
                        self._settle(challenger, champion, verdict, evidence, held)
                        break
            except HeldTooLong:
                log.info("MLflow was slow: looking again at who is champion")
                continue
            log.info("another version became champion meanwhile: comparing with that one")
        is_champion = verdict.promote or champion.number == challenger.version
        return Registered(
            name=challenger.name,
            version=challenger.version,
            champion=is_champion,
            reason=verdict.reason,
        )

    @contextmanager
    def _locked(self) -> Iterator[Held]:
        """Hold the model's place of champion: against runs of this home by a file's lock, which the kernel gives back, and
        against those of others that share the MLflow server."""
        with (
            self._run.store.locked(f"champion-{self._policy.name}"),
            champion_lock(self._client, self._policy.name) as held,
        ):
            yield held

    def _look(self) -> Champion:
        return self._ask(lambda: champion_history.look(self._client, self._policy.name, self._by))

    def _ask(self, question: Callable[[], T]) -> T:
        """Get an answer of MLflow's, and wait for it if it is away."""
        return self._run.tracking.answer("the choice of the champion", question)

    def _verdict(self, challenger: Version, evaluation: Artifact, champion: Champion) -> Verdict:
        """Judge, and again on more documents as long as those would tell and the policy allows them."""
        verdict = self._judge(challenger, evaluation, champion)
        while more := self._more_text(verdict):
            log.info("%s Scoring more documents: evaluate.text_bytes=%d", verdict.reason, more.text_bytes)
            before, self._config = verdict, more
            evaluated = self._score("evaluate-challenger", model_of(challenger.name, challenger.version))
            verdict = self._judge(challenger, evaluated, champion)
            if _documents(verdict) <= _documents(before):
                break  # there are no more
        return verdict

    def _more_text(self, verdict: Verdict) -> EvaluateConfig | None:
        """Settings to score as many documents as would settle it, if the policy allows any more."""
        scored, most = _documents(verdict), self._policy.max_documents
        if verdict.more_documents is None or not most or scored >= most:
            return None
        wanted = min(scored + verdict.more_documents, most)
        largest = EvaluateConfig.model_fields["text_bytes"].metadata[1].le
        bytes_ = min(math.ceil(1.1 * self._config.text_bytes * wanted / max(1, scored)), largest)
        return self._config.model_copy(update={"text_bytes": bytes_})

    def _judge(self, challenger: Version, evaluation: Artifact, champion: Champion) -> Verdict:
        name, number = challenger.name, challenger.version
        if champion.number == number:
            return Verdict(Outcome.KEEP, "This is the champion itself.")
        if taken := champion.taken_back(number):
            return Verdict(
                Outcome.KEEP,
                f"Version {number} was champion, and a person took the alias from it ({taken.time}): it gets it back by "
                "hand only.",
            )
        try:
            evaluated = Evaluated.of(evaluation, self._tasks and self._tasks.scored)
            if champion.version is None and not champion.moves:
                return first_champion(evaluated.summary)
        except UserError as error:
            return Verdict(Outcome.BROKEN, f"The challenger cannot be judged: {error}.")
        if champion.version is None:
            return Verdict(
                Outcome.BROKEN,
                f"The champion, version {champion.moves[-1].before}, was deleted or the alias was taken from it: give the "
                f"alias champion of {name} to a version in MLflow, this one ({number}) for example, or leanpipe rollback "
                f"{name}.",
            )
        try:
            rival = self._measure("evaluate-champion", "the champion", champion.version, self._asks_tasks())
        except _CANNOT_MEASURE as error:
            return Verdict(
                Outcome.BROKEN,
                f"{_unmeasured(f'The champion, version {champion.number},', error)}: mend that, or give the alias champion to "
                "another version in MLflow, or by leanpipe rollback, and run again.",
            )
        return self._compare(challenger, evaluated, champion, rival)

    def _compare(
        self, challenger: Version, evaluated: Evaluated, champion: Champion, rival: "_Contestant"
    ) -> Verdict:
        """Judge by what is common to all that were scored; nothing is decided on figures that are none."""
        contestants = [self._contestant("the challenger", challenger, challenger.digest, evaluated), rival]
        best, lost = None, ""
        if champion.best not in ("", champion.number):
            try:
                best = self._measure("evaluate-best", "the best champion so far", self._find(champion.best))
                contestants.append(best)
            except _CANNOT_MEASURE as error:
                lost = f"{_unmeasured(f'the best champion so far, version {champion.best},', error)}, so only a better one is promoted"
        left_out = find_learned(self._documents.path, [one.origin for one in contestants])
        try:
            look = Look(
                self._level(challenger, champion), read_units(self._policy.unit, self._documents.path)
            )
            others = rival.evaluated, self._policy, best and best.evaluated
            return judge(evaluated, *others, lost, left_out, look)
        except UserError as error:
            return Verdict(Outcome.BROKEN, f"Nothing can be decided: {error}.")

    def _level(self, challenger: Version, champion: Champion) -> float:
        """The chance of a promotion by mistake that this look may take of the year's."""
        pair = f"{challenger.version} {champion.number} {self._documents.digest[:12]}"
        with self._locked():
            budget = self._policy.error_budget
            level = self._ask(lambda: take_look(self._client, self._policy.name, pair, budget))
        return level / self._among

    def _asks_tasks(self) -> "Asked | None":
        """The tasks that margins are of; None if there are none, and nobody need be asked."""
        return self._tasks if any(one.is_of_tasks for one in self._policy.parsed_margins()) else None

    def _measure(
        self, label: str, called: str, version: Version, asked: "Asked | None" = None
    ) -> "_Contestant":
        """Score a registered version on this run's text, and on its tasks: its old figures may come from others."""
        model = model_of(version.name, version.version)
        evaluation, scored = self._score(label, model), None
        if asked:
            as_scored = label.replace(evaluate.name, score_tasks.name)
            scored = self._run.stage(
                score_tasks, asked.config, label=as_scored, model=model, tasks=asked.tasks
            )
        return self._contestant(called, version, model.digest, Evaluated.of(evaluation, scored))

    def _score(self, label: str, model: Artifact) -> Artifact:
        return self._run.stage(
            evaluate,
            self._config,
            label=label,
            model=model,
            documents=self._documents,
            **({"instructions": self._instructions} if self._instructions else {}),
        )

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
        self, challenger: Version, champion: Champion, verdict: Verdict, evidence: str, held: Held
    ) -> None:
        """Move the alias if that is the verdict, and keep it with the version; twice is as good as once."""
        number, time = challenger.version, champion_history.now()
        move = Move(
            time=time,
            version=number,
            before=champion.number,
            by=self._by,
            why=verdict.reason,
            best=number if verdict.best else champion.best,
            evidence=evidence,
        )

        def write() -> None:
            if verdict.promote:
                held.check()
                champion_history.move_champion(self._client, challenger.name, move)
            note_verdict(self._client, challenger, time, f"{verdict.outcome}: {verdict.reason}")

        self._ask(write)


def _documents(verdict: Verdict) -> int:
    return len(verdict.scores)


def _unmeasured(what: str, error: Exception) -> str:
    reason = str(error).strip().rpartition("\n")[2][:300]
    return f"{what} cannot be measured here ({reason})"
