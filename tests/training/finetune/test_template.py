"""Masks that are exact to the token with the chat templates of 70 real families of models, and what those refuse."""

from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from leanpipe.training.finetune.chat import encode, encode_all, last_answer
from leanpipe.training.finetune.instructions import Conversation
from leanpipe.training.finetune.template import TemplateRefusal, render
from tests.support.chat_templates import chat_templates
from tests.support.tiny_models import tiny_tokenizer

ENDS = dict(
    line.split("\t") for line in Path(__file__).with_name("ends_of_turn.tsv").read_text().splitlines()
)
"""How each template ends a turn of the assistant; EOS where it does not."""
ASKED = [{"role": "user", "content": "Who are you?"}, {"role": "assistant", "content": "A model."}]
AGAIN = {"role": "user", "content": "Sure?"}
CONVERSATIONS = {
    "one turn": ASKED,
    "two turns": [*ASKED, AGAIN, {"role": "assistant", "content": "Yes, quite sure."}],
    "a system turn": [{"role": "system", "content": "Be brief."}, *ASKED],
    "equal answers": [*ASKED, AGAIN, ASKED[1]],
}
REFUSED = {("google-gemma-2-2b-it", "a system turn"): "System role not supported"}


@pytest.fixture(scope="module")
def templates() -> dict[str, str]:
    return chat_templates()


def with_template(template: str) -> PreTrainedTokenizerFast:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tiny_tokenizer().backend_tokenizer, bos_token="<s>", eos_token="</s>"
    )
    tokenizer.chat_template = template
    return tokenizer


def learned(example, tokenizer) -> str:
    return tokenizer.decode([label for label in example.labels if label != -100])


def outcome(name: str, template: str, turns: list[dict[str, str]]) -> str:
    tokenizer = with_template(template)
    try:
        examples = encode(Conversation(turns), tokenizer)
    except TemplateRefusal as refusal:
        return str(refusal)
    end = "</s>" if ENDS[name] == "EOS" else ENDS[name].replace("\\n", "\n")
    expected = [turn["content"] + end for turn in turns if turn["role"] == "assistant"]
    said = "".join(learned(one, tokenizer) for one in examples)
    # The blank after "assistant:" is the assistant's, too.
    return "exact" if said.replace(" ", "") == "".join(expected).replace(" ", "") else said


def test_every_template_gives_a_mask_that_is_exact_to_the_token(templates):
    table = {
        (name, kind): outcome(name, template, turns)
        for name, template in templates.items()
        for kind, turns in CONVERSATIONS.items()
    }
    print(f"{'template':60}", *CONVERSATIONS, sep="  ")
    for name in templates:
        print(f"{name:60}", *(f"{table[name, kind]:{len(kind)}}" for kind in CONVERSATIONS), sep="  ")
    assert len(table) == 280
    assert {key: said for key, said in table.items() if said != "exact"} == REFUSED


def test_every_token_that_is_learnt_is_the_assistants(templates):
    """Not a token more than the words and the end have when they stand alone, but for what is joined at their borders."""
    for name, template in templates.items():
        tokenizer = with_template(template)
        [example] = encode(Conversation(ASKED), tokenizer)
        end = "</s>" if ENDS[name] == "EOS" else ENDS[name].replace("\\n", "\n")
        alone = len(tokenizer.encode("A model." + end))
        assert alone - 2 <= example.learned <= alone, name


def test_what_templates_ask_for_beside_messages_is_empty(templates):
    """Tools, documents, functions and dates are looked at without being given."""
    for name in ("NousResearch-Hermes-3-Llama-3.1-8B-tool_use", "fireworks-ai-llama-3-firefunction-v2"):
        [rendering] = render(Conversation(ASKED), with_template(templates[name]))
        assert "Who are you?" in rendering.text


def test_turns_that_a_template_rewrites_later_are_learnt_as_the_model_meets_them(templates):
    tokenizer = with_template(templates["Qwen-Qwen3-0.6B"])
    first, second = encode(Conversation(CONVERSATIONS["two turns"]), tokenizer)
    assert tokenizer.decode(first.tokens).endswith("<think>\n\n</think>\n\nA model.<|im_end|>\n")
    assert "</think>\n\nA model." not in tokenizer.decode(second.tokens)
    assert learned(first, tokenizer) == "A model.<|im_end|>"
    assert learned(second, tokenizer) == "Yes, quite sure.<|im_end|>"


THOUGHT = [ASKED[0], {"role": "assistant", "content": "<think>\nHm.\n</think>\n\nA model."}]
APART = [ASKED[0], {"role": "assistant", "reasoning_content": "Hm.", "content": "A model."}]


