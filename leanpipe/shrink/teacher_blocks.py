"""Text of the corpus as the teacher reads it, on which it is measured what of it matters."""

from pathlib import Path
from typing import Any

from leanpipe.models.load import load_tokenizer

_READ_FIRST = 6.25
"""Of so many times the tokens: with 4,096 of the 25,600 that a student of the default settings reads."""


def calibration_blocks(teacher: Path, blocks: Path, tokens: int) -> list[Any]:
    """Choose training blocks of `tokens` tokens, in the teacher's own tokens: some of those that students read first.

    A student of another vocabulary learns from blocks that its teacher cannot read: they are spelt out and cut anew.
    """
    from leanpipe.tokens.blocks import Blocks
    from leanpipe.training.trainer.data import Subset, evenly_spaced_blocks

    found = evenly_spaced_blocks(Subset(Blocks(blocks, "train"), round(_READ_FIRST * tokens)), tokens)
    theirs, ours = load_tokenizer(teacher), load_tokenizer(blocks / "tokenizer")
    if theirs.get_vocab() == ours.get_vocab():
        return found
    return [_spelt_anew(block, ours, theirs) for block in found]


def _spelt_anew(block: Any, ours: Any, theirs: Any) -> Any:
    import torch

    text = ours.decode(torch.as_tensor(block["input_ids"]), skip_special_tokens=True)
    ids = theirs(text or "a", return_tensors="pt")["input_ids"][0]
    return {"input_ids": ids, "position_ids": torch.arange(len(ids)), "labels": ids}
