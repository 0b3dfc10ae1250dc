"""`leanpipe show-mask`, as a person sees it."""

import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from flows.cli.mask import show_mask
from leanpipe.core.errors import UserError
from leanpipe.core.home import Home
from tests.support.tiny_models import tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


def shown(root: Path, model: Path, records: list[dict], **options) -> str:
    file = root / "told.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, color_system="standard", width=100, highlight=False)
    settings = {"examples": 2, "max_length": 64, **options}
    show_mask(Home(root), str(model), str(file), console=console, **settings)
    return screen.getvalue()


def test_what_the_assistant_says_is_green_and_in_brackets(tmp_path: Path, model: Path):
    records = [{"prompt": "Say red", "completion": "It is red"}, {"prompt": "b", "completion": "c"}, {"x": 1}]
    text = shown(tmp_path, model, records)
    assert "prompt-completion (2); 1 records skipped" in text
    green = re.findall(r"\x1b\[1;32m(.*?)\x1b\[0m", text, re.DOTALL)
    assert green == ["⟦It is red<|im_end|>⟧", "⟦c<|im_end|>⟧"]
    assert re.search(r"1: \d+ of \d+ tokens are learnt", text)
    faint = "".join(re.findall(r"\x1b\[2m(.*?)\x1b\[0m", text, re.DOTALL))
    assert "Say red" in faint and "red<|im_end|>" not in faint.replace("Say red<|im_end|>", "")


def test_no_more_than_was_asked_for(tmp_path: Path, model: Path):
    records = [{"prompt": "a", "completion": "bb " * 90}, {"prompt": "c", "completion": "d"}]
    text = shown(tmp_path, model, records, examples=1, max_length=20)
    assert "of 20 tokens are learnt" in text and "2: " not in text


def test_instructions_that_are_not_there_are_one_sentence(tmp_path: Path, model: Path):
    with pytest.raises(UserError, match="instructions: /not/there does not exist"):
        show_mask(Home(tmp_path), str(model), "/not/there", 1, 64, Console(file=io.StringIO()))
