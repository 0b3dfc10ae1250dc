"""Norms and gated layers in few passes, against transformers' own."""

from typing import Any

import pytest
import torch
import transformers

from leanpipe.core import device
from leanpipe.models.fused_layers import fuse_layers

pytestmark = pytest.mark.skipif(device.name() == "cuda", reason="it is for processors")

SMALL = {
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "vocab_size": 128,
    "intermediate_size": 72,
}
CONFIGS: dict[str, Any] = {
    "llama": transformers.LlamaConfig(**SMALL),
    "qwen3": transformers.Qwen3Config(**SMALL, head_dim=16),
    "mistral": transformers.MistralConfig(**SMALL),
}
every_model = pytest.mark.parametrize("name", CONFIGS)


def make(config: Any, dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    for name, weight in model.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(weight, 0.5, 1.5)  # all ones would hide much
    return model.to(dtype)


def fused_modules(model: Any) -> list[Any]:
    return [module for module in model.modules() if "forward" in vars(module)]


def loss_and_gradients(model: Any, autocast: bool = False) -> list[torch.Tensor]:
    tokens = torch.randint(0, 128, (2, 24), generator=torch.Generator().manual_seed(0))
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
    loss.backward()
    return [loss.detach(), *(each.grad.clone() for each in model.parameters() if each.grad is not None)]


@every_model
def test_it_computes_the_same(name):
    model = make(CONFIGS[name])
    expected = loss_and_gradients(model)
    fuse_layers(model)
    assert len(fused_modules(model)) >= 2 * 3 + 1
    for one, other in zip(loss_and_gradients(model), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@every_model
def test_under_autocast_it_is_no_further_from_float32(name):
    model = make(CONFIGS[name])
    exact, stock = loss_and_gradients(model), loss_and_gradients(model, autocast=True)
    fuse_layers(model)
    ours = loss_and_gradients(model, autocast=True)
    away = [
        sum(float((one - right).square().sum()) for one, right in zip(each[1:], exact[1:], strict=True))
        for each in (ours, stock)
    ]
    assert away[0] <= 1.2 * away[1] and torch.isclose(ours[0], exact[0], rtol=0.01)


def test_weights_that_are_frozen_in_bfloat16_pass_gradients_on():
    model = make(CONFIGS["llama"], torch.bfloat16).requires_grad_(False)
    fuse_layers(model)
    states = torch.randn(2, 5, 32, requires_grad=True)
    found = model.model(inputs_embeds=states.bfloat16(), use_cache=False).last_hidden_state
    found.float().square().sum().backward()
    assert found.dtype == torch.bfloat16 and states.grad is not None and states.grad.norm() > 0
    assert all(weight.grad is None for weight in model.parameters())


def test_more_rows_than_are_worked_on_at_once(monkeypatch):
    model = make(CONFIGS["llama"])
    expected = loss_and_gradients(model)
    monkeypatch.setattr("leanpipe.models.fused_layers._ELEMENTS", 5 * 72)
    fuse_layers(model)
    for one, other in zip(loss_and_gradients(model), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_what_computes_something_else_is_left_alone():
    gemma = make(
        transformers.GemmaConfig(**SMALL, head_dim=8)
    )  # its norms add 1 to their weights, its layers use GELU
    gpt2 = make(transformers.GPT2Config(vocab_size=128, n_embd=32, n_head=4, n_layer=2))
    for model in (gemma, gpt2):
        expected = loss_and_gradients(model)
        fuse_layers(model)
        assert not fused_modules(model)
        for one, other in zip(loss_and_gradients(model), expected, strict=True):
            assert torch.equal(one, other) or model is gpt2  # which drops out
