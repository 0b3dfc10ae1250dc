"""The one error that a person can cause, and what becomes of the errors of others that a person caused."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

_PLACES = {
    errno.ENOSPC: "the disk is full: free some, or set LEANPIPE_HOME to a larger one, and run again",
    errno.EDQUOT: "your quota of the disk is used up: free some, or set LEANPIPE_HOME to another, and run again",
    errno.EROFS: "it can only be read from: set LEANPIPE_HOME to a place that can be written, and run again",
    errno.EACCES: "you may not: change its owner or mode, or give another place",
    errno.EPERM: "you may not: change its owner or mode, or give another place",
    errno.ELOOP: "it is a link that leads to itself: give what it should lead to",
    errno.ENAMETOOLONG: "its name is too long for this file system: give a shorter one",
    errno.EIO: "the disk does not read or write: look after it",
}
"""Errors of the operating system that no program causes, with what to do."""


class UserError(Exception):
    """One sentence for the person who started the run: what is wrong, where, and what to do about it.

    It is never retried, and shown without a traceback.
    """


@contextmanager
def refused_if_unreadable(what: str, do: str) -> Iterator[None]:
    """Raise UserError, which names `what` and says what to `do`, for whatever is raised over a file that somebody gave.

    Libraries check what they read here and there: a damaged file makes them raise errors of any kind, of which none is
    documented. Memory that is too small is no fault of a file, and passes.
    """
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        if type(error).__name__ == "OutOfMemoryError":  # torch's
            raise
        raise UserError(f"{what} cannot be read ({reason(error)}): {do}") from error


def reason(error: BaseException) -> str:
    """Return what an error says, in one line: the rest is advice to programmers."""
    lines = str(error).strip().splitlines()
    return " ".join(lines[0].split())[:300].rstrip(". ") if lines else type(error).__name__


def sentence_of(error: BaseException | None) -> str | None:
    """Say for a person what the operating system refused, if it is of a kind that people and not programs cause.

    What refused it may be the cause of an error, and libraries in other languages tell only its words.
    """
    while error is not None:
        full = any(words in str(error) for words in ("No space left on device", "disk is full"))
        number = errno.ENOSPC if full else getattr(error, "errno", None)
        if (isinstance(error, OSError) or full) and (do := _PLACES.get(number or 0)):
            name = getattr(error, "filename", None)
            place = f"{name}: " if name else ""
            return f"{place}{os.strerror(number or 0)} ({do})"
        error = error.__cause__ or error.__context__
    return None
