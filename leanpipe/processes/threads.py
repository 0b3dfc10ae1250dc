"""How many threads a stage computes with, and how they wait for each other, for a machine that is not ours alone.

The number decides the last digits of a result, so it is that of the cores that this process may use at all, and does not
follow what others do with them. How threads wait decides nothing but speed.
"""

import os
from collections.abc import Mapping

from leanpipe.core import device

_SPINS = 1_000
"""How often a thread looks for its next part of the work before it gives its core back: some 20 microseconds, as long as
the pauses within a training step. GNU's OpenMP, which PyTorch uses on Linux, looks 300,000 times, some 5 milliseconds: where
another process has the core of the thread that all wait for, they burn the time in which it could go on."""


def thread_environment(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return variables for a process that will load PyTorch, which reads them while it is loaded. What is set already stays."""
    chosen = {}
    if not environment.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}:
        chosen["GOMP_SPINCOUNT"] = str(_SPINS)
    # OpenMP sees which cores a process may use, but not that its container may use only a part of their time.
    if "OMP_NUM_THREADS" not in environment and (cores := device.cores()) < len(os.sched_getaffinity(0)):
        chosen["OMP_NUM_THREADS"] = str(cores)
    return chosen
