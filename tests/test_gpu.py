"""What only a GPU can show. Runs by itself where there is one."""

from pathlib import Path

import pytest

from leanpipe.compression.quantize import QuantizeConfig, quantize
from leanpipe.core import device
from leanpipe.core.errors import UserError
from leanpipe.core.report import Silent
from leanpipe.core.store import Store, external
from leanpipe.models.load import load_for_inference, load_model
from leanpipe.processes.fork_client import ForkServer
from leanpipe.training.finetune.finetune import FinetuneConfig, finetune
from tests.support.tiny_models import tiny_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(device.name() != "cuda", reason="there is no CUDA GPU here"),
]


def test_training_and_quantising_use_the_card_and_give_its_memory_back(tmp_path: Path):
    import torch

    instructions = tmp_path / "instructions.jsonl"
    instructions.write_text('{"prompt": "What is two and two?", "completion": "Four."}\n' * 64)
    model = external("tiny", tiny_model(tmp_path / "tiny"))
    store, fork_server = Store(tmp_path / "store"), ForkServer()
    try:
        free = torch.cuda.mem_get_info()[0]
        config = FinetuneConfig(tokens=4_096, max_length=64)
        inputs = {"model": model, "instructions": external("instructions", instructions)}
        adapted = fork_server.run(finetune, config, inputs, store, Silent())
        assert adapted.peak_memory > 0
        assert adapted.summary["validation_loss"] < adapted.summary["initial_validation_loss"]
        quantized = fork_server.run(quantize, QuantizeConfig(), {"model": adapted}, store, Silent())
        assert quantized.summary["nf4_bytes"] < quantized.summary["int8_bytes"]
        assert torch.cuda.mem_get_info()[0] > 0.98 * free
    finally:
        fork_server.stop()


def test_layers_beside_the_card_give_the_same_logits(tmp_path: Path, monkeypatch):
    """Some layers on the card, some in the host's memory, some on disk."""
    import torch

    path = tiny_model(tmp_path, layers=6)
    whole = load_model(path)
    size = sum(weight.nbytes for weight in whole.parameters())
    monkeypatch.setattr(device, "free_host_memory", lambda: size // 3)
    model = load_for_inference(path, 0.6 * size / 10**9)
    assert {0, "cpu", "disk"} <= set(model.hf_device_map.values())
    tokens = torch.arange(5, 45, device="cuda")[None]
    with torch.inference_mode():
        assert torch.equal(model(tokens).logits, whole(tokens).logits)


def test_a_card_that_would_hold_no_layer_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="do not hold the embeddings and one layer"):
        load_for_inference(tiny_model(tmp_path), 1e-9)
