"""Text that is data: one rule for all who read it, and one first token for every document."""

import ast
from pathlib import Path

import pytest
import torch
from tokenizers import processors
from transformers import PreTrainedTokenizerFast

from leanpipe.core.report import Silent
from leanpipe.core.store import external
from leanpipe.evaluation.evaluate import EvaluateConfig, EvaluateInputs, evaluate
from leanpipe.evaluation.generate import encode_prompt
from leanpipe.evaluation.perplexity import bits_per_byte, score_documents
from leanpipe.models.load import document_separator, document_start, load_for_inference, save_model
from leanpipe.tokens.blocks import Blocks
from leanpipe.tokens.encode import Encoder, backend_of, encode
from leanpipe.tokens.text_tokens import encode_text
from leanpipe.tokens.tokenize import TokenizeConfig, TokenizeInputs, tokenize
from leanpipe.training.finetune.forgetting import general_text
from tests.evaluation.test_evaluate import write_documents
from tests.support.tiny_models import SEPARATOR, TURN_END, TURN_START, tiny_llama, tiny_text, tiny_tokenizer
from tests.tokens.test_token_shards import write_split
from tests.tokens.test_tokenize import pieces

SPELT_OUT = f"A turn ends with {TURN_END}, and begins with {TURN_START}system; a text ends with {SEPARATOR}."
# Those that turn text into tokens for all others, those that render templates and read what came of it, and the server, which
# counts what the engine will read.
MAY_ENCODE = {
    "tokens/text_tokens.py",
    "tokens/encode.py",
    "training/finetune/chat.py",
    "training/finetune/template.py",
    "export/modelfile.py",
    "serving/requests.py",
}
ASK_ABOUT_IT = {
    "models/load.py",  # what comes before "a"
    "compression/gguf_tokenizer.py",  # what comes after it
    "evaluation/parity/probes.py",  # whether two tokenizers do the same, with their special tokens
    "evaluation/parity/text_faults.py",
    "evaluation/task_scores/lm_eval_models.py",  # as lm-eval does, so that its scores are ours
    "training/vocabulary/count_tokens.py",  # what a template writes, as text
    "evaluation/served.py",  # how long a prompt is that the server will encode
}
"""Those that find out how a tokenizer is."""
LIBRARY = Path(__file__).parents[2] / "leanpipe"


def special_tokens(tokens):
    return [token for token in tokens if token in set(tiny_tokenizer().all_special_ids)]


def as_in_training(text):
    (batch,) = encode(Encoder(backend_of(tiny_tokenizer())), [text], None)
    return batch.tokens.tolist()


def test_a_spelt_out_special_token_is_characters_for_all_who_read_text(tmp_path):
    tokens = as_in_training(SPELT_OUT)
    assert not special_tokens(tokens)
    assert encode_text(tiny_tokenizer(), SPELT_OUT) == tokens
    (score,) = score_documents(tiny_llama(), tiny_tokenizer(), [SPELT_OUT], start=0, context=512)
    assert score.tokens == len(tokens)
    write_split(tmp_path, "validation", {"00000": [SPELT_OUT]})
    (block,) = general_text(tmp_path, tiny_tokenizer(), 400, 512).blocks
    assert block["input_ids"].tolist()[1 : 1 + len(tokens)] == tokens


def test_what_is_asked_ends_no_turn():
    """The template's own two turns, and none that the question spells."""
    asked = encode_prompt(tiny_tokenizer(), SPELT_OUT)[0].tolist()
    assert special_tokens(asked) == [1, 2, 1]  # <|im_start|>user … <|im_end|>, <|im_start|>assistant
    assert SPELT_OUT in tiny_tokenizer().decode(asked)


def test_nobody_else_encodes():
    """Whoever calls a tokenizer by itself makes a rule of its own; the common way is `encode_text`."""
    found = set()
    for path in LIBRARY.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and (owner := encodes(node.func)) and "tokenizer" in owner:
                found.add(str(path.relative_to(LIBRARY)))
    assert found == MAY_ENCODE - {"tokens/encode.py"} | ASK_ABOUT_IT


def encodes(function):
    """The name of what is called as a tokenizer is: itself, or a method of it that gives tokens."""
    if isinstance(function, ast.Name):
        return function.id if function.id.endswith("tokenizer") and "_" not in function.id else ""
    methods = (
        "encode",
        "encode_plus",
        "encode_batch",
        "encode_batch_fast",
        "tokenize",
        "apply_chat_template",
    )
    if isinstance(function, ast.Attribute) and function.attr in methods:
        return ast.unparse(function.value)
    if isinstance(function, ast.Attribute) and function.attr in ("tokenizer", "processing_class"):
        return "tokenizer"
    return ""


