"""What a teacher writes: drawn the same every time, gone on with after a kill, and only what is worth learning from."""

import json
from pathlib import Path

import pytest

from leanpipe.core.errors import UserError
from leanpipe.core.estimate import Expected
from leanpipe.core.store import CHECKPOINTS
from leanpipe.corpus.config import CleanConfig
from leanpipe.corpus.document import Document
from leanpipe.corpus.filters import QualityConfig, RepetitionConfig
from leanpipe.corpus.tables import read_texts
from leanpipe.models.load import load_tokenizer
from leanpipe.teacher_text.keep import Keeper
from leanpipe.teacher_text.prompts import Prompt, openings, questions
from leanpipe.teacher_text.write import WriteConfig, WriteInputs, check_write, write
from leanpipe.teacher_text.writers import Written
from leanpipe.training.finetune.instructions import Conversation
from tests.support.cleaned_corpus import write_documents
from tests.support.tiny_models import tiny_model, tiny_text, tiny_tokenizer
from tests.training.blocks import Recorder

LAX = {"quality": QualityConfig(enabled=False), "repetition": RepetitionConfig(enabled=False)}
"""A teacher with random weights writes no text that Gopher's rules would let pass."""


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("teacher"))


@pytest.fixture(scope="module")
def documents(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("documents")
    texts = [text[:400] for text in tiny_text()[:8]]
    for split, part in (("train", texts[:6]), ("validation", texts[6:])):
        found = [Document(f"{number}", text, "here") for number, text in enumerate(part)]
        write_documents(folder / split / "00000.parquet", found)
    return folder


@pytest.fixture(scope="module")
def instructions(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("instructions") / "say.jsonl"
    records = [{"instruction": f"Say {number} words.", "output": "No."} for number in range(6)]
    path.write_text("\n".join(map(json.dumps, records)))
    return path


def run(out: Path, teacher: Path, documents: Path | None = None, asked: Path | None = None, **settings):
    out.mkdir(exist_ok=True)
    base = {"tokens": 120, "max_new_tokens": 40, "opening_tokens": 8, "min_tokens": 4, "streams": 1}
    config = WriteConfig(**{**base, **LAX, **settings})
    return write.function(config, WriteInputs(teacher, documents, asked), out, Recorder())


@pytest.mark.parametrize("engine", ["llama_cpp", "transformers"])
def test_the_same_settings_write_the_same_text_and_another_seed_another(tmp_path, teacher, documents, engine):
    texts = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        summary = run(tmp_path / name, teacher, documents, engine=engine, seed=seed)
        texts.append(list(read_texts(tmp_path / name, "train")))
        assert summary["tokens"] >= 120 and summary["texts"] == len(texts[-1]) < 6
    assert texts[0] == texts[1] != texts[2]
    originals = list(read_texts(documents, "train"))
    for text in texts[0]:
        opening = next(one for one in originals if text.startswith(one[:5]))
        assert text not in opening  # it goes on otherwise than the document did
    assert len(list(read_texts(tmp_path / "a", "validation"))) == 2


def test_every_setting_of_the_sampling_counts(tmp_path, teacher, documents):
    def texts(name: str, **settings) -> list[str]:
        run(tmp_path / name, teacher, documents, **{"engine": "transformers", "tokens": 70, **settings})
        return list(read_texts(tmp_path / name, "train"))

    first, greedy = texts("first"), texts("greedy", temperature=0.0)
    assert first != greedy == texts("likeliest", top_p=1e-6) == texts("likeliest-1", top_p=1e-6, seed=1)
    assert len(texts("short", max_new_tokens=6)[0]) < len(first[0])
    assert not texts("opening", opening_tokens=4)[0].startswith(first[0][: len(first[0]) // 2])
    one, two = (texts(f"{streams}", engine="llama_cpp", streams=streams, tokens=200) for streams in (1, 2))
    # Of the same openings, in their order; what follows may differ in a token, and so may how many fill the budget.
    shared = min(len(one), len(two))
    assert shared > 1 and [text[:5] for text in one[:shared]] == [text[:5] for text in two[:shared]]


def test_what_a_killed_computation_wrote_is_not_written_again(tmp_path, teacher, documents):
    run(tmp_path / "whole", teacher, documents, tokens=200)
    lines = (tmp_path / "whole" / CHECKPOINTS / "written.jsonl").read_text().splitlines(keepends=True)
    first = json.loads(lines[0]) | {"text": " nobody said."}
    (tmp_path / "killed" / CHECKPOINTS).mkdir(parents=True)
    (tmp_path / "killed" / CHECKPOINTS / "written.jsonl").write_text(
        json.dumps(first) + "\n" + lines[1] + lines[2][:20]
    )
    run(tmp_path / "killed", teacher, documents, tokens=200)
    whole, resumed = (list(read_texts(tmp_path / name, "train")) for name in ("whole", "killed"))
    assert resumed[0].endswith(first["text"]) and resumed[1 : len(whole)] == whole[1:]


def test_answers_are_conversations_that_finetuning_reads(tmp_path, teacher, instructions):
    from leanpipe.training.finetune.instructions import read_instructions

    # With random weights one token in 512 ends an answer.
    summary = run(tmp_path / "out", teacher, asked=instructions, max_new_tokens=450, max_prompt_tokens=40)
    found = read_instructions(tmp_path / "out" / "answers.jsonl").conversations
    assert len(found) == summary["texts"] >= 1 and summary["prompts"] > 0
    for conversation in found:
        assert [one["role"] for one in conversation.messages] == ["user", "assistant"]
        assert conversation.messages[0]["content"].startswith("Say ")
        assert conversation.messages[1]["content"] not in ("", "No.")


def test_what_is_dropped_and_why():
    sentence = "The committee meets on the second Monday of every month, and that is when all of its members have to be there. "
    rest = "Minutes are kept with the clerk, who sends them to whoever asks, and the chair signs what was decided. "
    asked = Conversation([{"role": "user", "content": "Where?"}])

    def written(text: str, ended: bool = True, answer: bool = False) -> Written:
        opening, conversation = ("", asked) if answer else (sentence + rest, None)
        return Written(Prompt("a", (1, 2), opening, conversation), text, ended)

    keeper = Keeper(CleanConfig(), tiny_tokenizer(), min_tokens=8)
    good = "Nothing else is on the agenda, but that the roof of the hall will be mended with slate."
    assert keeper.keep(written(good)) == sentence + rest + good
    assert keeper.keep(written(f" {good.upper()}")) is None
    assert keeper.keep(written("Yes.")) is None
    assert keeper.keep(written("")) is None
    assert keeper.keep(written("again and again " * 60)) is None
    assert "@" not in (keeper.keep(written(good + " Write to clerk@wexfordparish.org today.")) or "@")
    assert keeper.keep(written("Paris.", answer=True)) == "Paris."
    assert keeper.keep(written("In", ended=False, answer=True)) is None
    assert keeper.keep(written("again and again " * 60, answer=True)) is None
    assert keeper.dropped["unfinished"] == keeper.dropped["repeats another"] == keeper.dropped["empty"] == 1
    assert keeper.dropped["short"] == 1 and sum(keeper.dropped.values()) == 6


def test_openings_end_between_words_and_questions_where_the_answer_begins(documents, instructions):
    tokenizer = tiny_tokenizer()
    originals = list(read_texts(documents, "train"))
    found = openings(documents, tokenizer, 8)
    assert len(found) == 6
    for prompt in found:
        original = next(text for text in originals if text.startswith(prompt.text))
        assert original[len(prompt.text)] == " " or " " not in prompt.text
        assert tokenizer.decode(prompt.tokens[1:]) == prompt.text
    for prompt in questions(instructions, tokenizer, 40):
        assert tokenizer.decode(prompt.tokens).endswith("<|im_start|>assistant\n")
        assert prompt.conversation and len(prompt.conversation.messages) == 1
    assert questions(instructions, tokenizer, 8) == []


def test_a_draw_depends_on_its_prompt_and_the_seed_alone():
    prompts = [Prompt("a", (1,)), Prompt("b", (2,))]
    seeds = [one.seed(seed) for one in prompts for seed in (0, 1)]
    assert len(set(seeds)) == 4 and seeds[0] == Prompt("a", (9,)).seed(0) and max(seeds) < 2**31


def test_what_cannot_be_written_is_said_in_one_sentence(tmp_path, teacher, documents, instructions):
    expected = {"teacher": Expected(teacher), "instructions": Expected(instructions)}
    with pytest.raises(UserError, match=r"write.max_new_tokens, with what comes before"):
        check_write(WriteConfig(tokens=1, max_new_tokens=500), expected)
    with pytest.raises(UserError, match="no training document of more than 300 tokens"):
        run(tmp_path / "a", teacher, documents, opening_tokens=300, max_new_tokens=8, engine="transformers")
    with pytest.raises(UserError, match="none is worth learning from"):
        run(tmp_path / "b", teacher, documents, min_tokens=400)
    assert load_tokenizer(teacher).chat_template
