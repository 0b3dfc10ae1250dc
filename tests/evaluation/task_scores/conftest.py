"""A tiny model that was really trained, and tasks of every kind about what it learned."""

import json

import pytest

from tests.evaluation.parity.trained import conversations, write_trained

TURN = "<|im_start|>user\\n{{ question }}<|im_end|>\\n<|im_start|>assistant\\n"
"""A question as the model learned it, in YAML; asked by itself it has forgotten what it was taught."""
SPECS = {
    "choice": "kind: multiple_choice\nprompt: 'Q: {{ question }}\\nA:'\nchoices: options\nshots: 1\n",
    "classes": "kind: classification\nprompt: '{{ question }} Said:'\nanswer: class\n",
    "exact": f'kind: exact_match\nprompt: "{TURN}"\nanswer: short\nmax_new_tokens: 30\n',
    "translation": f'kind: translation\nprompt: "{TURN}"\nanswer: said\nmax_new_tokens: 30\n',
    "summary": f'kind: summary\nprompt: "{TURN}"\nanswer: said\nmax_new_tokens: 30\n',
}


def rows() -> list[dict]:
    """What the model was taught, with answers that are partly other ones."""
    taught = [(asked["content"], said["content"]) for asked, said in conversations()]
    answers = [said for _, said in taught]
    return [
        {
            "question": question,
            "options": [answer, answers[(number + 1) % len(answers)], answers[(number + 2) % len(answers)]],
            "answer": number % 2,
            "class": ("sequence", "place", "matter")[number % 3],
            "short": answer if number % 2 else answer[:9],
            "said": " ".join(answer.split()[: -1 - number % 2]) + " indeed",
        }
        for number, (question, answer) in enumerate(taught)
    ]


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    return write_trained(tmp_path_factory.mktemp("task_scores") / "model")


@pytest.fixture(scope="session")
def tasks(tmp_path_factory):
    """The YAML files of the tasks, by name."""
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "items.jsonl").write_text("\n".join(map(json.dumps, rows())) + "\n")
    for name, spec in SPECS.items():
        (folder / f"{name}.yaml").write_text(f"{spec}file: items.jsonl\n")
    return {name: folder / f"{name}.yaml" for name in SPECS}
