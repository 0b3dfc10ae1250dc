"""What every test stands on: nothing leaves this machine, one thread (a second only makes models this small wait), and real servers where a test asks for them."""

import gc
import os
import signal
import sys

import pytest

import leanpipe  # noqa: F401 - before a test imports transformers, which would import torchao with it

LONGEST = (
    "flows/test_end_to_end.py",
    "flows/test_every_field.py",
    "flows/test_interruptions.py",
    "flows/test_bad_inputs.py",
    "flows/test_deployments.py",
    "training/trainer/test_processes.py",
    "tasks/test_mlflow_model.py",
    "tasks/test_elsewhere.py",
    "flows/test_run_pages.py",
    "tasks/test_outages.py",
    "processes/test_fork_server.py",
    "flows/test_orphans.py",
    "training/distill/test_distill.py",
    "corpus/test_clean.py",
    "tasks/test_contest.py",
)
"""The files that take longest, the longest first."""

os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "OMP_NUM_THREADS": "1",
}
# A shell ignores Ctrl-C for what it runs in the background, and so would every server that a test starts and ends with it.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first: one that is begun last runs on while the other workers have nothing left to do."""
    place = {f"tests/{file}": number for number, file in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.nodeid.partition("::")[0], len(place)))


gc.disable()  # while all is imported, of which nothing is garbage


def pytest_collection_finish() -> None:
    """Collect garbage from now on, and look for none in what was imported."""
    gc.freeze()
    gc.enable()


_MANY = 200  # modules
_frozen = 0


def pytest_runtest_teardown(nextitem: pytest.Item | None) -> None:
    """Take what was imported out of the garbage collector's sight: every training has it look through everything, and
    looking through these libraries is half of a training this small."""
    global _frozen
    if nextitem and len(sys.modules) > _frozen + _MANY:
        _frozen = len(sys.modules)
        gc.collect()
        gc.freeze()


@pytest.fixture
def one_thread():
    """Tiny operations gain nothing from threads, and lose much where other processes want the same cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
