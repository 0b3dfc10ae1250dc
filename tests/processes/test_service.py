"""A process that is started again when it ends, and the processes that are found by what they inherited."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from leanpipe.core.errors import UserError
from leanpipe.processes.process_tree import processes_with, send, values_of, wait_for_end
from leanpipe.processes.service import Service


@pytest.fixture
def quick(tmp_path: Path):
    """A service that ends at once, and may do so twice."""
    service = Service("quick", ["this", "--version"], tmp_path / "logs" / "quick.log", most_failures=2)
    yield service
    service.stop()


def ended(service: Service) -> str:
    """What is said of the end of the process."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if said := service.notice_end():
            return said
        time.sleep(0.05)
    raise AssertionError(f"{service.name} did not end")


def test_what_ends_is_started_again_later_each_time_and_given_up_if_it_always_does(quick: Service):
    delays = []
    for _ in range(2):
        quick.start()
        said = ended(quick)
        assert said.startswith("quick ended with status 0") and "quick.log" in said
        delays.append(said.partition(" starts again in ")[2].partition(" s")[0])
        assert quick.pid is None and quick.notice_end() is None
    assert delays == ["1", "2"] and not quick.is_due()
    quick.start()
    with pytest.raises(UserError, match=r"quick ended with status 0: see .*; everything was stopped"):
        ended(quick)


def test_a_service_is_killed_with_what_it_started(tmp_path: Path):
    service = Service("server", ["http.server", "0", "--bind", "127.0.0.1"], tmp_path / "server.log")
    service.start()
    assert service.pid and service.notice_end() is None and not service.is_due()
    pid = service.pid
    service.kill()
    assert service.pid is None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_processes_are_found_by_their_environment_whatever_becomes_of_their_parents(tmp_path: Path):
    code = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])"
    mark = str(tmp_path)
    parent = subprocess.run([sys.executable, "-c", code], env=os.environ | {"LEANPIPE_TEST_MARK": mark})
    assert parent.returncode == 0
    (orphan,) = processes_with("LEANPIPE_TEST_MARK", mark)
    assert mark in values_of("LEANPIPE_TEST_MARK")
    send([orphan], signal.SIGKILL)
    assert not wait_for_end([orphan], 10)
    assert not processes_with("LEANPIPE_TEST_MARK", mark)
