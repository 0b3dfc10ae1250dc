"""Giving the alias `champion` back to an earlier version: in one step, and written down with who did it and why."""

import getpass

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from pydantic import BaseModel

from leanpipe.core.errors import UserError
from leanpipe.core.home import Home
from leanpipe.core.store import Store
from tasks.tracking import champion_history
from tasks.tracking.champion.lock import HeldTooLong, champion_lock
from tasks.tracking.champion_history import Champion, Move
from tasks.tracking.elsewhere import has_files
from tasks.tracking.registry import find_version
from tasks.tracking.versions import unanswered


class RolledBack(BaseModel):
    """The alias went back."""

    name: str
    version: str
    """The champion now."""
    before: str
    """The champion until now; empty if there was none."""


def roll_back(home: Home, name: str, to: str | None, by: str, why: str) -> RolledBack:
    """Give the alias to version `to` of the model `name`, by default to the champion before this one.

    The version that loses it gets it back by hand only. Raises UserError if there is no such version, or its files are gone.
    """
    client = MlflowClient()
    try:
        client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            raise UserError(
                f"no model {name} is registered: run the pipeline first, or name another"
            ) from error
        raise unanswered(error) from error
    while True:
        try:
            with Store(home.store).locked(f"champion-{name}"), champion_lock(client, name) as held:
                champion = champion_history.look(client, name, by)
                number = to or _previous(champion, name)
                _check(client, name, number, champion)
                held.check()
                move = Move(
                    time=champion_history.now(),
                    version=number,
                    before=champion.number,
                    by=by,
                    by_hand=True,
                    why=why or "Rolled back.",
                    best=number,
                )
                champion_history.move_champion(client, name, move)
                return RolledBack(name=name, version=number, before=champion.number)
        except HeldTooLong:
            continue


def user() -> str:
    """The name of the user who runs this."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return "somebody"


def _previous(champion: Champion, name: str) -> str:
    """The last champion before this one that nobody took the alias from."""
    for move in reversed(champion.moves):
        for number in (move.version, move.before):
            if number not in ("", champion.number) and not champion.taken_back(number):
                return number
    raise UserError(
        f"{name} has had no other champion that nobody took the alias from: name the version to go back to (--to)"
    )


def _check(client: MlflowClient, name: str, number: str, champion: Champion) -> None:
    if not number.isdecimal():
        raise UserError(f"{number!r} is no version of {name}: give its number")
    if number == champion.number:
        raise UserError(f"{name} version {number} is champion already: name another version")
    if find_version(client, name, number) is None:
        raise UserError(f"{name} has no version {number} (any more): name another version (--to)")
    try:
        there = has_files(client.get_model_version(name, number))
    except MlflowException as error:
        raise unanswered(error) from error
    if not there:
        raise UserError(
            f"the files of {name} version {number} are gone, so it cannot be served: name another version (--to); the champion "
            f"is still {f'version {champion.number}' if champion.number else 'nobody'}"
        )
