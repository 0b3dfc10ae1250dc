"""Votes from the sheets that raters filled in, however their spreadsheets write a table."""

import codecs
import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from leanpipe.core.allowed_paths import Roots
from leanpipe.core.errors import UserError, refused_if_unreadable
from leanpipe.core.files import expanded
from leanpipe.evaluation.human.blind_sheets import CHOICES, SheetKey

VOTE_COLUMNS = ("sheet", "item", "vote", "rater", "comment")
_NEEDED = ("sheet", "item", "vote")
_DELIMITERS = ",;\t"
_WORDS = f"{', '.join(CHOICES[:-1])} or {CHOICES[-1]}"
_LONGEST_CELL = 2**24  # characters; csv's own limit is less than a long answer


class Vote(NamedTuple):
    """What a rater says of an item."""

    item: str
    choice: str
    """One of `CHOICES`: by side, for the rater knows no more."""
    rater: str
    comment: str = ""


class FilledSheet(NamedTuple):
    """A table of votes, and what to call it when something is wrong with it."""

    name: str
    text: str
    rater: str
    """Who voted where the table does not say."""


def open_sheets(given: Sequence[str]) -> list[FilledSheet]:
    """Read filled sheets: each is the path of one, or its text if that has several lines. Raises UserError if there is none."""
    sheets = []
    for number, one in enumerate(given, 1):
        if "\n" in one.strip():
            sheets.append(FilledSheet(f"the pasted sheet {number}", one, f"rater {number}"))
        elif one.strip():
            path = _place(one.strip())
            sheets.append(FilledSheet(str(path), _decoded(path), path.stem))
    return sheets


def read_votes(sheets: Sequence[FilledSheet], key: SheetKey) -> list[Vote]:
    """Read the votes of all sheets. Rows without a vote are passed over.

    Raises UserError for votes on something else, for words that are none, for two votes of one rater on one item, and if
    there is no vote at all.
    """
    votes = [vote for sheet in sheets for vote in _votes(sheet, key)]
    if not votes:
        names = ", ".join(sheet.name for sheet in sheets) or "what was given"
        raise UserError(f"there is no vote in {names}: write {_WORDS} into the column vote")
    spelt: dict[str, str] = {}
    votes = [
        vote._replace(rater=spelt.setdefault(" ".join(vote.rater.casefold().split()), vote.rater))
        for vote in votes
    ]
    (item, rater), count = Counter((vote.item, vote.rater) for vote in votes).most_common(1)[0]
    if count > 1:
        raise UserError(
            f"{rater} voted {count} times on item {item}: give each sheet once, and each rater a name of their own in the "
            "column rater"
        )
    return votes


def write_votes(votes: Sequence[Vote], sheet: str) -> str:
    """Write votes as the table that `read_votes` reads."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(VOTE_COLUMNS)
    table.writerows([sheet, vote.item, vote.choice, vote.rater, vote.comment] for vote in votes)
    return text.getvalue()


def _place(reference: str) -> Path:
    Roots.from_environment().check("votes", reference)
    path = expanded(reference)
    if not path.is_file():
        raise UserError(
            f"votes: {reference} is no file; give the path of a filled sheet on the machine that runs this, or paste its text"
        )
    return path


def _decoded(path: Path) -> str:
    with refused_if_unreadable(f"the sheet {path}", "save it as CSV, in UTF-8"):
        content = path.read_bytes()
        if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return content.decode("utf-16")
        try:
            return content.decode("utf-8-sig")
        except (
            UnicodeDecodeError
        ):  # as spreadsheets on Windows save it; names and comments at most are misread
            return content.decode("cp1252", errors="replace")


def _votes(sheet: FilledSheet, key: SheetKey) -> Iterator[Vote]:
    known = {one.item for one in key.items}
    for place, row in _rows(sheet):
        if not (said := row["vote"]):
            continue
        if row["sheet"].casefold() != key.sheet:
            raise UserError(
                f"{place} is a vote on {row['sheet'] or 'a sheet without a name'}, and these models' answers are on {key.sheet}: "
                "give votes on that, with its name in the column sheet"
            )
        item = re.sub(r"\.0+$", "", row["item"])  # a spreadsheet may make a number of it
        if item not in known:
            raise UserError(
                f"{place} is a vote on item {row['item'] or '(none)'}, which {key.sheet} does not have: it has 1 to {len(known)}"
            )
        choice = " ".join(re.sub(r"[\s_-]+", " ", said).casefold().split())
        if choice not in CHOICES:
            raise UserError(f"{place} says {said[:60]!r}, which is no vote: write {_WORDS}")
        yield Vote(item, choice, row["rater"] or sheet.rater, row["comment"])


def _rows(sheet: FilledSheet) -> Iterator[tuple[str, Mapping[str, str]]]:
    """The rows by column, each with where it stands; the columns may be in any order, and others among them."""
    text = sheet.text.removeprefix("\ufeff").lstrip("\r\n")
    if re.match(r"sep=.\r?\n", text):  # a hint to Excel
        text = text.partition("\n")[2]
    header = text.partition("\n")[0]
    delimiter = max(_DELIMITERS, key=header.count)
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_CELL))
    with refused_if_unreadable(sheet.name, "save it as CSV, in UTF-8"):
        table = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    columns = [name.strip().casefold() for name in table[0]] if table else []
    if missing := [name for name in _NEEDED if name not in columns]:
        raise UserError(
            f"{sheet.name} has no column {' and no column '.join(missing)}: keep the first row of the sheet, as "
            f"{', '.join(VOTE_COLUMNS)}"
        )
    for number, cells in enumerate(table[1:], 2):
        row = dict.fromkeys(VOTE_COLUMNS, "") | dict(
            zip(columns, (cell.strip() for cell in cells), strict=False)
        )
        yield f"row {number} of {sheet.name}", row
