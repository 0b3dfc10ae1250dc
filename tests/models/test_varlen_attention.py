"""Attention by document against PyTorch's under a mask."""

from typing import Any

import pytest
import torch
import transformers

from leanpipe.core import device
from leanpipe.models.attention import varlen_attention as documents
from leanpipe.models.attention.varlen_attention import use_default_attention, use_varlen_attention

DEVICE = device.name()
FASTEST = torch.float32 if DEVICE == "cpu" else torch.bfloat16
"""A GPU has it in 16 bits only."""
only_a_processor = pytest.mark.skipif(DEVICE == "cuda", reason="a GPU has it in 16 bits only")
POSITIONS = torch.tensor([[*range(9), *range(1), *range(14)], [*range(3, 10), *range(17)]])
SMALL = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2, "vocab_size": 128}
CONFIGS: dict[str, Any] = {
    "llama": transformers.LlamaConfig(**SMALL, num_key_value_heads=2, intermediate_size=64),
    "gpt2": transformers.GPT2Config(
        vocab_size=128, n_embd=32, n_head=4, n_layer=2, attn_pdrop=0, resid_pdrop=0, embd_pdrop=0
    ),
    "qwen3": transformers.Qwen3Config(**SMALL, num_key_value_heads=1, head_dim=16, intermediate_size=64),
}
every_model = pytest.mark.parametrize("name", CONFIGS)


def make(config: Any, **settings: Any) -> Any:
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", **settings)
    return model.eval().to(DEVICE)


def states_and_gradients(model: Any, arithmetic: torch.dtype) -> list[torch.Tensor]:
    """The last hidden states, and the gradient of a sum of them by each weight of a layer's attention."""
    tokens = torch.randint(0, 128, (2, 24), generator=torch.Generator().manual_seed(0)).to(DEVICE)
    positions = POSITIONS.to(DEVICE)
    model.zero_grad()
    with torch.autocast(DEVICE, torch.bfloat16, enabled=arithmetic == torch.bfloat16):
        states = model.base_model(input_ids=tokens, position_ids=positions, use_cache=False).last_hidden_state
    weights = torch.randn(states.shape, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    (states.float() * weights).sum().backward()
    named = dict(model.named_parameters())
    found = [named[name].grad.clone() for name in named if "attn" in name]
    assert found
    return [states.detach().float(), *found]


@only_a_processor
@every_model
def test_it_is_the_same_attention(name):
    model = make(CONFIGS[name])
    expected = states_and_gradients(model, torch.float32)
    use_varlen_attention(model)
    assert model.config._attn_implementation == documents.NAME
    found = states_and_gradients(model, torch.float32)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@every_model
def test_in_bfloat16_it_is_no_further_from_float32_than_pytorchs(name):
    model = make(CONFIGS[name])
    exact = states_and_gradients(model, torch.float32)
    stock = states_and_gradients(model, torch.bfloat16)
    use_varlen_attention(model, torch.bfloat16)
    assert model.config._attn_implementation == documents.NAME
    ours = states_and_gradients(model, torch.bfloat16)
    for one, other, right in zip(ours, stock, exact, strict=True):
        assert (one - right).norm() <= 1.2 * (other - right).norm() + 1e-6


def test_dropout_drops():
    model = make(
        transformers.GPT2Config(
            vocab_size=128, n_embd=32, n_head=4, n_layer=2, attn_pdrop=0.5, resid_pdrop=0, embd_pdrop=0
        )
    )
    use_varlen_attention(model, FASTEST)
    assert model.config._attn_implementation == documents.NAME
    alone = states_and_gradients(model, FASTEST)[0]
    model.train()
    torch.manual_seed(0)
    first, second = (states_and_gradients(model, FASTEST)[0] for _ in range(2))
    assert not torch.allclose(first, second) and not torch.allclose(first, alone)
    # A document of one token attends to itself, wholly or not at all.
    assert torch.isfinite(first).all()


@pytest.mark.parametrize(
    "config",
    [
        transformers.MistralConfig(**SMALL, num_key_value_heads=2, intermediate_size=64, sliding_window=4),
        transformers.Gemma3TextConfig(**SMALL, num_key_value_heads=2, head_dim=8, intermediate_size=64),
    ],
    ids=["mistral", "gemma3"],
)
def test_attention_that_is_not_full_is_left_alone(config):
    model = make(config)
    before = model.config._attn_implementation
    use_varlen_attention(model, FASTEST)
    assert model.config._attn_implementation == before == "sdpa"


def test_a_model_whose_layers_are_not_told_positions_is_left_alone(monkeypatch):
    """Whoever wrote it: documents would see each other unnoticed."""
    model = make(CONFIGS["llama"])

    def forgets(module: Any, arguments: Any, named: dict[str, Any]) -> Any:
        return arguments, named | {"position_ids": None}

    for layer in model.model.layers:
        layer.self_attn.register_forward_pre_hook(forgets, with_kwargs=True)
    use_varlen_attention(model, FASTEST)
    assert model.config._attn_implementation == "sdpa"


def test_afterwards_the_model_reads_padded_batches_and_generates():
    model = make(CONFIGS["llama"])
    tokens = torch.tensor([[0, 0, 5, 6], [7, 8, 9, 10]], device=DEVICE)
    given = {"input_ids": tokens, "attention_mask": (tokens > 0).long()}
    expected = model.generate(**given, max_new_tokens=5, do_sample=False, pad_token_id=0)
    use_varlen_attention(model, FASTEST)
    use_default_attention(model)
    found = model.generate(**given, max_new_tokens=5, do_sample=False, pad_token_id=0)
    assert found.equal(expected)
