"""Connections set to zero: as many as are asked for, those that carry least, and zero they stay while the model learns."""

from functools import partial

import pytest
import torch
from pydantic import ValidationError
from transformers import GPT2Config, GPT2LMHeadModel

from leanpipe.core.errors import UserError
from leanpipe.core.estimate import Expected
from leanpipe.core.store import external
from leanpipe.models.load import load_model, save_model
from leanpipe.models.zeros import matrices, share_of_zeros
from leanpipe.quantization_aware.quantization_aware import (
    QuantizationAwareConfig,
    QuantizationAwareInputs,
    quantization_aware,
)
from leanpipe.settings.flows import PipelineConfig
from leanpipe.shrink.prune import PruneConfig, PruneInputs, input_norms, kept_weights, prune
from leanpipe.training.distill.distill import DistillConfig, DistillInputs, distill
from leanpipe.training.finetune.finetune import FinetuneConfig, FinetuneInputs, check_finetune, finetune
from leanpipe.training.on_policy.on_policy import OnPolicyConfig, OnPolicyInputs, on_policy
from tests.support.tiny_models import tiny_llama, tiny_tokenizer
from tests.training.blocks import Recorder, tiny_blocks, write_blocks
from tests.training.finetune.test_finetune import write_instructions


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


def _finetuned(begun, blocks, told, out, **settings):
    config = {"tokens": 512, "batch": 2, "max_length": 64, "learning_rate": 1e-2, "rank": 4} | settings
    finetune.function(FinetuneConfig(**config), FinetuneInputs(begun, told), out, Recorder())


def _rounded(begun, blocks, told, out):
    config = QuantizationAwareConfig(
        tokens=512, batch=2, learning_rate=1e-2, validation_tokens=64, validation_share=0.2
    )
    inputs = QuantizationAwareInputs(begun, blocks, told)
    quantization_aware.function(config, inputs, out, Recorder())


def _on_policy(begun, blocks, told, out):
    pytest.importorskip("trl")
    config = OnPolicyConfig(
        steps=2,
        batch=2,
        learning_rate=1e-2,
        max_new_tokens=4,
        max_prompt_tokens=64,
        validation_conversations=2,
    )
    on_policy.function(config, OnPolicyInputs(begun, begun, told), out, Recorder())


TRAININGS = {
    "adapters": _finetuned,
    "adapters with dropout": partial(_finetuned, adapter="rslora", dropout=0.1, precision="fp32"),
    "quantization-aware": _rounded,
    "on-policy": _on_policy,
}


@pytest.mark.parametrize(
    ("name", "pattern"), [*((name, "unstructured") for name in TRAININGS), ("adapters", "2:4")]
)
def test_zeros_stay_in_every_training_and_when_adapters_are_merged(tmp_path, name, pattern):
    """Exactly, in the file that is saved; and whoever trains that one further holds them too."""
    _, begun, blocks = pruned(tmp_path, sparsity=0.5, pattern=pattern)
    out = tmp_path / "learned"
    out.mkdir()
    TRAININGS[name](begun, blocks, write_instructions(tmp_path / "colours.jsonl"), out)
    before, after = (matrices(load_model(folder, torch.float32)) for folder in (begun, out))
    changed = 0
    for name, weight in before.items():
        assert (after[name][weight == 0] == 0).all(), name
        changed += int((after[name] != weight).sum())
    assert changed > 1_000
    assert (out / "pruned.json").exists()


def test_adapters_that_would_fill_zeros_are_refused_before_any_work(tmp_path):
    _, begun, _ = pruned(tmp_path, sparsity=0.5)
    for asked in ({"adapter": "dora"}, {"base": "nf4"}):
        with pytest.raises(UserError, match=r"set finetune\.adapter to lora or rslora"):
            check_finetune(FinetuneConfig(**asked), {"model": Expected(begun)})


def test_a_pruned_model_is_named_apart_in_the_store_by_stages_that_once_filled_its_zeros(tmp_path):
    _, begun, _ = pruned(tmp_path, sparsity=0.5)
    for stage, role in ((finetune, "model"), (quantization_aware, "model"), (on_policy, "student")):
        marked, plain = (
            stage.digests({role: external("model", folder)}) for folder in (begun, tmp_path / "model")
        )
        assert marked["zeros"] == "held" and "zeros" not in plain


def test_what_goes_in_must_be_numbers(tmp_path):
    model = tiny_llama()
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = float("inf")
    with pytest.raises(UserError, match=r"are damaged: model\.layers\.1\.mlp\.up_proj.weight holds NaN"):
        pruned(tmp_path, model, sparsity=0.5)
    with pytest.raises(UserError, match=r"came out as NaN or infinite.*set prune\.method=magnitude"):
        input_norms(model, [tiny_blocks(tmp_path / "text")[0]])


def test_what_would_be_undone_is_refused():
    with pytest.raises(ValidationError, match="zeros are only kept by adapters"):
        PipelineConfig(prune=PruneConfig(sparsity=0.5), finetune=FinetuneConfig(adapter="dora"))
    assert PipelineConfig(prune=PruneConfig(sparsity=0.5)).prune.sparsity
    with pytest.raises(ValidationError, match=r"set it to 0\.5"):
        PruneConfig(pattern="2:4", sparsity=0.3)
