"""Repetitions are found by numbers on disk, whatever shard or earlier run holds the first."""

from pathlib import Path

import numpy as np
import pytest

from leanpipe.corpus.dedup.column_files import ColumnWriter
from leanpipe.corpus.dedup.duplicates import (
    DocumentIndex,
    DuplicatesConfig,
    Pairs,
    Segment,
    exact_pairs,
    near_pairs,
    repeated_paragraphs,
)
from leanpipe.corpus.dedup.minhash import bands, signature, similarity
from leanpipe.corpus.dedup.word_hashes import shingles, word_hashes

P = 128
WORDS = [f"word{number}" for number in range(400)]


def signed(text: str) -> np.ndarray:
    return signature(shingles(word_hashes(text), 5), P)


def segment(folder: Path, texts: list[str], paragraphs: list[list[int]] | None = None) -> Segment:
    """The columns of documents with these texts."""
    columns = {
        "hashes.u64": (np.uint64, [value for text in texts for value in (hash(text) % 2**64, len(text))]),
        "signatures.u32": (np.uint32, np.concatenate([signed(text) for text in texts])),
        "ids.s24": ("S24", [f"{folder.name}-{number}".encode() for number in range(len(texts))]),
        "paragraphs.u64": (np.uint64, [one for listed in paragraphs or [] for one in listed]),
        "paragraph_counts.u32": (np.uint32, [len(listed) for listed in paragraphs or []]),
    }
    for name, (kind, values) in columns.items():
        writer = ColumnWriter(folder / name, kind)
        writer.append(values)
        writer.close()
    return Segment(folder, P)


def near(index: DocumentIndex, threshold: float = 0.8, gone: np.ndarray | None = None) -> Pairs:
    config = DuplicatesConfig(threshold=threshold, permutations=P)
    return near_pairs(index, np.zeros(len(index), bool) if gone is None else gone, config, 0, 1)


def text(start: int = 0, count: int = 200, step: int = 1) -> str:
    return " ".join(WORDS[(start + step * number) % 400] for number in range(count))


def test_a_signature_estimates_the_similarity_of_the_shingles():
    one, other = text(), text(20)  # 196 runs of five words each, 176 in common: 176 / 216
    assert similarity(signed(one)[None], signed(other))[0] == pytest.approx(176 / 216, abs=0.1)
    assert similarity(signed(one)[None], signed(one.upper()))[0] == 1
    assert similarity(signed(one)[None], signed(text(7, step=3)))[0] == 0


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8, 0.95, 1.0])
def test_bands_find_99_of_100_pairs_at_the_threshold(threshold: float):
    count, rows = bands(threshold, P)
    assert count * rows <= P
    assert 1 - (1 - threshold**rows) ** count >= 0.99
    assert (
        rows == P or 1 - (1 - threshold ** (rows + 1)) ** (P // (rows + 1)) < 0.99
    )  # one more would miss some


def test_the_first_of_exact_duplicates_stays_wherever_it_is(tmp_path: Path):
    held = segment(tmp_path / "a", ["one", "two"])
    new = segment(tmp_path / "b", ["three", "two", "three", "four"])
    pairs = exact_pairs(DocumentIndex([held, new], base=1))
    assert list(zip(pairs.later.tolist(), pairs.earlier.tolist(), strict=True)) == [(3, 1), (4, 2)]


def test_what_earlier_runs_hold_is_never_dropped(tmp_path: Path):
    held = segment(tmp_path / "a", [text(), text(), text(1)])
    index = DocumentIndex([held, segment(tmp_path / "b", [text(7, step=3)])], base=1)
    assert not len(exact_pairs(index).later)
    assert not len(near(index).later)


def test_near_duplicates_across_segments_are_found_with_their_similarity(tmp_path: Path):
    first = segment(tmp_path / "a", [text(), text(7, step=3)])
    second = segment(tmp_path / "b", [text(200, 150), text(2), text(5, 199, 7)])
    index = DocumentIndex([first, second], base=0)
    pairs = near(index)
    assert pairs.later.tolist() == [3] and pairs.earlier.tolist() == [0]
    assert pairs.similarity[0] == similarity(signed(text())[None], signed(text(2)))[0] >= 0.8
    assert index.id(3) == "b-1"
    # Whatever the tasks, together they find the same.
    config = DuplicatesConfig(permutations=P)
    apart = Pairs.merge([near_pairs(index, np.zeros(5, bool), config, task, 3) for task in range(3)])
    assert apart.later.tolist() == [3]


def test_a_higher_threshold_keeps_what_a_lower_one_drops(tmp_path: Path):
    index = DocumentIndex([segment(tmp_path / "a", [text(), text(20)])], base=0)  # 0.81
    assert len(near(index, 0.6).later) == 1
    assert len(near(index, 0.95).later) == 0


def test_documents_that_are_gone_drop_no_others(tmp_path: Path):
    index = DocumentIndex([segment(tmp_path / "a", [text(), text(1)])], base=0)
    assert near(index).later.tolist() == [1]
    assert not len(near(index, gone=np.array([True, False])).later)


def test_ten_thousand_copies_are_one_bucket_and_no_trouble(tmp_path: Path):
    index = DocumentIndex([segment(tmp_path / "a", [text(number % 2) for number in range(10_000)])], base=0)
    pairs = near(index)
    assert len(pairs.later) == 9_999 and set(pairs.earlier.tolist()) == {0}


def test_paragraphs_that_were_there_before_are_marked(tmp_path: Path):
    held = segment(tmp_path / "a", ["x", "y"], [[1, 2], [3]])
    new = segment(tmp_path / "b", ["z", "w", "v"], [[4, 2], [4, 5, 5], [6, 7]])
    gone = np.array([False, False, False, False, True])
    marked = repeated_paragraphs(DocumentIndex([held, new], base=1), gone)
    assert [one.tolist() for one in marked] == [
        [False, False, False],
        [False, True, True, False, True, False, False],
    ]
