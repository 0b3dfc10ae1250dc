"""Which general text is read to see what was forgotten."""

import pytest

from leanpipe.corpus.document import Document
from leanpipe.training.finetune.forgetting import general_text
from tests.support.cleaned_corpus import write_documents
from tests.support.tiny_models import tiny_text, tiny_tokenizer

LENGTH = 32


def hold_out(folder, texts):
    """Two files of documents for validation."""
    half = (len(texts) + 1) // 2
    for number, part in enumerate((texts[:half], texts[half:])):
        named = [Document(f"{number} {place}", text, "here") for place, text in enumerate(part)]
        if named:
            write_documents(folder / "validation" / f"{number:05d}.parquet", named)
    return folder


def read(folder, tokens: int) -> list[str]:
    """The pieces that are read, as text, without what fills their blocks up."""
    general = general_text(folder, tiny_tokenizer(), tokens, LENGTH)
    return [tiny_tokenizer().decode(block["input_ids"], skip_special_tokens=True) for block in general.blocks]


@pytest.mark.parametrize("count", [8, 9, 100])
def test_pieces_lie_evenly_over_all_documents(tmp_path, count):
    """Each document repeats a word of its own, for longer than a piece: four are read, one of each quarter."""
    names = [f"{chr(97 + number // 26)}{chr(97 + number % 26)}" for number in range(count)]
    folder = hold_out(tmp_path, [f"{name} " * 100 for name in names])
    pieces = read(folder, 4 * LENGTH)
    found = [next(n for n, name in enumerate(names) if f" {name} {name} " in f" {piece}") for piece in pieces]
    assert len(pieces) == 4
    places = sorted(found)
    assert all(abs(place - quarter * count / 4) <= count / 8 for quarter, place in enumerate(places)), places
    assert read(folder, 4 * LENGTH) == pieces


def test_pieces_lie_at_all_heights_of_long_documents(tmp_path):
    numbered = " ".join(f"n{number:04d}" for number in range(1000))
    pieces = read(hold_out(tmp_path, [numbered] * 16), 16 * LENGTH)
    heights = sorted(int(piece.split("n")[2][:4]) for piece in pieces)
    assert len(pieces) == 16
    assert all(abs(height - 1000 * place / 16) < 130 for place, height in enumerate(heights)), heights


def test_short_documents_are_all_read_and_long_ones_further_until_there_is_enough(tmp_path):
    """As many tokens as there are, once each, whatever the order; no more than are wanted."""
    texts = [text[:150] for text in tiny_text()[:5]]
    folder, tokenizer = hold_out(tmp_path, texts), tiny_tokenizer()
    there = sum(1 + len(tokenizer.encode(text)) for text in texts)
    for wanted, expected in ((10**6, there), (there - 7, there - 7), (40, 40)):
        general = general_text(folder, tokenizer, wanted, LENGTH)
        scored = sum(int((block["position_ids"] == 0).sum()) for block in general.blocks)
        fed = sum(int((block["labels"] != -100).sum()) for block in general.blocks)
        # The first token of each piece is read, not scored; padding, which has a document's place too, is neither.
        padded = sum(int(block["labels"][-1] == -100) for block in general.blocks)
        assert fed + scored - padded == expected, wanted
