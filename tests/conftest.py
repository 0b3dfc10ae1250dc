"""What every test stands on: nothing leaves this machine, one thread (a second only makes models this small wait), and real servers where a test asks for them."""

import os
import signal

import pytest

from tests.changed import is_slow

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
    """Put the slow files first: one that is begun last runs on while the other worker has nothing left to do."""
    items.sort(key=lambda item: not is_slow(item.nodeid.partition("::")[0]))


@pytest.fixture
def one_thread():
    """Tiny operations gain nothing from threads, and lose much where other processes want the same cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
