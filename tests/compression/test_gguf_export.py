"""GGUF files of tiny models of every family: llama.cpp predicts from them what transformers predicts from the model."""

import json
import os

import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from leanpipe.compression.gguf_export import GgufTypes, check_gguf, plan_gguf, write_gguf
from leanpipe.compression.gguf_tokenizer import _LLAMA3, _QWEN2, check_gguf_tokenizer
from leanpipe.compression.gguf_types import IN_ITS_PLACE, rounded_weights
from leanpipe.core.errors import UserError, sentence_of
from leanpipe.engines.gguf_logits import GgufLogits
from leanpipe.engines.llama_cpp import LlamaCpp
from leanpipe.models.count import empty_model
from leanpipe.models.load import save_model
from leanpipe.models.offload import GGUF_FILE
from tests.support.small_disk import small_disk as mounted
from tests.support.tiny_models import tiny_llama, tiny_text, tiny_tokenizer

SHAPE = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
WINDOWS = {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 32}
FAMILIES = {
    "llama": LlamaConfig(**SHAPE, tie_word_embeddings=True),
    "llama with biases and a head": LlamaConfig(**SHAPE, attention_bias=True, mlp_bias=True),
    "llama with wide heads": LlamaConfig(**SHAPE, head_dim=32),
    "llama stretched as Llama 3": LlamaConfig(**SHAPE, rope_parameters=LLAMA3),
    "llama stretched": LlamaConfig(
        **SHAPE, rope_parameters={"rope_type": "linear", "rope_theta": 10_000.0, "factor": 4.0}
    ),
    "mistral": MistralConfig(**SHAPE, sliding_window=None),
    "qwen2": Qwen2Config(**SHAPE),
    "qwen3": Qwen3Config(**SHAPE, head_dim=16),
    "gemma": GemmaConfig(**SHAPE, head_dim=16),
    "gemma2": Gemma2Config(**SHAPE, **WINDOWS),
    "gemma3": Gemma3TextConfig(**{**SHAPE, "num_hidden_layers": 6}, **WINDOWS),
    "gpt2": GPT2Config(vocab_size=512, n_embd=64, n_layer=2, n_head=4, n_positions=512),
}
TOKENS = [number * 37 % 500 + 5 for number in range(80)]
EIGHT = GgufTypes("q8_0", "q8_0")
small_disk = mounted


def model_of(config):
    """A model whose norms and biases are not those that it begins with, which would hide a fault."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).eval().float()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_llama_cpp_predicts_what_the_model_does(family, tmp_path):
    """Of weights in 8 bits they differ by 1 to 4%; with one layout or constant wrong by a third and more."""
    model, tokenizer = model_of(FAMILIES[family]), tiny_tokenizer()
    save_model(model, tokenizer, tmp_path, torch.float32)
    planned = plan_gguf(empty_model(model.config), tokenizer, EIGHT)
    assert write_gguf(model, tokenizer, EIGHT, tmp_path / GGUF_FILE) == planned
    assert (tmp_path / GGUF_FILE).stat().st_size == planned.bytes
    with torch.inference_mode():
        expected = model(torch.tensor([TOKENS])).logits[0]
    actual = GgufLogits(tmp_path, len(TOKENS))(TOKENS)
    assert 0 < (actual - expected).norm() / expected.norm() < 0.06
    assert (actual.argmax(-1) == expected.argmax(-1)).float().mean() > 0.85


@pytest.mark.parametrize("kind", [*IN_ITS_PLACE, "q5_1", "q4_1", "iq4_nl"])
def test_llama_cpp_reads_every_type_as_it_was_written(kind, tmp_path):
    """What it predicts from the file is what the model predicts whose weights are rounded as the file's are."""
    config = LlamaConfig(**{**SHAPE, "hidden_size": 256, "intermediate_size": 320, "num_hidden_layers": 1})
    model, tokenizer = model_of(config), tiny_tokenizer()
    save_model(model, tokenizer, tmp_path, torch.float32)
    plan = write_gguf(model, tokenizer, GgufTypes(kind, kind), tmp_path / GGUF_FILE)
    assert plan.replaced == ({(kind, IN_ITS_PLACE[kind]): 1} if kind in IN_ITS_PLACE else {})
    assert (tmp_path / GGUF_FILE).stat().st_size == plan.bytes
    stored = {one.module: one.type for one in plan.tensors if len(one.shape) == 2}
    with torch.no_grad():
        for name, type_ in stored.items():
            weight = model.get_submodule(name).weight
            weight.copy_(rounded_weights(weight.detach(), type_))
        expected = model(torch.tensor([TOKENS])).logits[0]
    actual = GgufLogits(tmp_path, len(TOKENS))(TOKENS)
    assert (actual - expected).norm() / expected.norm() < 0.03


