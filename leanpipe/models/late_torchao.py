"""Has transformers import torchao where it is used, and nowhere else.

Where torchao is installed, transformers imports all of it with the first model class, in every process, for three functions
that only weights of torchao need: that takes 0.4 s of a core, and each log says of which CUDA libraries it could
not load.
"""

import importlib
import importlib.util
import logging
import sys
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

from leanpipe.core import device

_TAKEN_BY_TRANSFORMERS = {
    "torchao.prototype.safetensors.safetensors_support": (
        "flatten_tensor_state_dict",
        "unflatten_tensor_state_dict",
    ),
    "torchao.prototype.safetensors.safetensors_utils": ("is_metadata_torchao",),
}
_lock = threading.Lock()


class _Late(ModuleType):
    """Stands for a module of torchao until one of its functions is called."""


def import_torchao_late() -> None:
    """Put modules that import torchao when they are used where transformers will look for it. Call it before it looks."""
    if "torchao" in sys.modules or importlib.util.find_spec("torchao") is None:
        return
    for module, functions in _TAKEN_BY_TRANSFORMERS.items():
        late = _Late(module)
        late.__dict__.update({name: _late_function(module, name) for name in functions})
        sys.modules.setdefault(module, late)


def quiet_torchao() -> None:
    """Leave out what torchao says when it is imported, and nobody can do anything about."""
    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)  # an old way to register its settings
    if not device.has_nvidia_driver():
        logging.getLogger("torchao").setLevel(logging.ERROR)  # it misses kernels that it does not need


def _late_function(module: str, name: str) -> Callable[..., Any]:
    def call(*given: Any, **named: Any) -> Any:
        return getattr(_import(module), name)(*given, **named)

    return call


def _import(module: str) -> ModuleType:
    quiet_torchao()
    with _lock:
        for name in _TAKEN_BY_TRANSFORMERS:
            if isinstance(sys.modules.get(name), _Late):
                del sys.modules[name]
    return importlib.import_module(module)
