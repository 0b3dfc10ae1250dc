"""Layers and widths chosen by what they do on text, on tiny trained and untrained models."""

import pytest
import torch

from leanpipe.models.load import load_model
from leanpipe.models.student import most_important, random_student
from leanpipe.planning.references import describe_model
from leanpipe.shrink.importance import layer_influence, measure_importance
from leanpipe.shrink.narrow import Cut, cut_model, narrow_config, shared_widths
from leanpipe.training.losses.objectives import CrossEntropy
from leanpipe.training.trainer.data import collate
from tests.support.tiny_models import tiny_llama
from tests.training.blocks import tiny_blocks


@pytest.fixture(scope="module")
def blocks(tmp_path_factory):
    torch.set_num_threads(1)
    return tiny_blocks(tmp_path_factory.mktemp("blocks"))


def loss(model, blocks) -> float:
    with torch.no_grad():
        return float(CrossEntropy()(model, collate([blocks[index] for index in range(8)]))["loss"])


def trained(blocks, steps: int = 60):
    """A tiny Llama that knows these blocks a little."""
    model = tiny_llama(layers=3).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for step in range(steps):
        batch = collate([blocks[(4 * step + index) % len(blocks)] for index in range(4)])
        (CrossEntropy()(model, batch)["loss"] / 124).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def silence(layer) -> None:
    """A layer that adds nothing to what goes through it."""
    with torch.no_grad():
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()


def test_a_layer_that_does_nothing_has_no_influence(blocks):
    model = tiny_llama(layers=4)
    silence(model.model.layers[2])
    influence = layer_influence(model, model.model.layers, [blocks[0], blocks[1]])
    assert influence[2] == pytest.approx(0, abs=1e-6) and (influence[[0, 1, 3]] > 1e-5).all()
    assert most_important(influence, 3) == [0, 1, 3]


def narrowed(model, blocks, width: float) -> Cut:
    """All layers of a Llama at `width` times its width, by what matters on the blocks."""
    importance = measure_importance(model, model.model.layers, blocks)
    layers = list(range(model.config.num_hidden_layers))
    return cut_model(model, "model.layers", layers, shared_widths(model.config, width), importance)


def test_the_whole_width_is_the_model_itself(blocks):
    model = tiny_llama()
    same = narrowed(model, [blocks[0]], 1.0)
    assert torch.equal(same.hidden, torch.arange(64))
    batch = collate([blocks[0]])["input_ids"]
    torch.testing.assert_close(same.model.eval()(batch).logits, model(batch).logits)


def test_what_does_nothing_goes_first(blocks):
    """Half of all neurons, one of two groups of heads, and half of the hidden states are dead: nothing changes."""
    model = tiny_llama()
    dead = torch.arange(0, 64, 2)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.down_proj.weight[:, 1::2] = 0
            layer.mlp.gate_proj.weight[1::2] = 0
            layer.self_attn.o_proj.weight[:, :32] = 0
            layer.self_attn.v_proj.weight[:16] = 0
            layer.mlp.down_proj.weight[dead] = 0
            layer.self_attn.o_proj.weight[dead] = 0
        model.model.embed_tokens.weight[:, dead] = 0
    narrow = narrowed(model, [blocks[0]], 0.5)
    assert torch.equal(narrow.hidden, torch.arange(1, 64, 2))
    assert narrow.model.config.num_attention_heads == 2 and narrow.model.config.intermediate_size == 64
    batch = collate([blocks[1]])["input_ids"]
    with torch.no_grad():
        # The norms' scales are those of other text, and epsilon is not halved.
        torch.testing.assert_close(
            narrow.model.eval()(batch).logits, model(batch).logits, rtol=0.05, atol=0.01
        )


def test_a_narrower_student_begins_better_than_a_random_one(blocks):
    teacher = trained(blocks)
    narrow = narrowed(teacher, [blocks[0], blocks[1]], 0.5)
    torch.manual_seed(0)
    random = type(teacher)(narrow_config(teacher.config, shared_widths(teacher.config, 0.5)))
    assert loss(teacher, blocks) < loss(narrow.model, blocks) < 0.95 * loss(random, blocks)


@pytest.mark.parametrize("width", [0.9, 0.8, 0.67, 0.4])
def test_every_width_makes_a_model_that_can_be_saved_and_loaded(width, tmp_path):
    """transformers refuses to write hidden sizes that are no multiple of the number of heads."""
    teacher = describe_model("smollm2-135m-instruct")
    teacher.vocab_size, teacher.num_hidden_layers = 100, 1
    config = narrow_config(teacher, shared_widths(teacher, width))
    assert abs(config.hidden_size / teacher.hidden_size - width) < 0.101
    random_student(config).save_pretrained(tmp_path)
    assert load_model(tmp_path).config.hidden_size == config.hidden_size
