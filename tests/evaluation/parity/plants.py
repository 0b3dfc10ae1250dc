"""Faults that exported models were seen to have in the field, each planted in a stored model by one small function."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from tests.evaluation.parity.trained import TEMPLATE
from tests.support.tiny_models import SEPARATOR, TURN_END, TURN_START


class Plant(NamedTuple):
    """A fault: what it is called, the name it must be caught by, and what makes it."""

    called: str
    caught_as: str
    make: Callable[[Path], None]


def doubled_bos(folder: Path) -> None:
    """A converter puts the BOS into a template that has it."""
    _template(folder, "{{ bos_token }}" + TEMPLATE)


def doubled_bos_by_tokenizer(folder: Path) -> None:
    """The tokenizer puts it twice before every text."""

    def change(tokenizer: dict[str, Any]) -> None:
        single = tokenizer["post_processor"]["processors"][1]["single"]
        single.insert(0, single[0])

    _edit(folder / "tokenizer.json", change)


def bos_ignored(folder: Path) -> None:
    """`add_bos_token` is not heeded."""
    _edit(folder / "tokenizer.json", lambda one: one["post_processor"]["processors"].pop(1))


def eos_is_pad(folder: Path) -> None:
    """A trainer sets the pad token to EOS, and what is saved keeps it."""
    _edit(folder / "tokenizer_config.json", lambda one: one.update(pad_token=TURN_END))


def eos_of_generation_config(folder: Path) -> None:
    """The generation config keeps the base model's end of text."""
    _edit(folder / "generation_config.json", lambda one: one.update(eos_token_id=0))


def eos_of_tokenizer(folder: Path) -> None:
    """The tokenizer keeps the base model's end of text."""
    _edit(folder / "tokenizer_config.json", lambda one: one.update(eos_token=SEPARATOR))


def eos_of_template(folder: Path) -> None:
    """The template ends a turn with a token at which no engine stops."""
    _template(folder, TEMPLATE.replace(TURN_END, SEPARATOR))


def special_as_text(folder: Path) -> None:
    """A converter forgets that a token of the template is special."""

    def change(tokenizer: dict[str, Any]) -> None:
        tokenizer["added_tokens"] = [one for one in tokenizer["added_tokens"] if one["content"] != TURN_START]

    _edit(folder / "tokenizer.json", change)


def lost_template(folder: Path) -> None:
    """The file of the template is not copied."""
    (folder / "chat_template.jinja").unlink()


def other_template(folder: Path) -> None:
    """An engine guesses a template of another family."""
    _template(
        folder,
        "{{ bos_token }}{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}<|im_end|>\n{% endfor %}",
    )


def swapped_specials(folder: Path) -> None:
    """Two special tokens have each other's ids."""

    def change(tokenizer: dict[str, Any]) -> None:
        other = {TURN_START: TURN_END, TURN_END: TURN_START}
        for one in tokenizer["added_tokens"]:
            one["content"] = other.get(one["content"], one["content"])
        vocabulary = tokenizer["model"]["vocab"]
        vocabulary[TURN_START], vocabulary[TURN_END] = vocabulary[TURN_END], vocabulary[TURN_START]

    _edit(folder / "tokenizer.json", change)


def rope_theta(folder: Path) -> None:
    """The rotary base is another family's default."""
    _edit(folder / "config.json", lambda one: one["rope_parameters"].update(rope_theta=1_000_000.0))


def norm_epsilon(folder: Path) -> None:
    """The norms' epsilon is another family's default."""
    _edit(folder / "config.json", lambda one: one.update(rms_norm_eps=1e-2))


def norm_off_by_one(folder: Path) -> None:
    """A norm is converted as Gemma's, whose weights are stored less one."""
    _tensor(folder, "model.norm.weight", lambda tensor: tensor - 1)


def tied_head_lost(folder: Path) -> None:
    """The output layer is neither stored nor tied any more."""
    _edit(folder / "config.json", lambda one: one.update(tie_word_embeddings=False))


def vocabulary_shifted(folder: Path) -> None:
    """A row of the vocabulary was cut out, and all after it have another token's."""
    import torch

    _tensor(
        folder,
        "model.embed_tokens.weight",
        lambda rows: torch.cat([rows[:300], rows[301:], rows[300:301]]),
    )


PLANTS = (
    Plant("doubled BOS", "doubled_bos", doubled_bos),
    Plant("doubled BOS, by the tokenizer", "doubled_bos", doubled_bos_by_tokenizer),
    Plant("add_bos_token ignored", "bos_not_added", bos_ignored),
    Plant("EOS = pad", "eos_is_pad", eos_is_pad),
    Plant("another EOS in the generation config", "eos_differs", eos_of_generation_config),
    Plant("another EOS in the tokenizer", "eos_differs", eos_of_tokenizer),
    Plant("another EOS in the template", "eos_differs", eos_of_template),
    Plant("special tokens read as text", "special_as_text", special_as_text),
    Plant("lost template", "lost_template", lost_template),
    Plant("other template", "other_template", other_template),
    Plant("swapped special tokens", "swapped_specials", swapped_specials),
    Plant("another rotary base", "rope_differs", rope_theta),
    Plant("another epsilon of the norms", "norm_differs", norm_epsilon),
    Plant("norm off by one", "norm_differs", norm_off_by_one),
    Plant("tied head lost", "tied_head_lost", tied_head_lost),
    Plant("vocabulary cut wrongly", "vocabulary_shifted", vocabulary_shifted),
)
"""Those made in the stored form; stale weights and an engine's arithmetic are no part of its files (test_parity.py)."""


def round_weights(folder: Path, levels: int) -> None:
    """Multiply with weights of so few levels, as an engine that computes in too few bits does."""
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", "pt") as file:
        names = [name for name in file.keys() if "proj" in name]  # noqa: SIM118 - it is no dict

    def rounded(tensor):
        step = tensor.float().abs().amax(dim=1, keepdim=True) / levels
        return (tensor.float() / step).round() * step

    for name in names:
        _tensor(folder, name, rounded)


def _edit(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def _template(folder: Path, template: str) -> None:
    (folder / "chat_template.jinja").write_text(template)


def _tensor(folder: Path, name: str, change: Callable) -> None:
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    tensors = load_file(file)
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    tensors[name] = change(tensors[name]).to(tensors[name].dtype).contiguous()
    save_file(tensors, file, metadata=metadata)
