"""Who is champion, and who was, since when and why: MLflow itself keeps only who is.

Each move of the alias is a tag of the registered model, `leanpipe.champion.TIME`, which is added and never changed once the
alias has moved. A move that a person made in MLflow's page is found by comparing the alias with the last tag, and added too.
Look and move only while you hold the model's lock (`tasks/promote.py`): MLflow's alias is the last writer's.
"""

from datetime import UTC, datetime
from typing import NamedTuple

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from pydantic import BaseModel

from tasks.tracking.registry import CHAMPION, find_version
from tasks.tracking.versions import Version, unanswered

_TAG = "leanpipe.champion."
_LONGEST = 2_000  # characters of a reason: MLflow keeps 5,000 of a tag


class Move(BaseModel):
    """The alias `champion` went from one version to another."""

    time: str
    version: str
    """Where it went; empty if it was taken away, as MLflow does with a version that is deleted."""
    before: str
    """Where it was; empty if nowhere."""
    by: str
    """The run that moved it; or the one that saw that somebody had."""
    by_hand: bool = False
    why: str
    best: str
    """The best champion so far, by which smaller ones are measured. A person's choice begins anew."""
    evidence: str = ""
    """Address of the scores that it was decided on."""
    done: bool = True
    """Whether the alias has moved: who finds a move that has not knows that its run was cut off."""


class Champion(NamedTuple):
    """The version that has the alias now, if any, and how that came about."""

    version: Version | None
    moves: list[Move]
    """The first one first."""

    @property
    def number(self) -> str:
        return self.version.version if self.version else ""

    @property
    def best(self) -> str:
        """Number of the best champion so far."""
        return self.moves[-1].best if self.moves else ""

    def taken_back(self, number: str) -> Move | None:
        """The move by which a person took the alias from this version; None if nobody did, or it was given back since."""
        taken = None
        for move in self.moves:
            if move.version == number:
                taken = None
            elif move.before == number and move.by_hand:
                taken = move
        return taken


def look(client: MlflowClient, name: str, by: str) -> Champion:
    """Return the champion of `name`, and complete its history with what was done by hand.

    Raises UserError if the registry does not answer.
    """
    try:
        return _look(client, name, by)
    except MlflowException as error:
        raise unanswered(error) from error


def _look(client: MlflowClient, name: str, by: str) -> Champion:
    version = find_version(client, name, CHAMPION)
    now = version.version if version else ""
    tags = _tags(client, name)
    moves = []
    for tag, move in tags.items():
        if not move.done and move.version == now:
            move.done = True  # its run was killed just when it had moved the alias
            _write(client, name, tag, move)
        if move.done:
            moves.append(move)
    last = moves[-1].version if moves else ""
    if now != last:
        moves.append(_by_hand(client, name, last, now, by, first=not moves))
    return Champion(version, moves)


def move_champion(client: MlflowClient, name: str, move: Move) -> None:
    """Give the alias to `move.version`, and add that to the history: first as begun, so that a killed run leaves a trace."""
    tag = f"{_TAG}{move.time}"
    try:
        _write(client, name, tag, move.model_copy(update={"done": False}))
        client.set_registered_model_alias(name, CHAMPION, move.version)
        _write(client, name, tag, move)
    except MlflowException as error:
        raise unanswered(error) from error


def now() -> str:
    """The time as a tag's name may hold it, in the order of time."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _by_hand(client: MlflowClient, name: str, before: str, version: str, by: str, first: bool) -> Move:
    if first:
        why = "It was champion when this history began."
    elif version:
        why = "A person gave it the alias."
    else:
        why = "A person took the alias away, or deleted the version."
    move = Move(
        time=now(),
        version=version,
        before=before,
        by=f"seen by {by}",
        by_hand=not first,
        why=why,
        best=version,
    )
    _write(client, name, f"{_TAG}{move.time}", move)
    return move


def _tags(client: MlflowClient, name: str) -> dict[str, Move]:
    tags = client.get_registered_model(name).tags
    return {
        tag: Move.model_validate_json(value) for tag, value in sorted(tags.items()) if tag.startswith(_TAG)
    }


def _write(client: MlflowClient, name: str, tag: str, move: Move) -> None:
    short = move.model_copy(update={"why": move.why[:_LONGEST]})
    client.set_registered_model_tag(name, tag, short.model_dump_json())
