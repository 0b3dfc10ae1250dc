"""Where the weights of a model lie that is only read from: on the device, in the host's memory, in files on the disk.

accelerate's hooks bring each layer to the device when its turn comes and drop it afterwards, so that a model that is
larger than the device gives the same figures, more slowly
(https://huggingface.co/docs/accelerate/concept_guides/big_model_inference). Weights that are left on the disk are read from
the model's own safetensors files wherever those hold them as they are used.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from leanpipe.core import device
from leanpipe.core.errors import UserError
from leanpipe.core.estimate import bytes_of_weight

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

GIGABYTE = 10**9
_WEIGHTS = 0.9
"""The share of free memory that weights may fill: the rest is for activations and for the layer that is being brought."""


def loaded_bytes(path: Path, dtype: "torch.dtype") -> int:
    """Return what the weights in `path` take in memory: floating-point ones in `dtype`, quantised ones as they are.

    Reads the headers of the safetensors files, not the weights; of torch's own files it knows their size.
    """
    keep = is_quantized(path)
    files = list(path.glob("*.safetensors"))
    return sum(_file_bytes(file, dtype, keep) for file in files) if files else _torch_bytes(path, dtype)


def is_quantized(path: Path) -> bool:
    """Whether the weights in the folder `path` were quantised when they were saved."""
    config = path / "config.json"
    return config.exists() and "quantization_config" in json.loads(config.read_text())


def room(limit: float, spare: int = 0) -> int:
    """Return the bytes of the device that weights may take: `limit` gigabytes, or if 0 what is free but for `spare` bytes."""
    return round(limit * GIGABYTE) if limit else max(0, round(_WEIGHTS * (device.free_memory() - spare)))


def max_memory(room: int) -> dict[int | str, int]:
    """Return what each place may take, for accelerate: the device, the host's memory beside a card; the rest is disk."""
    if device.name() == "cpu":
        return {"cpu": room}
    return {0: room, "cpu": round(_WEIGHTS * device.free_host_memory())}


def check_fits(path: Path, dtype: "torch.dtype") -> None:
    """Raise UserError if the weights in `path` exceed the device's free memory, for work that cannot offload them."""
    needed, free = loaded_bytes(path, dtype), device.free_memory()
    if needed > free:
        raise UserError(
            f"the weights of {path} take {needed / GIGABYTE:.2f} GB and {device.name()} has {free / GIGABYTE:.2f} GB free: "
            "a model that is trained or quantised is not offloaded, so free some memory, take a smaller model or use a "
            "larger machine"
        )


def check_runs_on_the_device(model: "PreTrainedModel", room: int) -> None:
    """Raise UserError if no layer found a place on the card: accelerate would then compute on the processor."""
    places = getattr(model, "hf_device_map", {"": "cpu"})  # which a model that is whole in one place lacks
    if device.name() == "cuda" and set(places.values()) <= {"cpu", "disk"}:
        raise UserError(
            f"{room / GIGABYTE:.2f} GB of device memory do not hold the embeddings and one layer of {model.name_or_path}: "
            "allow it more, or take a smaller model"
        )


def input_device(model: "PreTrainedModel") -> "torch.device":
    """Return the device on which a model, offloaded or not, expects its tokens."""
    import torch

    return torch.device("cpu") if model.device.type == "meta" else model.device


def weight(model: "PreTrainedModel", name: str) -> "torch.Tensor":
    """Read one entry of the model's state dict, from where it was offloaded to if it was."""
    from transformers.integrations.accelerate import load_offloaded_parameter

    found = model.get_parameter_or_buffer(name)
    return load_offloaded_parameter(model, name) if found.is_meta else found.detach()


def _torch_bytes(path: Path, dtype: "torch.dtype") -> int:
    """Bytes of the weights in files that torch.save wrote, in the type that config.json names."""
    import torch

    stored = json.loads((path / "config.json").read_text()).get("dtype") or "float32"
    size = sum(file.stat().st_size for file in path.glob("pytorch_model*.bin"))
    return size // getattr(torch, stored).itemsize * dtype.itemsize


def _file_bytes(path: Path, dtype: "torch.dtype", keep: bool) -> int:
    """The header is JSON after its length in eight bytes (https://huggingface.co/docs/safetensors, format)."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    header.pop("__metadata__", None)
    return sum(_tensor_bytes(entry, dtype, keep) for entry in header.values())


def _tensor_bytes(entry: dict, dtype: "torch.dtype", keep: bool) -> int:
    start, end = entry["data_offsets"]
    stored = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}.get(entry["dtype"])
    return end - start if keep or stored is None else (end - start) // stored * dtype.itemsize


def loading_bytes(config: "PretrainedConfig", parameters: int, kind: device.Kind) -> int:
    """Bytes of the device while weights are loaded: a processor maps the files too, and copies what is of another type."""
    used = bytes_of_weight()
    stored = 4 if str(config.dtype).endswith("float32") else 2
    copies = stored if kind == "cpu" and stored != used else 0
    return (used + copies) * parameters
