"""The same faults in GGUF: planted in the folder's files and in the file that llama.cpp reads, each caught by its name."""

import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest

from leanpipe.evaluation.parity.gguf_faults import find_gguf_text_faults
from leanpipe.evaluation.parity.parity import compare
from leanpipe.evaluation.parity.served_answers import open_server
from leanpipe.evaluation.parity.text_faults import read_text_side
from tests.evaluation.parity.gguf_plants import GGUF_PLANTS, _fact
from tests.evaluation.parity.plants import PLANTS, Plant
from tests.evaluation.parity.test_parity import CONFIG, faults, no_server, planted
from tests.evaluation.parity.trained import write_form
from tests.support.tiny_models import tiny_model

pytest.importorskip("xllamacpp")
GGUF_FORMS = ("q8_0", "q4_0")
IN_THE_FOLDER = [plant for plant in PLANTS if "norm off" not in plant.called and "vocabulary" not in plant.called and "head" not in plant.called]  # fmt: skip
"""The others are planted in the file: there are no other weights."""


@pytest.fixture(scope="module")
def gguf(tmp_path_factory, trained) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("gguf")
    return {form: write_form(form, trained, root / form) for form in GGUF_FORMS}


@pytest.mark.parametrize("plant", [*IN_THE_FOLDER, *GGUF_PLANTS], ids=lambda plant: plant.called)
def test_a_fault_is_caught_by_its_name(plant: Plant, trained, gguf, tmp_path):
    found = compare(CONFIG, trained, planted(plant, gguf["q4_0"], tmp_path / "model"), no_server)
    assert found.faults[0].name == plant.caught_as, found.faults


def test_the_weights_of_another_step_are_caught(trained, step_before, tmp_path):
    assert faults(trained, write_form("q4_0", step_before, tmp_path / "q4_0")) == ["stale_weights"]


def test_an_engine_that_flips_tokens_is_caught(trained, gguf, coarse_engine):
    assert faults(trained, gguf["q4_0"], coarse_engine) == ["flipped_tokens"]


def test_a_bos_that_the_model_never_had_is_caught(gguf, tmp_path):
    source = tiny_model(tmp_path / "source")
    folder = write_form("q8_0", source, tmp_path / "q8_0")
    side = read_text_side(source)
    assert list(find_gguf_text_faults(side, folder)) == []
    _fact("tokenizer.ggml.add_bos_token", True)(folder)
    assert [fault.name for fault in find_gguf_text_faults(side, folder)] == ["doubled_bos"]


@pytest.mark.parametrize("engine", ["llama.cpp", "openvino"])
def test_a_clean_form_passes_through_every_engine(engine, trained, gguf):
    if engine == "openvino":
        pytest.importorskip("openvino_genai")
    config = CONFIG.model_copy(update={"gguf_engine": engine})
    with open_server(gguf["q4_0"], engine) as url:
        found = compare(config, trained, gguf["q4_0"], lambda _: nullcontext(url))
    assert found.form == "q4_0" and found.faults == [] and found.same_answers > 0.5
    assert all(one.served_tokens == one.trained_tokens for one in found.exchanges)


def test_a_file_that_is_cut_short_is_a_fault(trained, gguf, tmp_path):
    folder = shutil.copytree(gguf["q8_0"], tmp_path / "model")
    whole = (folder / "model.gguf").read_bytes()
    (folder / "model.gguf").write_bytes(whole[: len(whole) // 2])
    assert faults(trained, folder) == ["unreadable"]
