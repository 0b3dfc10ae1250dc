"""Quantised folders of a tiny model: they reload, are smaller, and say nearly the same."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from leanpipe.compression.quantize import (
    QuantizeConfig,
    QuantizeInputs,
    check_formats,
    check_quantize,
    quantize,
    relative_error,
    split_modules,
)
from leanpipe.compression.shapes import fitting
from leanpipe.core import device
from leanpipe.core.errors import UserError
from leanpipe.core.estimate import Expected
from leanpipe.core.report import Silent
from leanpipe.models.count import empty_model, read_config
from leanpipe.models.load import load_model, load_tokenizer, save_model, weight_bytes
from leanpipe.shrink.narrow import narrow_config, shared_widths
from tests.support.tiny_models import tiny_llama, tiny_model, tiny_tokenizer

on_a_processor = pytest.mark.skipif(device.name() != "cpu", reason="other kernels fit other shapes")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("source"))


BITS = ("int8", "nf4")


@pytest.fixture(scope="module")
def result(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    return out, quantize.function(QuantizeConfig(formats=BITS), QuantizeInputs(source), out, Silent())


def run(source, out, **settings):
    """Quantise, by default as bitsandbytes does."""
    settings.setdefault("formats", BITS)
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
    run(source, tmp_path, formats=BITS)
    for form in BITS:
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


def tiny_folder(folder, hidden, intermediate, **settings):
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=256,
        **settings,
    )
    torch.manual_seed(0)
    save_model(LlamaForCausalLM(config), tiny_tokenizer(), folder)
    return folder


@on_a_processor
def test_layers_whose_shape_a_format_does_not_fit_stay_as_they_are(tmp_path, caplog):
    """On a processor nf4 wants 32 rows and 64 columns: the layers of a block of 100 neurons are none such."""
    source = tiny_folder(tmp_path / "source", 64, 100)
    summary = run(source, tmp_path / "out")
    assert summary["nf4_modules_unfit"] == 6 and "int8_modules_unfit" not in summary
    kinds = {name: type(one).__name__ for name, one in load_model(tmp_path / "out" / "nf4").named_modules()}
    assert (
        kinds["model.layers.0.mlp.up_proj"] == "Linear"
        and kinds["model.layers.0.self_attn.q_proj"] == "Linear4bit"
    )
    assert "nf4: 6 of 14 layers stay in full precision, for their shape: 64 x 100 (" in caplog.text
    listed = (tmp_path / "out" / "report" / "modules.csv").read_text()
    assert "model.layers.0.mlp.up_proj,False,True\n" in listed


@on_a_processor
def test_a_format_that_fits_no_layer_is_refused_before_work(tmp_path):
    source = tiny_folder(tmp_path / "source", 72, 144)
    for inputs in ({"model": Expected(source)}, {"model": Expected(facts={"model": read_config(source)})}):
        with pytest.raises(
            UserError, match=r"nf4 fits no layer of this model on cpu: 72 x 64 \(.+take nf4 out of"
        ):
            check_quantize(QuantizeConfig(formats=BITS), inputs)
    check_quantize(QuantizeConfig(formats=("int8",)), {"model": Expected(source)})
    assert run(source, tmp_path / "out", formats=("int8",))["modules_quantized"] == 14


def test_gpt2_s_layers_are_quantised_too(tmp_path):
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=512, n_embd=64, n_layer=2, n_head=4, n_positions=256)
    save_model(GPT2LMHeadModel(config), tiny_tokenizer(), tmp_path / "source")
    summary = run(tmp_path / "source", tmp_path / "out")
    assert summary["modules_quantized"] == 8
    assert 0 < summary["int8_logits_error"] < 0.05 and 0 < summary["nf4_logits_error"] < 0.25


@pytest.mark.parametrize("width", [0.3, 0.4, 0.6, 0.67, 0.7, 0.75, 0.9])
def test_every_format_fits_our_own_narrow_students(width):
    """SmolLM2's shape, whose 576 times 0.7 is 403."""
    config = LlamaConfig(
        hidden_size=576,
        intermediate_size=1536,
        num_attention_heads=9,
        num_key_value_heads=3,
        num_hidden_layers=1,
    )
    narrow = narrow_config(config, shared_widths(config, width))
    check_quantize(QuantizeConfig(formats=BITS), {"model": Expected(facts={"model": narrow})})
    model = empty_model(narrow)
    _, names = split_modules(model, ())
    assert fitting("nf4", model, names) == names
