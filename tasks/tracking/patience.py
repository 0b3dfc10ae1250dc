"""How long is waited for MLflow where its answer is needed, and what a person is told meanwhile."""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from mlflow.exceptions import MlflowException
from requests.exceptions import RequestException

from leanpipe.core.errors import UserError
from tasks.tracking.progress import say

log = logging.getLogger("leanpipe.tracking")

PATIENCE = "LEANPIPE_MLFLOW_PATIENCE"
"""For how many seconds MLflow may give no answer where one is needed: at a run's start, for its registration, at its end."""

_AWAY = {"INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "REQUEST_LIMIT_EXCEEDED"}  # fmt: skip

T = TypeVar("T")


def patience() -> float:
    """Seconds for which MLflow may be silent where its answer is needed."""
    return float(os.environ.get(PATIENCE, "60"))


def address() -> str:
    """Where MLflow is, for a sentence."""
    return os.environ.get("MLFLOW_TRACKING_URI", "")


def ask(why: str, question: Callable[[], T]) -> T:
    """The answer to a question to MLflow without which `why` cannot go on; it is asked again while MLflow is away.

    Raises UserError when that is for too long, and what the question raises for any other reason.
    """
    until, said = time.monotonic() + patience(), False
    while True:
        try:
            return question()
        except Exception as error:
            if not is_away(error):
                raise
            if time.monotonic() > until:
                raise no_answer(why, short(error)) from error
            if not said:
                said = True
                tell(waiting(why))
        time.sleep(1)


def ask_aside(why: str, question: Callable[[], T]) -> T:
    """The answer to a question, as `ask` gives it, even if the server takes the request and says nothing."""
    if not address().startswith("http"):
        return ask(why, question)
    answers: list[T] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            answers.append(ask(why, question))
        except Exception as error:  # noqa: BLE001 - raised below
            errors.append(error)

    thread = threading.Thread(target=run, name="mlflow-question", daemon=True)
    thread.start()
    thread.join(patience() + 5)
    if errors:
        raise errors[0]
    if not answers:
        raise no_answer(why, "it takes the request and says nothing")
    return answers[0]


@contextmanager
def usable() -> Iterator[None]:
    """Raise UserError for whatever MLflow raises over an address that is none, or a database that is damaged."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"MLflow at {address()} cannot be used ({short(error)}): mend it or move it away, or set MLFLOW_TRACKING_URI "
            "to another"
        ) from error


def is_away(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, says that MLflow cannot answer now, not that it will not."""
    while error is not None:
        if isinstance(error, RequestException) or (
            isinstance(error, MlflowException) and error.error_code in _AWAY
        ):
            return True
        error = error.__cause__
    return False


def no_answer(why: str, reason: str) -> UserError:
    """Say to a person that MLflow was waited for in vain."""
    return UserError(
        f"MLflow at {address()} has not answered for {patience():.0f} s, and {why} needs it ({reason}): start it, or set "
        "MLFLOW_TRACKING_URI, and run again: what was computed is in the store"
    )


def waiting(why: str) -> str:
    """Say to a person what waits for MLflow."""
    return f"MLflow at {address()} does not answer: {why} waits for it, {patience():.0f} s at most"


def tell(sentence: str) -> None:
    """Say one sentence in the log and to the person at the terminal."""
    log.warning(sentence)
    say(f"  {sentence}")


def short(error: BaseException) -> str:
    """What an error says, for a sentence: of a failed connection why it failed, of all else the first line."""
    text = str(error).strip().partition("\n")[0] or type(error).__name__
    _, caused, by = text.rpartition("(Caused by ")
    return (by.rpartition(": ")[2].rstrip("\"')") if caused else text)[:300]
