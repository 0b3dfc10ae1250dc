"""Shares of the splits change, and what models learned from is never measured on."""

import itertools
import json
import random
from pathlib import Path

import numpy as np
import pytest

from leanpipe.core.store import Artifact, Store, read_manifest
from leanpipe.corpus.clean import CleanConfig
from leanpipe.corpus.split import SPLITS, fill_empty_splits
from leanpipe.corpus.split_members import find_members, split_digests
from leanpipe.corpus.tables import count_documents, read_column, split_files
from tests.corpus.cleaning import cleaned, write_corpus

SHARES = {"small": (0.1, 0.1), "test": (0.4, 0.1), "validation": (0.1, 0.4), "both": (0.3, 0.3)}
"""Of test and validation, by name. Of 60 documents chance leaves none of these splits empty."""


def config_of(name: str, **others) -> CleanConfig:
    test, validation = SHARES[name]
    return CleanConfig.model_validate({"split": {"test": test, "validation": validation}, **others})


def places(result: Artifact) -> dict[str, int]:
    """The place in SPLITS of each document, by its file."""
    return {
        source: place
        for place, split in enumerate(SPLITS)
        for path in split_files(result.path, split)
        for source in read_column(path, "source")
    }


def check_nothing_moved_back(earlier: Artifact, later: Artifact) -> None:
    before, after = places(earlier), places(later)
    assert not [name for name in before.keys() & after if after[name] > before[name]]
    for held_out, learned in {"test": ("train", "validation"), "validation": ("train",)}.items():
        assert not find_members(later.path, held_out, split_digests(earlier.path, learned))


@pytest.mark.parametrize("seed", range(2))
def test_no_document_moves_from_train_to_test_in_whatever_order_shares_change(tmp_path: Path, seed: int):
    corpus = write_corpus(tmp_path / "corpus", last=60)
    order = random.Random(seed).choices(list(SHARES), k=5)
    results = [cleaned(corpus, tmp_path, config_of(name)) for name in order]
    for earlier, later in itertools.combinations(results, 2):
        check_nothing_moved_back(earlier, later)
    for result in results:
        assert all(count_documents(result.path, split) for split in SPLITS)


def test_a_larger_share_is_that_of_new_documents(tmp_path: Path, caplog):
    corpus = write_corpus(tmp_path / "corpus", last=30)
    small = cleaned(corpus, tmp_path, config_of("small"))
    write_corpus(corpus, first=30, last=60)
    alone = cleaned(corpus, tmp_path / "alone", config_of("test"))
    large = cleaned(corpus, tmp_path, config_of("test"))
    check_nothing_moved_back(small, large)
    old, new = places(small), {name: place for name, place in places(large).items() if int(name[:3]) >= 30}
    assert {name: places(alone)[name] for name in new} == new and list(new.values()).count(2) > 5
    counted = json.loads((large.path / "counts.json").read_text())["counted"]
    (stayed,) = (number for name, number in counted.items() if "an earlier split had them" in name)
    assert (
        stayed == sum(places(alone)[name] > place for name, place in old.items() if name in places(alone)) > 5
    )
    assert f"{stayed} documents would be held out by these shares" in caplog.text


def test_smaller_shares_remember_nothing_and_keep_their_keys(tmp_path: Path):
    corpus = write_corpus(tmp_path / "corpus")
    alone = cleaned(corpus, tmp_path / "alone", config_of("small"))
    cleaned(corpus, tmp_path, config_of("both"))
    assert cleaned(corpus, tmp_path, config_of("small")).key == alone.key
    assert places(alone) == places(cleaned(corpus, tmp_path, config_of("small")))


def test_the_same_again_is_found_and_only_new_files_are_read(tmp_path: Path):
    corpus, store = write_corpus(tmp_path / "corpus"), Store(tmp_path / "store")
    small = cleaned(corpus, tmp_path, config_of("small"))
    large = cleaned(corpus, tmp_path, config_of("test"))
    assert large == cleaned(corpus, tmp_path, config_of("test"))
    assert small == cleaned(corpus, tmp_path, config_of("small"))
    assert len(list(store.manifests("clean"))) == 2
    write_corpus(corpus, first=30, last=33)
    grown = cleaned(corpus, tmp_path, config_of("test"))
    assert grown.summary["files_read"] == 3
    check_nothing_moved_back(small, grown)


def test_shares_that_contradict_each_other_in_turn_come_to_an_end(tmp_path: Path):
    """Each of these would hold out what the other has in train or validation."""
    corpus = write_corpus(tmp_path / "corpus", last=60)
    rounds = [[cleaned(corpus, tmp_path, config_of(name)) for name in ("test", "both")] for _ in range(4)]
    assert rounds[3] == rounds[2]
    check_nothing_moved_back(rounds[0][0], rounds[3][1])


def test_documents_are_known_by_their_texts_as_read_where_cleaning_changed_too(tmp_path: Path):
    corpus = write_corpus(tmp_path / "corpus", "Write to jane.miller@posteo.net about it.", last=40)
    small = cleaned(corpus, tmp_path, config_of("small"))
    plain = cleaned(corpus, tmp_path, config_of("both", redact={"email": False}))
    texts = [set(read_column(split_files(one.path, "train")[0], "text")) for one in (small, plain)]
    assert not texts[0] & texts[1]
    check_nothing_moved_back(small, plain)


def test_a_table_that_grew_is_the_same_corpus(tmp_path: Path):
    """Its digest is another one, and all of its documents are read anew."""
    table = tmp_path / "corpus" / "all.jsonl"
    texts = [path.read_text() for path in sorted(write_corpus(tmp_path / "texts", last=60).iterdir())]
    table.parent.mkdir()
    table.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts[:40]))
    small = cleaned(table.parent, tmp_path, config_of("small"))
    table.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    large = cleaned(table.parent, tmp_path, config_of("test"))
    assert not find_members(large.path, "test", split_digests(small.path, ["train", "validation"]))
    assert count_documents(large.path, "test") > count_documents(small.path, "test")


def test_another_corpus_is_nobodys_business(tmp_path: Path):
    cleaned(write_corpus(tmp_path / "other", first=40, last=70), tmp_path, config_of("small"))
    mine = cleaned(write_corpus(tmp_path / "corpus"), tmp_path, config_of("test"))
    manifest = read_manifest(mine.path / "manifest.json")
    assert manifest and "earlier" not in manifest.inputs


def test_an_empty_split_is_filled_with_what_was_never_learned_from():
    splits, hashes = np.zeros(4, np.uint8), np.array([1, 2, 3, 4], np.uint64)
    last = np.array([0, 2, 1, 2], np.uint8)
    assert fill_empty_splits(splits, hashes, last).tolist() == [0, 1, 0, 2]
    assert fill_empty_splits(splits, hashes, np.zeros(4, np.uint8)).tolist() == [0, 0, 0, 0]
