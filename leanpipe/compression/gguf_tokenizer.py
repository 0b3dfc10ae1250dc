"""A tokenizer as llama.cpp reads it: tokens and their kinds, merges, the way text is split, special tokens, the template.

`leanpipe serve` reads text with the model's own tokenizer and gives llama.cpp token ids; what is written here is for
llama.cpp's side: turning ids into text, knowing where an answer ends, and serving the file by any other engine.
"""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from leanpipe.core.errors import UserError
from leanpipe.models.load import leading_bos

if TYPE_CHECKING:
    from gguf import GGUFWriter
    from transformers import PreTrainedTokenizerBase

_LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_SPLITS: Mapping[tuple[str, ...], str] = {
    ("ByteLevel",): "gpt-2",
    ("Digits", "ByteLevel"): "smollm",
    (_LLAMA3, "Bytes"): "llama-bpe",
    (_QWEN2, "Bytes"): "qwen2",
}
"""What llama.cpp calls a way to split text before merging, by the steps of the tokenizer."""
_NO_MERGE = -1_000.0
"""Score of a token of SentencePiece's kind that no merge makes."""


def check_gguf_tokenizer(tokenizer: "PreTrainedTokenizerBase") -> None:
    """Raise UserError for a tokenizer that llama.cpp has no like of."""
    _kind(_described(tokenizer))


def write_tokenizer(writer: "GGUFWriter", tokenizer: "PreTrainedTokenizerBase", rows: int) -> None:
    """Write the tokenizer of a model whose embeddings have so many rows. Raises UserError as `check_gguf_tokenizer`."""
    described = _described(tokenizer)
    kind, split = _kind(described)
    writer.add_tokenizer_model(kind)
    writer.add_tokenizer_pre(split)
    merges = [one if isinstance(one, str) else " ".join(one) for one in described["model"]["merges"]]
    tokens, types = _tokens(tokenizer, rows, kind)
    writer.add_token_list(tokens)
    if kind == "llama":
        writer.add_token_scores(_scores(tokens, merges))
        writer.add_add_space_prefix(_prefixes_space(described))
    writer.add_token_types(types)
    if kind == "gpt2":
        writer.add_token_merges(merges)
    _write_special(writer, tokenizer)


def _described(tokenizer: "PreTrainedTokenizerBase") -> dict[str, Any]:
    """The tokenizer as tokenizer.json describes it."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UserError(_refusal("it is not written in Python's fast form (tokenizer.json)"))
    return json.loads(backend.to_str())


def _kind(described: dict[str, Any]) -> tuple[str, str]:
    """What llama.cpp calls this kind of tokenizer, and its way of splitting text."""
    model = described["model"]
    if model["type"] != "BPE":
        raise UserError(_refusal(f"it is of type {model['type']}"))
    if model.get("byte_fallback"):
        return "llama", "default"
    if described.get("normalizer") and described["normalizer"]["type"] != "NFC":
        raise UserError(_refusal(f"it normalises text by {described['normalizer']['type']}"))
    steps = tuple(_steps(described.get("pre_tokenizer")))
    if steps not in _SPLITS:
        raise UserError(_refusal(f"it splits text by {', '.join(steps) or 'nothing'} before it merges"))
    return "gpt2", _SPLITS[steps]


def _refusal(reason: str) -> str:
    return (
        f"the model's tokenizer cannot be written as GGUF: {reason}, which llama.cpp has no like of; take the GGUF formats "
        "out of quantize.formats"
    )


def _steps(step: dict[str, Any] | None) -> list[str]:
    """The steps that split a text, each by its type or, if it is a pattern, by that."""
    if step is None:
        return []
    if step["type"] == "Sequence":
        return [name for one in step["pretokenizers"] for name in _steps(one)]
    if step["type"] == "Split":
        return [step["pattern"].get("Regex", "a string")]
    if step["type"] == "ByteLevel":
        if step["add_prefix_space"]:
            return ["ByteLevel with a space before"]
        return ["ByteLevel" if step["use_regex"] else "Bytes"]
    if step["type"] == "Digits":
        return ["Digits" if step["individual_digits"] else "Digits together"]
    return [step["type"]]


def _tokens(tokenizer: "PreTrainedTokenizerBase", rows: int, kind: str) -> tuple[list[str], list[int]]:
    """Every row of the embeddings as a token and its kind; rows that no token has are named and marked unused."""
    from gguf import TokenType

    known = {number: token for token, number in tokenizer.get_vocab().items()}
    added = tokenizer.added_tokens_decoder
    tokens, types = [], []
    for row in range(rows):
        token = known.get(row)
        if token is None:
            tokens.append(f"[PAD{row}]")
            types.append(TokenType.UNUSED)
        elif row in added:
            tokens.append(str(added[row].content))
            types.append(TokenType.CONTROL if added[row].special else TokenType.USER_DEFINED)
        else:
            tokens.append(token)
            is_byte = kind == "llama" and token.startswith("<0x") and token.endswith(">")
            types.append(TokenType.BYTE if is_byte else TokenType.NORMAL)
    return tokens, [int(one) for one in types]


def _scores(tokens: list[str], merges: list[str]) -> list[float]:
    """SentencePiece merges the pair of the highest score first: that of a token is minus the rank of its first merge."""
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(merges):
        ranks.setdefault(merge.replace(" ", "", 1), rank)
    return [float(-ranks[token]) if token in ranks else _NO_MERGE for token in tokens]


def _prefixes_space(described: dict[str, Any]) -> bool:
    """Whether a text is read as if it began with a space."""
    parts = [described.get("normalizer"), described.get("pre_tokenizer")]
    listed = [one for part in parts if part for one in part.get("normalizers", [part])]
    return any(
        one["type"] == "Prepend"
        or one.get("prepend_scheme", "never") != "never"
        or one.get("add_prefix_space")
        for one in listed
    )


def _write_special(writer: "GGUFWriter", tokenizer: "PreTrainedTokenizerBase") -> None:
    """Write which tokens begin and end a text and a turn, what is put around a text by itself, and the chat template."""
    named = {
        writer.add_bos_token_id: tokenizer.bos_token_id,
        writer.add_eos_token_id: tokenizer.eos_token_id,
        writer.add_unk_token_id: tokenizer.unk_token_id,
        writer.add_pad_token_id: tokenizer.pad_token_id,
    }
    for add, number in named.items():
        if number is not None:
            add(number)
    writer.add_add_bos_token(leading_bos(tokenizer) is not None)
    writer.add_add_eos_token(tokenizer("a")["input_ids"][-1] == tokenizer.eos_token_id)
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    if template:
        writer.add_chat_template(template)
