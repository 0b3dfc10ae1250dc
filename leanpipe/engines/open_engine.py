"""The engine of a model folder whose weights transformers does not run: llama.cpp or OpenVINO for GGUF, onnxruntime for ONNX."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from leanpipe.engines import llama_cpp, onnx_runtime, openvino_genai
from leanpipe.engines.gguf_logits import GgufLogits
from leanpipe.engines.llama_cpp import LlamaCpp, Part
from leanpipe.engines.onnx_runtime import OnnxLogits, OnnxRuntime
from leanpipe.engines.openvino_genai import OpenVino, OpenVinoLogits
from leanpipe.models.offload import GGUF_FILE, is_exported, is_gguf

if TYPE_CHECKING:
    import torch


GgufEngine = Literal["llama.cpp", "openvino"]
"""What runs GGUF files."""
EngineName = Literal[GgufEngine, "onnxruntime", "transformers"]


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


def open_engine(
    folder: Path,
    context: int,
    slots: int = 1,
    threads: int | None = None,
    gguf: GgufEngine = "llama.cpp",
    keeps_prompts: bool = False,
) -> Completing:
    """Load the model; `context` tokens of all `slots` together are remembered. Raises UserError if it cannot be read.

    `gguf` runs a GGUF file; `keeps_prompts` is for OpenVINO, llama.cpp is told with each request.
    """
    if is_gguf(folder) and gguf == "openvino":
        return OpenVino(folder, context, slots, threads, keeps_prompts)
    if is_gguf(folder):
        return LlamaCpp(folder / GGUF_FILE, context, slots, threads)
    return OnnxRuntime(folder, threads)


def open_logits(
    folder: Path, longest: int, gguf: GgufEngine = "llama.cpp"
) -> GgufLogits | OpenVinoLogits | OnnxLogits:
    """Load the model to predict after every token of texts of at most so many. Raises UserError if it cannot be read."""
    if is_gguf(folder) and gguf == "openvino":
        return OpenVinoLogits(folder)
    return GgufLogits(folder, longest) if is_gguf(folder) else OnnxLogits(folder)


def check_engine(name: EngineName) -> None:
    """Load an engine's code. Raises UserError if it cannot be loaded here."""
    checks = {
        "llama.cpp": llama_cpp.check_engine,
        "openvino": openvino_genai.check_openvino,
        "onnxruntime": onnx_runtime.check_onnxruntime,
    }
    if name in checks:
        checks[name]()


def engine_of(folder: Path, gguf: GgufEngine = "llama.cpp") -> EngineName:
    """Name the engine that runs a model folder where `gguf` runs GGUF files."""
    if not is_exported(folder):
        return "transformers"
    return gguf if is_gguf(folder) else "onnxruntime"


def gguf_engines(folder: Path) -> tuple[GgufEngine, ...]:
    """Name what may serve the GGUF file in a model folder on this machine."""
    return ("llama.cpp", "openvino") if openvino_genai.runs_here(folder) else ("llama.cpp",)
