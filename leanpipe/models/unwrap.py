"""The language model itself, from within what others put around it."""

from typing import Any


def unwrap_adapters(model: Any) -> Any:
    """Return the causal language model itself, from within peft's wrapper if it is in one."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
