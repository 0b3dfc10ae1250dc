"""vLLM's formats w8a16 and w4a16, made by the stage: faults are caught by their names, and clean ones answer through a server."""

import json
import sys
from contextlib import nullcontext

import pytest
import torch

from leanpipe.compression.calibration import calibration_texts, measure_importance_matrix
from leanpipe.compression.quantize import QuantizeConfig, QuantizeInputs, check_quantize, quantize
from leanpipe.compression.quantize_transformers import COMPRESSED
from leanpipe.core.errors import UserError
from leanpipe.core.estimate import Expected
from leanpipe.core.report import Silent
from leanpipe.evaluation.parity.compressed_file import read_compressed
from leanpipe.evaluation.parity.parity import compare
from leanpipe.evaluation.parity.served_answers import open_server
from leanpipe.models.load import load_model, load_tokenizer, weight_bytes
from leanpipe.models.offload import loaded_bytes
from leanpipe.models.quantizers import check_quantizer_of
from tests.evaluation.parity.plants import PLANTS, Plant
from tests.evaluation.parity.test_parity import CONFIG, faults, no_server, planted
from tests.evaluation.parity.trained import write_form
from tests.support.cleaned_corpus import kept, write_cleaned
from tests.support.tiny_models import tiny_text

pytest.importorskip("compressed_tensors")

FORMS = tuple(COMPRESSED)
KEPT = ("layers.0.self_attn.q_proj", "layers.0.self_attn.k_proj", "layers.0.self_attn.v_proj")
SETTINGS = QuantizeConfig(formats=FORMS, group_size=32, calibration_tokens=512, keep=KEPT)
EACH_FORM = [pytest.param("w8a16", marks=pytest.mark.chaos), "w4a16"]


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    rows = [kept(number, text) for number, text in enumerate(tiny_text()[:20])]
    return write_cleaned(tmp_path_factory.mktemp("documents"), rows)


@pytest.fixture(scope="module")
def made(trained, documents, tmp_path_factory):
    """The folder of each format by its name, and what the stage says of them."""
    out = tmp_path_factory.mktemp("compressed")
    return out, quantize.function(SETTINGS, QuantizeInputs(trained, documents), out, Silent())


def test_folders_are_smaller_and_near_and_keep_what_is_asked_for(made):
    out, said = made
    assert said["w4a16_bytes"] < said["w8a16_bytes"] < said["full_bytes"]
    assert (
        0 < said["w8a16_logits_error"] < 0.05
        and said["w8a16_logits_error"] < said["w4a16_logits_error"] < 0.3
    )
    for form, bits in COMPRESSED.items():
        config = json.loads((out / form / "config.json").read_text())
        told = config["quantization_config"]
        assert (told["quant_method"], told["format"]) == ("compressed-tensors", "pack-quantized")
        (group,) = told["config_groups"].values()
        assert group["weights"]["num_bits"] == bits and config["dtype"] == "bfloat16"
        packed = set(read_compressed(out / form))
        assert (
            not {name for name in packed if name.endswith(KEPT)}
            and "model.layers.1.self_attn.q_proj" in packed
        )


@pytest.mark.parametrize("form", FORMS)
def test_what_is_loaded_are_the_stored_numbers_times_their_scales(form, made):
    """In plain layers of transformers, as large as the whole model, which the bounds of memory know before."""
    folder = made[0] / form
    model, grids = load_model(folder, torch.bfloat16), read_compressed(folder)
    assert grids
    for module, grid in grids.items():
        layer = model.get_submodule(module)
        assert type(layer) is torch.nn.Linear
        assert torch.equal(layer.weight.detach().cpu(), grid.values().bfloat16())
    whole = sum(2 * parameter.numel() for parameter in model.parameters())
    assert weight_bytes(folder) < whole <= loaded_bytes(folder, torch.bfloat16) < 1.02 * whole


