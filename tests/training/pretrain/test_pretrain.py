import math
from itertools import pairwise

import pytest
from pydantic import ValidationError

from leanpipe.core.errors import UserError
from leanpipe.models.load import load_tokenizer
from leanpipe.training.pretrain.depth import derive, scaled_parameters, shape_of
from leanpipe.training.pretrain.pretrain import PretrainConfig, PretrainInputs, check_pretrain, pretrain
from tests.training.blocks import Recorder, write_blocks

pytestmark = pytest.mark.usefixtures("one_thread")


def run(tmp_path, **settings):
    base = {
        "depth": 1,
        "tokens": 40 * 128,
        "batch": 4,
        "learning_rate": 1e-2,
        "validation_tokens": 128,
        "precision": "fp32",
    }
    blocks = write_blocks(tmp_path / "blocks")
    out = tmp_path / "out"
    out.mkdir()
    inputs = PretrainInputs(blocks)
    return pretrain.function(PretrainConfig(**{**base, **settings}), inputs, out, Recorder()), out


CLASSES = [
    ({}, "LlamaForCausalLM"),
    ({"architecture": "gpt2"}, "GPT2LMHeadModel"),
    ({"attention": {"pattern": "sliding_window", "window": 8}}, "MistralForCausalLM"),
    ({"attention": {"pattern": "reformer", "window": 8}, "tied_embeddings": False}, "LlamaForCausalLM"),
]


@pytest.mark.parametrize(("settings", "name"), CLASSES)
def test_it_learns_and_plain_transformers_loads_what_it_writes(tmp_path, settings, name):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    summary, out = run(tmp_path, **settings)
    assert summary["initial_validation_loss"] == pytest.approx(math.log(512), abs=0.3)
    assert summary["validation_loss"] < 0.8 * math.log(512)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    assert type(model).__name__ == name
    assert model.num_parameters() == summary["parameters"]
    assert tokenizer.get_vocab() == load_tokenizer(tmp_path / "blocks" / "tokenizer").get_vocab()
    assert tokenizer.chat_template
    ids = tokenizer("The statement", return_tensors="pt").input_ids
    assert (
        model.generate(ids, max_new_tokens=4, do_sample=False, eos_token_id=None).shape[1] == 4 + ids.shape[1]
    )


def test_what_was_derived_is_reported_and_used(tmp_path):
    summary, _ = run(
        tmp_path, tokens=0, batch=0, learning_rate=0, tokens_per_parameter=0.02, micro_batch=2, width=32
    )
    config = PretrainConfig(depth=1, tokens_per_parameter=0.02, width=32, micro_batch=2)
    derived = derive(config, 512, 32)
    assert summary["scaled_parameters"] == summary["parameters"]  # its embeddings are tied
    assert derived.tokens == round(0.02 * summary["parameters"])
    assert summary["tokens"] == math.ceil(derived.tokens / summary["batch_tokens"]) * summary["batch_tokens"]
    assert summary["batch_tokens"] == 32 * derived.batch and derived.batch % 2 == 0
    assert summary["learning_rate"] == derived.learning_rate
    assert (summary["width"], summary["heads"], summary["kv_heads"], summary["mlp_width"]) == (32, 1, 1, 128)


def test_twelve_layers_are_as_large_as_a_gpt2_and_trained_as_gpt3_was():
    """Sizes of GPT-2; learning rate and batch of the smallest GPT-3, whose budget was larger than Chinchilla's."""
    config = PretrainConfig(depth=12, architecture="gpt2", tokens=1_320_000_000, micro_batch=1)
    derived = derive(config, 50_257, 1024)
    assert (derived.width, derived.heads, derived.mlp_width) == (768, 12, 3072)
    assert derived.batch * 1024 == 2**19
    assert derived.learning_rate == pytest.approx(6e-4)
    assert scaled_parameters(config, 50_257, 1024) == 124_439_808  # that of GPT-2
    assert derive(PretrainConfig(depth=12, architecture="gpt2"), 50_257, 1024).tokens == 20 * 124_439_808


def test_deeper_is_wider_longer_in_larger_steps_and_slower():
    derived = [derive(PretrainConfig(depth=depth), 8192, 256) for depth in range(1, 31, 3)]
    for name in ("width", "heads", "kv_heads", "mlp_width", "tokens", "batch"):
        values = [getattr(one, name) for one in derived]
        assert values == sorted(values) and values[0] < values[-1], name
    rates = [one.learning_rate for one in derived]
    assert all(more > less for more, less in pairwise(rates))


GIVEN = {
    "width": 256,
    "heads": 2,
    "kv_heads": 1,
    "mlp_width": 100,
    "tokens": 5_000,
    "learning_rate": 0.5,
    "batch": 12,
}


@pytest.mark.parametrize("name", GIVEN)
def test_what_is_given_is_kept(name):
    derived = derive(PretrainConfig(depth=2, **{name: GIVEN[name]}), 8192, 256)
    assert getattr(derived, name) == GIVEN[name]
    assert all(getattr(derived, other) for other in GIVEN)


def test_what_is_given_decides_what_follows_from_it():
    def of(**settings):
        return derive(PretrainConfig(depth=2, **settings), 8192, 256)

    assert of(width=256).tokens > of().tokens and of(width=256).heads == 4
    assert of(tokens=1_000).batch < of().batch
    assert of(batch=1).learning_rate < of().learning_rate
    assert of(batch=4).learning_rate == pytest.approx(2 * of(batch=1, micro_batch=1).learning_rate)
    assert of(width=200).heads == 2  # three would not divide it


def test_an_input_embedding_of_its_own_needs_no_tokens():
    tied = scaled_parameters(PretrainConfig(depth=2), 8192, 256)
    apart = scaled_parameters(PretrainConfig(depth=2, tied_embeddings=False), 8192, 256)
    assert tied == apart


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"width": 100, "heads": 3},
            r"pretrain.width \(100\) must be an even multiple of pretrain.heads \(3\)",
        ),
        (
            {"heads": 4, "kv_heads": 3, "width": 64},
            r"pretrain.heads \(4\) must be a multiple of pretrain.kv_heads",
        ),
        ({"architecture": "gpt2", "heads": 2, "kv_heads": 1}, "a gpt2 has as many KV heads as heads"),
    ],
)
def test_sizes_that_do_not_go_together_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        check_pretrain(PretrainConfig(**settings))


@pytest.mark.parametrize("micro_batch", [0, 1, 3, 8])
def test_what_fits_into_memory_decides_no_batch(micro_batch):
    """Else less memory would be another training."""
    config = PretrainConfig(depth=2, tokens=100_000, processes=2)
    less = config.model_copy(update={"micro_batch": micro_batch})
    expected = derive(config, 512, 64)
    assert derive(less, 512, 64).batch == expected.batch > 8
    assert derive(less, 512, 64).learning_rate == expected.learning_rate


def test_a_batch_that_is_given_is_made_of_whole_micro_batches():
    with pytest.raises(ValidationError, match=r"batch \(6\) must be a multiple of micro_batch \(4\)"):
        PretrainConfig(batch=6, micro_batch=4)
    assert shape_of(PretrainConfig(batch=3, micro_batch=4), 8).layers == 2


def test_a_folder_without_blocks_is_refused(tmp_path):
    blocks = write_blocks(tmp_path)
    for file in (blocks / "train").glob("*"):
        file.unlink()
    with pytest.raises(UserError, match="holds no train blocks"):
        pretrain.function(PretrainConfig(), PretrainInputs(blocks), tmp_path / "out", Recorder())
