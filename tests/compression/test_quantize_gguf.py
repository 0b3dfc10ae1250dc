"""The stage's GGUF folders: whole, smaller, near the model they were made of, and told beforehand."""

import logging

import pytest
import torch
from gguf import GGUFReader
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM

from leanpipe.compression.quantize import (
    QuantizeConfig,
    QuantizeInputs,
    check_quantize,
    estimate_quantize,
    quantize,
    with_formats,
)
from leanpipe.core import device
from leanpipe.core.errors import UserError
from leanpipe.core.estimate import Expected
from leanpipe.core.report import Silent
from leanpipe.models.load import load_for_inference, load_model, load_tokenizer, save_model, weight_bytes
from leanpipe.models.offload import GGUF_FILE
from tests.support.tiny_models import tiny_model, tiny_tokenizer

on_a_processor = pytest.mark.skipif(device.name() != "cpu", reason="other formats are best there")
FORMATS = ("q8_0", "q5_0", "q4_0")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def result(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    return out, quantize.function(QuantizeConfig(formats=FORMATS), QuantizeInputs(source), out, Silent())


def test_every_format_is_a_whole_folder_and_stays_near(source, result):
    out, summary = result
    limits = {"q8_0": 0.02, "q5_0": 0.08, "q4_0": 0.25}
    for form in FORMATS:
        names = {file.name for file in (out / form).iterdir()}
        assert {GGUF_FILE, "config.json", "tokenizer.json", "generation_config.json"} <= names
        assert not [name for name in names if name.endswith(("model.safetensors", ".part"))]
        assert load_tokenizer(out / form).chat_template == load_tokenizer(source).chat_template
        assert summary[f"{form}_bytes"] == weight_bytes(out / form) == (out / form / GGUF_FILE).stat().st_size
        assert 0 < summary[f"{form}_logits_error"] < limits[form]
    errors = [summary[f"{form}_logits_error"] for form in ("q8_0", "q5_0", "q4_0")]
    assert errors == sorted(errors)


def test_what_is_stored_is_told_by_its_types_and_not_by_its_label(result):
    """A file called q4_0 is a third q5_0 where the embeddings are that, and says so."""
    out, summary = result
    assert "q5_0 0.0 MB, q4_0 0.0 MB, f32 0.0 MB" in summary["q4_0_types"]
    assert summary["q4_0_bits_per_weight"] == pytest.approx(
        8
        * summary["q4_0_bytes"]
        / sum(one.n_elements for one in GGUFReader(out / "q4_0" / GGUF_FILE).tensors)
    )
    stored = (out / "report" / "stored.csv").read_text()
    assert "q4_0,token_embd.weight,512 x 64,q5_0,22528\n" in stored
    assert "q4_0,blk.0.ffn_up.weight,128 x 64,q4_0,4608\n" in stored


def test_embeddings_and_kept_modules_are_stored_as_asked(source, tmp_path):
    config = QuantizeConfig(formats=("q4_0",), embeddings="q5_1", keep=("down_proj",))
    quantize.function(config, QuantizeInputs(source), tmp_path, Silent())
    kinds = {one.name: one.tensor_type.name for one in GGUFReader(tmp_path / "q4_0" / GGUF_FILE).tensors}
    assert kinds["token_embd.weight"] == "Q5_1" and kinds["blk.1.ffn_down.weight"] == "BF16"
    assert kinds["blk.1.ffn_up.weight"] == "Q4_0"


def test_it_is_neither_trained_nor_quantised_again(result, tmp_path):
    out, _ = result
    with pytest.raises(UserError, match="quantised already"):
        quantize.function(QuantizeConfig(), QuantizeInputs(out / "q4_0"), tmp_path, Silent())
    for load in (load_model, load_for_inference):
        with pytest.raises(UserError, match=r"GGUF file, which llama\.cpp serves and measures"):
            load(out / "q4_0")


def test_preflight_says_what_will_be_stored(source, caplog):
    caplog.set_level(logging.INFO, "leanpipe")
    check_quantize(QuantizeConfig(formats=("q4_0",)), {"model": Expected(source)})
    assert "quantize will store q4_0 as 0.1 MB, 5.90 bits a weight (q5_0 0.0 MB, q4_0 0.0 MB" in caplog.text


def test_rows_that_do_not_fit_are_told_before(tmp_path, caplog):
    shape = {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 100, "num_hidden_layers": 2}
    config = LlamaConfig(**shape, num_attention_heads=4, max_position_embeddings=256)
    save_model(LlamaForCausalLM(config), tiny_tokenizer(), tmp_path)
    caplog.set_level(logging.INFO, "leanpipe")
    check_quantize(QuantizeConfig(formats=("q4_0",)), {"model": Expected(tmp_path)})
    assert "2 of 21 weights have rows of 100, no multiple of 32, and become bf16" in caplog.text
    summary = quantize.function(
        QuantizeConfig(formats=("q4_0",)), QuantizeInputs(tmp_path), tmp_path / "out", Silent()
    )
    assert summary["q4_0_modules_unfit"] == 2
    listed = (tmp_path / "out" / "report" / "modules.csv").read_text()
    assert "model.layers.0.mlp.down_proj,True\n" in listed and "model.layers.0.mlp.up_proj,False\n" in listed


@on_a_processor
def test_the_device_and_the_model_choose_the_formats(source, tmp_path):
    assert with_formats(QuantizeConfig(), Expected(source)).formats == ("q8_0", "q4_0")
    assert with_formats(QuantizeConfig(formats=("nf4",)), Expected(source)).formats == ("nf4",)
    other = GPTNeoXConfig(
        vocab_size=512, hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=4
    )
    torch.manual_seed(0)
    save_model(GPTNeoXForCausalLM(other), tiny_tokenizer(), tmp_path)
    assert with_formats(QuantizeConfig(), Expected(tmp_path)).formats == ("int8", "nf4")
    assert with_formats(QuantizeConfig(), Expected(source), "unigram").formats == ("int8", "nf4")
    with pytest.raises(UserError, match="type gpt_neox cannot be written as GGUF"):
        check_quantize(QuantizeConfig(formats=("q4_0",)), {"model": Expected(tmp_path)})


def test_the_estimate_of_the_disk_is_near(source, result):
    config = QuantizeConfig(formats=FORMATS)
    told = estimate_quantize(config, {"model": Expected(source)}, "cpu").disk
    assert 0.7 < told / sum(weight_bytes(result[0] / form) for form in FORMATS) < 1.6
