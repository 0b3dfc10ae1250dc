"""Which kernels are used on which device. Those of a GPU are run where there is one."""

from typing import Any

import pytest
import torch

from leanpipe.core import device
from leanpipe.core.errors import UserError
from leanpipe.models.attention import varlen_attention as documents
from leanpipe.training.losses.objectives import CrossEntropy
from leanpipe.training.trainer.config import TrainingConfig, check_training
from leanpipe.training.trainer.kernels import fast_kernels
from tests.support.tiny_models import tiny_llama

on_gpu = device.name() == "cuda"


def batch() -> dict[str, torch.Tensor]:
    tokens = torch.randint(3, 500, (2, 16), generator=torch.Generator().manual_seed(0))
    positions = torch.tensor([[*range(6), *range(10)], [*range(11), *range(5)]])
    return {
        "input_ids": tokens,
        "position_ids": positions,
        "labels": tokens.masked_fill(positions == 0, -100),
    }


def test_the_attention_kernel_that_is_asked_for_is_used():
    if not on_gpu:
        with pytest.raises(UserError, match="attention_kernel flex_attention needs a GPU"):
            check_training(TrainingConfig(attention_kernel="flex_attention"))
    for asked, used in (("auto", documents.NAME), ("sdpa", "sdpa"), ("flex_attention", "flex_attention")):
        if on_gpu or asked != "flex_attention":
            model = tiny_llama().to(device.name())
            with fast_kernels(model, TrainingConfig(attention_kernel=asked)):
                assert model.config._attn_implementation == used


def test_compile_calls_the_compiled_model():
    for compiled in (False, True):
        model = tiny_llama()
        with fast_kernels(model, TrainingConfig(compile=compiled)):
            # What a module calls instead of itself; compiled when first called, which takes a minute here.
            assert (model.model.layers[0]._compiled_call_impl is not None) == compiled


def loss_and_gradients(model: Any, settings: dict[str, Any]) -> list[torch.Tensor]:
    """In bfloat16."""
    there = {name: value.cuda() for name, value in batch().items()}
    with fast_kernels(model, TrainingConfig(**settings)), torch.autocast("cuda", torch.bfloat16):
        loss = CrossEntropy()(model, there)["loss"]
    loss.backward()
    found = [weight.grad.clone() for weight in model.parameters()]
    model.zero_grad()
    return [loss.detach(), *found]


@pytest.mark.gpu
@pytest.mark.skipif(not on_gpu, reason="there is no CUDA GPU here")
@pytest.mark.parametrize("settings", [{}, {"compile": True}, {"attention_kernel": "flex_attention"}])
def test_faster_kernels_give_the_same_loss_and_gradients(settings):
    model = tiny_llama().cuda()
    plain = loss_and_gradients(model, {"attention_kernel": "sdpa", "fused_kernels": False})
    fast = loss_and_gradients(model, settings)
    for one, other in zip(fast, plain, strict=True):
        assert (one - other).norm() <= 0.03 * other.norm()


@pytest.mark.gpu
@pytest.mark.skipif(not on_gpu, reason="there is no CUDA GPU here")
def test_afterwards_models_are_made_as_before():
    """Liger's kernels are put into transformers' own module, and work on a GPU only."""
    with fast_kernels(tiny_llama().cuda(), TrainingConfig()):
        pass
    assert torch.isfinite(CrossEntropy()(tiny_llama(), batch())["loss"])


def test_fused_kernels_are_put_in_where_they_are():
    model = tiny_llama().to(device.name())
    with fast_kernels(model, TrainingConfig(fused_kernels=True)):
        there = device.has_liger()
        assert ("liger" in model.model.norm.forward.__module__) == there
        assert ("forward" in vars(model.model.norm)) == (there or not on_gpu)
    with fast_kernels(plain := tiny_llama().to(device.name()), TrainingConfig(fused_kernels=False)):
        assert "forward" not in vars(plain.model.norm)
