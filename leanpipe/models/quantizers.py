"""The packages that run weights which were quantised for transformers, by the method that config.json names."""

import importlib
from pathlib import Path
from typing import Any, NamedTuple

from leanpipe.core.errors import UserError, reason
from leanpipe.core.files import read_object


class Quantizer(NamedTuple):
    """What is imported to quantise and to run weights, and the extra of leanpipe that installs it."""

    modules: tuple[str, ...]
    extra: str


COMPRESSED_TENSORS = "compressed-tensors"
PACKED = ".weight_packed"
"""How the names of its packed weights end."""
QUANTIZERS = {
    "torchao": Quantizer(("torchao.quantization",), "torchao"),
    "auto-round": Quantizer(("auto_round", "auto_round_kernel"), "autoround"),
    COMPRESSED_TENSORS: Quantizer(("compressed_tensors.compressors",), "compressed-tensors"),
}
"""By transformers' name of the method. bitsandbytes is always installed."""


def check_quantizer(method: str, what: str) -> None:
    """Raise UserError if the packages of a method are not installed or broken; `what` needs them, for people."""
    quantizer = QUANTIZERS[method]
    try:
        for module in quantizer.modules:
            importlib.import_module(module)
    except (ImportError, OSError) as error:
        raise UserError(
            f"{what} needs a package that cannot be loaded here ({reason(error)}): pip install "
            f"'leanpipe[{quantizer.extra}]', or take another format"
        ) from error


def method_of(path: Path) -> str | None:
    """The name of the method by which the weights in a model folder were quantised; None if they were not."""
    config = _quantization(path)
    return config.get("quant_method")


def check_quantizer_of(path: Path) -> None:
    """Raise UserError if what runs the weights in a model folder is not installed here."""
    if (method := method_of(path)) in QUANTIZERS:
        check_quantizer(method, f"the model in {path}")


def packed_bits(path: Path) -> int:
    """The bits of each weight of the packed layers of compressed-tensors in a model folder; 0 if it has none."""
    groups = _quantization(path).get("config_groups")
    first: Any = next(iter(groups.values()), {}) if isinstance(groups, dict) else {}
    weights = (first.get("weights") or {}) if isinstance(first, dict) else {}
    return int(weights.get("num_bits") or 0)


def _quantization(path: Path) -> dict[str, Any]:
    file = path / "config.json"
    config = read_object(file).get("quantization_config") if file.is_file() else None
    return config if isinstance(config, dict) else {}
