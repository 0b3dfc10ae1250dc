"""What a GGUF model predicts after every token of a text, as llama.cpp computes it.

llama.cpp's server says what it predicts after the last token only. But it gives the hidden states of all tokens, and the
product with the output layer is done here, with the weights that the file holds and with the activations rounded as
llama.cpp rounds them. So the figures hold the losses of the stored weights and of the engine's arithmetic, and agree with
the probabilities that the server reports to about 1e-4.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from leanpipe.core.errors import UserError
from leanpipe.engines.llama_cpp import HiddenStates
from leanpipe.models.count import read_config
from leanpipe.models.offload import GGUF_FILE

if TYPE_CHECKING:
    import numpy as np
    import torch

_HEADS = ("output.weight", "token_embd.weight")
"""The output layer's name; where there is none, the embeddings are it."""


class GgufLogits:
    """The model in a folder with a GGUF file, which predicts after every token of texts of at most `longest` tokens."""

    def __init__(self, folder: Path, longest: int):
        """Load the file. Raises UserError if it cannot be read."""
        import torch

        self.path, self.name_or_path = folder, str(folder)
        self._hidden = HiddenStates(folder / GGUF_FILE, longest)
        values, self._type = _head(folder / GGUF_FILE)
        self._head = torch.from_numpy(values)
        self._cap: float | None = getattr(read_config(folder), "final_logit_softcapping", None)

    def __call__(self, tokens: Sequence[int], last: int | None = None) -> "torch.Tensor":
        """Return the logits [tokens, vocabulary] in float32 on the processor; with `last`, after the last so many tokens."""
        import torch

        hidden = torch.from_numpy(_rounded(self._hidden.of(tokens)[-last if last else None :], self._type))
        logits = hidden @ self._head.T
        return self._cap * torch.tanh(logits / self._cap) if self._cap else logits


def _head(gguf: Path) -> tuple["np.ndarray", str]:
    """The output layer's weights [vocabulary, width] in float32, and the type that they are stored in."""
    from gguf import GGUFReader
    from gguf.quants import dequantize

    tensors = {tensor.name: tensor for tensor in GGUFReader(gguf).tensors}
    found = next((tensors[name] for name in _HEADS if name in tensors), None)
    if found is None:
        raise UserError(f"{gguf} has no output layer: it is no language model that writes")
    return dequantize(found.data, found.tensor_type), found.tensor_type.name


def _rounded(hidden: "np.ndarray", stored: str) -> "np.ndarray":
    """The activations as llama.cpp multiplies them with weights of the type `stored`."""
    import numpy as np
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize, quantize

    if stored in ("Q8_0", "Q5_0", "Q5_1", "Q4_0", "Q4_1", "IQ4_NL"):
        kind = GGMLQuantizationType.Q8_0
        return dequantize(quantize(hidden, kind), kind)
    if stored.endswith("_K"):
        blocks = hidden.reshape(-1, 256)
        scale = np.maximum(np.abs(blocks).max(-1, keepdims=True), 1e-30) / 127
        return (np.round(blocks / scale) * scale).reshape(hidden.shape).astype(np.float32)
    if stored == "BF16":
        return dequantize(quantize(hidden, GGMLQuantizationType.BF16), GGMLQuantizationType.BF16)
    return hidden.astype(np.float16).astype(np.float32) if stored == "F16" else hidden
