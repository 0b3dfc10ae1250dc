"""People's votes on a sheet: the run waits for them, paused, on its page in Prefect, and asks again for what cannot be read."""

import hashlib
import logging
import math
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from prefect import pause_flow_run
from prefect.exceptions import FlowPauseTimeout
from prefect.input import RunInput
from prefect.runtime import flow_run
from pydantic import Field

from leanpipe.core.errors import UserError
from leanpipe.core.files import write_text
from leanpipe.core.home import Home
from leanpipe.core.store import REPORT, Artifact, external
from leanpipe.evaluation.human.blind_sheets import SHEET_PAGE, SHEET_TABLE, SheetKey
from leanpipe.evaluation.human.count_votes import VOTES_REPORT
from leanpipe.evaluation.human.read_votes import Vote, open_sheets, read_votes, write_votes
from leanpipe.evaluation.human.votes_report import PICTURE
from tasks.run import Run
from tasks.tracking.pages import show_image, show_link, show_page
from tasks.tracking.progress import say

log = logging.getLogger("leanpipe.run")

_POLL = 10  # seconds
_LATER = "have the sheets filled in, and run this again with their paths as votes; nothing is computed anew"


class FilledSheets(RunInput):
    """What a person answers."""

    sheets: list[str] = Field(
        [], description="Filled sheets: each the path of one on the worker's machine, or its text."
    )


def show_sheets(run: Run, sheets: Artifact) -> None:
    """Put the sheets for raters into MLflow and on the page of the run; whose answers they are is not among them.

    For whoever works on this machine they are copied to where they may be filled in: what is in the store must stay as it is.
    """
    for name in (SHEET_PAGE, SHEET_TABLE):
        run.tracking.log_file(run.mlflow_run, sheets.path / REPORT / name)
        copy = _copy(run, sheets, name)
        if not copy.exists():  # else it may be filled in already
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(sheets.path / REPORT / name, copy)
    places = [_copy(run, sheets, name) for name in (SHEET_PAGE, SHEET_TABLE)]
    say(f"  For raters: {places[0]}, or {places[1]}")
    url = _address(run)
    show_page(
        _sheets_page(sheets, places, url), "sheets", "What raters are given, and how their votes come back"
    )
    if url:
        show_link(_download(url, SHEET_PAGE), "The sheet for raters, as a page", "sheet")


def _address(run: Run) -> str | None:
    """The page of the run in MLflow, once the sheets are there: whoever opens them must find them."""
    if url := run.tracking.url(run.mlflow_run):
        try:
            run.tracking.wait_until_sent("the sheets")
        except UserError as error:  # they lie on this machine too
            log.warning("the sheets are not in MLflow yet: %s", error)
            return None
    return url


def _copy(run: Run, sheets: Artifact, name: str) -> Path:
    return run.home.votes / f"{sheets.summary['sheet']}{Path(name).suffix}"


def gather_votes(home: Home, sheets: Artifact, given: Sequence[str], hours: float) -> Artifact | None:
    """The votes on the sheets: those that were given, else those that a person gives on the page of the run.

    None where nobody is to be asked, or can be: then they are given to a later run. Raises UserError for votes that were given
    and cannot be read, and if nobody gives any within so many hours.
    """
    key = SheetKey.read(sheets.path)
    if given:
        return _kept(home, key, read_votes(open_sheets(given), key))
    if not hours or not str(flow_run.ui_url or "").startswith("http"):
        tell = f"Nobody is asked for votes here: {_LATER}"
        log.warning("%s", tell)
        say(f"leanpipe: {tell}")
        return None
    return _kept(home, key, _ask(key, hours))


def show_preference(run: Run, counted: Artifact) -> None:
    """Put the report into MLflow, and the picture on the page of the run, and say the verdict."""
    folder = counted.path / REPORT
    for name in (f"{VOTES_REPORT}.html", f"{VOTES_REPORT}.md", PICTURE):
        run.tracking.log_file(run.mlflow_run, folder / name)
    show_image(folder / PICTURE, "preference", "Who voted how, and what it comes to")
    if url := run.tracking.url(run.mlflow_run):
        show_link(f"{url}/artifacts/{VOTES_REPORT}.html", "The report of this human evaluation", "report")
    verdict = str(counted.summary["verdict"])
    log.info("%s", verdict)
    say(f"  {verdict}")


def _ask(key: SheetKey, hours: float) -> list[Vote]:
    until = time.monotonic() + hours * 3_600
    fault, asked = "", 0
    while True:
        left = max(1, math.ceil(until - time.monotonic()))
        asked += 1
        log.warning(
            "This run is paused until somebody resumes it on its page in Prefect with votes on %s.", key.sheet
        )
        try:
            answer = pause_flow_run(
                wait_for_input=FilledSheets.with_initial_data(description=_question(key, fault)),
                timeout=left,
                poll_interval=min(_POLL, left),
                key=f"votes-{key.sheet}-{asked}",
            )
        except FlowPauseTimeout:
            raise UserError(f"nobody gave votes within {hours:g} hours (wait_hours): {_LATER}") from None
        try:
            return read_votes(open_sheets(answer.sheets), key)
        except UserError as error:  # a slip in a table costs nobody the run
            fault = str(error)
            log.warning("These votes were not taken: %s. Votes are asked for again.", fault)


def _question(key: SheetKey, fault: str) -> str:
    asked = (
        f"**Give the votes on {key.sheet}** ({len(key.items)} items): add one entry for each rater's filled sheet, its path on the "
        "worker's machine or its text. The sheets are under *Artifacts* of this run."
    )
    return f"**Not taken:** {fault}.\n\n{asked}" if fault else asked


def _kept(home: Home, key: SheetKey, votes: Sequence[Vote]) -> Artifact:
    """Write the votes where they stay, whatever becomes of the run: people's time is in them."""
    text = write_votes(votes, key.sheet)
    digest = hashlib.sha256(text.encode()).hexdigest()[:10]
    path: Path = home.votes / f"{key.sheet}-votes-{digest}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)
    raters = len({vote.rater for vote in votes})
    log.info("%d votes of %d raters on %s, kept in %s", len(votes), raters, key.sheet, path)
    return external("votes", path)


def _sheets_page(sheets: Artifact, here: Sequence[Path], url: str | None) -> str:
    places = [f"`{place}`" for place in here]
    if url:
        places = [
            f"[{SHEET_PAGE}]({_download(url, SHEET_PAGE)}), a page for any browser, which needs no network",
            f"[{SHEET_TABLE}]({_download(url, SHEET_TABLE)}), a table for a spreadsheet",
            f"[the page, to look at in MLflow]({url}/artifacts/{SHEET_PAGE})",
        ]
    listed = "\n".join(f"- {place}" for place in places)
    return (
        f"# {sheets.summary['sheet']}: {sheets.summary['items']} items to vote on\n\nGive each rater one of these; whose answers "
        f"they are is in neither:\n\n{listed}\n\nIn each row the column *vote* becomes left, right, tie or both bad, and *rater* a "
        "name. Then resume this run, with a path or the text of each filled sheet; if it has ended, run it again with them as "
        "`votes`.\n"
    )


def _download(url: str, name: str) -> str:
    """Where MLflow gives a file of the run with this page, as it is: within its own pages a browser neither keeps nor saves votes."""
    server, _, page = url.partition("/#/")
    return f"{server}/get-artifact?run_uuid={page.rpartition('/')[2]}&path={name}"