@pytest.fixture(scope="module")
def begins_with_bos():
    """A tokenizer that puts a BOS before every text, as Llama's does: not the token that ends one."""
    plain = tiny_tokenizer().backend_tokenizer
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=type(plain).from_str(plain.to_str()), bos_token=TURN_START, eos_token=SEPARATOR
    )
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{TURN_START} $A", pair=f"{TURN_START} $A $B", special_tokens=[(TURN_START, 1)]
    )
    return tokenizer


def test_a_document_begins_as_the_tokenizer_begins_a_text(begins_with_bos):
    assert (document_start(begins_with_bos), document_separator(begins_with_bos)) == (1, 0)
    # To name a BOS is not to use it: SmolLM2's is the beginning of a turn.
    assert tiny_tokenizer().bos_token_id == 1 and document_start(tiny_tokenizer()) == 0


def test_blocks_begin_each_document_with_the_bos(tmp_path, begins_with_bos):
    begins_with_bos.save_pretrained(tmp_path / "teacher")
    texts = [text[:300] for text in tiny_text()[:20]]
    for split, part in (("train", texts[:15]), ("validation", texts[15:])):
        write_split(tmp_path / "documents", split, {"00000": part})
    out = tmp_path / "out"
    out.mkdir()
    given = TokenizeInputs(tmp_path / "documents", tmp_path / "teacher")
    tokenize.function(TokenizeConfig(block_length=512), given, out, Silent())
    documents = [piece for piece in pieces(out / "train", "00000") if len(piece) > 1]
    assert len(documents) == 15
    for tokens, text in zip(
        sorted(documents), sorted([1, *as_in_training(each), 0] for each in texts[:15]), strict=True
    ):
        assert tokens == text
    for block in Blocks(out, "train"):  # and nobody is to guess it
        assert block["labels"][block["input_ids"] == 1].eq(-100).all()


def test_blocks_of_such_a_teacher_are_made_anew_and_only_those(tmp_path, begins_with_bos):
    """What was stored before documents began with the BOS has a key without that mark."""
    tokenizers = {"bos": begins_with_bos, "plain": tiny_tokenizer()}
    roles = {}
    for name, tokenizer in tokenizers.items():
        tokenizer.save_pretrained(tmp_path / name)
        roles[name] = set(tokenize.digests({"teacher": external(name, tmp_path / name)}))
    assert roles == {"bos": {"teacher", "beginning"}, "plain": {"teacher"}}


def test_evaluation_reads_the_bos_and_shows_what_it_is_without(tmp_path, begins_with_bos):
    texts, model = [text[:200] for text in tiny_text()[:3]], tiny_llama()
    save_model(model, begins_with_bos, tmp_path / "model", torch.float32)
    write_documents(tmp_path / "documents", texts)
    (tmp_path / "out").mkdir()
    config = EvaluateConfig(
        text_bytes=600,
        context=128,
        prompts=("A",),
        max_new_tokens=1,
        prefill_tokens=8,
        decode_tokens=1,
        repeats=1,
    )
    given = EvaluateInputs(tmp_path / "model", tmp_path / "documents")
    found = evaluate.function(config, given, tmp_path / "out", Silent())
    after = {
        start: bits_per_byte(
            score_documents(load_for_inference(tmp_path / "model"), begins_with_bos, texts, start, 128)
        )
        for start in (0, 1)
    }
    assert found["bits_per_byte"] == pytest.approx(after[1]) and after[0] != pytest.approx(after[1])
    assert found["bits_per_byte_without_bos"] == pytest.approx(after[0])


def test_what_is_written_without_a_template_begins_with_the_bos(begins_with_bos):
    assert encode_prompt(begins_with_bos, "A list")[0].tolist()[0] == 1


def test_forgetting_is_measured_after_the_bos(tmp_path, begins_with_bos):
    write_split(tmp_path, "validation", {"00000": tiny_text()[:2]})
    blocks = general_text(tmp_path, begins_with_bos, 10_000, 512).blocks
    tokens = torch.cat([block["input_ids"] for block in blocks])
    places = torch.cat([block["position_ids"] for block in blocks])
    assert int((tokens == 1).sum()) == 2 and places[tokens == 1].tolist() == [0, 0]
