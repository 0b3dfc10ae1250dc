"""Fifty clean exports of ten small models of several families and shapes: none is called faulty. `make chaos` runs it.

All are compared by their files and in process; one of each form is asked through its server too.
"""

import json
from pathlib import Path

import pytest

from leanpipe.compression.formats import ONNX
from leanpipe.compression.quantize_transformers import COMPRESSED
from leanpipe.evaluation.parity.bounds import BOUNDS
from leanpipe.evaluation.parity.parity import ParityConfig, compare
from leanpipe.evaluation.parity.served_answers import open_server
from leanpipe.export.onnx_graph import FAMILIES
from leanpipe.models.count import read_config
from leanpipe.models.load import save_model
from tests.evaluation.parity.trained import PROMPTS, tokenizer_with_bos, train, write_form
from tests.support.tiny_models import tiny_llama, tiny_tokenizer

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1_800)]
FORMS = ("safetensors", "int8", "nf4", "w8a16", "w4a16", "q8_0", "q4_0", "onnx", "onnx_int8", "onnx_int4")
CONFIG = ParityConfig(prompts=PROMPTS, max_new_tokens=12)


def other(kind: str, seed: int):
    """A tiny model of another family."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    shape = {
        "vocab_size": 512,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    if kind == "gpt2":
        renamed = {
            "n_positions": "max_position_embeddings",
            "n_embd": "hidden_size",
            "n_layer": "num_hidden_layers",
        }
        shape |= {new: shape.pop(old) for new, old in renamed.items()} | {
            "n_head": shape.pop("num_attention_heads")
        }
    else:
        shape |= {"intermediate_size": 128, "num_key_value_heads": 2}
        if kind != "qwen2":
            shape["head_dim"] = 32
        if kind == "mistral":
            shape["sliding_window"] = None
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **shape)).eval()


MODELS = {
    "llama": lambda: tiny_llama(),
    "llama, untied": lambda: tiny_llama(tied=False, seed=1),
    "llama, one layer": lambda: tiny_llama(layers=1, seed=2),
    "llama, four layers": lambda: tiny_llama(layers=4, seed=3),
    "llama, padded vocabulary": lambda: tiny_llama(vocabulary=576, seed=4),
    "gpt2": lambda: other("gpt2", 5),
    "qwen2": lambda: other("qwen2", 6),
    "qwen3": lambda: other("qwen3", 7),
    "mistral": lambda: other("mistral", 8),
    "gemma": lambda: other("gemma", 9),
}


@pytest.fixture(scope="module", params=MODELS)
def source(request, tmp_path_factory):
    """A model that was trained for a moment; every other one has a BOS before its texts."""
    import torch

    number = list(MODELS).index(request.param)
    tokenizer = tokenizer_with_bos() if number % 2 else tiny_tokenizer()
    folder = tmp_path_factory.mktemp("clean") / "trained"
    model = train(MODELS[request.param](), tokenizer, steps=60)
    save_model(model, tokenizer, folder, dtype=torch.float32 if number % 3 == 0 else torch.bfloat16)
    return folder


@pytest.mark.parametrize("form", FORMS)
def test_a_clean_export_is_not_called_faulty(source: Path, form: str, request, record_property):
    if form in ("q8_0", "q4_0"):
        pytest.importorskip("xllamacpp")
    if form in COMPRESSED:
        pytest.importorskip("compressed_tensors")
        if read_config(source).model_type == "gpt2":
            pytest.skip("GPT-2 has layers of another kind")
    if form in ONNX and read_config(source).model_type not in FAMILIES:
        pytest.skip("ONNX is written of other families")
    folder = write_form(form, source, source.parent / form)
    asked = request.node.callspec.params["source"] == "llama"
    found = compare(CONFIG, source, folder, open_server if asked else None)
    assert found.faults == []
    assert found.divergence is not None
    print(json.dumps({"form": form, "kl": found.divergence.kl, "agreement": found.divergence.agreement}))
    assert found.divergence.kl <= BOUNDS[found.form].kl / 2  # with room
