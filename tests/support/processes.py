"""Work in a process of its own, under limits that must not hold for the tests."""

import multiprocessing
import resource
import traceback
from collections.abc import Callable
from typing import Any

import psutil


def in_a_process_of_its_own(module: str, work: Callable[..., Any], *arguments: Any) -> Any:
    """What `work` of the test file `module` returns in a process that holds nothing but what that file imports.

    One forked from the tests' own process has what earlier tests left there: another amount of memory to spare, an event loop
    that runs.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([module])
    results = context.SimpleQueue()
    process = context.Process(target=_answer, args=(work, arguments, results))
    process.start()
    process.join()
    assert process.exitcode == 0
    answer, error = results.get()
    assert not error, error
    return answer


def leave_free(size: int) -> None:
    """Let this process take `size` bytes more than it has: allocations beyond that really fail."""
    taken = psutil.Process().memory_info().vms
    resource.setrlimit(resource.RLIMIT_AS, (taken + size, resource.RLIM_INFINITY))


def lift_limit() -> None:
    """Take the limit of `leave_free` away."""
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)


def _answer(work: Callable[..., Any], arguments: tuple[Any, ...], results: Any) -> None:
    answer, error = None, ""
    try:
        answer = work(*arguments)
    except Exception:  # noqa: BLE001 - whatever it is, the test shows it
        lift_limit()  # a traceback needs some memory, too
        error = traceback.format_exc()
    results.put((answer, error))
