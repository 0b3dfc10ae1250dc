"""A tokenizer with some of its tokens left out: every text is still spelt, what is left out by smaller pieces.

Works on the `tokenizer.json` of Hugging Face's tokenizers, of the three kinds that it has: BPE, WordPiece and Unigram. A text
all of whose tokens are kept is cut into the same tokens as before: of BPE the tokens that come up on the way to a kept one
are kept too, so that every merge is found that was made; the longest match of WordPiece and the likeliest cut of Unigram are
still there, with fewer rivals (of two that are as likely Unigram may take the other: the same pieces in another order).
"""

import copy
import itertools
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from leanpipe.core.errors import UserError
from leanpipe.models.load import load_tokenizer

_BYTE_PIECE = re.compile(r"<0x[0-9A-F]{2}>")
_SPARE = re.compile(r"unused|reserved|extra_id", re.IGNORECASE)
"""Added tokens that were never given a meaning."""

Json = dict[str, Any]


class CutTokenizer:
    """What of a tokenizer is needed to keep a set of its tokens."""

    def __init__(self, described: Json):
        """Take the content of a `tokenizer.json`. Raises UserError for a kind that cannot be cut."""
        self._described = described
        model = described["model"]
        self._kind = model.get("type") or _guess_kind(model)
        if self._kind not in ("BPE", "WordPiece", "Unigram") or model.get(
            "continuing_subword_prefix"
        ) not in (
            None,
            "",
            "##",
        ):
            raise UserError(
                f"a tokenizer of kind {self._kind} cannot be cut, only BPE, WordPiece and Unigram can: set cut_vocabulary.keep=all"
            )
        if self._kind == "Unigram":
            self._ids = {piece: index for index, (piece, _) in enumerate(model["vocab"])}
        else:
            self._ids = dict(model["vocab"])
        self._pieces = {index: piece for piece, index in self._ids.items()}
        self._added = {token["content"]: token["id"] for token in described.get("added_tokens", [])}
        merges = [_pair(merge) for merge in model.get("merges", [])]
        self._ranks = {pair: rank for rank, pair in reversed(list(enumerate(merges)))}

    @property
    def size(self) -> int:
        """One more than the highest id."""
        return max([*self._ids.values(), *self._added.values()]) + 1

    def has(self, index: int) -> bool:
        """Whether there is a token of this id that text can be cut into."""
        return index in self._pieces

    def always(self, named: str = "") -> set[int]:
        """Ids of what is never left out: single signs, bytes, special tokens, and added ones that `named` spells out."""
        prefix = "##" if self._kind == "WordPiece" else ""
        suffix = self._described["model"].get("end_of_word_suffix") or ""
        single = {
            index
            for piece, index in self._ids.items()
            if len(piece.removeprefix(prefix).removesuffix(suffix)) <= 1 or _BYTE_PIECE.fullmatch(piece)
        }
        meant = {index for token, index in self._added.items() if not _SPARE.search(token) or token in named}
        unknown = self._described["model"].get("unk_token")
        return single | meant | ({self._ids[unknown]} if unknown in self._ids else set())

    def with_parts(self, kept: Iterable[int]) -> set[int]:
        """The ids and, of BPE, those of all tokens that are merged on the way to them."""
        chosen = set(kept)
        if self._kind != "BPE":
            return chosen
        for index in list(chosen):
            if index in self._pieces:
                chosen |= {self._ids[part] for part in self._parts(self._pieces[index]) if part in self._ids}
        return chosen

    def cut(self, kept: Iterable[int]) -> tuple[Json, list[int]]:
        """The `tokenizer.json` of the kept ids and their parts, which are numbered anew in the old order; and these old ids."""
        old = sorted(self.with_parts(kept))
        new = {index: number for number, index in enumerate(old)}
        cut = copy.deepcopy(self._described)
        model = cut["model"]
        if self._kind == "Unigram":
            model["vocab"] = [entry for index, entry in enumerate(model["vocab"]) if index in new]
            if model.get("unk_id") is not None:
                model["unk_id"] = new[model["unk_id"]]
        else:
            model["vocab"] = {
                piece: new[index]
                for piece, index in sorted(self._ids.items(), key=lambda one: one[1])
                if index in new
            }
        if "merges" in model:
            model["merges"] = [
                merge for merge in model["merges"] if self._is_kept(_pair(merge), model["vocab"])
            ]
        added = cut.get("added_tokens", [])
        cut["added_tokens"] = [token | {"id": new[token["id"]]} for token in added if token["id"] in new]
        cut["post_processor"] = _renumbered(cut.get("post_processor"), new)
        if cut.get("padding"):
            cut["padding"]["pad_id"] = new.get(cut["padding"]["pad_id"], 0)
        return cut, old

    def _is_kept(self, pair: tuple[str, str], vocabulary: Mapping[str, int]) -> bool:
        return pair[0] in vocabulary and pair[1] in vocabulary and self._merged(*pair) in vocabulary

    def _merged(self, left: str, right: str) -> str:
        return left + right.removeprefix(self._described["model"].get("continuing_subword_prefix") or "")

    def _parts(self, piece: str) -> Iterable[str]:
        """All that comes up while the signs of `piece` are merged, the most frequent pair first, as the tokenizer does."""
        symbols = self._signs(piece)
        yield from symbols
        while len(symbols) > 1:
            ranked = [
                (self._ranks.get(pair, len(self._ranks)), place)
                for place, pair in enumerate(itertools.pairwise(symbols))
            ]
            rank, place = min(ranked)
            if rank == len(self._ranks):
                return
            symbols[place : place + 2] = [self._merged(*symbols[place : place + 2])]
            yield symbols[place]

    def _signs(self, piece: str) -> list[str]:
        model = self._described["model"]
        suffix, prefix = model.get("end_of_word_suffix") or "", model.get("continuing_subword_prefix") or ""
        bare = piece.removesuffix(suffix) if suffix else piece
        inside = bool(prefix) and bare.startswith(prefix)
        signs = list(bare.removeprefix(prefix) if inside else bare)
        if not signs:
            return [piece]
        if suffix and bare != piece:
            signs[-1] += suffix
        return [sign if number == 0 and not inside else prefix + sign for number, sign in enumerate(signs)]


