"""An engine's tokens as the answer of a completion, whole or in parts, in the shape of llama.cpp's completions (see llama_cpp.py)."""

import json
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leanpipe.engines.llama_cpp import Part
from leanpipe.models.count import read_config

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def complete_tokens(
    fields: Mapping[str, Any],
    tokens: Iterator[int],
    tokenizer: "PreTrainedTokenizerBase",
    ends: Collection[int],
    on_part: Callable[[Part], bool] | None = None,
) -> Part:
    """Make an answer of the `tokens` that an engine writes, one after the other, as `LlamaCpp.complete` does of its own.

    The answer ends at a token of `ends`, at one of `fields["stop"]`, or at so many tokens as were asked for; then nothing more
    is taken from `tokens`, which is closed.
    """
    said: list[str] = []
    part: Part = {}
    with closing(tokens):  # type: ignore[type-var]
        for part in _parts(fields, tokens, tokenizer, () if fields.get("ignore_eos") else ends):
            if on_part is not None:
                if on_part(part):
                    return {}
            else:
                said.append(part["choices"][0]["text"])
    if on_part is not None:
        return {}
    return {**part, "choices": [{**part["choices"][0], "text": "".join(said)}]}


def most_tokens(fields: Mapping[str, Any]) -> int:
    """Return how many tokens an answer may have."""
    return int(fields.get("max_tokens") or fields.get("n_predict") or 0)


def ends_of(folder: Path) -> set[int]:
    """Return the tokens that end an answer, by the generation config, or else by the config."""
    file = folder / "generation_config.json"
    own = json.loads(file.read_text()) if file.is_file() else {}
    ends = own.get("eos_token_id", read_config(folder).eos_token_id)
    return set() if ends is None else set(ends) if isinstance(ends, list) else {ends}


def _parts(
    fields: Mapping[str, Any],
    tokens: Iterator[int],
    tokenizer: "PreTrainedTokenizerBase",
    ends: Collection[int],
) -> Iterator[Part]:
    """A part for each token that has text, and a last one with the reason of the end and the count of tokens."""
    from tokenizers.decoders import DecodeStream

    most, stops = most_tokens(fields), list(fields.get("stop") or ())
    text, written, ended = "", 0, False
    stream, created = DecodeStream(skip_special_tokens=True), int(time.time())
    for token in tokens:
        written, ended = written + 1, token in ends
        piece = "" if ended else stream.step(tokenizer.backend_tokenizer, token) or ""
        text += piece
        ended = ended or any(stop in text for stop in stops)
        if piece:
            yield _part(piece, None, created)
        if ended or written == most:
            break
    counts = {"prompt_tokens": len(fields["prompt"]), "completion_tokens": written}
    usage = counts | {"total_tokens": counts["prompt_tokens"] + written}
    yield {**_part("", "stop" if ended else "length", created), "usage": usage}


def _part(text: str, finish: str | None, created: int) -> Part:
    choice = {"index": 0, "text": text, "finish_reason": finish}
    return {"object": "text_completion", "created": created, "choices": [choice]}
