"""The page on which people vote, in a real browser; and all of it, from two models to what people prefer, with real servers."""

import re
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from leanpipe.core.store import REPORT
from leanpipe.evaluation.human.blind_sheets import SHEET_PAGE, SheetKey
from leanpipe.evaluation.human.read_votes import Vote, open_sheets, read_votes
from leanpipe.settings.overrides import write_override
from tests.evaluation.human.sheets import blinded
from tests.flows.mlflow_runs import client, files, parents
from tests.flows.servers import Servers, running, up
from tests.support.tiny_models import tiny_model

pytestmark = [pytest.mark.timeout(900), pytest.mark.browser]

TRICKY = "</script><b>SHEET_NAME</b> SCRIPT_DIGEST"
BOUND = 60_000  # milliseconds


def vote(browser: Any, page: Path, rater: str, keys: str, comment: str = "") -> str:
    """Open the page for raters as a file, vote by keys, and return the table that is downloaded."""
    sheet = browser.new_context(accept_downloads=True).new_page()
    sheet.set_default_timeout(BOUND)
    sheet.goto(page.as_uri())
    sheet.locator("#rater").fill(rater)
    sheet.locator("#comment").fill(comment)
    sheet.locator("h1").click()
    for key in keys:
        sheet.keyboard.press(key)
    sheet.reload()  # what was voted is kept in the browser
    assert sheet.evaluate("document.documentElement.scrollWidth <= innerWidth")
    with sheet.expect_download() as download:
        sheet.locator("#save").click()
    text = Path(download.value.path()).read_text(encoding="utf-8-sig")
    sheet.context.close()
    return text


def test_the_page_shows_answers_as_they_are_and_gives_the_votes_as_a_table(browser, tmp_path: Path):
    sheets = blinded(tmp_path, [TRICKY, "b", "c", "d"], ["x" * 500, "", "=1+1", "e"])
    page, key = sheets.path / REPORT / SHEET_PAGE, SheetKey.read(sheets.path)
    sheet = browser.new_page(viewport={"width": 380, "height": 700})
    sheet.set_default_timeout(BOUND)
    asked: list[str] = []
    sheet.on("request", lambda request: asked.append(request.url))
    sheet.goto(page.as_uri())
    shown = {sheet.locator(f"#{side} .text").inner_text() for side in ("left", "right")}
    assert shown == {TRICKY, "x" * 500} and sheet.locator("#prompt").inner_text() == "Question 1?"
    assert sheet.evaluate("document.documentElement.scrollWidth") == 380 and len(asked) == 1
    sheet.locator("#save").click()
    assert sheet.locator("#told").inner_text() == "Write your name first, at the top."
    sheet.close()
    # The second is voted on twice, by which it is voted on no more.
    table = vote(browser, page, "Anna", "12p2n4", comment="=so, so")
    votes = read_votes(open_sheets([table]), key)
    assert votes == [Vote("1", "left", "Anna", "'=so, so"), Vote("3", "both bad", "Anna")]


def test_within_another_page_votes_are_copied_where_nothing_is_kept_or_downloaded(browser, tmp_path: Path):
    """As MLflow shows a file: in a frame that may run scripts, and no more."""
    sheets = blinded(tmp_path, ["a", "b"], ["c", "d"])
    outside = tmp_path / "outside.html"
    outside.write_text(
        f'<iframe sandbox="allow-scripts" width=900 height=700 src="{(sheets.path / REPORT / SHEET_PAGE).as_uri()}">'
    )
    page = browser.new_page()
    page.set_default_timeout(BOUND)
    page.goto(outside.as_uri())
    frame = page.frame_locator("iframe")
    assert "not kept in this window" in frame.locator("#kept").inner_text()
    frame.locator("#rater").fill("Ben")
    frame.locator("[data-vote=right]").click()
    frame.locator("summary").click()
    votes = read_votes(open_sheets([frame.locator("#text").input_value()]), SheetKey.read(sheets.path))
    assert votes == [Vote("1", "right", "Ben")]
    page.close()


@pytest.mark.chaos
def test_people_vote_and_resume_the_run_with_their_votes(browser, tmp_path: Path):
    """The page comes from MLflow and knows no names; two tables go into Prefect's form; what they say is in both."""
    models = [
        tiny_model(tmp_path / name, seed=seed, tied=False) for seed, name in enumerate(("base", "tuned"))
    ]
    chosen = {"models": list(map(str, models)), "answer_prompts.max_new_tokens": 4}
    sets = [part for name, value in chosen.items() for part in ("--set", write_override(name, value))]
    with up(tmp_path / "home") as servers, running(servers.home, "run", "human-evaluation", *sets) as process:
        run = paused(servers)
        shown = {"artifacts": {"flow_run_id": {"any_": [run]}, "key": {"any_": ["sheet"]}}}
        (link,) = servers.api("artifacts/filter", shown)
        page = tmp_path / "sheet.html"
        address = re.findall(r"\((http[^)]+)\)", link["data"])[0]
        page.write_bytes(urllib.request.urlopen(address, timeout=60).read())
        assert not re.search("base|tuned", page.read_text())
        resume(browser, servers, run, [vote(browser, page, "Anna", "123"), vote(browser, page, "Ben", "124")])
        assert process.wait(timeout=240) == 0, (servers.home / "run.out").read_text()
        assert "cannot be told which of base and tuned" in (servers.home / "run.out").read_text()
        mlflow = client(servers)
        (counted,) = parents(mlflow)
        (folder,) = (servers.home / "store" / "blind_sheets").iterdir()
        one, other, _ = SheetKey.read(folder).items
        worth = [one.preferred("left") == "second", other.preferred("right") == "second", 0.5]
        assert counted.data.metrics["eval/votes/preference"] == pytest.approx(sum(worth) / 3)
        logged = set(files(mlflow, counted.info.run_id))
        assert {"sheet.html", "sheet.csv", "human_evaluation.html", "preference.png"} <= logged
        assert "key.json" not in logged


def paused(servers: Servers) -> str:
    """The id of the flow run that waits for a person, once what it shows is there."""
    asked = {"flow_runs": {"state": {"type": {"any_": ["PAUSED"]}}}}
    deadline = time.monotonic() + 400
    while not (found := servers.api("flow_runs/filter", asked)):
        assert time.monotonic() < deadline, (servers.home / "run.out").read_text()
        time.sleep(0.5)
    return found[0]["id"]


def resume(browser: Any, servers: Servers, run: str, tables: list[str]) -> None:
    """Give the tables on the run's page, as a person does."""
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.set_default_timeout(BOUND)
    page.goto(f"{servers.prefect}/runs/flow-run/{run}")
    page.get_by_role("button", name="Resume").first.click()
    for table in tables:
        page.get_by_role("button", name="Add item").click()
        page.locator("textarea").last.fill(table)
    page.get_by_role("button", name="Submit").click()
    page.get_by_text("Resume Flow Run").wait_for(state="hidden")
    page.close()
