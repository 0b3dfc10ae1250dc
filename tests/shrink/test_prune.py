"""Connections set to zero: as many as are asked for, those that carry least, and zero they stay while the model learns."""

import pytest
import torch
from pydantic import ValidationError
from transformers import GPT2Config, GPT2LMHeadModel

from leanpipe.core.errors import UserError
from leanpipe.models.load import load_model, save_model
from leanpipe.models.zeros import matrices, share_of_zeros
from leanpipe.settings.flows import PipelineConfig
from leanpipe.shrink.prune import PruneConfig, PruneInputs, kept_weights, prune
from leanpipe.training.distill.distill import DistillConfig, DistillInputs, distill
from tests.support.tiny_models import tiny_llama, tiny_tokenizer
from tests.training.blocks import Recorder, write_blocks


def pruned(tmp_path, model=None, **settings):
    torch.set_num_threads(1)
    out, folder = tmp_path / "pruned", tmp_path / "model"
    out.mkdir()
    save_model(model or tiny_llama(), tiny_tokenizer(), folder, torch.float32)
    blocks = write_blocks(tmp_path / "blocks")
    summary = prune.function(PruneConfig(**settings), PruneInputs(folder, blocks), out, Recorder())
    return summary, out, blocks


@pytest.mark.parametrize("method", ["wanda", "magnitude"])
@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
def test_half_of_the_weights_become_zero(tmp_path, method, pattern):
    summary, out, _ = pruned(tmp_path, sparsity=0.5, method=method, pattern=pattern)
    assert summary["zeros"] == pytest.approx(0.5, abs=1e-3)
    model = load_model(out, torch.float32)
    assert share_of_zeros(model) == pytest.approx(0.5, abs=1e-3)
    assert (model.get_input_embeddings().weight == 0).float().mean() < 0.01  # that of padding
    if pattern == "2:4":
        fours = model.model.layers[0].mlp.up_proj.weight.unflatten(1, (-1, 4))
        assert ((fours != 0).sum(-1) == 2).all()
    assert "as before: zeros are written too" in (out / "report" / "pruned.md").read_text()


def test_wanda_looks_at_what_a_weight_is_multiplied_with():
    """By hand: the large weight of an input that is nearly always zero goes before small ones of large inputs."""
    weights, inputs = torch.tensor([[3.0, 1.0, 2.0, 0.5]]), torch.tensor([0.1, 5.0, 1.0, 2.0])
    config = PruneConfig(sparsity=0.5)
    assert kept_weights(weights.abs() * inputs, config).tolist() == [[False, True, True, False]]
    assert kept_weights(weights.abs(), config).tolist() == [[True, False, True, False]]


def test_gpt2_is_pruned_along_its_inputs(tmp_path):
    model = GPT2LMHeadModel(GPT2Config(vocab_size=512, n_positions=64, n_embd=64, n_layer=1, n_head=2))
    _, out, _ = pruned(tmp_path, model, sparsity=0.5)
    found = load_model(out, torch.float32).transformer.h[0].mlp.c_fc.weight  # (in, out)
    assert ((found == 0).sum(0) == 32).all()


def test_zeros_stay_while_the_model_learns(tmp_path):
    _, begun, blocks = pruned(tmp_path, sparsity=0.5)
    out = tmp_path / "learned"
    out.mkdir()
    config = DistillConfig(tokens=512, batch=4, kl_weight=0, learning_rate=1e-2, validation_tokens=128)
    summary = distill.function(config, DistillInputs(begun, blocks, student=begun), out, Recorder())
    assert summary["bits_per_byte"] < summary["initial_bits_per_byte"]
    before, after = (matrices(load_model(folder, torch.float32)) for folder in (begun, out))
    for name, weight in before.items():
        assert (after[name][weight == 0] == 0).all(), name
    assert not torch.equal(
        before["model.layers.0.mlp.up_proj.weight"], after["model.layers.0.mlp.up_proj.weight"]
    )
    muon = config.model_copy(update={"optimizer": "muon"})
    with pytest.raises(UserError, match=r"set distill\.optimizer=adamw"):
        distill.function(muon, DistillInputs(begun, blocks, student=begun), out, Recorder())


def test_what_goes_in_must_be_numbers(tmp_path):
    model = tiny_llama()
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = float("inf")
    with pytest.raises(UserError, match=r"came out as NaN or infinite.*set prune\.method=magnitude"):
        pruned(tmp_path, model, sparsity=0.5)


def test_what_would_be_undone_is_refused():
    with pytest.raises(ValidationError, match="would be undone: the adapters"):
        PipelineConfig(prune=PruneConfig(sparsity=0.5))
    with pytest.raises(ValidationError, match=r"set it to 0\.5"):
        PruneConfig(pattern="2:4", sparsity=0.3)
