"""Which kernels are used on which device. Those of a GPU are run where there is one."""

import importlib.util

import pytest
import torch

from leanpipe import device
from leanpipe.errors import UserError
from leanpipe.training.config import TrainingConfig, check_training
from leanpipe.training.kernels import _flatten, attention_kernel, use_kernels
from leanpipe.training.objectives import CrossEntropy
from tests.tiny import tiny_llama

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
    assert attention_kernel("sdpa") == "sdpa" and attention_kernel("flex_attention") == "flex_attention"
    if on_gpu:
        model = tiny_llama().cuda()
        use_kernels(model, TrainingConfig(attention_kernel="flex_attention"))
        assert model.config._attn_implementation == "flex_attention"
        return
    assert attention_kernel("auto") == "sdpa"
    for kernel in ("flash_attention_2", "flex_attention"):
        with pytest.raises(UserError, match=f"attention_kernel {kernel} needs a GPU"):
            check_training(TrainingConfig(attention_kernel=kernel))


def test_reading_blocks_as_one_row_changes_nothing_but_that():
    """As flash attention needs it: it sees where documents end in batches of one only."""
    plain, flat = tiny_llama(), tiny_llama()
    shapes = []
    flat.model.embed_tokens.register_forward_hook(
        lambda _module, given, _states: shapes.append(given[0].shape)
    )
    _flatten(flat.model)
    expected = CrossEntropy()(plain, batch())["loss"]
    torch.testing.assert_close(CrossEntropy()(flat, batch())["loss"], expected)
    assert shapes == [(1, 32)]


def test_compile_calls_the_compiled_model():
    for compiled in (False, True):
        model = tiny_llama()
        use_kernels(model, TrainingConfig(compile=compiled))
        # What a module calls instead of itself; compiled when first called, which takes a minute here.
        assert (model.model._compiled_call_impl is not None) == compiled


@pytest.mark.gpu
@pytest.mark.skipif(not on_gpu, reason="there is no CUDA GPU here")
@pytest.mark.parametrize("settings", [{"compile": True}, {"attention_kernel": "flex_attention"}])
def test_faster_kernels_give_the_same_loss(settings):
    model = tiny_llama().cuda()
    there = {name: value.cuda() for name, value in batch().items()}
    expected = CrossEntropy()(model, there)["loss"]
    use_kernels(model, TrainingConfig(**settings))
    torch.testing.assert_close(CrossEntropy()(model, there)["loss"], expected, rtol=1e-3, atol=1e-3)


def test_fused_kernels_are_put_in_where_they_are():
    model = tiny_llama()
    use_kernels(model, TrainingConfig(fused_kernels=True))
    there = on_gpu and importlib.util.find_spec("liger_kernel") is not None
    assert ("liger" in type(model.model.norm).forward.__module__) == there
