"""Of a small corpus more is held out, so that there are enough documents to decide on; and no model is measured on what it learned."""

import itertools
import json
import random
from pathlib import Path

import pytest

from leanpipe.core.store import digest_file, read_manifest
from leanpipe.corpus.clean import CleanConfig
from leanpipe.corpus.sources.file_index import SourceFile
from leanpipe.corpus.split import MOST_TEST, SplitConfig
from leanpipe.corpus.tables import count_documents
from tests.corpus.cleaning import cleaned, write_corpus
from tests.corpus.test_earlier_splits import check_nothing_moved_back

TEXTS = 79
FEW = {"split": {"min_test_documents": 3}}


def shares(documents: int, **settings) -> float:
    files = [SourceFile(url=f"/{one}.txt", source=f"{one}.txt", kind="text") for one in range(documents)]
    return SplitConfig(**settings).of_corpus(files).test


@pytest.mark.parametrize(
    ("documents", "settings", "share"),
    [
        (100, {}, MOST_TEST),
        (1_000, {}, 0.1),
        (10_000, {}, 0.05),
        (100, {"min_test_documents": 0}, 0.05),
        (100, {"test": 0.4}, 0.4),
        (1_000, {"min_test_documents": 60}, 0.06),
    ],
)
def test_what_is_held_out_grows_to_a_number_that_decides(documents: int, settings: dict, share: float):
    assert shares(documents, **settings) == pytest.approx(share)


@pytest.mark.parametrize(
    ("file", "share"),
    [
        ({"kind": "jsonl", "size": 400 * 4_096}, MOST_TEST),
        ({"kind": "jsonl", "size": 1_000 * 4_096}, 0.1),
        ({"kind": "jsonl", "size": 250 * 4_096, "compression": ".gz"}, 0.1),
        ({"kind": "text", "size": 10**9}, MOST_TEST),
        ({"kind": "parquet", "size": 0}, 0.05),  # a server that does not tell
    ],
)
def test_how_many_documents_a_file_holds_is_taken_from_its_size(file: dict, share: float):
    one = SourceFile(url="/a", source="a", **file)
    assert SplitConfig().of_corpus([one]).test == pytest.approx(share)


def test_a_small_corpus_has_more_documents_to_decide_on(tmp_path: Path):
    corpus = write_corpus(tmp_path / "corpus", last=TEXTS)
    plain = cleaned(
        corpus, tmp_path / "plain", CleanConfig.model_validate({"split": {"min_test_documents": 0}})
    )
    small = cleaned(corpus, tmp_path / "small")
    assert count_documents(small.path, "test") > 2 * count_documents(plain.path, "test")
    assert json.loads((small.path / "held.json").read_text())["test"] == MOST_TEST


@pytest.mark.parametrize("seed", range(2))
def test_no_document_moves_from_train_to_test_however_a_corpus_grows_and_shrinks(tmp_path: Path, seed: int):
    """The fewer documents there are, the larger is the share of the test, which must not come from what was learned."""
    corpus, config = tmp_path / "corpus", CleanConfig.model_validate(FEW)
    results = []
    for size in random.Random(seed).choices((20, 40, 60, TEXTS), k=5):
        for path in corpus.glob("*.txt"):
            path.unlink()
        results.append(cleaned(write_corpus(corpus, last=size), tmp_path, config))
    for earlier, later in itertools.combinations(results, 2):
        check_nothing_moved_back(earlier, later)


def test_a_corpus_that_grows_reads_what_is_new_and_no_earlier_split(tmp_path: Path):
    corpus, config = write_corpus(tmp_path / "corpus", last=40), CleanConfig.model_validate(FEW)
    cleaned(corpus, tmp_path, config)
    grown = cleaned(write_corpus(corpus, first=40, last=TEXTS), tmp_path, config)
    manifest = read_manifest(grown.path / "manifest.json")
    assert manifest and "earlier" not in manifest.inputs and grown.summary["files_read"] == TEXTS - 40
    assert cleaned(corpus, tmp_path, config) == grown


def test_what_an_earlier_commit_split_by_its_share_alone_is_remembered(tmp_path: Path):
    """Its settings knew of no least number, and its result says nothing of the share."""
    corpus = write_corpus(tmp_path / "corpus", last=TEXTS)
    old = cleaned(corpus, tmp_path, CleanConfig.model_validate({"split": {"min_test_documents": 0}}))
    held, facts = old.path / "held.json", old.path / "manifest.json"
    held.write_text(
        json.dumps({name: one for name, one in json.loads(held.read_text()).items() if name != "test"})
    )
    manifest = json.loads(facts.read_text())
    del manifest["config"]["split"]["min_test_documents"]
    manifest["files"]["held.json"] = digest_file(held)
    facts.write_text(json.dumps(manifest))
    new = cleaned(corpus, tmp_path)
    check_nothing_moved_back(old, new)
    assert "earlier" in (read_manifest(new.path / "manifest.json") or old).inputs
