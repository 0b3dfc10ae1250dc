"""What only a GPU can show. Runs by itself where there is one."""

from pathlib import Path

import pytest

from leanpipe import device
from leanpipe.compression.quantize import QuantizeConfig, quantize
from leanpipe.process import Nursery
from leanpipe.report import Silent
from leanpipe.store import Store, external
from leanpipe.training.finetune import FinetuneConfig, finetune
from tests.tiny import tiny_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(device.name() != "cuda", reason="there is no CUDA GPU here"),
]


def test_training_and_quantising_use_the_card_and_give_its_memory_back(tmp_path: Path):
    import torch

    instructions = tmp_path / "instructions.jsonl"
    instructions.write_text('{"prompt": "What is two and two?", "completion": "Four."}\n' * 64)
    model = external("tiny", tiny_model(tmp_path / "tiny"))
    store, nursery = Store(tmp_path / "store"), Nursery()
    try:
        free = torch.cuda.mem_get_info()[0]
        config = FinetuneConfig(tokens=4_096, max_length=64)
        inputs = {"model": model, "instructions": external("instructions", instructions)}
        adapted = nursery.run(finetune, config, inputs, store, Silent())
        assert adapted.peak_memory > 0
        assert adapted.summary["validation_loss"] < adapted.summary["initial_validation_loss"]
        quantized = nursery.run(quantize, QuantizeConfig(), {"model": adapted}, store, Silent())
        assert quantized.summary["nf4_bytes"] < quantized.summary["int8_bytes"]
        assert torch.cuda.mem_get_info()[0] > 0.98 * free
    finally:
        nursery.stop()
