"""A run and the imports that were begun for it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

_IMPORTS_WHEN_IT_BEGINS = """
import threading
from pathlib import Path
from leanpipe.core.config import StageConfig
from leanpipe.core.home import Home
from tasks.run import import_early, tracked_run

import_early()
import_early()  # a second run of the same process
assert [one.name for one in threading.enumerate()].count("imports") == 1
with tracked_run("a flow", StageConfig(), Home(Path({home!r}))):
    assert "imports" not in [one.name for one in threading.enumerate()]
    from transformers import AutoConfig
"""


@pytest.mark.timeout(300)
def test_a_run_begins_when_the_early_imports_are_done(tmp_path: Path):
    """Whoever imports transformers while another thread does may be given a module that has nothing in it yet."""
    done = subprocess.run(
        [sys.executable, "-c", _IMPORTS_WHEN_IT_BEGINS.format(home=str(tmp_path))],
        env={**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
