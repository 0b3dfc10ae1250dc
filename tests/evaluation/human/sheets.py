"""Answers of two models, and the blinded sheets that are made of them."""

import json
from collections.abc import Sequence
from pathlib import Path

from leanpipe.core.report import Silent
from leanpipe.core.store import Artifact, external
from leanpipe.evaluation.human.answer_prompts import ANSWERS_FILE
from leanpipe.evaluation.human.blind_sheets import (
    BlindSheetsConfig,
    BlindSheetsInputs,
    SheetKey,
    blind_sheets,
)


def answered(folder: Path, answers: Sequence[str]) -> Path:
    """Write what `answer_prompts` writes: an answer to each of as many prompts."""
    folder.mkdir(parents=True)
    lines = [
        json.dumps(
            {"prompt": f"Question {number}?", "text": text, "tokens": 1, "stopped": True}, ensure_ascii=False
        )
        for number, text in enumerate(answers, 1)
    ]
    (folder / ANSWERS_FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def blinded(folder: Path, first: Sequence[str], second: Sequence[str], seed: int = 0) -> Artifact:
    """Make the sheets of two models that answered so."""
    out = folder / "sheets"
    out.mkdir(parents=True)
    inputs = BlindSheetsInputs(answered(folder / "first", first), answered(folder / "second", second))
    summary = blind_sheets.function(BlindSheetsConfig(seed=seed), inputs, out, Silent())
    return external("blind_sheets", out).model_copy(update={"summary": summary})


def numbered(folder: Path, items: int, seed: int = 0) -> SheetKey:
    """The key of sheets with so many items, on which the models answer `first 1`, `second 1` and so on."""
    answers = [[f"{whose} {number}" for number in range(1, items + 1)] for whose in ("first", "second")]
    return SheetKey.read(blinded(folder, *answers, seed=seed).path)


def side_of(key: SheetKey, item: str, whose: str) -> str:
    """Say on which side of an item the answer of `first` or `second` stands."""
    (one,) = (one for one in key.items if one.item == item)
    return "left" if one.left == whose else "right"
