"""Compute within the forward pass of a model that is shared: DistributedDataParallel's, or one in shards."""

from collections.abc import Callable
from typing import Any, TypeVar

from leanpipe.training.distributed.fsdp import is_sharded

_T = TypeVar("_T")


def redirect_forward(wrapper: Any, inner: Any, compute: Callable[[], _T]) -> _T:
    """Run `compute()` within the forward pass of `wrapper`, which gathers weights and averages the gradients of processes.

    Its hooks run around a call of `inner`, and that call becomes `compute`, as in Lightning's forward redirection.
    """
    if wrapper is inner and not is_sharded(inner):
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
