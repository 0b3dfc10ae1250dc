"""Sending what is told of a run to MLflow while the run goes on, so that it never waits for MLflow but where it says so."""

import contextvars
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from leanpipe.core.errors import UserError
from leanpipe.core.home import Home
from leanpipe.processes.run_lock import RunIsHeld, hold
from tasks.tracking.patience import address, patience, short, tell, waiting
from tasks.tracking.spool import Spool
from tasks.tracking.writer import Writer, end_begun, end_dead_runs

log = logging.getLogger("leanpipe.tracking")

_POLL_SECONDS = 1.0
_QUIET_SECONDS = 3.0
"""After so long a wait a person is told what for."""


class Sender:
    """A thread that tells MLflow what is in a spool, and tries again as long as that does not answer."""

    def __init__(self, spool: Spool):
        self.spool = spool
        self._writer = Writer(spool)
        self._changed = threading.Condition()
        self._wanted = threading.Event()
        self._ended = False
        self._last_answer = time.monotonic()
        self._trouble = ""
        self._gave_up = False
        in_context = (
            contextvars.copy_context().run
        )  # by which Prefect knows the run that a line of the log is of
        self._thread = threading.Thread(target=in_context, args=(self._run,), name="mlflow", daemon=True)
        self._thread.start()

    def wait(self, done: Callable[[], bool], seconds: float, why: str) -> bool:
        """Wait until `done()`; gives up when MLflow has not answered for so many seconds. Says for what if that takes long."""
        began, said = (self._last_answer if self._gave_up else time.monotonic()), False
        while not done():
            silent = time.monotonic() - max(began, self._last_answer)
            if silent > seconds:
                self._gave_up = True  # nobody waits for the same silence twice
                return False
            if silent > _QUIET_SECONDS and not said:
                said = True
                tell(waiting(why))
            self._wanted.set()
            with self._changed:
                self._changed.wait(0.2)
        return True

    def why(self) -> str:
        """What the last failure was, for a sentence."""
        return self._trouble or "it takes the request and says nothing"

    def stop(self) -> bool:
        """Send no more; gives whether the thread lets go of the spool. One that waits for an answer does not."""
        self._ended = True
        self._wanted.set()
        self._thread.join(_POLL_SECONDS)
        return not self._thread.is_alive()

    def _run(self) -> None:
        settling = None
        while not self._ended:
            failed = self._send()
            if settling is None and not failed:
                # In a thread of its own: what a dead run left may be much.
                in_context = contextvars.copy_context().run
                settling = threading.Thread(
                    target=in_context, args=(end_dead_runs, self.spool.home), daemon=True
                )
                settling.start()
            self._wanted.wait(_POLL_SECONDS)
            self._wanted.clear()
            if failed and not self._ended:
                time.sleep(_POLL_SECONDS / 2)  # who wants it soon must not hammer at it

    def _send(self) -> bool:
        """Send what there is; gives whether that failed."""
        try:
            for _ in self._writer.send():
                self._last_answer, self._trouble, self._gave_up = time.monotonic(), "", False
                with self._changed:
                    self._changed.notify_all()
                if self._ended:
                    break
            return False
        except Exception as error:  # noqa: BLE001 - whatever it is: the run does not end for it
            if not self._trouble:
                log.warning("MLflow at %s is not told for now: %s", address(), short(error))
            self._trouble = short(error)
            return True


@contextmanager
def sending(home: Home, name: str) -> Iterator[Sender]:
    """Hold the spool of the run `name`, and send what it holds; at the end wait until MLflow knows it, or say where it lies."""
    with _held(home, name):
        spool = Spool(home, name)
        end_begun(spool)  # by an earlier process, that is gone
        sender = Sender(spool)
        hurry = False
        try:
            yield sender
        except BaseException as error:
            hurry = not isinstance(error, Exception)  # whoever stops us does not wait for long
            raise
        finally:
            _finish(sender, 5.0 if hurry else patience())


@contextmanager
def _held(home: Home, name: str) -> Iterator[None]:
    until = time.monotonic() + patience()
    while True:
        try:
            holding = hold(home.spool, name)
            holding.__enter__()
            break
        except RunIsHeld as error:  # as long as the supervisor tells what a dead process left of it
            if time.monotonic() > until:
                raise UserError(
                    f"run {name} is at work in another process: wait for it, or stop it"
                ) from error
    try:
        yield
    finally:
        holding.__exit__(None, None, None)


def _finish(sender: Sender, seconds: float) -> None:
    spool = sender.spool
    sent = sender.wait(spool.is_sent, seconds, "the end of the run")
    if not sent:
        tell(
            f"MLflow at {address()} did not answer for {seconds:.0f} s ({sender.why()}): what it was not told yet is kept in "
            f"{spool.folder}, and the next run or `leanpipe up` sends it"
        )
    if sender.stop() or sent:
        spool.close()
