"""OpenVINO in this process, by the package openvino-genai: it reads a GGUF file, completes tokens, and predicts after each of a text.

It multiplies with the instructions of this very processor (AVX512, VNNI, BF16, AMX), which xllamacpp is not built for, and
writes several answers as one batch: prompts are read some three times as fast as by llama.cpp, and eight answers together.
"""

import importlib.util
import itertools
import random
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leanpipe.core.errors import UserError, reason
from leanpipe.engines.llama_cpp import LlamaCpp, Part, free_cores, keep_for_good
from leanpipe.engines.openvino_gguf import unreadable, write_readable
from leanpipe.engines.token_parts import complete_tokens, ends_of, most_tokens
from leanpipe.models.load import load_tokenizer
from leanpipe.models.offload import GGUF_FILE

if TYPE_CHECKING:
    import torch

_BLOCK = 32
"""Tokens whose keys and values OpenVINO keeps in one piece on a processor."""
_BATCH = 512
"""Tokens that are read at once, at the most."""


class OpenVino:
    """A GGUF file, loaded, asked as `LlamaCpp` is: by several threads at once, `slots` of which are answered together.

    OpenVINO knows no biases of single tokens, and its answers have one source of chance together, so that a seed says nothing of one
    of them. A request with either is answered by llama.cpp, which then loads the file too.
    """

    def __init__(
        self,
        folder: Path,
        context: int,
        slots: int = 1,
        threads: int | None = None,
        keeps_prompts: bool = False,
    ):
        """Load the file; `context` tokens of all slots together are remembered. Raises UserError if it cannot be.

        `keeps_prompts` lets a prompt begin where an earlier one with the same beginning ended.
        """
        self.threads = threads or free_cores()
        self._folder, self._context, self._slots = folder, context, slots
        self._tokenizer, self._ends = load_tokenizer(folder), ends_of(folder)
        self._turn, self._numbers = threading.Lock(), itertools.count()
        self._other: LlamaCpp | None = None
        scheduler = _library().SchedulerConfig()
        scheduler.num_kv_blocks = -(-context // _BLOCK) + slots + 1  # an answer's last block is not full
        scheduler.max_num_batched_tokens, scheduler.max_num_seqs = _BATCH, slots
        scheduler.enable_prefix_caching = keeps_prompts
        with _readable(folder) as file:
            self._pipeline = _library().ContinuousBatchingPipeline(
                str(file), scheduler, "CPU", _properties(self.threads)
            )
        # Destroyed, it leaves the thread an alternate stack for signals that is gone: the next SIGTERM would be a crash.
        keep_for_good(self._pipeline)

    def complete(self, fields: Mapping[str, Any], on_part: Callable[[Part], bool] | None = None) -> Part:
        """Complete `fields["prompt"]`, a list of token ids, as `LlamaCpp.complete` does."""
        if fields.get("logit_bias") or ("seed" in fields and _is_drawn(fields)):
            return self._llama_cpp().complete(fields, on_part)
        return complete_tokens(fields, self._tokens(fields), self._tokenizer, self._ends, on_part)

    def _tokens(self, fields: Mapping[str, Any]) -> Iterator[int]:
        """The tokens of an answer. Whoever waits for one makes the next step, which is a step for all answers."""
        import numpy as np
        from openvino import Tensor

        library = _library()
        prompt, config = Tensor(np.array([fields["prompt"]], dtype=np.int64)), self._asked(fields)
        with self._turn:
            handle = self._pipeline.add_request(next(self._numbers), prompt, config)
        try:
            running = True
            while running:
                new: list[int] = []
                with self._turn:
                    if not handle.can_read() and handle.get_status() == library.GenerationStatus.RUNNING:
                        self._pipeline.step()
                    while handle.can_read():
                        new += next(iter(handle.read().values())).generated_ids
                    running = handle.get_status() == library.GenerationStatus.RUNNING
                yield from new
        finally:
            with self._turn:
                if handle.get_status() == library.GenerationStatus.RUNNING:
                    handle.cancel()

    def _asked(self, fields: Mapping[str, Any]) -> Any:
        """A request's fields as OpenVINO has them."""
        config = _library().GenerationConfig()
        config.max_new_tokens = most_tokens(fields)
        config.apply_chat_template = False
        config.ignore_eos = bool(fields.get("ignore_eos"))
        if not config.ignore_eos:
            config.stop_token_ids = set(self._ends)
        config.repetition_penalty = float(fields.get("repeat_penalty") or 1.0)
        if _is_drawn(fields):
            config.do_sample, config.temperature = True, float(fields.get("temperature", 1.0))
            config.top_p = float(fields.get("top_p") or 1.0)
            config.min_p = float(fields.get("min_p") or 0.0)
            if top_k := int(fields.get("top_k") or 0):
                config.top_k = top_k
            config.rng_seed = random.getrandbits(31)
        return config

    def _llama_cpp(self) -> LlamaCpp:
        with self._turn:
            self._other = self._other or LlamaCpp(
                self._folder / GGUF_FILE, self._context, self._slots, self.threads
            )
            return self._other


class OpenVinoLogits:
    """The model in a folder with a GGUF file, which predicts by OpenVINO after every token of a text."""

    def __init__(self, folder: Path, threads: int | None = None):
        """Load the file. Raises UserError if it cannot be read."""
        library = _library()  # before its other package, so that what is missing is told in a sentence
        from openvino import Core

        self.path, self.name_or_path = folder, str(folder)
        with _readable(folder) as file:
            # OpenVINO's graph of the file; its pipelines say nothing of what they predict within a prompt.
            library.LLMPipeline(str(file), "CPU", enable_save_ov_model=True)
            core = Core()
            graph = core.read_model(str(file.with_name("openvino_model.xml")))
            self._model = core.compile_model(graph, "CPU", _properties(threads or free_cores()))

    def __call__(self, tokens: Sequence[int], last: int | None = None) -> "torch.Tensor":
        """Return the logits [tokens, vocabulary] in float32 on the processor; with `last`, after the last so many tokens."""
        import numpy as np
        import torch

        count = len(tokens)
        request = self._model.create_infer_request()  # which remembers what it read
        request.infer(
            {
                "input_ids": np.array([tokens], dtype=np.int64),
                "attention_mask": np.ones((1, count), dtype=np.int64),
                "position_ids": np.arange(count)[None],
                "beam_idx": np.zeros(1, dtype=np.int32),
            }
        )
        logits = torch.from_numpy(np.array(request.get_output_tensor(0).data[0], dtype=np.float32))
        return logits[-last:] if last else logits


def check_openvino() -> None:
    """Raise UserError if OpenVINO cannot be loaded here."""
    _library()


def is_installed() -> bool:
    """Whether the package is there."""
    return importlib.util.find_spec("openvino_genai") is not None


def runs_here(folder: Path) -> bool:
    """Whether OpenVINO is installed and reads the GGUF file in a model folder."""
    return is_installed() and not unreadable(folder)


def _is_drawn(fields: Mapping[str, Any]) -> bool:
    return float(fields.get("temperature", 1.0)) > 0


@contextmanager
def _readable(folder: Path) -> Iterator[Path]:
    """The folder's file, or one with the same weights that OpenVINO reads, for as long as it is loaded."""
    if why := unreadable(folder):
        raise UserError(f"{folder} cannot be run by OpenVINO: {why}; run it with --engine llama.cpp")
    with tempfile.TemporaryDirectory(prefix="leanpipe-openvino-") as place:
        file = Path(place) / GGUF_FILE
        write_readable(folder, file)
        try:
            yield file
        except RuntimeError as error:
            raise UserError(
                f"OpenVINO cannot load {folder / GGUF_FILE} ({reason(error)}): run it with --engine llama.cpp"
            ) from error


def _properties(threads: int) -> dict[str, Any]:
    return {"INFERENCE_NUM_THREADS": threads}


def _library() -> Any:
    try:
        return importlib.import_module("openvino_genai")
    except ImportError as error:
        raise UserError(
            f"this engine is the package openvino-genai, which cannot be loaded here ({error}): install it with pip install "
            "'leanpipe[openvino]', or run GGUF models with --engine llama.cpp"
        ) from error
