"""Computing within the forward pass of a wrapper such as DistributedDataParallel."""

from collections.abc import Callable
from typing import Any, TypeVar

_T = TypeVar("_T")


def through(wrapper: Any, inner: Any, compute: Callable[[], _T]) -> _T:
    """`compute()` within the forward pass of `wrapper`, which makes it average the gradients of several processes.

    Its hooks run around a call of `inner`, and that call becomes `compute`, as in Lightning's forward redirection.
    """
    if wrapper is inner:
        return compute()
    original = inner.__dict__.get("forward")

    def once() -> _T:
        if original is None:
            del inner.forward
        else:
            inner.forward = original
        return compute()

    inner.forward = once
    return wrapper()
