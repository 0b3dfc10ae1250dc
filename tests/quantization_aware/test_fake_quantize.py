"""What a model is trained on is what GGUF's Q4_0 holds, to the bit, whatever the saved weights are rounded to."""

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize
from transformers import GPT2Config, GPT2LMHeadModel

from leanpipe.quantization_aware.fake_quantize import (
    best_shares,
    fake_quantize,
    round_layers,
    rounded_layers,
)
from leanpipe.quantization_aware.grid import choose_grid, freeze_embeddings
from tests.support.tiny_models import tiny_llama

Q4_0 = GGMLQuantizationType.Q4_0


def stored(weight: torch.Tensor) -> torch.Tensor:
    """What llama.cpp reads where these weights were written as Q4_0."""
    values = weight.detach().float().numpy()
    return torch.from_numpy(dequantize(quantize(values, Q4_0), Q4_0)).view(weight.shape)


def weights() -> torch.Tensor:
    """Blocks of all sizes: of numbers that float16 barely holds, of zeros, and with two greatest of either sign."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(64, 96, generator=generator) * torch.logspace(-7, 2, 64)[:, None]
    weight[5], weight[6, :32] = 0, 0
    weight[7, 3], weight[7, 9] = 5, -5
    weight[8, 9], weight[8, 3] = 5, -5
    return weight


@pytest.mark.parametrize("saved", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("searched", [False, True], ids=["plain", "searched"])
def test_what_was_rounded_is_stored_as_it_is(saved, searched):
    weight = weights()
    rounded = fake_quantize(weight, best_shares(weight) if searched else None)
    assert torch.equal(stored(rounded.to(saved)), rounded)
    assert torch.equal(fake_quantize(rounded), rounded)


def test_it_is_gguf_s_arithmetic_but_for_the_last_digits_of_a_scale():
    weight = weights()[16:]  # below, a scale is rounded to few digits
    weight = torch.cat([weight.reshape(-1, 32), -weight.reshape(-1, 32)])
    ours, theirs = fake_quantize(weight), stored(weight)
    scale = theirs.abs().amax(-1, keepdim=True) / 8
    steps, others = (torch.where(scale > 0, each / scale, 0).round() for each in (ours, theirs))
    assert torch.equal(steps, others)
    torch.testing.assert_close(ours, theirs, rtol=2**-8, atol=0)


def test_a_searched_grid_is_nearer_to_the_weights():
    weight = torch.randn(64, 256, generator=torch.Generator().manual_seed(1))
    plain, searched = (
        float((fake_quantize(weight, shares) - weight).square().mean())
        for shares in (None, best_shares(weight))
    )
    assert searched < 0.95 * plain


def test_a_grid_is_chosen_by_the_errors_that_count():
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(64, 256, generator=generator)
    counts = torch.randn(256, generator=generator).square().expand(64, 256)
    all_the_same, counted = (
        float(((fake_quantize(weight, shares) - weight).square() * counts).sum())
        for shares in (best_shares(weight), best_shares(weight, counts))
    )
    assert counted < 0.97 * all_the_same


def test_the_gradient_goes_through_as_if_nothing_were_rounded():
    model = tiny_llama(layers=1)
    layer, name = model.model.layers[0].mlp.up_proj, "model.layers.0.mlp.up_proj"
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(2), requires_grad=True)
    grid = {name: best_shares(layer.weight)}
    with rounded_layers(model, grid):
        made = layer(x)
        made.square().sum().backward()
    rounded = fake_quantize(layer.weight, grid[name])
    assert torch.equal(made, x @ rounded.T) and not torch.equal(layer(x), made)
    torch.testing.assert_close(layer.weight.grad, 2 * made.detach().T @ x.detach())
    torch.testing.assert_close(x.grad, 2 * made.detach() @ rounded)


def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=64, n_positions=64, n_embd=64, n_layer=1, n_head=2))


@pytest.mark.parametrize("make", [lambda: tiny_llama(layers=1), gpt2], ids=["llama", "gpt2"])
def test_a_rounded_model_computes_by_what_is_put_in_its_place(make):
    """GPT-2's layers hold their weights the other way round; blocks lie along what a layer reads in either."""
    model, tokens = make().eval(), torch.arange(12)[None]
    before = model(tokens).logits
    grid = choose_grid(model)
    with rounded_layers(model, grid), torch.no_grad():
        computed = model(tokens).logits
    assert torch.equal(model(tokens).logits, before)
    round_layers(model, grid)
    torch.testing.assert_close(model(tokens).logits, computed, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(computed, before, atol=1e-4)


def test_what_is_kept_and_what_does_not_fit_stays_whole():
    whole = choose_grid(tiny_llama(layers=2))
    assert len(whole) == 14 and "lm_head" not in whole
    kept = choose_grid(tiny_llama(layers=2), ("down_proj", "model.layers.0"))
    assert set(whole) - set(kept) == {name for name in whole if "down_proj" in name or ".layers.0." in name}
    model = tiny_llama(layers=1)
    model.model.layers[0].mlp.down_proj.weight = torch.nn.Parameter(torch.zeros(64, 40))
    assert set(choose_grid(model)) == {
        name for name in choose_grid(tiny_llama(layers=1)) if "down" not in name
    }


@pytest.mark.parametrize("tied", [True, False])
def test_embeddings_are_read_as_stored_and_saved_as_they_were(tied):
    model = tiny_llama(layers=1, tied=tied)
    before = model.get_output_embeddings().weight.detach().clone()
    frozen = freeze_embeddings(model, "q8_0")
    kind = GGMLQuantizationType.Q8_0
    for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
        assert not layer.weight.requires_grad
    seen = model.get_output_embeddings().weight.detach().clone()
    frozen.restore()
    assert torch.equal(model.get_output_embeddings().weight, before)
    saved = before.bfloat16().float().numpy()
    np.testing.assert_array_equal(dequantize(quantize(saved, kind), kind), seen.numpy())
