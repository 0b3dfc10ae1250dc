"""Tasks that cannot be asked, as the real command is given them; tests/evaluation/task_scores has every kind of fault."""

from pathlib import Path

_SPEC = "kind: exact_match\nprompt: '{{ question }}'\nfile: "


def write_bad_tasks(folder: Path) -> dict[str, str]:
    """Write tasks with one fault each, and return by file what must be said of it."""
    folder.mkdir()
    (folder / "malformed.jsonl").write_text('{"question": "Why?", "answer": "So."}\n{"question": \n')
    (folder / "unanswered.jsonl").write_text('{"question": "Why?"}\n' * 3)
    (folder / "empty.jsonl").touch()
    for name in ("malformed", "unanswered", "empty"):
        (folder / f"{name}.yaml").write_text(f"{_SPEC}{name}.jsonl\n")
    return {
        "malformed.yaml": "malformed.jsonl, line 2 is no JSON",
        "unanswered.yaml": "unanswered.jsonl, line 1 has no answer",
        "empty.yaml": "empty.jsonl holds no items",
        "missing.yaml": "missing.yaml does not exist",
    }
