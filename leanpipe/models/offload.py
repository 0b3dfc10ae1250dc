"""Where the weights of a model lie that is only read from: on the device, in the host's memory, in files on the disk.

accelerate's hooks bring each layer to the device when its turn comes and drop it afterwards, so that a model that is
larger than the device gives the same figures, more slowly
(https://huggingface.co/docs/accelerate/concept_guides/big_model_inference). Weights that are left on the disk are read from
the model's own safetensors files wherever those hold them as they are used.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leanpipe.core import device
from leanpipe.core.errors import UserError, refused_if_unreadable
from leanpipe.core.estimate import bytes_of_weight
from leanpipe.core.files import read_object
from leanpipe.models.quantizers import PACKED, packed_bits

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

GIGABYTE = 10**9
_INDEX = ".index.json"
GGUF_FILE = "model.gguf"
"""The file of weights that llama.cpp reads."""
ONNX_FILE, ONNX_DATA = "model.onnx", "model.onnx.data"
"""The graph that onnxruntime reads, and the weights beside it."""
_FILES = (
    "model.safetensors",
    f"model.safetensors{_INDEX}",
    "pytorch_model.bin",
    f"pytorch_model.bin{_INDEX}",
    GGUF_FILE,
    ONNX_FILE,
)
"""What is looked for in a model folder, in this order: whole, or an index that names the shards."""
_LONGEST_HEADER = 100_000_000
"""Bytes of a safetensors file's header: its own readers take no longer one."""
_WEIGHTS = 0.9
"""The share of free memory that weights may fill: the rest is for activations and for the layer that is being brought."""


def weight_files(path: Path) -> list[Path]:
    """List the files that the weights in the model folder `path` are read from; what else lies there does not count.

    Raises UserError if there are none, or if a shard is missing.
    """
    named = _config(path).get("transformers_weights")
    for name in [named] if named else _FILES:
        file = path / name
        if not file.is_file():
            continue
        if name == ONNX_FILE:
            if not (path / ONNX_DATA).is_file():
                raise UserError(f"{path} lacks {ONNX_DATA}, the weights of {ONNX_FILE}: copy it beside that")
            return [file, path / ONNX_DATA]
        if not name.endswith(_INDEX):
            return [file]
        with refused_if_unreadable(str(file), "fetch the model again"):
            shards = sorted({path / shard for shard in json.loads(file.read_text())["weight_map"].values()})
        if missing := [shard.name for shard in shards if not shard.is_file()]:
            raise UserError(f"{path} lacks {', '.join(missing)}, which {name} names: fetch the model again")
        return shards
    raise UserError(
        f"{path} holds no weights: {_FILES[0]} or {_FILES[2]} is needed, whole or in shards with their index, or "
        f"{GGUF_FILE} or {ONNX_FILE}"
    )


def loaded_bytes(path: Path, dtype: "torch.dtype") -> int:
    """Return what the weights in `path` take in memory: floating-point ones in `dtype`, quantised ones as they are or unpacked.

    Reads the headers of the safetensors files, not the weights; of torch's own files it knows their size.
    """
    keep, files, bits = is_quantized(path), weight_files(path), packed_bits(path)
    if files[0].suffix == ".safetensors":
        return sum(_file_bytes(file, dtype, keep, bits) for file in files)
    size = sum(file.stat().st_size for file in files)
    return size if keep else size // _stored_type(path).itemsize * dtype.itemsize


def check_weights(path: Path) -> None:
    """Raise UserError if the weights in the folder `path` are missing, or if one of their files is damaged or cut off.

    Reads the headers alone of safetensors files, which say how long the files are.
    """
    for file in weight_files(path):
        if file.suffix == ".safetensors":
            end = max((entry["data_offsets"][1] for entry in _tensors(file).values()), default=0)
            with file.open("rb") as opened:
                expected = 8 + int.from_bytes(opened.read(8), "little") + end
            if file.stat().st_size != expected:
                raise UserError(
                    f"{file} is {file.stat().st_size:,} bytes long, and should be {expected:,}: fetch the model again"
                )


def is_quantized(path: Path) -> bool:
    """Whether the weights in the folder `path` were quantised when they were saved."""
    return "quantization_config" in _config(path) or is_exported(path)


def is_exported(path: Path) -> bool:
    """Whether the weights in the folder `path` are for another engine than transformers, which has no code for them."""
    return is_gguf(path) or is_onnx(path)


def is_gguf(path: Path) -> bool:
    """Whether the weights in the folder `path` are a GGUF file, which llama.cpp runs and transformers does not."""
    files = weight_files(path) if (path / GGUF_FILE).is_file() else []
    return bool(files) and files[0].name == GGUF_FILE


def is_onnx(path: Path) -> bool:
    """Whether the weights in the folder `path` are an ONNX file, which onnxruntime runs and transformers does not."""
    files = weight_files(path) if (path / ONNX_FILE).is_file() else []
    return bool(files) and files[0].name == ONNX_FILE


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


def _config(path: Path) -> dict[str, Any]:
    return read_object(path / "config.json")


def _stored_type(path: Path) -> "torch.dtype":
    """What type the config says that the weights have. Files that torch.save wrote are mostly of times when it said so in `torch_dtype`."""
    import torch

    config = _config(path)
    return getattr(torch, config.get("dtype") or config.get("torch_dtype") or "float32")


def _file_bytes(path: Path, dtype: "torch.dtype", keep: bool, packed: int) -> int:
    """The bytes of a file's weights in memory; those that are `packed` in so many bits are unpacked there."""
    found = 0
    for name, entry in _tensors(path).items():
        size = _tensor_bytes(entry, dtype, keep)
        found += size * 8 // packed * dtype.itemsize if packed and name.endswith(PACKED) else size
    return found


def _tensors(path: Path) -> dict[str, Any]:
    """The header is JSON after its length in eight bytes (https://huggingface.co/docs/safetensors, format)."""
    with refused_if_unreadable(str(path), "it is no whole safetensors file, so fetch the model again"):
        with path.open("rb") as file:
            header = json.loads(file.read(min(_LONGEST_HEADER, int.from_bytes(file.read(8), "little"))))
        return {name: dict(entry) for name, entry in header.items() if name != "__metadata__"}


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