def read_cut_tokenizer(folder: Path) -> CutTokenizer:
    """Read the tokenizer of a model folder. Raises UserError if it is written in Python, or of a kind that cannot be cut."""
    tokenizer = load_tokenizer(folder)
    if not hasattr(tokenizer, "backend_tokenizer"):
        raise UserError(
            f"the tokenizer of {folder} has no tokenizer.json, so its vocabulary cannot be cut: set cut_vocabulary.keep=all"
        )
    return CutTokenizer(json.loads(tokenizer.backend_tokenizer.to_str()))


def _guess_kind(model: Json) -> str:
    """Old files do not name it."""
    if "merges" in model:
        return "BPE"
    if isinstance(model.get("vocab"), list):
        return "Unigram"
    return "WordPiece" if "max_input_chars_per_word" in model else "WordLevel"


def _pair(merge: "str | list[str]") -> tuple[str, str]:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def _renumbered(part: Any, new: Mapping[int, int]) -> Any:
    """A post-processor with its tokens' new ids: `ids` and `id` of templates, and pairs such as ["[SEP]", 102]."""
    if isinstance(part, dict):
        return {
            name: [new[index] for index in value]
            if name == "ids"
            else new[value]
            if name == "id" and isinstance(value, int)
            else _renumbered(value, new)
            for name, value in part.items()
        }
    if isinstance(part, list) and len(part) == 2 and isinstance(part[0], str) and isinstance(part[1], int):
        return [part[0], new[part[1]]]
    return [_renumbered(one, new) for one in part] if isinstance(part, list) else part
