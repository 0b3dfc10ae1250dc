"""onnxruntime in this process: it reads a model folder with an ONNX file, completes tokens, and predicts after each of a text.

What it is asked and what it answers is in the shape of llama.cpp's completions (see llama_cpp.py), so that whatever serves
one serves the other. One request is answered at a time.
"""

import importlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leanpipe.core.errors import UserError, reason
from leanpipe.engines.llama_cpp import Part, free_cores
from leanpipe.engines.token_parts import complete_tokens, ends_of, most_tokens
from leanpipe.models.load import load_tokenizer
from leanpipe.models.offload import weight_files

if TYPE_CHECKING:
    import numpy as np
    import torch

_PAST, _PRESENT = "past_key_values.", "present."


class OnnxLogits:
    """The model in a folder with an ONNX file, which predicts after every token of a text."""

    def __init__(self, folder: Path, threads: int | None = None):
        """Load the file. Raises UserError if it cannot be read."""
        self.path, self.name_or_path = folder, str(folder)
        self.threads = threads or free_cores()
        self._session = open_session(weight_files(folder)[0], self.threads)
        self._caches = {
            one.name: one.shape for one in self._session.get_inputs() if one.name.startswith(_PAST)
        }

    def __call__(self, tokens: Sequence[int], last: int | None = None) -> "torch.Tensor":
        """Return the logits [tokens, vocabulary] in float32 on the processor; with `last`, after the last so many tokens."""
        import numpy as np
        import torch

        feeds = {"input_ids": np.array([tokens], dtype=np.int64)}
        feeds["attention_mask"] = np.ones((1, len(tokens)), dtype=np.int64)
        for name, (_, heads, _, size) in self._caches.items():
            feeds[name] = np.zeros((1, heads, 0, size), dtype=np.float32)
        logits = self._session.run(["logits"], feeds)[0][0]
        return torch.from_numpy(logits[-last:] if last else logits)

    def predictions(
        self, tokens: Sequence[int], room: int
    ) -> "Iterator[tuple[np.ndarray, Callable[[int], None]]]":
        """Yield the logits [vocabulary] of the next token, and what must be told which one it became, until there is no room.

        Keys and values of all `room` tokens lie in one piece of memory, which the session reads from and writes to.
        """
        import numpy as np
        from onnxruntime import OrtValue

        binding = self._session.io_binding()
        for name, (_, heads, _, size) in self._caches.items():
            cache = OrtValue.ortvalue_from_numpy(np.zeros((1, heads, room, size), dtype=np.float32))
            binding.bind_ortvalue_input(name, cache)
            binding.bind_ortvalue_output(name.replace(_PAST, _PRESENT), cache)
        given, length = list(tokens), 0
        while length + len(given) <= room:
            length += len(given)
            binding.bind_cpu_input("input_ids", np.array([given], dtype=np.int64))
            binding.bind_cpu_input("attention_mask", np.ones((1, length), dtype=np.int64))
            binding.bind_output("logits")
            self._session.run_with_iobinding(binding)
            given = []
            yield binding.get_outputs()[-1].numpy()[0, -1], given.append


class OnnxRuntime:
    """The ONNX file in a model folder, loaded, asked as `LlamaCpp` is."""

    def __init__(self, folder: Path, threads: int | None = None):
        """Load the file. Raises UserError if it cannot be read."""
        self._model = OnnxLogits(folder, threads)
        self.threads = self._model.threads
        self._tokenizer, self._ends = load_tokenizer(folder), ends_of(folder)
        self._turn = threading.Lock()

    def complete(self, fields: Mapping[str, Any], on_part: Callable[[Part], bool] | None = None) -> Part:
        """Complete `fields["prompt"]`, a list of token ids, as `LlamaCpp.complete` does."""
        with self._turn:
            return complete_tokens(fields, self._tokens(fields), self._tokenizer, self._ends, on_part)

    def _tokens(self, fields: Mapping[str, Any]) -> Iterator[int]:
        prompt = list(fields["prompt"])
        choose = _chooser(fields, prompt)
        for logits, became in self._model.predictions(prompt, len(prompt) + most_tokens(fields)):
            token = choose(logits)
            yield token
            became(token)


def check_onnxruntime() -> None:
    """Raise UserError if onnxruntime cannot be loaded here."""
    _library()


def open_session(file: Path, threads: int) -> Any:
    """Load an ONNX file. Raises UserError if it cannot be."""
    library = _library()
    options = library.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # what it says is raised too
    try:
        return library.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no class in common
        raise UserError(
            f"onnxruntime cannot load {file} ({reason(error)}): the file or its weights may be damaged or cut short; make it "
            "again"
        ) from error


def _library() -> Any:
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise UserError(
            f"ONNX models are run by the package onnxruntime, which cannot be loaded here ({error}): install it with "
            "pip install 'leanpipe[onnx]', or give a model in another format"
        ) from error


def _chooser(fields: Mapping[str, Any], prompt: list[int]) -> "Callable[[np.ndarray], int]":
    """What chooses a token by its logits, in transformers' order and by its own code: penalties, then the sampling."""
    import torch
    from transformers.generation import logits_process as steps

    chain: list[Any] = []
    if biases := fields.get("logit_bias"):
        chain.append(steps.SequenceBiasLogitsProcessor({(int(one),): float(bias) for one, bias in biases}))
    if (penalty := fields.get("repeat_penalty") or 1.0) != 1.0:
        chain.append(steps.RepetitionPenaltyLogitsProcessor(float(penalty)))
    temperature = float(fields.get("temperature", 1.0))
    if temperature > 0:
        chain.append(steps.TemperatureLogitsWarper(temperature))
        chain += [steps.TopKLogitsWarper(int(k))] if (k := fields.get("top_k")) else []
        chain += [steps.TopPLogitsWarper(float(p))] if (p := fields.get("top_p") or 1.0) < 1 else []
        chain += [steps.MinPLogitsWarper(float(p))] if (p := fields.get("min_p")) else []
    random = torch.Generator()
    random.manual_seed(int(fields["seed"])) if "seed" in fields else random.seed()
    seen = list(prompt)

    def choose(logits: "np.ndarray") -> int:
        scores = torch.from_numpy(logits)[None].clone()
        read = torch.tensor([seen])
        for step in chain:
            scores = step(read, scores)
        if temperature > 0:
            token = int(torch.multinomial(scores.softmax(-1)[0], 1, generator=random))
        else:
            token = int(scores[0].argmax())
        seen.append(token)
        return token

    return choose
