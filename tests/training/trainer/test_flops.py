import pytest
import torch
from peft import get_peft_model

from leanpipe.training.finetune.lora import lora_config
from leanpipe.training.trainer.flops import flops_per_token
from leanpipe.training.trainer.speed import SpeedMeter
from tests.support.tiny_models import tiny_llama

# q and o 64×64, k and v 64×32, gate, up and down 64×128, in each of two layers; the head 64×512.
WEIGHTS = 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128) + 64 * 512
# A document of 100 tokens has 5,050 pairs, one of 20 has 210: each pair 12 times the width, in two layers.
SCORES = 12 * 50.5 * 64 * 2


def block_of(*lengths):
    positions = torch.cat([torch.arange(length) for length in lengths])
    return [{"input_ids": torch.zeros_like(positions), "position_ids": positions}]


WHOLE, PARTS = block_of(100), block_of(*[20] * 5)


def test_a_trained_weight_costs_six_and_a_frozen_one_four():
    model = tiny_llama()
    assert flops_per_token(model, WHOLE) == 6 * WEIGHTS + SCORES
    adapted = get_peft_model(model, lora_config(4, 8, 0.0, ("q_proj",)))
    adapters = 2 * (64 * 4 + 4 * 64)
    assert flops_per_token(adapted.get_base_model(), WHOLE) == 4 * WEIGHTS + 6 * adapters + SCORES


def test_attention_costs_what_documents_attend_to_and_not_whole_blocks():
    model = tiny_llama()
    assert flops_per_token(model, PARTS) == 6 * WEIGHTS + 12 * (5 * 210 / 100) * 64 * 2
    padded = block_of(50, *[1] * 50)
    assert flops_per_token(model, padded) == 6 * WEIGHTS + 12 * ((50 * 51 / 2 + 50) / 100) * 64 * 2


def test_attention_in_a_window_costs_no_more_than_that():
    model = tiny_llama()
    model.config.sliding_window = 10
    in_window = 55 + 90 * 10  # pairs of the first ten tokens, and ten of every other
    assert flops_per_token(model, WHOLE) == 6 * WEIGHTS + 12 * (in_window / 100) * 64 * 2
    model.config.layer_types = ["full_attention", "sliding_attention"]
    assert flops_per_token(model, WHOLE) == 6 * WEIGHTS + 12 * (in_window / 100 + 50.5) * 64


def test_mfu_is_arithmetic_over_the_peak(monkeypatch):
    times = iter([0.0, 2.0, 10.0, 12.0, 20.0, 21.0])
    monkeypatch.setattr("leanpipe.training.trainer.speed.time.perf_counter", lambda: next(times))
    meter = SpeedMeter(tokens_per_step=100, flops_per_token=50.0, peak_flops=10_000.0)
    for loss in (3.0, 5.0):
        meter.start()
        meter.add({"loss": torch.tensor(loss)})
        meter.stop()
    figures = meter.report()
    assert (figures["loss"], figures["tokens_per_second"]) == (4.0, 50.0)
    assert figures["mfu"] == pytest.approx(0.25)
    meter.start()
    meter.add({"loss": torch.tensor(1.0)})
    meter.stop()
    assert meter.report()["tokens_per_second"] == 100.0
    assert meter.tokens_per_second == 60.0 and meter.mfu == pytest.approx(0.3)


def test_what_was_gathered_is_gone_on_from():
    first, second = (SpeedMeter(100, 50.0, 0.0) for _ in range(2))
    first.add({"loss": torch.tensor(1 / 3)})
    second.restore(first.state())
    for meter in (first, second):
        meter.add({"loss": torch.tensor(0.1)})
    assert first.report()["loss"] == second.report()["loss"]
