"""A small corpus in which every rule of cleaning finds something, and a few instructions."""

import json
import pydoc_data.topics
from pathlib import Path

_KEPT = (
    "async", "binary", "booleans", "context-managers", "continue", "conversions", "del", "exceptions", "for", "global",
    "return", "specialattrs", "truth", "typesmethods", "with",
)  # fmt: skip
_TOO_SHORT, _REPETITIVE = "await", "bitwise"
_GERMAN = (
    "Der Fluss entspringt im Norden, fließt an drei kleinen Städten vorbei und erreicht nach vielen Meilen das Meer.",
    "Im Frühling, wenn der Schnee schmilzt, führt er doppelt so viel Wasser wie im Herbst, und die Mühlen stehen still.",
    "Niemand weiß genau, wann die erste Brücke gebaut wurde, aber sie steht noch heute und wird gern von Malern besucht.",
)
_MORE = "\nOne more line, and then another one that nobody had read before it was written here."
_COLOURS = ("red", "green", "blue", "black", "white", "grey", "pink", "brown", "orange", "purple")


def write_corpus(folder: Path) -> Path:
    """Help topics of Python, two of them almost the same and two quite, one too short and one that repeats itself; a
    text in German, an English one that begins, halves and ends in German; and texts in either of two columns."""
    folder.mkdir()
    topics = pydoc_data.topics.topics
    for name in (*_KEPT, _TOO_SHORT, _REPETITIVE):
        (folder / f"{name}.txt").write_text(topics[name])
    (folder / "x-same.txt").write_text(topics["truth"])
    (folder / "x-near.txt").write_text(topics["specialattrs"] + _MORE)
    (folder / "x-german.txt").write_text("\n\n".join(_GERMAN))
    half = topics["dynamic-features"], topics["typesmodules"][:650]
    (folder / "x-mixed.txt").write_text("\n\n".join((_GERMAN[0], half[0], _GERMAN[1], half[1], _GERMAN[2])))
    rows = (("identifiers", "objects"), ("in", "slicings"), ("nonlocal", "unary"))
    lines = [json.dumps({"text": topics[text], "content": topics[content]}) for text, content in rows]
    (folder / "x-columns.jsonl").write_text("\n".join(lines))
    return folder


def write_instructions(path: Path) -> Path:
    """Ten instructions."""
    records = (
        {"instruction": f"Say {name}", "output": f"{name} it is, and {name} it will be"} for name in _COLOURS
    )
    path.write_text("\n".join(map(json.dumps, records)))
    return path
