"""Quantised folders that are damaged, disks that are full, and models that a format cannot hold: one sentence, and no result."""

import shutil
from pathlib import Path

import pytest
from transformers import GPT2Config, GPT2LMHeadModel

from leanpipe.compression.quantize import QuantizeConfig, QuantizeInputs, check_quantize, quantize
from leanpipe.core.errors import UserError, sentence_of
from leanpipe.core.estimate import Expected
from leanpipe.core.report import Silent
from leanpipe.core.store import Store, external
from leanpipe.engines.open_engine import open_engine
from leanpipe.models.load import load_model, save_model
from leanpipe.models.offload import is_exported, weight_files
from leanpipe.processes.run_stage import run_stage
from tests.support.small_disk import SMALL_DISK_BYTES, small_disk
from tests.support.tiny_models import tiny_model, tiny_tokenizer

__all__ = ["small_disk"]
PACKAGES = {"torchao_int8": "torchao", "w4a16": "compressed_tensors", "onnx_int4": "onnxruntime"}
FORMS = ("nf4", "q4_0", *PACKAGES)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("source"))


@pytest.mark.parametrize("form", FORMS)
def test_a_file_that_was_cut_or_overwritten_is_a_sentence(form, source, tmp_path):
    pytest.importorskip(PACKAGES.get(form, "torch"))
    quantize.function(QuantizeConfig(formats=(form,)), QuantizeInputs(source), tmp_path, Silent())
    name = weight_files(tmp_path / form)[-1].name
    whole = (tmp_path / form / name).read_bytes()
    for damaged in (whole[: len(whole) // 2], b"\xff" * 64 + whole[64:], b""):
        folder = shutil.copytree(tmp_path / form, tmp_path / "damaged", dirs_exist_ok=True)
        (folder / name).write_bytes(damaged)
        if name == "model.onnx.data" and len(damaged) == len(whole):
            continue  # any bytes are weights there: the digest of the result tells, and parity
        with pytest.raises(UserError) as raised:
            open_engine(folder, 64) if is_exported(folder) else load_model(folder)
        assert "\n" not in str(raised.value) and str(folder) in str(raised.value)


@pytest.mark.parametrize("form", FORMS)
def test_a_disk_that_fills_up_leaves_no_result(form, source, small_disk):
    pytest.importorskip(PACKAGES.get(form, "torch"))
    (small_disk / "filler").write_bytes(bytes(SMALL_DISK_BYTES - 70_000))
    store = Store(small_disk / "store")
    with pytest.raises(Exception) as raised:
        run_stage(
            quantize, QuantizeConfig(formats=(form,)), {"model": external("model", source)}, store, Silent()
        )
    assert "disk is full" in str(sentence_of(raised.value)), raised.value
    assert not list(store.manifests("quantize"))


@pytest.mark.parametrize("form", ["torchao_int8", "auto_round_int4", "w4a16"])
def test_layers_that_a_package_would_pass_over_are_refused(form, source, tmp_path):
    pytest.importorskip({**PACKAGES, "auto_round_int4": "auto_round_kernel"}[form])
    config = GPT2Config(vocab_size=512, n_embd=64, n_layer=2, n_head=4, n_positions=128)
    save_model(GPT2LMHeadModel(config), tiny_tokenizer(), tmp_path / "gpt2")
    inputs = {"model": Expected(tmp_path / "gpt2"), "documents": Expected(source)}
    with pytest.raises(UserError, match=rf"format {form} holds layers of the kind Linear.*gpt2 has Conv1D"):
        check_quantize(QuantizeConfig(formats=(form,)), inputs)
