import logging

import pytest

from tasks.run_inputs import _warn
from tasks.tracking.progress import TERMINAL


@pytest.mark.parametrize("at_terminal", [True, False])
def test_what_will_be_passed_over_is_said_on_the_page_and_at_the_terminal(
    monkeypatch, capsys, caplog, at_terminal: bool
):
    monkeypatch.setenv(TERMINAL, "1" if at_terminal else "")
    with caplog.at_level(logging.WARNING, "leanpipe.run"):
        _warn("2 files of [draft] cannot be read")
    assert [one.getMessage() for one in caplog.records] == ["2 files of [draft] cannot be read"]
    assert ("leanpipe: 2 files of [draft] cannot be read" in capsys.readouterr().err) is at_terminal
