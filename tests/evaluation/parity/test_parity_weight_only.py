"""The formats of torchao and AutoRound, made by the stage: faults are caught by their names, and clean ones answer through a server."""

import sys
from contextlib import nullcontext

import pytest

from leanpipe.compression.quantize import QuantizeConfig, QuantizeInputs, check_quantize, quantize
from leanpipe.compression.quantize_transformers import CALIBRATED, WEIGHT_ONLY, why_no_kernel
from leanpipe.core import device
from leanpipe.core.errors import UserError
from leanpipe.core.estimate import Expected
from leanpipe.core.report import Silent
from leanpipe.evaluation.parity.auto_round_file import Grid
from leanpipe.evaluation.parity.parity import compare
from leanpipe.evaluation.parity.served_answers import open_server
from leanpipe.models.load import load_model
from leanpipe.models.quantizers import check_quantizer_of
from tests.evaluation.parity.plants import PLANTS, Plant
from tests.evaluation.parity.test_parity import CONFIG, faults, no_server, planted
from tests.evaluation.parity.trained import write_form
from tests.support.cleaned_corpus import kept, write_cleaned
from tests.support.tiny_models import tiny_text

pytest.importorskip("torchao")
pytest.importorskip("auto_round_kernel")
pytestmark = pytest.mark.skipif(device.name() != "cpu", reason="AutoRound is run on processors alone")

SETTINGS = QuantizeConfig(
    formats=WEIGHT_ONLY, group_size=32, rounding_steps=2, calibration_tokens=512, keep=("k_proj",)
)


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    rows = [kept(number, text) for number, text in enumerate(tiny_text()[:20])]
    return write_cleaned(tmp_path_factory.mktemp("documents"), rows)


@pytest.fixture(scope="module")
def made(trained, documents, tmp_path_factory):
    """The folder of each format by its name, and what the stage says of them."""
    out = tmp_path_factory.mktemp("weight-only")
    return out, quantize.function(SETTINGS, QuantizeInputs(trained, documents), out, Silent())


def test_folders_are_smaller_and_near_and_keep_what_is_asked_for(made):
    out, said = made
    assert said["auto_round_int4_bytes"] < said["torchao_int8_bytes"] < said["full_bytes"]
    assert 0 < said["torchao_int8_logits_error"] < 0.05
    assert said["torchao_int8_logits_error"] < said["auto_round_int4_logits_error"] < 0.3
    for form, kind in zip(WEIGHT_ONLY, ("Linear", "QuantLinearGPTQ"), strict=True):
        layer = load_model(out / form).model.layers[1].self_attn
        assert type(layer.q_proj).__name__ == kind and type(layer.k_proj).__name__ == "Linear"
        assert type(layer.k_proj.weight).__name__ == "Parameter"


@pytest.mark.parametrize("form", WEIGHT_ONLY)
@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.called)
def test_a_fault_is_caught_by_its_name(plant: Plant, form, trained, made, tmp_path):
    found = compare(CONFIG, trained, planted(plant, made[0] / form, tmp_path / "model"), no_server)
    assert found.faults[0].name == plant.caught_as and found.form == form, found.faults


@pytest.mark.parametrize("form", WEIGHT_ONLY)
def test_the_weights_of_another_step_are_caught(form, step_before, made):
    """The trained model is the odd one here, which saves rounding another one."""
    assert faults(step_before, made[0] / form) == ["stale_weights"]


@pytest.mark.chaos
@pytest.mark.parametrize("form", WEIGHT_ONLY)
def test_an_engine_that_flips_tokens_is_caught(form, trained, made, coarse_engine):
    assert faults(trained, made[0] / form, coarse_engine) == ["flipped_tokens"]


@pytest.mark.parametrize("form", [pytest.param("torchao_int8", marks=pytest.mark.chaos), CALIBRATED])
def test_a_clean_form_passes_through_its_server(form, trained, made):
    with open_server(made[0] / form) as url:
        found = compare(CONFIG, trained, made[0] / form, lambda _: nullcontext(url))
    assert found.faults == [] and found.form == form
    assert all(one.served_tokens == one.trained_tokens for one in found.exchanges)


def test_a_weight_may_be_rounded_either_way_by_a_scale_of_16_bits_and_no_further():
    import torch

    weights, scale = torch.linspace(-7, 7, 1_001)[None], 1.0
    learned = (weights / (scale * (1 + 2**-8)) + 0.5 * torch.ones_like(weights)).round() + 8
    for levels, allowed in ((learned, True), (learned + 1, False)):
        grid = Grid(levels, torch.full_like(weights, scale), torch.full_like(weights, 8.0))
        assert torch.equal(grid.admissible(weights), grid.values()) is allowed


@pytest.mark.parametrize("settings", [{}, {"calibration_tokens": 0}], ids=["no corpus", "no tokens"])
def test_what_learns_from_text_is_refused_without_any(settings, trained, documents):
    inputs = {"model": Expected(trained), "documents": Expected(documents) if settings else None}
    with pytest.raises(UserError, match=r"auto_round_int4 learns how to round from text: give a corpus"):
        check_quantize(QuantizeConfig(formats=(CALIBRATED,), **settings), inputs)


def test_layers_whose_rows_hold_no_whole_groups_are_named_before_any_work(trained, documents):
    """The tiny model's rows are 64 and 128 long."""
    assert why_no_kernel(128, 64, 128) == ""
    said = why_no_kernel(64, 64, 128)
    assert said == "rows of 64 are no multiple of the group of 128 (quantize.group_size)"
    config = QuantizeConfig(formats=(CALIBRATED,), group_size=128, keep=("down_proj",))
    with pytest.raises(
        UserError, match=r"fits no layer of this model.*64 x 128 \(rows of 64 are no multiple"
    ):
        check_quantize(config, {"model": Expected(trained), "documents": Expected(documents)})


@pytest.mark.parametrize(
    ("form", "module", "extra"),
    [("torchao_int8", "torchao.quantization", "torchao"), (CALIBRATED, "auto_round_kernel", "autoround")],
)
def test_a_missing_package_is_a_sentence_for_who_makes_and_for_who_serves(
    form, module, extra, made, monkeypatch
):
    monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    for asks in (
        lambda: check_quantize(QuantizeConfig(formats=(form,)), {}),
        lambda: check_quantizer_of(made[0] / form),
        lambda: load_model(made[0] / form),
    ):
        with pytest.raises(UserError, match=rf"pip install 'leanpipe\[{extra}\]'"):
            asks()


@pytest.mark.chaos
@pytest.mark.parametrize("form", WEIGHT_ONLY)
def test_a_model_that_was_rounded_elsewhere_is_caught(form, trained, step_before, tmp_path):
    assert faults(trained, write_form(form, step_before, tmp_path / form)) == ["stale_weights"]