def test_a_full_disk_is_told_and_leaves_nothing(small_disk):
    with pytest.raises(OSError, match="No space left") as raised:
        write_gguf(tiny_llama(vocabulary=20_000), tiny_tokenizer(), EIGHT, small_disk / GGUF_FILE)
    assert "disk is full" in str(sentence_of(raised.value)) and not list(small_disk.iterdir())


@pytest.mark.parametrize("layers", ["q8_0", "q5_0", "q4_0"])
@pytest.mark.parametrize(("hidden", "neurons"), [(64, 128), (96, 100), (48, 40)])
def test_what_is_stored_is_known_before(layers, hidden, neurons, tmp_path):
    """To the byte, and tensor by tensor: rows of 100 or 48 are no multiple of 32, and stay in 16 bits."""
    from gguf import GGUFReader

    config = LlamaConfig(**{**SHAPE, "hidden_size": hidden, "intermediate_size": neurons}, head_dim=16)
    types = GgufTypes(layers, "q5_0", frozenset({"model.layers.0.self_attn.o_proj"}))
    planned = plan_gguf(empty_model(config), tiny_tokenizer(), types)
    file = tmp_path / GGUF_FILE
    write_gguf(model_of(config), tiny_tokenizer(), types, file)
    assert file.stat().st_size == planned.bytes
    read = GGUFReader(file).tensors
    assert [(one.name, one.tensor_type.name.lower(), one.n_bytes) for one in read] == [
        (one.name, one.type, one.bytes) for one in planned.tensors
    ]
    stored = {one.name: one.type for one in planned.tensors}
    assert stored["blk.0.attn_output.weight"] == "bf16" and stored["blk.0.attn_norm.weight"] == "f32"
    assert stored["blk.1.attn_q.weight"] == (layers if hidden % 32 == 0 else "bf16")
    assert stored["blk.1.ffn_down.weight"] == (layers if neurons % 32 == 0 else "bf16")
    assert stored["token_embd.weight"] == stored["output.weight"] == ("q5_0" if hidden % 32 == 0 else "bf16")
    assert ("model.layers.1.mlp.down_proj" in planned.unfit_modules) == (neurons % 32 != 0)
    assert "model.layers.0.self_attn.o_proj" not in planned.unfit_modules


