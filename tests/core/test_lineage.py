"""What was made of what, in a store whose results are as small as results can be."""

from pathlib import Path

import pytest

from leanpipe.core.lineage import Result, learned_from, read_results, uses
from leanpipe.core.store import Artifact, Store, external
from tasks.lineage import uses_of
from tests.support.published_results import publish


@pytest.fixture
def chain(tmp_path: Path) -> tuple[Store, dict[str, Artifact]]:
    """Two corpora; from one of them a model and what follows, measured on the other too."""
    store = Store(tmp_path / "store")
    made: dict[str, Artifact] = {}
    source = tmp_path / "source.txt"
    source.write_text("text")
    made["corpus"] = publish(store, "clean", {"a": "1"}, corpus=[external("source", source)])
    made["other"] = publish(store, "clean", {"a": "2"}, corpus=[external("source", source)])
    made["grown"] = publish(store, "clean", {"a": "3"}, base=made["corpus"])
    made["blocks"] = publish(store, "tokenize", {"b": "1"}, documents=made["corpus"])
    made["again"] = publish(store, "tokenize", {"b": "3"}, documents=made["grown"], base=made["blocks"])
    made["student"] = publish(store, "distill", {"m": "1"}, blocks=made["blocks"])
    made["adapted"] = publish(store, "finetune", {"m": "2"}, model=made["student"])
    made["quantized"] = publish(store, "quantize", {"int8/m": "3", "nf4/m": "4"}, model=made["adapted"])
    nf4, other = made["quantized"].inside("nf4"), made["other"]
    made["measured"] = publish(store, "evaluate", {"e": "1"}, model=nf4, documents=made["corpus"])
    made["elsewhere"] = publish(store, "evaluate", {"e": "2"}, model=made["student"], documents=other)
    made["checked"] = publish(store, "check", {"c": "1"}, model=made["student"])
    made["borrowed"] = publish(store, "tokenize", {"b": "2"}, documents=other, teacher=made["student"])
    folder = external("by path", made["quantized"].path / "int8")
    made["by path"] = publish(store, "finetune", {"m": "5"}, model=folder)
    return store, made


def used(chain: tuple[Store, dict[str, Artifact]], corpus: str, split: str) -> dict[str, str]:
    """How each of the made things has to do with a split of a corpus."""
    store, made = chain
    results = read_results(store)
    names = {artifact.key: name for name, artifact in made.items()}
    whole = next(one for one in results if one.key == made[corpus].key)
    found = uses(results, whole, split, uses_of)
    return {names[use.result.key]: use.how for use in found}


def test_all_that_a_model_was_trained_to_become(chain):
    models = dict.fromkeys(("student", "adapted", "quantized", "by path"), "trained on it")
    measured = dict.fromkeys(("measured", "elsewhere"), "measures a model trained on it")
    assert used(chain, "corpus", "train") == {"blocks": "prepared from it"} | models | measured


def test_nothing_was_trained_on_what_was_held_out(chain):
    assert used(chain, "corpus", "validation") == {"blocks": "prepared from it", "student": "measured on it"}
    assert used(chain, "corpus", "test") == {"measured": "measured on it"}
    assert used(chain, "other", "test") == {"elsewhere": "measured on it"}


def test_a_tokenizer_that_was_lent_is_no_training(chain):
    assert used(chain, "other", "train") == {"borrowed": "prepared from it"}


def test_a_corpus_that_grew_speaks_for_itself(chain):
    assert used(chain, "grown", "train") == {"again": "prepared from it"}


def sources(chain: tuple[Store, dict[str, Artifact]], *digests: str) -> list[str]:
    """The made things that came into what these digests name."""
    store, made = chain
    names = {artifact.key: name for name, artifact in made.items()}
    return [names[one.key] for one in learned_from(read_results(store), digests, uses_of)]


def test_all_that_a_model_learned_from(chain):
    _, made = chain
    line = ["corpus", "blocks", "student", "adapted", "quantized"]
    assert sources(chain, made["quantized"].inside("nf4").digest) == line
    assert sources(chain, made["by path"].digest) == [*line, "by path"]
    assert sources(chain, "of a model from elsewhere") == []


def test_who_lent_a_tokenizer_or_was_grown_from_taught_nothing(chain):
    _, made = chain
    assert sources(chain, made["borrowed"].digest) == ["other", "borrowed"]
    assert sources(chain, made["again"].digest) == ["grown", "again"]


def test_results_are_read_in_the_order_of_their_making(chain):
    store, made = chain
    results = read_results(store)
    assert [one.stage for one in results[:4]] == ["clean", "clean", "clean", "tokenize"]
    assert {one.key for one in results} == {one.key for one in made.values()}
    assert isinstance(results[0], Result) and made["corpus"].digest in results[0].digests


def test_a_store_that_is_not_there_has_no_results(tmp_path: Path):
    assert read_results(Store(tmp_path / "nowhere")) == []


def test_what_is_not_finished_is_no_result(chain):
    store, _ = chain
    count = len(read_results(store))
    (store.partial("distill", "half") / "manifest.json").write_text("{")
    assert len(read_results(store)) == count
