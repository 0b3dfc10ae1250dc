"""Models answer a set of prompts by the engine that serves them."""

import pytest

from leanpipe.compression.quantize import QuantizeConfig, QuantizeInputs, quantize
from leanpipe.core.errors import UserError
from leanpipe.core.estimate import Expected
from leanpipe.core.report import Silent
from leanpipe.core.store import external
from leanpipe.evaluation.generate import Generation, generate
from leanpipe.evaluation.human.answer_prompts import (
    AnswerPromptsConfig,
    AnswerPromptsInputs,
    answer_prompts,
    check_answer_prompts,
    estimate_answer_prompts,
    read_answers,
)
from leanpipe.evaluation.human.prompt_set import read_prompts
from leanpipe.models.load import load_for_inference, load_tokenizer
from tasks.report import read_generations
from tests.evaluation.human.sheets import answered
from tests.support.tiny_models import tiny_model

PROMPTS = ("What is a list?", "What is a number?")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory):
    return tiny_model(tmp_path_factory.mktemp("model"), tied=False)


def answers(model, out, prompt_set=None, **settings) -> list[Generation]:
    out.mkdir()
    config = AnswerPromptsConfig(**{"max_new_tokens": 6, "prompts": PROMPTS, **settings})
    answer_prompts.function(config, AnswerPromptsInputs(model, prompt_set), out, Silent())
    return read_answers(out)


def test_prompts_and_longest_answers_are_those_that_are_asked_for(model, tmp_path, one_thread):
    given = answers(model, tmp_path / "given")
    assert given == generate(load_for_inference(model), load_tokenizer(model), PROMPTS, 6)
    longer = answers(model, tmp_path / "longer", prompts=PROMPTS[:1] * 2, max_new_tokens=9)
    assert [one.tokens for one in longer] == [9]
    (tmp_path / "set.txt").write_text("Why?\n\nWhat is a list?\nWhy?\n")
    asked = answers(model, tmp_path / "asked", tmp_path / "set.txt")
    assert [one.prompt for one in asked] == ["Why?", PROMPTS[0]] and asked[1] == given[0]


def test_a_gguf_model_answers_through_the_server(model, tmp_path, one_thread):
    quantize.function(QuantizeConfig(formats=("q8_0",)), QuantizeInputs(model), tmp_path, Silent())
    served = answers(tmp_path / "q8_0", tmp_path / "served")
    assert [one.prompt for one in served] == list(PROMPTS) and all(one.text for one in served)
    assert [one.tokens for one in served] == [6, 6]


def test_what_is_longer_than_the_model_reads_is_refused_before_any_work(model, tmp_path):
    (tmp_path / "set.txt").write_text("word " * 600)
    inputs = {"model": Expected(model), "prompt_set": Expected(tmp_path / "set.txt")}
    with pytest.raises(UserError, match=r"answer_prompts.max_new_tokens .* reads 512 at most"):
        check_answer_prompts(AnswerPromptsConfig(max_new_tokens=5), inputs)
    assert estimate_answer_prompts(AnswerPromptsConfig(), {"model": Expected(model)}, "cpu").is_known


def test_lines_of_any_kind_in_an_answer_are_no_ends_of_records(tmp_path):
    """Neither of those that people compare, nor of those in a run's report."""
    folder = answered(tmp_path / "answers", ["a\u2028b\u0085c\nd"])
    for read in (read_answers(folder), read_generations(external("evaluate", folder))):
        assert [one.text for one in read] == ["a\u2028b\u0085c\nd"]


@pytest.mark.parametrize(
    ("name", "content", "asked"),
    [
        ("a.txt", "\ufeffWhy?\r\n\r\n How? \nWhy?\n", ["Why?", "How?"]),
        ("a.jsonl", '{"prompt": "Why?"}\n{"instruction": "Say", "input": "this"}\n', ["Why?", "Say\n\nthis"]),
        ("a.json", '[{"question": "Why?"}]', ["Why?"]),
        ("a.csv", "prompt,other\nWhy?,x\n", ["Why?"]),
        (
            "a.jsonl",
            '{"messages": [{"role": "system", "content": "x"}, {"role": "user", "content": "Why?"}]}',
            ["Why?"],
        ),
    ],
)
def test_a_prompt_set_is_read_in_the_usual_shapes(tmp_path, name: str, content: str, asked: list[str]):
    (tmp_path / name).write_text(content)
    assert read_prompts(tmp_path / name) == asked


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.txt", b"\n \n", "is empty"),
        ("a.jsonl", b"", "is empty"),
        ("a.jsonl", b'{"prompt": "a"}\n{"prompt": \n', "asks nothing at line 2"),
        ("a.jsonl", b'{"completion": "a"}\n', "asks nothing at line 1: each record needs one of prompt"),
        ("a.json", b"3", "asks nothing at record 1"),
        ("a.txt", b"\xff\xfe\xff", "cannot be read"),
        ("a.png", b"\x89PNG", "no file of prompts"),
    ],
)
def test_a_prompt_set_that_asks_nothing_is_refused_in_one_sentence(
    tmp_path, name: str, content: bytes, says: str
):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=says) as refused:
        read_prompts(tmp_path / name)
    assert "\n" not in str(refused.value)
