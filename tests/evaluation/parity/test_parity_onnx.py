"""The same faults in ONNX: planted in the folder's files, in the graph and in its weights, each caught by its name."""

import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest

from leanpipe.evaluation.parity.parity import compare
from leanpipe.evaluation.parity.served_answers import open_server
from tests.evaluation.parity.onnx_plants import ONNX_PLANTS
from tests.evaluation.parity.plants import Plant
from tests.evaluation.parity.test_parity import CONFIG, faults, no_server, planted
from tests.evaluation.parity.test_parity_gguf import IN_THE_FOLDER
from tests.evaluation.parity.trained import write_form

pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def onnx(tmp_path_factory, trained) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("onnx")
    return {form: write_form(form, trained, root / form) for form in ("onnx", "onnx_int8", "onnx_int4")}


@pytest.mark.parametrize("plant", [*IN_THE_FOLDER, *ONNX_PLANTS], ids=lambda plant: plant.called)
def test_a_fault_is_caught_by_its_name(plant: Plant, trained, onnx, tmp_path):
    found = compare(CONFIG, trained, planted(plant, onnx["onnx_int4"], tmp_path / "model"), no_server)
    assert found.faults[0].name == plant.caught_as, found.faults
    assert found.form == "onnx_int4"


def test_the_weights_of_another_step_are_caught(trained, step_before, tmp_path):
    for form in ("onnx", "onnx_int4"):
        assert faults(trained, write_form(form, step_before, tmp_path / form)) == ["stale_weights"]


def test_an_engine_that_flips_tokens_is_caught(trained, onnx, coarse_engine):
    assert faults(trained, onnx["onnx_int4"], coarse_engine) == ["flipped_tokens"]


def test_clean_forms_pass_and_one_of_them_through_its_server(trained, onnx):
    for form in ("onnx", "onnx_int8"):
        found = compare(CONFIG, trained, onnx[form], None)
        assert (found.form, found.faults) == (form, [])
    with open_server(onnx["onnx_int4"]) as url:
        found = compare(CONFIG, trained, onnx["onnx_int4"], lambda _: nullcontext(url))
    assert found.form == "onnx_int4" and found.faults == [] and found.same_answers > 0.5
    assert all(one.served_tokens == one.trained_tokens for one in found.exchanges)


@pytest.mark.parametrize("name", ["model.onnx", "model.onnx.data"])
def test_a_file_that_is_cut_short_is_a_fault(name, trained, onnx, tmp_path):
    folder = shutil.copytree(onnx["onnx_int4"], tmp_path / "model")
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: len(whole) // 2])
    assert faults(trained, folder) == ["unreadable"]
