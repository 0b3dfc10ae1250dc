"""The packages that run weights which were quantised for transformers, by the method that config.json names."""

import importlib
from pathlib import Path
from typing import NamedTuple

from leanpipe.core.errors import UserError, reason
from leanpipe.core.files import read_object
from leanpipe.models.late_torchao import quiet_torchao


class Quantizer(NamedTuple):
    """What is imported to quantise and to run weights, and the extra of leanpipe that installs it."""

    modules: tuple[str, ...]
    extra: str


QUANTIZERS = {
    "torchao": Quantizer(("torchao.quantization",), "torchao"),
    "auto-round": Quantizer(("auto_round", "auto_round_kernel"), "autoround"),
}
"""By transformers' name of the method. bitsandbytes is always installed."""


def check_quantizer(method: str, what: str) -> None:
    """Raise UserError if the packages of a method are not installed or broken; `what` needs them, for people."""
    quantizer = QUANTIZERS[method]
    if method == "torchao":
        quiet_torchao()
    try:
        for module in quantizer.modules:
            importlib.import_module(module)
    except (ImportError, OSError) as error:
        raise UserError(
            f"{what} needs a package that cannot be loaded here ({reason(error)}): pip install "
            f"'leanpipe[{quantizer.extra}]', or take another format"
        ) from error


def check_quantizer_of(path: Path) -> None:
    """Raise UserError if what runs the weights in a model folder is not installed here."""
    file = path / "config.json"
    config = read_object(file).get("quantization_config") if file.is_file() else None
    if isinstance(config, dict) and (method := config.get("quant_method")) in QUANTIZERS:
        check_quantizer(method, f"the model in {path}")
