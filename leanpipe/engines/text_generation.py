"""Texts in, texts out, of a model folder with a GGUF or ONNX file: what MLflow's loader of any Python function finds in a version."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from leanpipe.engines.open_engine import open_engine
from leanpipe.models.count import longest_text, read_config
from leanpipe.models.load import leading_bos, load_tokenizer
from leanpipe.tokens.text_tokens import encode_text

_MOST_CONTEXT = 4_096  # tokens; memory for them is taken at once
_NEW_TOKENS = 64
_NEUTRAL = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "repeat_penalty": 1.0}


class TextGeneration:
    """The GGUF or ONNX file in a model folder, which goes on with texts."""

    def __init__(self, folder: Path):
        """Load the file. Raises UserError if it cannot be read."""
        self._tokenizer = load_tokenizer(folder)
        self._context = min(longest_text(read_config(folder)) or _MOST_CONTEXT, _MOST_CONTEXT)
        self._engine = open_engine(folder, self._context)

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> list[str]:
        """Give each text with what the model writes after it: greedily, unless `do_sample` is among `params`.

        Texts are a list, or the first column of a table. A text keeps its last tokens if it is too long.
        """
        params = params or {}
        return [self._goes_on(text, params) for text in _texts(model_input)]

    def _goes_on(self, text: str, params: Mapping[str, Any]) -> str:
        most = min(int(params.get("max_new_tokens", _NEW_TOKENS)), self._context - 1)
        bos = leading_bos(self._tokenizer)
        tokens = [*([] if bos is None else [bos]), *encode_text(self._tokenizer, text)]
        tokens = tokens[-(self._context - most) :]
        sampled = {"temperature": 1.0 if params.get("do_sample") else 0.0}
        done = self._engine.complete({"prompt": tokens, "n_predict": most, **_NEUTRAL, **sampled})
        return text + done["choices"][0]["text"]


def _texts(given: Any) -> Sequence[str]:
    if hasattr(given, "iloc"):
        return given.iloc[:, 0].tolist()
    return [given] if isinstance(given, str) else list(given)


def _load_pyfunc(path: str) -> TextGeneration:
    """Load the model folder at `path`: MLflow looks for a function of this name."""
    return TextGeneration(Path(path))
