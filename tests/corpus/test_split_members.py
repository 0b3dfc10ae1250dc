"""Two cleaned corpora tell whether they share documents, whatever was done to the texts."""

from pathlib import Path

import numpy as np
import pandas

from leanpipe.corpus.clean import CleanConfig
from leanpipe.corpus.split import SPLITS
from leanpipe.corpus.split_members import digest_text, find_members, read_members, split_digests
from leanpipe.corpus.tables import count_documents
from tests.corpus.cleaning import cleaned, write_corpus


def test_every_kept_document_is_known_by_its_text_before_and_after_cleaning(tmp_path: Path):
    documents = cleaned(write_corpus(tmp_path / "corpus"), tmp_path).path
    for split in SPLITS:
        rows = pandas.concat(map(pandas.read_parquet, sorted((documents / split).iterdir())))
        digests = split_digests(documents, [split])
        assert np.isin(np.array([digest_text(text) for text in rows.text], np.uint64), digests).all()
        read = [(tmp_path / "corpus" / source).read_text() for source in rows.source]
        assert np.isin(np.array([digest_text(text) for text in read], np.uint64), digests).all()
        assert sorted(find_members(documents, split, digests)) == sorted(rows.id)
    assert sum(len(shard.ids) for shard in read_members(documents)) == sum(
        count_documents(documents, split) for split in SPLITS
    )


def test_documents_are_found_again_where_cleaning_changed_their_texts(tmp_path: Path):
    corpus = write_corpus(tmp_path / "corpus", "Write to jane.miller@posteo.net about it.")
    one = cleaned(corpus, tmp_path).path
    other = cleaned(corpus, tmp_path, CleanConfig.model_validate({"redact": {"email": False}})).path
    ours, theirs = split_digests(one), split_digests(other)
    assert 0 < np.isin(ours, theirs).sum() < len(ours)
    shared = {id for split in SPLITS for id in find_members(other, split, ours)}
    assert shared == _ids(one) & _ids(other)


def test_the_splits_of_one_corpus_share_nothing(tmp_path: Path):
    documents = cleaned(write_corpus(tmp_path / "corpus"), tmp_path).path
    trained = split_digests(documents, ["train"])
    assert len(trained)
    assert not find_members(documents, "test", trained)
    assert not find_members(documents, "validation", trained)


def _ids(documents: Path) -> set[str]:
    return {id for shard in read_members(documents) for id in shard.ids}
