"""Models as lm-eval asks them: what transformers runs, and the files that llama.cpp and onnxruntime run."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval.api.model import CacheHook, CachingLM, TemplateLM
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import (
    handle_stop_sequences,
    has_bos_prefix,
    normalize_gen_kwargs,
    postprocess_generated_text,
)

from leanpipe.core.errors import UserError
from leanpipe.engines.open_engine import open_engine, open_logits
from leanpipe.evaluation.perplexity import check_finite, target_nats
from leanpipe.models.count import longest_text, read_config
from leanpipe.models.load import load_for_inference, load_tokenizer
from leanpipe.models.offload import is_exported
from leanpipe.tokens.text_tokens import encode_text

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

Progress = Callable[[int, int], None]
_NO_END = 4_096
"""Tokens that are read at once of a model that names no limit."""
_PROBE = "The capital of France is Paris, and that of Italy is Rome."


class Answers:
    """Counts what is asked and what was answered, and tells it."""

    def __init__(self, progress: Progress):
        self._progress = progress
        self.asked = self.answered = 0

    def begin(self, requests: int) -> None:
        """Count requests that will be asked."""
        self.asked += requests

    def one(self) -> None:
        """Count an answer."""
        self.answered += 1
        self._progress(self.answered, self.asked)


class TransformersLM(HFLM):
    """A model folder that transformers runs, as lm-eval's own class asks it."""

    def __init__(self, folder: Path, batch: int, answers: Answers):
        model, tokenizer = load_for_inference(folder), load_tokenizer(folder)
        tokens = encode_text(tokenizer, _PROBE)
        check_finite(model, target_nats(model, tokens[:-1], tokens[1:]), "a short text")
        # In bfloat16 the sum over an answer's tokens would be rounded to quarters, and many answers would be tied.
        super().__init__(
            model, tokenizer=tokenizer, batch_size=batch, backend="causal", softmax_dtype="float32"
        )
        self._answers = answers

    def loglikelihood(self, requests: "list[Instance]", disable_tqdm: bool = True) -> Any:
        self._answers.begin(len(requests))
        return super().loglikelihood(requests, disable_tqdm=True)

    def loglikelihood_rolling(self, requests: "list[Instance]", disable_tqdm: bool = True) -> Any:
        self._answers.begin(len(requests))
        return super().loglikelihood_rolling(requests, disable_tqdm=True)

    def generate_until(self, requests: "list[Instance]", disable_tqdm: bool = True) -> Any:
        self._answers.begin(len(requests))
        return super().generate_until(requests, disable_tqdm=True)


class EngineLM(TemplateLM):
    """A model folder with a GGUF or ONNX file, asked through its engine, one request at a time."""

    def __init__(self, folder: Path, answers: Answers):
        super().__init__()
        self._folder, self._answers = folder, answers
        self.tokenizer: Any = load_tokenizer(folder)
        self._longest = longest_text(read_config(folder)) or _NO_END

    @property
    def eot_token_id(self) -> int:
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        begin = self.tokenizer.bos_token_id
        return self.eot_token_id if begin is None else begin

    @property
    def tokenizer_name(self) -> str:
        return self._folder.name

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Encode as lm-eval does for transformers: a text that begins with its BOS gets no second one."""
        if add_special_tokens is None and has_bos_prefix(string, self.tokenizer.decode(self.prefix_token_id)):
            add_special_tokens = False
        given = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        return self.tokenizer.encode(string, **given)

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Write a conversation as the model reads it."""
        return self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )

    def _loglikelihood_tokens(self, requests: list[Any], **kwargs: Any) -> list[tuple[float, bool]]:
        import torch

        self._answers.begin(len(requests))
        cut = [
            ((*context, *said)[-self._longest - 1 :], said[-self._longest :]) for _, context, said in requests
        ]
        logits = open_logits(self._folder, max((len(tokens) for tokens, _ in cut), default=1))
        found = []
        for (asked, _, _), (tokens, said) in zip(requests, cut, strict=True):
            rows = logits(tokens[:-1], len(said)).log_softmax(-1)
            targets = torch.tensor(said)
            total = float(rows.gather(1, targets[:, None]).sum())
            check_finite(logits, total, "an answer")
            found.append((total, bool((rows.argmax(-1) == targets).all())))
            self.cache_hook.add_partial("loglikelihood", asked, found[-1])
        return found

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = True) -> list[float]:
        """Refuse tasks of whole texts, whose bits the stage `evaluate` measures."""
        raise UserError(
            f"a task asks for the probability of whole texts, which is not measured of {self._folder}: leave it out; "
            "bits per byte of held-out text are measured by evaluate"
        )

    def generate_until(self, requests: "list[Instance]", disable_tqdm: bool = True) -> list[str]:
        """Write each answer greedily, until one of its stops."""
        self._answers.begin(len(requests))
        asked = [self._asked(*request.args) for request in requests]
        context = max(len(one["prompt"]) + one["max_tokens"] for one in asked) + 1
        engine = open_engine(self._folder, context)
        said = []
        for request, fields in zip(requests, asked, strict=True):
            text = engine.complete(fields)["choices"][0]["text"]
            said.append(postprocess_generated_text(text, fields["stop"], None))
            self.cache_hook.add_partial("generate_until", request.args, said[-1])
        return said

    def _asked(self, context: str, given: dict[str, Any]) -> dict[str, Any]:
        """What the engine is asked of one request."""
        settings: dict[str, Any] = dict(normalize_gen_kwargs(given, 256))
        if settings.get("do_sample"):
            raise UserError(
                f"a task asks for answers at random (do_sample), which are not measured of {self._folder}: leave it out"
            )
        most = settings["max_gen_toks"]
        if most >= self._longest:
            raise UserError(
                f"a task asks for answers of {most:,} tokens, but the model {self._folder} reads {self._longest:,} at most: "
                "lower its max_new_tokens"
            )
        stops = handle_stop_sequences(settings.get("until"), eos=self.tokenizer.decode(self.eot_token_id))
        tokens = self.tok_encode(context)[-(self._longest - most) :]
        return {"prompt": tokens, "max_tokens": most, "temperature": 0, "stop": stops, "cache_prompt": True}


def open_model(folder: Path, batch: int, answers: Answers) -> TransformersLM | EngineLM:
    """Load a model to be asked by lm-eval. Raises UserError if it cannot be, or predicts what is not finite."""
    return EngineLM(folder, answers) if is_exported(folder) else TransformersLM(folder, batch, answers)


class Resumable(CachingLM):
    """A model that is asked only what a file of answers does not hold; each answer is in it before the next is told."""

    def __init__(self, lm: TransformersLM | EngineLM, file: Path, answers: Answers):
        super().__init__(lm, str(file))
        lm.set_cache_hook(_Hook(self, answers))


class _Hook(CacheHook):
    """Writes each answer down when it comes."""

    def __init__(self, caching: CachingLM, answers: Answers):
        super().__init__(caching)
        self._answers = answers

    def add_partial(self, attr: str, req: Any, res: Any) -> None:
        super().add_partial(attr, req, res)
        if self.dbdict is not None:
            self.dbdict.commit()
        self._answers.one()
