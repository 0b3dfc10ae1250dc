"""Tasks with known answers that need no download: about Python's own library, and the MMLU questions that lm-eval carries."""

import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path

from leanpipe.assets.samples import python_docstrings
from leanpipe.core.errors import UserError
from leanpipe.core.files import write_text

_OTHERS = (7, 31, 101)
"""How far away in the list the other answers are that a question offers."""
_MMLU = re.compile(
    r"^Q: (?P<question>.+?)\s*\n\(A\) (.+?) \(B\) (.+?) \(C\) (.+?) \(D\) (.+?)\s*\nA: .*?answer is \(([A-D])\)",
    re.M | re.S,
)
_EVERY_LETTER = "ABCD"


def docstrings_choice(folder: Path) -> Path:
    """Questions about the standard library with four docstrings each, of which one is the answer: multiple choice."""
    pairs = [json.loads(line) for line in python_docstrings(folder).read_text().splitlines()]
    answers = sorted({pair["completion"] for pair in pairs})
    rows = []
    for number, pair in enumerate(pairs):
        place = answers.index(pair["completion"])
        options = [answers[(place + step) % len(answers)] for step in _OTHERS]
        options.insert(number % 4, pair["completion"])
        rows.append({"question": pair["prompt"], "options": options, "answer": number % 4})
    return _write(folder, "python-docstrings", rows)


def mmlu_sample(folder: Path) -> Path:
    """273 questions of MMLU on 57 subjects (MIT), as lm-eval's package carries them. A small model is at chance there."""
    found = importlib.util.find_spec("lm_eval")
    if found is None or not found.origin:
        raise UserError(
            "tasks: mmlu-sample is in lm-eval, which is not installed: run pip install 'leanpipe[tasks]'"
        )
    file = Path(found.origin).parent / "tasks" / "mmlu" / "flan_cot_fewshot" / "_cot_prompts.json"
    if not file.is_file():
        raise UserError(f"tasks: this version of lm-eval has no {file}: install the one in constraints.txt")
    return _write(folder, "mmlu-sample", list(_questions(json.loads(file.read_text()))))


TASKS = {"python-docstrings": docstrings_choice, "mmlu-sample": mmlu_sample}
"""By name, what writes a task below a folder and returns its file."""


def _questions(subjects: dict[str, str]) -> Iterator[dict]:
    for text in subjects.values():
        for part in text.split("\n\n"):
            if found := _MMLU.search(part):
                question, *options, letter = found.groups()
                if len(set(options)) == len(_EVERY_LETTER):
                    yield {"question": question, "options": options, "answer": _EVERY_LETTER.index(letter)}


def _write(folder: Path, name: str, rows: list[dict]) -> Path:
    """Write the items, then the task that names them."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / f"{name}-task.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    file = folder / f"{name}-task.yaml"
    prompt = "Question: {{ question }}\\nAnswer:"
    write_text(
        file,
        f'task: {name}\nkind: multiple_choice\nfile: {name}-task.jsonl\nprompt: "{prompt}"\nchoices: options\n',
    )
    return file