def test_the_same_model_gives_the_same_file(tmp_path):
    for name in ("a", "b"):
        write_gguf(tiny_llama(), tiny_tokenizer(), EIGHT, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_file_that_could_not_be_finished_is_not_there(tmp_path):
    def stop(done, total):
        if done == 3:
            raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        write_gguf(tiny_llama(), tiny_tokenizer(), EIGHT, tmp_path / GGUF_FILE, stop)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (GPTNeoXConfig(hidden_size=64, num_hidden_layers=1), "type gpt_neox"),
        (LlamaConfig(**SHAPE, hidden_act="gelu"), "activation is gelu"),
        (MistralConfig(**SHAPE, sliding_window=64), "sliding window"),
        (Gemma2Config(**SHAPE, **(WINDOWS | {"query_pre_attn_scalar": 7})), "scaled by 7"),
        (Gemma2Config(**SHAPE, **WINDOWS, layer_types=["full_attention"] * 2), "in another order"),
        (LlamaConfig(**SHAPE, rope_parameters={**LLAMA3, "rope_type": "dynamic"}), "stretched by dynamic"),
        (GPT2Config(n_embd=64, n_head=4, scale_attn_by_inverse_layer_idx=True), "not GPT-2's own"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_model_that_gguf_cannot_hold_is_refused_by_what_differs(config, named):
    with pytest.raises(UserError, match=named) as refused:
        check_gguf(config)
    assert "take the GGUF formats out of quantize.formats" in str(refused.value)


def split_by(pattern):
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


SPLITS = {
    "gpt-2": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "smollm": pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    ),
    "llama 3": split_by(_LLAMA3),
    "qwen": split_by(_QWEN2),
}
TEXT = (
    "In 1874 the mills' owners said: “It's 3.5 metres!”\n\n\tNaïve 北京 \U0001f999  x=1;  they'Re   back.\n"
)


def bytes_bpe(split) -> PreTrainedTokenizerFast:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = split, decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1_000,
        special_tokens=["<|endoftext|>", "<s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([*tiny_text()[:40], TEXT], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|endoftext|>", bos_token="<s>")


def sentencepiece_bpe() -> PreTrainedTokenizerFast:
    """A tokenizer of Llama 2's kind: spaces as ▁, bytes for what it has no token for, a BOS before every text."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Metaspace()
    bpe.train_from_iterator(tiny_text()[:40], trainers.BpeTrainer(vocab_size=700, show_progress=False))
    trained = json.loads(bpe.to_str())
    first = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokens = [*first, *sorted(trained["model"]["vocab"], key=trained["model"]["vocab"].get)]
    model = models.BPE(
        vocab={token: number for number, token in enumerate(tokens)},
        merges=[tuple(one) for one in trained["model"]["merges"]],
        byte_fallback=True,
        unk_token="<unk>",
        fuse_unk=True,
    )
    whole = Tokenizer(model)
    from tokenizers import normalizers, processors

    whole.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    whole.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    whole.add_special_tokens(["<unk>", "<s>", "</s>"])
    whole.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=whole, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


@pytest.mark.parametrize("split", [*SPLITS, "sentencepiece"])
def test_llama_cpp_reads_text_as_the_model_s_own_tokenizer_does(split, tmp_path):
    """Ids, the BOS that is put before a text or not, and the words that special tokens spell."""
    tokenizer = sentencepiece_bpe() if split == "sentencepiece" else bytes_bpe(SPLITS[split])
    config = LlamaConfig(**{**SHAPE, "vocab_size": len(tokenizer) + 8})
    write_gguf(model_of(config), tokenizer, EIGHT, tmp_path / GGUF_FILE)
    engine = LlamaCpp(tmp_path / GGUF_FILE, 64)
    for text in (TEXT, "A list is", "It is <s> that begins"):
        assert engine.tokenize(text) == tokenizer.encode(
            text, add_special_tokens=False, split_special_tokens=True
        )
    assert engine.tokenize("A list", special=True) == tokenizer("A list")["input_ids"]


def test_a_tokenizer_that_llama_cpp_has_no_like_of_is_refused():
    words = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    with pytest.raises(UserError, match="of type WordPiece"):
        check_gguf_tokenizer(PreTrainedTokenizerFast(tokenizer_object=words, eos_token="a"))
    with pytest.raises(UserError, match="splits text by Whitespace"):
        check_gguf_tokenizer(bytes_bpe(pre_tokenizers.Whitespace()))


def test_a_damaged_file_is_refused_in_one_sentence(tmp_path):
    whole = tmp_path / "whole.gguf"
    write_gguf(tiny_llama(), tiny_tokenizer(), EIGHT, whole)
    cut, other = tmp_path / "cut.gguf", tmp_path / "other.gguf"
    cut.write_bytes(whole.read_bytes()[:-2_000])
    other.write_bytes(os.urandom(1_000))
    for file in (cut, other):
        with pytest.raises(UserError, match=r"cannot load .+ may be damaged or cut short"):
            LlamaCpp(file, 64)
