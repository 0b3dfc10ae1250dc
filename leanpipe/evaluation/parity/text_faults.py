"""Faults of how a served model reads and ends: tokenizer, special tokens, chat template, BOS and ends of a text.

Files alone are read, so these are the cheap checks, and the ones that name the fault.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from leanpipe.evaluation.parity.bounds import Fault
from leanpipe.evaluation.parity.probes import (
    Probe,
    encode_text,
    encode_turns,
    end_of_turn,
    special_tokens,
)
from leanpipe.models.count import read_config
from leanpipe.models.load import load_tokenizer

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedTokenizerBase

_ROLES = ("bos_token", "eos_token", "pad_token", "unk_token")


@dataclass(frozen=True)
class TextSide:
    """How a stored model reads texts and ends answers."""

    folder: Path
    tokenizer: "PreTrainedTokenizerBase"
    generation: "GenerationConfig"

    @property
    def ends(self) -> set[int]:
        """The tokens at which an engine stops."""
        ends = self.generation.eos_token_id
        return set() if ends is None else set(ends) if isinstance(ends, list) else {int(ends)}

    def spell(self, tokens: int | set[int] | None) -> str:
        """Write tokens for people: `2 (<|im_end|>)`."""
        if tokens is None:
            return "none"
        if isinstance(tokens, set):
            return ", ".join(self.spell(one) for one in sorted(tokens)) or "none"
        return f"{tokens} ({self.tokenizer.convert_ids_to_tokens(tokens)})"


def read_text_side(folder: Path) -> TextSide:
    """Read the tokenizer and the generation config of a model folder."""
    from transformers import GenerationConfig

    try:
        generation = GenerationConfig.from_pretrained(folder)
    except OSError:  # an engine then takes what config.json says
        generation = GenerationConfig.from_model_config(read_config(folder))
    return TextSide(folder, load_tokenizer(folder), generation)


def find_text_faults(trained: TextSide, served: TextSide, read: Sequence[Probe]) -> Iterator[Fault]:
    """Yield what differs in how the two read `read` and end, the causes before what comes of them."""
    yield from _template_lost(trained, served)
    yield from _special_tokens(trained, served)
    yield from _pad(trained, served)
    yield from _ends(trained, served)
    for probe in read:
        if probe.turns is None:
            yield from _text(trained, probe, encode_text(served.tokenizer, probe.text))
        elif served.tokenizer.chat_template:
            yield from _conversation(trained, served, probe, encode_turns(served.tokenizer, probe.turns))


def bos_fault(trained: TextSide, probe: Probe, tokens: Sequence[int]) -> Fault | None:
    """Return the fault if only BOS tokens at the beginning tell `tokens` from those that were trained on."""
    bos = trained.tokenizer.bos_token_id
    if bos is None or _without_leading(tokens, bos) != _without_leading(probe.tokens, bos):
        return None
    had, has = _leading(probe.tokens, bos), _leading(tokens, bos)
    if has == had:
        return None
    where, said = f"{probe.called} begins", f"the BOS {trained.spell(bos)}"
    if has > max(had, 1):
        return Fault("doubled_bos", f"{where} with {said} {has} times, and in training {had}: {_BOS_ADVICE}")
    if has < had:
        return Fault("bos_not_added", f"{where} without {said}, with which it was trained: {_BOS_ADVICE}")
    return Fault("bos_added", f"{where} with {said}, without which it was trained: {_BOS_ADVICE}")


_BOS_ADVICE = "let either the tokenizer (add_bos_token) or the chat template put it, as in the trained folder"


def _template_lost(trained: TextSide, served: TextSide) -> Iterator[Fault]:
    if trained.tokenizer.chat_template and not served.tokenizer.chat_template:
        yield Fault(
            "lost_template",
            f"the chat template is lost: {served.folder} has none, so chats cannot be answered; copy "
            "chat_template.jinja from the trained folder",
        )


def _special_tokens(trained: TextSide, served: TextSide) -> Iterator[Fault]:
    known = special_tokens(trained.tokenizer)
    read = {token: served.tokenizer.encode(token, add_special_tokens=False) for token in known}
    for token, ids in read.items():
        if len(ids) != 1:
            yield Fault(
                "special_as_text",
                f"the special token {token} is read as {len(ids)} tokens of text, and was trained as the one "
                f"token {known[token]}: mark it as special in tokenizer.json",
            )
    moved = {token: ids[0] for token, ids in read.items() if len(ids) == 1 and ids[0] != known[token]}
    if moved and set(moved.values()) == {known[token] for token in moved}:
        told = ", ".join(
            f"{token} is {id_} and was trained as {known[token]}" for token, id_ in moved.items()
        )
        yield Fault("swapped_specials", f"special tokens are swapped: {told}; restore tokenizer.json")
    elif moved:
        token, id_ = next(iter(moved.items()))
        yield Fault(
            "moved_special",
            f"the special token {token} is {id_}, and was trained as {known[token]}: restore tokenizer.json",
        )


def _pad(trained: TextSide, served: TextSide) -> Iterator[Fault]:
    one, other = trained.tokenizer, served.tokenizer
    changed = other.pad_token_id != one.pad_token_id
    if changed and other.pad_token_id == other.eos_token_id and one.pad_token_id != one.eos_token_id:
        yield Fault(
            "eos_is_pad",
            f"the pad token is the EOS {served.spell(other.eos_token_id)}, and was "
            f"{trained.spell(one.pad_token_id)} in training: whoever pads with it masks the end of each answer; "
            "restore pad_token in tokenizer_config.json",
        )


def _ends(trained: TextSide, served: TextSide) -> Iterator[Fault]:
    was, now = trained.tokenizer.eos_token_id, served.tokenizer.eos_token_id
    turn = end_of_turn(served.tokenizer)
    told = (
        f"generation config {served.spell(served.ends)}, tokenizer {served.spell(now)}, chat template "
        f"{served.spell(turn)}"
    )
    if now != was:
        yield Fault(
            "eos_differs",
            f"the tokenizer's EOS was {trained.spell(was)} in training, and the ends are now: {told}; "
            "restore eos_token in tokenizer_config.json",
        )
    elif missing := trained.ends - served.ends:
        yield Fault(
            "eos_differs",
            f"answers no longer end at {served.spell(missing)}; the ends are: {told}; restore eos_token_id in "
            "generation_config.json",
        )
    elif turn is not None and turn not in served.ends:
        yield Fault(
            "eos_differs",
            f"no answer ends where the chat template ends a turn; the ends are: {told}; put {turn} into "
            "eos_token_id of generation_config.json",
        )
    elif extra := served.ends - trained.ends:
        yield Fault(
            "eos_differs",
            f"answers now end at {served.spell(extra)} too; the ends are: {told}; restore eos_token_id in "
            "generation_config.json",
        )


def _text(trained: TextSide, probe: Probe, tokens: list[int]) -> Iterator[Fault]:
    if tokens == probe.tokens:
        return
    yield bos_fault(trained, probe, tokens) or Fault(
        "tokenizer_differs",
        f"{probe.called} is read as other tokens than in training, from token "
        f"{_first_difference(tokens, probe.tokens)} on: restore tokenizer.json",
    )


def _conversation(
    trained: TextSide, served: TextSide, probe: Probe, tokens: list[int] | None
) -> Iterator[Fault]:
    if tokens == probe.tokens:
        return
    if tokens is None:
        yield Fault(
            "other_template",
            f"the chat template refuses {probe.called}, which the trained one takes: restore it",
        )
    elif fault := bos_fault(trained, probe, tokens):
        yield fault
    else:
        place = _first_difference(tokens, probe.tokens)
        now = served.tokenizer.decode(tokens[place : place + 8])
        was = trained.tokenizer.decode(probe.tokens[place : place + 8])
        yield Fault(
            "other_template",
            f"the chat template is another than in training: {probe.called} has {now!r} where it had {was!r}, from "
            f"token {place} on; copy chat_template.jinja from the trained folder",
        )


def _first_difference(some: Sequence[int], others: Sequence[int]) -> int:
    pairs = zip(some, others, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(some), len(others)))


def _leading(tokens: Sequence[int], token: int) -> int:
    return next((place for place, one in enumerate(tokens) if one != token), len(tokens))


def _without_leading(tokens: Sequence[int], token: int) -> list[int]:
    return list(tokens[_leading(tokens, token) :])
