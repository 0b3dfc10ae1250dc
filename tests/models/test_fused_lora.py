"""A layer with its adapter as one operation, against peft's."""

from typing import Any

import pytest
import torch

from leanpipe.core import device
from leanpipe.models.fused_lora import fused_lora
from leanpipe.training.finetune.lora import lora_config
from leanpipe.training.losses.objectives import CrossEntropy
from leanpipe.training.trainer.config import TrainingConfig
from leanpipe.training.trainer.kernels import fast_kernels
from tests.support.tiny_models import tiny_llama
from tests.training.trainer.test_kernels import batch

DEVICE = device.name()


def adapted(dtype: torch.dtype = torch.float32, dropout: float = 0.0, kind: str = "lora") -> Any:
    from peft import get_peft_model

    model = get_peft_model(tiny_llama().to(dtype), lora_config(4, 8, dropout, ("all-linear",), kind))
    for name, weight in model.named_parameters():
        if "lora_B" in name:  # 0 at first
            torch.nn.init.normal_(weight, std=0.05, generator=torch.Generator().manual_seed(len(name)))
    return model.to(DEVICE).train()


def found(model: Any, arithmetic: torch.dtype) -> list[torch.Tensor]:
    """Loss and gradients."""
    there = {name: value.to(DEVICE) for name, value in batch().items()}
    with torch.autocast(DEVICE, torch.bfloat16, enabled=arithmetic == torch.bfloat16):
        loss = CrossEntropy()(model, there)["loss"]
    loss.backward()
    gradients = [weight.grad.clone() for weight in model.parameters() if weight.requires_grad]
    model.zero_grad()
    assert len(gradients) == 2 * 7 * 2
    return [loss.detach(), *gradients]


@pytest.mark.parametrize("kind", ["lora", "rslora"])
def test_it_is_the_same(kind):
    model = adapted(kind=kind)
    expected = found(model, torch.float32)
    with fused_lora(model):
        ours = found(model, torch.float32)
    for one, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_in_bfloat16_it_is_no_further_from_float32_than_pefts():
    model = adapted(torch.bfloat16)
    exact = found(adapted(torch.bfloat16).float(), torch.float32)
    stock = found(model, torch.bfloat16)
    with fused_lora(model):
        ours = found(model, torch.bfloat16)
    far = [
        torch.stack([(one - right).norm() / right.norm() for one, right in zip(each, exact, strict=True)])
        for each in (ours, stock)
    ]
    assert far[0].mean() <= 1.1 * far[1].mean()


def test_adapters_that_are_turned_off_add_nothing():
    model = adapted()
    tokens = torch.arange(5, device=DEVICE)[None]
    with torch.no_grad(), model.disable_adapter():
        expected = model(tokens).logits
    with torch.no_grad(), fused_lora(model):
        assert not torch.allclose(model(tokens).logits, expected)
        with model.disable_adapter():
            assert torch.equal(model(tokens).logits, expected)


def put_in(model: Any) -> bool:
    return any("forward" in vars(module) for name, module in model.named_modules() if name.endswith("_proj"))


@pytest.mark.parametrize("settings", [{"dropout": 0.1}, {"kind": "dora"}])
def test_other_adapters_are_left_to_peft(settings):
    model = adapted(**settings)
    with fused_lora(model):
        assert not put_in(model)


@pytest.mark.parametrize("fused", [True, False])
def test_training_puts_it_in_and_takes_it_out(fused):
    model = adapted()
    with fast_kernels(model, TrainingConfig(fused_kernels=fused)):
        assert put_in(model) == fused
    assert not put_in(model)
