"""One home for the tests of the whole: a run from the command line first, then the servers over the same home.

They end with test_end_to_end.py, which collects all tests that need them: in two workers they would be made twice, and idle
servers cost the others time.
"""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flows.servers import Servers, leanpipe, up


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("leanpipe") / "home"


@pytest.fixture(scope="module")
def first_run(home: Path) -> subprocess.CompletedProcess[str]:
    """`leanpipe run --preset smoke` on a machine where nothing was run before."""
    done = leanpipe(home, "run", "--preset", "smoke")
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def servers(home: Path, first_run: subprocess.CompletedProcess[str]) -> Iterator[Servers]:
    with up(home) as running:
        yield running


@pytest.fixture(scope="module")
def browser():
    """A real headless Chromium. While it runs, this thread has a running event loop, with which Prefect works otherwise."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip(
            "the browser tests need Chromium: install it (Debian: apt-get install chromium), then run again"
        )
    from playwright.sync_api import sync_playwright

    quiet = ["quic", "background-networking", "component-update", "sync", "gpu"]
    options = ["--no-sandbox", "--no-first-run", *(f"--disable-{feature}" for feature in quiet)]
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=options)
        yield started
        started.close()
