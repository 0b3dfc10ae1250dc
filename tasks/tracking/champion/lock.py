"""One at a time may move a model's champion, of all homes and machines that share an MLflow server.

A lock on a file keeps runs of one home apart, and MLflow has no lock and no conditional write: of two who set one alias or tag
the last wins. What it has is tags that only one writes. That is enough for Lamport's bakery ("A New Solution of Dijkstra's
Concurrent Programming Problem", Communications of the ACM 17, 1974): each who comes writes a tag of its own, first that it is
choosing, then its number, one above all that it sees; and whoever has the lowest number goes first.

A run that was killed leaves its tag. Who waits takes it away once it has not changed for STALE seconds of its own clock: no two
machines' clocks need agree. For that a holder must be done, or let go, in half of that time, and asks `Held.check` before it
writes. What cannot be kept apart is a process that is stopped for longer than that between the question and the write, and a
person in MLflow's page: both are found, and written down, by who looks next (`champion_history`).
"""

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from mlflow import MlflowClient
from pydantic import BaseModel

from tasks.tracking.patience import ask

_TAG = "leanpipe.moving."
STALE = 60.0
"""Seconds after which a tag that has not changed is that of a run which was killed."""
_PAUSE = 0.1
_WHY = "the choice of the champion"


class HeldTooLong(Exception):
    """Others may take the lock for left behind: begin again."""


class _Ticket(BaseModel):
    """What one who comes has written."""

    choosing: bool
    number: int = 0
    beat: int = 0
    """Counts up while its writer lives and waits."""


class Held:
    """The lock, while it is held."""

    def __init__(self) -> None:
        self._since = time.monotonic()

    def check(self) -> None:
        """Raise HeldTooLong if somebody else may have the lock by now."""
        if time.monotonic() - self._since > STALE / 2:
            raise HeldTooLong


@contextmanager
def champion_lock(client: MlflowClient, name: str) -> Iterator[Held]:
    """Hold the place of champion of the registered model `name`, and wait for it first."""
    queue = _Queue(client, name)
    try:
        while not queue.wait():
            pass
        yield Held()
    finally:
        queue.leave()


class _Queue:
    """Those who wait for a model's lock, as one of them sees them."""

    def __init__(self, client: MlflowClient, name: str):
        self._client, self._name, self._mine = client, name, uuid.uuid4().hex
        self._ticket = _Ticket(choosing=True)
        self._seen: dict[str, tuple[_Ticket, float]] = {}

    def wait(self) -> bool:
        """Take a number and return when it is this one's turn; False if somebody took the number away, as one left behind."""
        self._write(_Ticket(choosing=True))
        number = 1 + max((ticket.number for ticket in self._read().values()), default=0)
        self._write(_Ticket(choosing=False, number=number))
        written = time.monotonic()
        while (tickets := self._read()).get(self._mine):
            before = {one: ticket for one, ticket in tickets.items() if self._is_before(one, ticket)}
            if not before and time.monotonic() - written < STALE / 4:
                return True
            if time.monotonic() - written > STALE / 8:
                self._write(self._ticket.model_copy(update={"beat": self._ticket.beat + 1}))
                written = time.monotonic()
            self._remove_stale(before)
            time.sleep(_PAUSE if before else 0)
        return False

    def leave(self) -> None:
        """Let the next one in."""
        self._remove(self._mine)

    def _is_before(self, one: str, ticket: _Ticket) -> bool:
        first = (ticket.number, one) < (self._ticket.number, self._mine)
        return one != self._mine and (ticket.choosing or first)

    def _remove_stale(self, before: dict[str, _Ticket]) -> None:
        now = time.monotonic()
        for one, ticket in before.items():
            if self._seen.get(one, (None,))[0] != ticket:
                self._seen[one] = ticket, now
            elif now - self._seen[one][1] > STALE:
                self._remove(one)

    def _read(self) -> dict[str, _Ticket]:
        tags = ask(_WHY, lambda: self._client.get_registered_model(self._name)).tags
        return {
            tag.removeprefix(_TAG): _Ticket.model_validate_json(value)
            for tag, value in tags.items()
            if tag.startswith(_TAG)
        }

    def _write(self, ticket: _Ticket) -> None:
        self._ticket, tag = ticket, f"{_TAG}{self._mine}"
        ask(
            _WHY,
            lambda: self._client.set_registered_model_tag(self._name, tag, ticket.model_dump_json()),
        )

    def _remove(self, one: str) -> None:
        ask(_WHY, lambda: self._client.delete_registered_model_tag(self._name, f"{_TAG}{one}"))
