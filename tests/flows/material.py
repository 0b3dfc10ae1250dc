"""A small corpus in which every rule of cleaning finds something, and a few instructions."""

import gzip
import json
import pydoc_data.topics
from itertools import pairwise
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
_NOTICE = (
    "This notice stands at the end of more than one page, and so it is a paragraph that was there before."
)
_WEB = f"""The history of the lighthouse

The lighthouse was built in 1870 by the people of the town, who had lost too many of their boats.[1]
It was lit with oil for fifty years, and the keeper climbed the stairs three times each night.
Electric light came in 1921. It came late.
Please switch on javascript in order to see the map of the coast.
This site uses cookies, and that is all that there is to say about it here.
The tower has been white since the war, and it can be seen from the hills behind the town.
In the summer of 1987 the last of the keepers went home to his family and to a garden of his own.
Have a look at the supercalifragilisticexpialidocious view that one has from the top of it.
Nobody has lived there since, but the light still burns, and the boats come home.

{_NOTICE}"""
_PERSONAL = f"""Whoever wants to know more of the society can write to ann.berger@web.de at any time of the day.
The office is open from nine to five, and its number is +49 30 12345678, which is never engaged for long.
Of the fee, which is small, one half is paid to DE89 3704 0044 0532 0130 00 and the other by card, as with
4111 1111 1111 1111, whose owner has agreed to be named. The server that keeps the list is 212.94.201.10, and those
who have access to it have the key api_key = "x7Kp9mQ2vL4nR8tZ1wB6yD3c" that was made for them. In America one
would be asked for a number such as 123-45-6789, but not here, and that is what we like about the place.

{_NOTICE}"""
_PAGE = """<html><head><title>Bees</title></head><body><nav><ul><li><a href="/">Home</a></li><li><a href="/a">About
us</a></li><li><a href="/c">Contact</a></li></ul></nav><main><article><h1>Bees in winter</h1>%s<table><tr><th>Month</th><th>Bees</th></tr><tr><td>January</td><td>ten thousand</td></tr></table></article>
<section id="comments" class="comments"><h2>Comments</h2><div class="comment"><p>What a good page this is, and how much
I have learnt from it about the bees of my own garden.</p></div></section></main>
<aside><p>Read also: ten things that every gardener has to know.</p></aside><footer><p>All rights reserved.</p>
</footer></body></html>"""
_PAGE_TEXT = (
    "When the days become short, the bees come together in the middle of the hive and keep each other warm.",
    "They take turns at the outside, and they eat of what they have gathered in the summer, a little at a time.",
    "The keeper leaves them alone until March, and then he looks after them, to see what they have left to eat.",
    "If it was a long winter, he gives them sugar, and with the first flowers the queen begins to lay her eggs.",
)
_LOREM = "This page is being built, and until then it says lorem ipsum and that is all that you have to read of it. "
_CODE = "A set is written with brackets, as { and }, and it has to have one thing in it, or it would be a dict of nothing. "
_QUOTED = ("booleans", "conversions", "exceptions", "specialattrs", "typesmethods", "with")
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
    _write_pages(folder)
    for name, other in pairwise(_QUOTED):
        half = len(topics[name]) // 2
        quote = f"What follows was taken from elsewhere.\n\n{topics[name][:half]}\n\n{topics[other][-1500:]}"
        (folder / f"y-quotes-{name}.txt").write_text(quote)
    lines = [json.dumps({"text": topics[text], "content": topics[content]}) for text, content in rows]
    (folder / "x-columns.jsonl").write_text("\n".join(lines))
    return folder


def _write_pages(folder: Path) -> None:
    """Texts as the web has them: with lines that C4 takes out, with personal data, in HTML, and packed."""
    (folder / "x-web.txt").write_text(_WEB)
    (folder / "x-personal.txt").write_text(_PERSONAL)
    (folder / "x-page.html").write_text(_PAGE % "".join(f"<p>{text}</p>" for text in _PAGE_TEXT))
    counted = (f"There are {number} things to be said of it. " for number in range(6))
    (folder / "x-lorem.txt").write_text(_LOREM + "".join(counted) + "And that is the end of what we have.")
    (folder / "x-code.txt").write_text(_CODE + "It was not always so. And who is to blame? " + _WEB[32:700])
    with gzip.open(folder / "x-packed.txt.gz", "wt") as packed:
        packed.write(pydoc_data.topics.topics["compound"])
    with gzip.open(folder / "x-unfolds.jsonl.gz", "wt") as packed:
        packed.write((json.dumps({"text": " ".join(_PAGE_TEXT)}) + "\n") * 200)


def write_evaluation(path: Path) -> Path:
    """An evaluation set: nine words in a row of one topic, and forty of which fifteen are of another."""
    short = " ".join(pydoc_data.topics.topics["async"].split()[40:49])
    quoted = " ".join(pydoc_data.topics.topics["global"].split()[30:45])
    rest = " ".join(f"unheard{number}" for number in range(25))
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in (short, f"{quoted} {rest}")))
    return path


def write_instructions(path: Path) -> Path:
    """Ten instructions."""
    records = (
        {"instruction": f"Say {name}", "output": f"{name} it is, and {name} it will be"} for name in _COLOURS
    )
    path.write_text("\n".join(map(json.dumps, records)))
    return path
