"""Quantised folders of a tiny model: they reload, are smaller, and say nearly the same."""

import pytest
import torch

from leanpipe.compression.quantize import (
    QuantizeConfig,
    QuantizeInputs,
    check_formats,
    quantize,
    relative_error,
    split_modules,
)
from leanpipe.core import device
from leanpipe.core.errors import UserError
from leanpipe.core.report import Silent
from leanpipe.models.load import load_model, load_tokenizer, weight_bytes
from tests.support.tiny_models import tiny_llama, tiny_model


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def result(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    return out, quantize.function(QuantizeConfig(), QuantizeInputs(source), out, Silent())


def run(source, out, **settings):
    config = QuantizeConfig(**settings)
    return quantize.function(config, QuantizeInputs(source), out, Silent())


@pytest.mark.parametrize(("form", "limit"), [("int8", 0.05), ("nf4", 0.25)])
def test_a_folder_reloads_and_its_logits_stay_near(source, result, form, limit):
    text = "A list is a sequence of things."
    tokens = load_tokenizer(source)(text, return_tensors="pt")["input_ids"].to(device.name())
    with torch.inference_mode():
        full = load_model(source)(tokens).logits.float()
        quantized = load_model(result[0] / form)(tokens).logits.float()
    assert 0 < relative_error(quantized, full) < limit
    assert 0 < result[1][f"{form}_logits_error"] < limit


@pytest.mark.parametrize("form", ["int8", "nf4"])
def test_a_folder_is_whole(source, result, form):
    for name in ("tokenizer.json", "chat_template.jinja", "generation_config.json"):
        assert (result[0] / form / name).exists(), name
    assert load_tokenizer(result[0] / form).chat_template == load_tokenizer(source).chat_template


def test_sizes_are_those_on_disk(source, result):
    out, summary = result
    assert summary["full_bytes"] == weight_bytes(source)
    assert summary["nf4_bytes"] == weight_bytes(out / "nf4")
    assert summary["nf4_bytes"] < summary["int8_bytes"] < summary["full_bytes"]
    assert summary["int8_ratio"] == summary["int8_bytes"] / summary["full_bytes"]
    assert summary["modules_quantized"] == 2 * 7  # q, k, v, o, gate, up, down of two layers
    assert summary["modules_kept"] == 1  # the output layer
    assert (out / "report" / "size.png").exists()


def test_the_same_model_gives_the_same_files(source, result, tmp_path):
    run(source, tmp_path)
    for form in ("int8", "nf4"):
        for file in sorted((result[0] / form).iterdir()):
            assert file.read_bytes() == (tmp_path / form / file.name).read_bytes(), file.name


def test_kept_modules_stay_in_full_precision(source, tmp_path):
    summary = run(source, tmp_path, formats=("nf4",), keep=("down_proj", "model.layers.0"))
    kinds = {name: type(module).__name__ for name, module in load_model(tmp_path / "nf4").named_modules()}
    assert kinds["model.layers.1.mlp.down_proj"] == kinds["model.layers.0.self_attn.q_proj"] == "Linear"
    assert kinds["model.layers.1.mlp.up_proj"] == "Linear4bit"
    assert summary["modules_quantized"] == 6
    assert not (tmp_path / "int8").exists()


def test_double_quantization_quantises_the_scales(source, tmp_path):
    for double in (True, False):
        run(source, tmp_path / str(double), formats=("nf4",), double_quantization=double)
        layer = load_model(tmp_path / str(double) / "nf4").model.layers[0].mlp.up_proj
        assert layer.weight.quant_state.nested is double


def test_the_outlier_threshold_is_used(source, tmp_path):
    run(source, tmp_path, formats=("int8",), outlier_threshold=0.0)
    layer = load_model(tmp_path / "int8").model.layers[0].mlp.up_proj
    assert layer.state.threshold == 0.0


def test_layer_one_is_not_layer_ten():
    model = tiny_llama(layers=11)
    kept, _ = split_modules(model, ("model.layers.1",))
    assert sorted({name.split(".")[2] for name in kept if name != "lm_head"}) == ["1"]


def test_a_name_that_matches_nothing_is_refused_by_name():
    with pytest.raises(UserError, match=r"no linear layer is named wrong_proj; this model has down_proj"):
        split_modules(tiny_llama(), ("down_proj", "wrong_proj"))


def test_keeping_everything_is_refused():
    with pytest.raises(UserError, match="leaves no linear layer"):
        split_modules(tiny_llama(), ("model",))


def test_a_quantised_model_is_not_quantised_again(result, tmp_path):
    with pytest.raises(UserError, match="quantised already"):
        run(result[0] / "nf4", tmp_path)


def test_this_device_runs_both_formats():
    check_formats(("int8", "nf4"))