def test_weights_that_matter_most_are_rounded_best(trained, documents, made, tmp_path):
    """Of the errors that count, as the text has them, those are less that were made with the text."""
    settings = SETTINGS.model_copy(update={"formats": ("w4a16",), "calibration_tokens": 0})
    quantize.function(settings, QuantizeInputs(trained, documents), tmp_path, Silent())
    model = load_model(trained, torch.float32)
    counts = measure_importance_matrix(
        model, calibration_texts(documents, load_tokenizer(trained), model.config, 512)
    )
    lost = []
    for folder in (made[0] / "w4a16", tmp_path / "w4a16"):
        errors = {
            name: grid.values() - model.get_submodule(name).weight.cpu()
            for name, grid in read_compressed(folder).items()
        }
        lost.append(sum(float((error.square() * counts[name]).sum()) for name, error in errors.items()))
    assert 0 < lost[0] < lost[1]


@pytest.mark.parametrize("form", EACH_FORM)
@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.called)
def test_a_fault_is_caught_by_its_name(plant: Plant, form, trained, made, tmp_path):
    found = compare(CONFIG, trained, planted(plant, made[0] / form, tmp_path / "model"), no_server)
    assert found.faults[0].name == plant.caught_as and found.form == form, found.faults


@pytest.mark.parametrize("form", EACH_FORM)
def test_the_weights_of_another_step_are_caught(form, step_before, made):
    """The trained model is the odd one here, which saves rounding another one."""
    assert faults(step_before, made[0] / form) == ["stale_weights"]


@pytest.mark.chaos
@pytest.mark.parametrize("form", FORMS)
def test_an_engine_that_flips_tokens_is_caught(form, trained, made, coarse_engine):
    assert faults(trained, made[0] / form, coarse_engine) == ["flipped_tokens"]


@pytest.mark.parametrize("form", EACH_FORM)
def test_a_clean_form_passes_through_its_server(form, trained, made):
    with open_server(made[0] / form) as url:
        found = compare(CONFIG, trained, made[0] / form, lambda _: nullcontext(url))
    assert found.faults == [] and found.form == form
    assert all(one.served_tokens == one.trained_tokens for one in found.exchanges)


def test_layers_that_vllm_makes_one_of_are_in_one_format(trained):
    inputs = {"model": Expected(trained)}
    for keep, named in (("k_proj", "q_proj, k_proj, v_proj"), ("up_proj", "gate_proj, up_proj")):
        config = SETTINGS.model_copy(update={"keep": (keep,)})
        with pytest.raises(UserError, match=rf"vLLM makes one layer of {named}.*quantize.keep beside {keep}"):
            check_quantize(config, inputs)


def test_layers_that_hold_no_whole_groups_or_are_slow_in_vllm_are_named_before_any_work(trained, caplog):
    """The tiny model's rows are 64 and 128 long."""
    inputs = {"model": Expected(trained)}
    check_quantize(QuantizeConfig(formats=("w4a16",), group_size=128), inputs)
    assert "w4a16: 12 of 14 layers stay in full precision" in caplog.text
    assert "64 x 128 (rows of 64 are no multiple of the group of 128 (quantize.group_size))" in caplog.text
    assert "12 of 14 layers, such as 64 x 64, are not taken by Marlin" in caplog.text


def test_a_missing_package_is_a_sentence_for_who_makes_and_for_who_serves(made, monkeypatch):
    monkeypatch.setitem(sys.modules, "compressed_tensors.compressors", None)  # as if it were not installed
    for asks in (
        lambda: check_quantize(QuantizeConfig(formats=("w4a16",)), {}),
        lambda: check_quantizer_of(made[0] / "w8a16"),
        lambda: load_model(made[0] / "w8a16"),
    ):
        with pytest.raises(UserError, match=r"pip install 'leanpipe\[compressed-tensors\]'"):
            asks()


@pytest.mark.chaos
@pytest.mark.parametrize("form", FORMS)
def test_a_model_that_was_rounded_elsewhere_is_caught(form, trained, step_before, tmp_path):
    assert faults(trained, write_form(form, step_before, tmp_path / form)) == ["stale_weights"]
