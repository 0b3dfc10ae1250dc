"""Weights in every form that a model folder may have them: counted once, told apart, and never run."""

import json
import os
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from leanpipe.core.errors import UserError
from leanpipe.evaluation.evaluate import weights_digest
from leanpipe.models.load import load_model, weight_bytes
from leanpipe.models.offload import loaded_bytes, weight_files
from leanpipe.training.finetune.lora import load_nf4
from tests.support.tiny_models import tiny_model, tiny_tokenizer

PARAMETERS = 106_816
"""Of the tiny model: embedding 512 · 64, two layers of 36,992, a norm of 64."""
WEIGHTS = 4 * PARAMETERS


def as_pickle(folder: Path) -> Path:
    """Have the weights of a model folder in a file of torch.save instead, as models of old have them."""
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


def in_shards(folder: Path, name: str, save: Callable[[dict[str, torch.Tensor], Path], object]) -> Path:
    """Have the weights of a model folder in three files and their index instead."""
    whole = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    stem, _, suffix = name.partition(".")
    placed = {key: f"{stem}-{number % 3 + 1:05}-of-00003.{suffix}" for number, key in enumerate(whole)}
    for shard in set(placed.values()):
        save({key: whole[key] for key in whole if placed[key] == shard}, folder / shard)
    (folder / f"{name}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    return folder


def as_shards(folder: Path) -> Path:
    return in_shards(folder, "model.safetensors", partial(save_file, metadata={"format": "pt"}))


FORMS = {
    "safetensors": lambda folder: folder,
    "safetensors in shards": as_shards,
    "pickle": as_pickle,
    "pickle in shards": lambda folder: in_shards(folder, "pytorch_model.bin", torch.save),
}
every_form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())


@every_form
def test_weights_are_counted(tmp_path: Path, form):
    path = form(tiny_model(tmp_path))
    assert WEIGHTS < weight_bytes(path) < 1.1 * WEIGHTS
    assert WEIGHTS <= loaded_bytes(path, torch.float32) < 1.1 * WEIGHTS
    assert sum(one.numel() for one in load_model(path).parameters()) == PARAMETERS


@every_form
def test_two_models_have_two_digests(tmp_path: Path, form):
    one, same, other = (form(tiny_model(tmp_path / str(place), seed=place // 2)) for place in (0, 1, 2))
    assert weights_digest(one) == weights_digest(same) != weights_digest(other)


@pytest.mark.parametrize(
    "beside", ["consolidated.safetensors", "adapter_model.safetensors", "pytorch_model.bin", "rust_model.ot"]
)
def test_what_is_not_read_does_not_count(tmp_path: Path, beside: str):
    """Repositories of models often hold the same weights twice, for other programs."""
    path = tiny_model(tmp_path)
    size, digest = weight_bytes(path), weights_digest(path)
    save_file({"other": torch.zeros(1000)}, path / beside)
    assert (weight_bytes(path), weights_digest(path)) == (size, digest)
    assert loaded_bytes(path, torch.float32) == WEIGHTS


def test_the_type_of_old_configs_is_known(tmp_path: Path):
    """They call it torch_dtype: half of a float16 pickle is no float32 model."""
    path = as_pickle(tiny_model(tmp_path))
    config = json.loads((path / "config.json").read_text())
    assert config.pop("dtype") == "float32"
    (path / "config.json").write_text(json.dumps(config | {"torch_dtype": "float16"}))
    whole = torch.load(path / "pytorch_model.bin", weights_only=True)
    torch.save({key: value.half() for key, value in whole.items()}, path / "pytorch_model.bin")
    assert loaded_bytes(path, torch.float32) > WEIGHTS


class Program:
    """Leaves a trace where it is unpickled."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("load", [load_model, lambda path: load_nf4(path, torch.float32)])
@pytest.mark.parametrize("save", [torch.save, lambda what, path: path.write_bytes(pickle.dumps(what, 2))])
def test_a_pickle_that_holds_a_program_is_refused_and_not_run(tmp_path: Path, load, save):
    path = as_pickle(tiny_model(tmp_path))
    save({"weights": Program(tmp_path / "it-ran")}, path / "pytorch_model.bin")
    with pytest.raises(UserError, match="a pickle that holds more than weights"):
        load(path)
    assert not (tmp_path / "it-ran").exists()


@pytest.mark.parametrize(
    "load", [load_model, weight_bytes, weights_digest, lambda path: loaded_bytes(path, torch.float32)]
)
def test_a_folder_without_its_weights_is_refused(tmp_path: Path, load):
    path = as_shards(tiny_model(tmp_path))
    gone = weight_files(path)[1]
    gone.unlink()
    with pytest.raises(UserError, match=f"lacks {gone.name}"):
        load(path)
    (path / "model.safetensors.index.json").unlink()
    with pytest.raises(UserError, match="holds no weights"):
        load(path)


def test_weights_that_were_cut_short_are_refused(tmp_path: Path):
    path = tiny_model(tmp_path)
    os.truncate(path / "model.safetensors", 100_000)
    with pytest.raises(UserError, match=r"the causal language model in .* cannot be read"):
        load_model(path)


def test_the_tokenizer_is_no_weight(tmp_path: Path):
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="holds no weights"):
        weight_files(tmp_path)