@pytest.mark.parametrize("turns", [THOUGHT, APART], ids=["in the words", "in a field"])
@pytest.mark.parametrize("name", ["Qwen-Qwen3-0.6B", "GLM-4.6"])
def test_thoughts_are_learnt_or_only_read(templates, name, turns):
    tokenizer = with_template(templates[name])
    end = "</s>" if ENDS[name] == "EOS" else ENDS[name]
    [with_thoughts] = encode(Conversation(turns), tokenizer)
    [without] = encode(Conversation(turns), tokenizer, thoughts=False)
    assert with_thoughts.tokens == without.tokens
    assert "".join(learned(with_thoughts, tokenizer).split()) == f"<think>Hm.</think>Amodel.{end}"
    assert learned(without, tokenizer) == f"A model.{end}"


def test_thoughts_that_the_template_begins_for_the_model_are_learnt_from_there(templates):
    """The prompt ends with <think>: that tag is not the model's."""
    tokenizer = with_template(templates["Qwen3.5-4B"])
    [example] = encode(Conversation(THOUGHT), tokenizer)
    assert learned(example, tokenizer).lstrip().startswith("Hm.")


TOOL = {
    "type": "function",
    "function": {"name": "add", "description": "Add.", "parameters": {"type": "object", "properties": {}}},
}
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
CALLED = Conversation(
    [
        {"role": "user", "content": "1 + 1?"},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "name": "add", "content": "2"},
        {"role": "assistant", "content": "Two."},
    ],
    [TOOL],
)


@pytest.mark.parametrize("name", ["Qwen-Qwen2.5-7B-Instruct", "Qwen-Qwen3-0.6B", "Qwen3-Coder"])
def test_calls_of_tools_are_learnt(templates, name):
    tokenizer = with_template(templates[name])
    examples = encode(CALLED, tokenizer)
    said = "".join(learned(example, tokenizer) for example in examples)
    assert said.count(ENDS[name]) == 2 and "add" in said and said.endswith(f"Two.{ENDS[name]}")
    assert "1 + 1?" not in said and "Be helpful" not in said


def test_a_template_that_leaves_out_the_calls_is_refused(templates):
    with pytest.raises(TemplateRefusal, match="leaves out"):
        encode(CALLED, with_template(templates["LFM2-8B-A1B"]))


STRICT = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
)


def test_what_a_template_refuses_is_counted_with_its_reason():
    tokenizer = with_template(STRICT)
    twice = [ASKED[0], ASKED[0], ASKED[1]]
    spelt = [{"role": "user", "content": "Say </s>"}, ASKED[1]]
    encoded = encode_all(
        [Conversation(turns) for turns in (ASKED, twice, ASKED, twice, spelt)], tokenizer, 1000
    )
    assert len(encoded.conversations) == 2 and encoded.skipped == 3
    assert encoded.describe() == (
        "2 (the chat template refuses them: roles must alternate), 1 (somebody's words spell a control token)"
    )


def test_answers_that_are_cut_off_are_counted_as_that():
    tokenizer = with_template(STRICT)
    whole = len(encode(Conversation(ASKED), tokenizer)[0].tokens)
    encoded = encode_all([Conversation(ASKED)] * 2, tokenizer, whole - 1)
    assert encoded.cut == 2 and not encoded.refused
    late = [{"role": "user", "content": "Who are you? " * 50}, ASKED[1]]
    encoded = encode_all([Conversation(late), Conversation(ASKED)], tokenizer, whole)
    assert (
        encoded.cut == 0 and encoded.describe() == f"1 (the assistant answers after more than {whole} tokens)"
    )


def test_a_template_that_leaves_out_the_answer_is_refused():
    with pytest.raises(TemplateRefusal, match="leaves out what the assistant says"):
        encode(Conversation(ASKED), with_template("{{ messages[0].content }}"))
    with pytest.raises(TemplateRefusal, match="changes what the assistant says"):
        encode(
            Conversation(ASKED),
            with_template(
                "{% for m in messages %}{{ m.content | upper if 'model' in m.content else m.content }}{% endfor %}"
            ),
        )


def test_the_last_answer_is_that_of_its_own_rendering(templates):
    tokenizer = with_template(templates["Qwen-Qwen3-0.6B"])
    prompt, answer = last_answer(Conversation([*CONVERSATIONS["two turns"], AGAIN]), tokenizer)
    assert tokenizer.decode(answer) == "Yes, quite sure.<|im_end|>"
    assert tokenizer.decode(prompt).endswith("<think>\n\n</think>\n\n")
