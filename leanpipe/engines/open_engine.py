"""The engine of a model folder whose weights transformers does not run: llama.cpp for GGUF, onnxruntime for ONNX."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from leanpipe.engines import llama_cpp, onnx_runtime
from leanpipe.engines.gguf_logits import GgufLogits
from leanpipe.engines.llama_cpp import LlamaCpp, Part
from leanpipe.engines.onnx_runtime import OnnxLogits, OnnxRuntime
from leanpipe.models.offload import GGUF_FILE, is_exported, is_gguf

if TYPE_CHECKING:
    import torch


EngineName = Literal["llama.cpp", "onnxruntime", "transformers"]


class Completing(Protocol):
    """Completes tokens, in the shape of llama.cpp's completions."""

    threads: int

    def complete(self, fields: Mapping[str, Any], on_part: Callable[[Part], bool] | None = None) -> Part:
        """Complete `fields["prompt"]`; with `on_part` in parts, until that returns True."""


@runtime_checkable
class EngineLogits(Protocol):
    """Predicts after every token of a text."""

    path: Path
    name_or_path: str

    def __call__(self, tokens: Sequence[int], last: int | None = None) -> "torch.Tensor":
        """Return the logits [tokens, vocabulary] in float32 on the processor; with `last`, after the last so many tokens."""


def open_engine(folder: Path, context: int, slots: int = 1, threads: int | None = None) -> Completing:
    """Load the model; `context` tokens of all `slots` together are remembered. Raises UserError if it cannot be read."""
    if is_gguf(folder):
        return LlamaCpp(folder / GGUF_FILE, context, slots, threads)
    return OnnxRuntime(folder, threads)


def open_logits(folder: Path, longest: int) -> GgufLogits | OnnxLogits:
    """Load the model to predict after every token of texts of at most so many. Raises UserError if it cannot be read."""
    return GgufLogits(folder, longest) if is_gguf(folder) else OnnxLogits(folder)


def check_engine(name: Literal["llama.cpp", "onnxruntime"]) -> None:
    """Load an engine's code. Raises UserError if it cannot be loaded here."""
    if name == "llama.cpp":
        llama_cpp.check_engine()
        return
    onnx_runtime.check_onnxruntime()


def engine_of(folder: Path) -> EngineName:
    """Name the engine that serves a model folder, and that it is evaluated by."""
    if not is_exported(folder):
        return "transformers"
    return "llama.cpp" if is_gguf(folder) else "onnxruntime"


def check_engine_of(folder: Path) -> None:
    """Load the code of the folder's engine. Raises UserError if it cannot be loaded here."""
    check_engine("llama.cpp" if is_gguf(folder) else "onnxruntime")
