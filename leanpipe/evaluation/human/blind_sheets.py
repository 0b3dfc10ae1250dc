"""Stage `blind_sheets`: two models' answers side by side, in an order that tells nothing, to be voted on.

Which answer is whose is in `key.json`, which nobody who votes should see. The sheet is a table for spreadsheets and a page
for browsers.
"""

import csv
import io
import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import Field

from leanpipe.core.config import StageConfig
from leanpipe.core.errors import UserError
from leanpipe.core.lineage import MEASURES
from leanpipe.core.report import Report
from leanpipe.core.stage import Summary, stage
from leanpipe.core.store import REPORT, digest_json
from leanpipe.evaluation.human.answer_prompts import read_answers
from leanpipe.evaluation.human.sheet_page import sheet_page

LEFT, RIGHT, TIE, BOTH_BAD = "left", "right", "tie", "both bad"
CHOICES = (LEFT, RIGHT, TIE, BOTH_BAD)
FIRST, SECOND = "first", "second"
COLUMNS = ("sheet", "item", "prompt", "left", "right", "vote", "rater", "comment")
SHEET_TABLE, SHEET_PAGE, KEY_FILE = "sheet.csv", "sheet.html", "key.json"
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""With these a spreadsheet takes a cell for a formula, and would compute what a model wrote."""


class BlindSheetsConfig(StageConfig):
    """How the answers are mixed."""

    seed: int = Field(0, ge=0, le=2**31 - 1)
    """Another seed puts other answers on the left."""


@dataclass(frozen=True)
class BlindSheetsInputs:
    """What two models answered to the same prompts: results of `answer_prompts`."""

    first: Path
    second: Path


@dataclass(frozen=True)
class Item:
    """A prompt, with the answer of each model, and whose is on the left."""

    item: str
    prompt: str
    first: str
    second: str
    left: str
    """`first` or `second`."""

    @property
    def on_the_left(self) -> str:
        return self.first if self.left == FIRST else self.second

    @property
    def on_the_right(self) -> str:
        return self.second if self.left == FIRST else self.first

    def preferred(self, choice: str) -> str:
        """Say which model a vote is for: `first` or `second`; a vote for neither stays what it is."""
        if choice not in (LEFT, RIGHT):
            return choice
        return self.left if choice == LEFT else FIRST if self.left == SECOND else SECOND


@dataclass(frozen=True)
class SheetKey:
    """What undoes the blinding of a sheet."""

    sheet: str
    """The sheet's name, which each vote repeats."""
    items: tuple[Item, ...]
    identical: tuple[str, ...]
    """Prompts to which both models answered the same: nobody is asked, and neither is better."""

    @classmethod
    def read(cls, folder: Path) -> "SheetKey":
        """Read the key among the files of a result of `blind_sheets`."""
        known = json.loads((folder / KEY_FILE).read_text(encoding="utf-8"))
        return cls(known["sheet"], tuple(Item(**one) for one in known["items"]), tuple(known["identical"]))


@stage(version=1, reads={"first": MEASURES, "second": MEASURES})
def blind_sheets(config: BlindSheetsConfig, inputs: BlindSheetsInputs, out: Path, report: Report) -> Summary:
    """Write the sheet as `report/sheet.csv` and `report/sheet.html`, and `key.json`, which says whose answer is where.

    Raises UserError if there is nothing to choose between: both models answered the same to each prompt.
    """
    key = _mixed(config.seed, inputs)
    (out / KEY_FILE).write_text(json.dumps(asdict(key), ensure_ascii=False, indent=1), encoding="utf-8")
    folder = out / REPORT
    folder.mkdir(parents=True, exist_ok=True)
    # The mark at its beginning tells spreadsheets that it is UTF-8.
    (folder / SHEET_TABLE).write_text(_table(key), encoding="utf-8-sig", newline="")
    sides = [(one.item, one.prompt, one.on_the_left, one.on_the_right) for one in key.items]
    (folder / SHEET_PAGE).write_text(sheet_page(key.sheet, sides), encoding="utf-8")
    return {"items": len(key.items), "identical_answers": len(key.identical), "sheet": key.sheet}


def _mixed(seed: int, inputs: BlindSheetsInputs) -> SheetKey:
    pairs = list(zip(read_answers(inputs.first), read_answers(inputs.second), strict=True))
    asked = [(one.prompt, one.text.strip(), other.text.strip()) for one, other in pairs]
    identical = tuple(prompt for prompt, one, other in asked if one == other)
    different = [row for row in asked if row[1] != row[2]]
    if not different:
        raise UserError(
            f"both models give the same answer to each of the {len(asked)} prompts, so that there is nothing to vote on: "
            "compare other models, or give another prompt_set"
        )
    # Each model is on the left as often as on the right. Answers are in the seed: whoever knows it cannot tell the order.
    rng = random.Random(digest_json([seed, different]))
    order = [FIRST, SECOND] * (len(different) // 2) + [rng.choice((FIRST, SECOND))] * (len(different) % 2)
    rng.shuffle(order)
    items = tuple(
        Item(str(number), *row, left)
        for number, (row, left) in enumerate(zip(different, order, strict=True), 1)
    )
    shown = [(one.prompt, one.on_the_left, one.on_the_right) for one in items]
    return SheetKey(_name_of(shown), items, identical)


def _name_of(shown: Sequence[tuple[str, str, str]]) -> str:
    """Name a sheet by what it shows. Digits alone, or with an e between them, a spreadsheet would make a number of."""
    return f"sheet-{digest_json(shown)[:10]}"


def _table(key: SheetKey) -> str:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\r\n")
    table.writerow(COLUMNS)
    for one in key.items:
        words = (one.prompt, one.on_the_left, one.on_the_right)
        table.writerow([key.sheet, one.item, *map(_as_text, words), "", "", ""])
    return text.getvalue()


def _as_text(cell: str) -> str:
    """Return a cell that no spreadsheet computes."""
    return f"'{cell}" if cell.startswith(_FORMULA) else cell
