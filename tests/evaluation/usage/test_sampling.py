"""Ways of drawing answers: what is written, what it is called, and that every engine draws by it."""

import re

import pytest
import torch
from pydantic import ValidationError

from leanpipe.evaluation.evaluate import EvaluateConfig
from leanpipe.evaluation.generate import generate
from leanpipe.evaluation.usage.sampling import parse_sampling, parse_samplings
from tests.support.tiny_models import tiny_llama, tiny_tokenizer


@pytest.mark.parametrize(
    ("text", "name", "numbers"),
    [
        ("greedy", "greedy", {}),
        ("temperature=0.80", "temperature_0.8", {"temperature": 0.8}),
        ("top_k=40", "top_k_40", {"top_k": 40}),
        ("min_p=0.1 temperature=1.5", "temperature_1.5_min_p_0.1", {"temperature": 1.5, "min_p": 0.1}),
    ],
)
def test_what_is_written_is_what_is_drawn_by(text, name, numbers):
    how = parse_sampling(text)
    neutral = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
    assert how.name == name and how.numbers() == neutral | numbers and how.drawn == bool(numbers)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hot", "no way of sampling"),
        ("", "no way of sampling"),
        ("top_p=0.9 top_p=0.8", "no way of sampling"),
        ("temperature=0", "temperature is a number from 0.01 to 2.0"),
        ("top_k=1.5", "top_k is a whole number"),
        ("top_p=2", "top_p is a number from"),
    ],
)
def test_what_is_no_way_of_sampling_is_refused_by_name(text, said):
    with pytest.raises(ValidationError, match=re.escape(said)):
        EvaluateConfig(sampling=("greedy", text))


def test_the_same_way_twice_is_refused():
    with pytest.raises(ValidationError, match=re.escape("top_p_0.9 is there twice")):
        EvaluateConfig(sampling=("top_p=0.9", "top_p=0.90"))


PROMPTS = ["What is a list?", "And a tuple, which is what the other one is not?", "Why?"]


def answers(*ways: str, prompts=PROMPTS):
    """What a model of random weights answers, whose next token hardly anything decides."""
    return generate(tiny_llama(), tiny_tokenizer(), prompts, 8, parse_samplings(ways))


def test_prompts_of_several_lengths_are_answered_at_once_as_one_by_one():
    together = answers("greedy")
    assert [one.prompt for one in together] == PROMPTS
    assert together == [one for prompt in PROMPTS for one in answers("greedy", prompts=[prompt])]


def test_each_way_draws_as_it_says():
    found = answers("greedy", "temperature=2", "top_k=1", "temperature=0.05 top_p=0.01", "min_p=1")
    by_name = {one.sampling: [] for one in found}
    for one in found:
        by_name[one.sampling].append(one.text)
    assert len(by_name) == 5 and all(len(some) == len(PROMPTS) for some in by_name.values())
    assert by_name["temperature_2"] != by_name["greedy"]
    # What leaves one token to draw from draws the likeliest.
    for name in ("top_k_1", "temperature_0.05_top_p_0.01", "min_p_1"):
        assert by_name[name] == by_name["greedy"], name
    assert answers("temperature=2") == answers("temperature=2")


def test_drawing_leaves_the_callers_random_numbers_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    answers("temperature=2")
    assert torch.equal(torch.rand(1), expected)
