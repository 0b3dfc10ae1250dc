"""Pages and progress in Prefect: no stage waits for them or ends for them, and they are shown when Prefect is there."""

from collections.abc import Iterator

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from tasks.tracking.background import calls
from tasks.tracking.pages import pages_of_a_run, show_link, show_page
from tasks.tracking.progress import PrefectProgress


@pytest.fixture
def nobody() -> Iterator[None]:
    """An address of Prefect at which nobody listens."""
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        yield
        calls.forget()


def test_nobody_waits_for_a_prefect_that_is_away(nobody: None):
    progress = PrefectProgress("a stage", every_seconds=0)
    for done in range(5):
        progress.progress(done, 4, "tokens")
    show_page("# A page", "a-page", "what it is")
    show_link("http://127.0.0.1:9", "somewhere", "a-link")
    assert not calls.finish(0), "they were made although nobody listens"


def test_a_run_that_fails_ends_as_it_failed_whatever_is_not_shown_yet(nobody: None):
    with pytest.raises(KeyboardInterrupt), pages_of_a_run():
        show_page("# A page", "a-page", "what it is")
        raise KeyboardInterrupt
    assert calls.finish(0), "it was to be forgotten"


def test_calls_are_made_in_order_and_of_those_with_one_key_the_newest():
    made: list[object] = []
    refusals = iter([ConnectionError("away"), ConnectionError("still away")])

    def first() -> None:
        for error in refusals:
            raise error
        made.append("first")

    calls.add(first)
    for percent in range(5):
        calls.add(lambda percent=percent: made.append(percent), key="progress")
    calls.add(lambda: made.append("last"))
    assert calls.finish(60)
    assert made == ["first", 4, "last"]
