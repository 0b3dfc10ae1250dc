from pathlib import Path

import pytest

from leanpipe.core.errors import UserError
from leanpipe.models.load import load_tokenizer
from leanpipe.training.finetune import chat
from leanpipe.training.finetune.chat import describe_mask, encode_all
from leanpipe.training.finetune.instructions import Conversation
from leanpipe.training.finetune.template import check_template, holds_control_tokens
from tests.support.tiny_models import tiny_tokenizer

TEACHER = Path("/tmp/teacher")
TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Who are you?"},
    {"role": "assistant", "content": "A model."},
    {"role": "user", "content": "Sure?\n"},
    {"role": "assistant", "content": "Yes.\n\nQuite  sure, café. "},
]


def encode(messages, tokenizer, max_length):
    """The only example of a conversation."""
    encoded = encode_all([Conversation(messages)], tokenizer, max_length)
    [[example]] = encoded.conversations
    return example


def last_answer(messages, tokenizer):
    return chat.last_answer(Conversation(messages), tokenizer)


def learned(example, tokenizer) -> str:
    return tokenizer.decode([label for label in example.labels if label != -100])


@pytest.fixture(params=["tiny", "SmolLM2"])
def tokenizer(request):
    if request.param == "tiny":
        return tiny_tokenizer()
    if not TEACHER.exists():
        pytest.skip("SmolLM2 is not here")
    return load_tokenizer(TEACHER)


def test_exactly_the_assistants_words_and_ends_of_turn_are_learnt(tokenizer):
    example = encode(TURNS, tokenizer, 1000)
    assert learned(example, tokenizer) == "A model.<|im_end|>Yes.\n\nQuite  sure, café. <|im_end|>"
    assert (
        example.learned == len(tokenizer.encode("A model.")) + len(tokenizer.encode(TURNS[4]["content"])) + 2
    )


def test_the_tokens_are_those_of_the_template(tokenizer):
    example = encode(TURNS, tokenizer, 1000)
    assert example.tokens == tokenizer.apply_chat_template(TURNS, return_dict=False)
    assert all(label in (-100, token) for token, label in zip(example.tokens, example.labels, strict=True))


def test_token_by_token(tokenizer):
    """The newline after an answer's end-of-turn belongs to nobody; so does everything before the answer."""
    example = encode(
        [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}], tokenizer, 1000
    )
    answer = tokenizer.encode("Hello")
    end, newline = tokenizer.convert_tokens_to_ids("<|im_end|>"), tokenizer.encode("\n")
    assert example.tokens[-len(answer) - 2 :] == [*answer, end, *newline]
    assert example.labels == [-100] * (len(example.tokens) - len(answer) - 2) + [*answer, end, -100]


def test_a_long_conversation_is_cut(tokenizer):
    whole, cut = encode(TURNS, tokenizer, 1000), encode(TURNS, tokenizer, 60)
    assert (cut.tokens, cut.labels) == (whole.tokens[:60], whole.labels[:60])


def test_an_answer_that_repeats_the_question_is_found_in_its_place():
    turns = [{"role": "user", "content": "assistant"}, {"role": "assistant", "content": "assistant"}]
    tokenizer = tiny_tokenizer()
    example = encode(turns, tokenizer, 1000)
    assert learned(example, tokenizer) == "assistant<|im_end|>"
    assert example.labels[-2] == example.tokens[-2] and example.labels[-1] == -100


def with_template(template: str):
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tiny_tokenizer().backend_tokenizer, eos_token="<|im_end|>"
    )
    tokenizer.chat_template = template
    return tokenizer


def test_where_a_template_ends_no_turn_the_end_of_text_is_learnt():
    tokenizer = with_template("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
                              "{% if add_generation_prompt %}assistant:{% endif %}")  # fmt: skip
    example = encode(
        [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}], tokenizer, 1000
    )
    assert learned(example, tokenizer) == " Hello<|im_end|>"


def test_a_tokenizer_without_template_is_refused():
    with pytest.raises(UserError, match="has no chat template"):
        check_template(with_template(""))


def test_control_tokens_in_somebodys_words_are_noticed():
    tokenizer = tiny_tokenizer()
    assert not holds_control_tokens(Conversation(TURNS), tokenizer)
    asked = {"role": "user", "content": "Say <|im_end|> now"}
    assert holds_control_tokens(Conversation([asked, *TURNS[-1:]]), tokenizer)


def test_the_mask_can_be_read():
    tokenizer = tiny_tokenizer()
    page = describe_mask(encode(TURNS[1:3], tokenizer, 1000), tokenizer)
    assert page.count("| learnt |") == len(tokenizer.encode("A model.")) + 1


def test_the_last_answer_is_what_the_assistant_says_last_and_its_end():
    tokenizer = tiny_tokenizer()
    said = [("user", "Ask"), ("assistant", "First"), ("user", "Ask more"), ("assistant", "Last")]
    messages = [{"role": role, "content": content} for role, content in said]
    asked = tokenizer.apply_chat_template(messages[:3], tokenize=False, add_generation_prompt=True)
    for ending in ([], [{"role": "user", "content": "Unanswered"}]):
        prompt, answer = last_answer([*messages, *ending], tokenizer)
        assert tokenizer.decode(prompt) == asked and tokenizer.decode(answer) == "Last<|im_end|>"
