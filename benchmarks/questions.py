"""Ten simple questions to the models of one or several homes, by the path that serves each; answers are judged blind.

Called by `python -m benchmarks.student`: `questions` asks, `judged` counts.
"""

import csv
import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from leanpipe.core.report import Silent
from leanpipe.core.store import Store

QUESTIONS: Mapping[str, Sequence[str]] = {
    "What is the capital of France?": ("Paris",),
    "What is two plus two?": ("4", "four", "Four"),
    "How many days are there in a week?": ("7", "seven", "Seven"),
    "What colour is the sky on a clear day?": ("blue", "Blue"),
    "What is the opposite of hot?": ("cold", "Cold", "cool", "Cool"),
    "Which planet do we live on?": ("Earth", "earth"),
    "What do bees make?": ("honey", "Honey"),
    "What is frozen water called?": ("ice", "Ice"),
    "Name an animal that barks.": ("dog", "Dog"),
    "In which country is London?": ("England", "United Kingdom", "UK", "Britain"),
}
"""Each with what is accepted, one of which must be in the answer as words of its own."""
_ANSWER_TOKENS = 40
SHEET, KEY = "sheet.csv", "key.json"
_STAGES = {"import_gguf": "teacher", "distill": "student", "finetune": "adapted", "quantize": ""}
"""By stage, what its result is called; a quantised model is called after its format, the folder that it lies in."""


class Answer(NamedTuple):
    """What a model answered to a question."""

    number: int
    """Tells nothing of whose it is."""
    question: str
    answer: str

    @property
    def is_accepted(self) -> bool:
        """Whether one of the accepted strings is in it, as words of their own."""
        words = "".join(sign if sign.isalnum() else " " for sign in self.answer).split()
        return any(f" {accepted} " in f" {' '.join(words)} " for accepted in QUESTIONS[self.question])


def ask(places: Sequence[Path], out: Path, only: Sequence[str] = ()) -> None:
    """Ask all models of the homes and folders `places`, and write a sheet without names, and the key, to `out`.

    `only` are the names of those that are asked. Prints how many answers have an accepted string, counted without the names.
    """
    models = {name: path for place in places for name, path in models_of(place).items() if _asked(name, only)}
    said = {}
    for name, path in models.items():
        print(f"asking {name}: {path}", flush=True)
        said[name] = answers(path)
    rows, key = mixed(said)
    out.mkdir(parents=True, exist_ok=True)
    with (out / SHEET).open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["number", "question", "answer", "right"])
        table.writerows([*row, ""] for row in rows)
    (out / KEY).write_text(json.dumps(key, indent=1))
    accepted = {row.number: row.is_accepted for row in rows}
    print(
        f"{out / SHEET}: {len(rows)} answers without names; write yes or no into `right`, then: judged {out}"
    )
    tell(accepted, key, "have an accepted string")


def _asked(name: str, only: Sequence[str]) -> bool:
    return not only or name.split("/")[1].split("-")[0] in only


def models_of(place: Path) -> dict[str, Path]:
    """The models in a home's store, by the home's name and theirs; where there are several of a kind, by their keys too.

    A model folder is one by itself.
    """
    if (place / "config.json").exists():
        return {f"{place.parent.name}/{place.name}": place}
    home = place.parent.name if place.name == ".leanpipe" else place.name
    found: dict[str, list[tuple[str, Path]]] = {}
    for stage, called in _STAGES.items():
        for folder, manifest in Store(place / "store").manifests(stage):
            made = [folder] if called else [one.parent for one in sorted(folder.glob("*/config.json"))]
            for one in made:
                found.setdefault(called or one.name, []).append((manifest.key, one))
    return {
        f"{home}/{name}{f'-{key[:6]}' if len(all_) > 1 else ''}": path
        for name, all_ in found.items()
        for key, path in all_
    }


def answers(model: Path) -> list[tuple[str, str]]:
    """What a model answers to each question by its likeliest tokens, by the engine that serves it."""
    from leanpipe.evaluation.human.answer_prompts import (
        AnswerPromptsConfig,
        AnswerPromptsInputs,
        answer_prompts,
        read_answers,
    )

    config = AnswerPromptsConfig(prompts=tuple(QUESTIONS), max_new_tokens=_ANSWER_TOKENS)
    with tempfile.TemporaryDirectory() as folder:
        answer_prompts.function(config, AnswerPromptsInputs(model), Path(folder), Silent())
        return [(one.prompt, one.text.strip()) for one in read_answers(Path(folder))]


def mixed(said: Mapping[str, Sequence[tuple[str, str]]]) -> tuple[list[Answer], dict[str, list[int]]]:
    """Number all answers in an order that tells nothing, those to one question together; and say which numbers are whose.

    The same answer of several models is one row: nobody can judge it in two ways.
    """
    whose: dict[tuple[str, str], list[str]] = {}
    for name, pairs in said.items():
        for pair in pairs:
            whose.setdefault(pair, []).append(name)
    questions = list(QUESTIONS)
    shuffled = sorted(
        whose, key=lambda one: (questions.index(one[0]), hashlib.sha256(repr(one).encode()).hexdigest())
    )
    rows = [Answer(number, *pair) for number, pair in enumerate(shuffled, 1)]
    numbers = {name: [row.number for row in rows if name in whose[row[1:]]] for name in said}
    return rows, numbers


def judged(folder: Path) -> None:
    """Count what a person wrote into the sheet, by model, and say where the accepted strings say otherwise."""
    with (folder / SHEET).open(newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    votes = {int(row["number"]): row["right"].strip().lower() for row in table}
    wrong = [number for number, vote in votes.items() if vote not in ("yes", "no")]
    if wrong:
        raise SystemExit(f"{folder / SHEET}: `right` must be yes or no; it is not in the rows {wrong}")
    for row in table:
        answer = Answer(int(row["number"]), row["question"], row["answer"])
        if answer.is_accepted != (votes[answer.number] == "yes"):
            print(
                f"{answer.number}: {votes[answer.number]} by the person alone: {answer.question} {answer.answer!r}"
            )
    key = json.loads((folder / KEY).read_text())
    tell({number: vote == "yes" for number, vote in votes.items()}, key, "are right")


def tell(right: Mapping[int, bool], key: Mapping[str, Sequence[int]], what: str) -> None:
    """Print the count of each model: the first time that names and numbers meet."""
    for name, numbers in key.items():
        print(f"{name}: {sum(right[number] for number in numbers)} of {len(numbers)} answers {what}")
