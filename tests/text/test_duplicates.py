import pytest

from leanpipe.text.document import Document
from leanpipe.text.duplicates import DuplicatesConfig, SeenTexts, shingle_hashes
from leanpipe.text.split import SplitConfig, split, split_of
from tests.tiny import tiny_text


def documents(*texts: str) -> list[Document]:
    return [Document(id=str(number), text=text, source="a.txt") for number, text in enumerate(texts)]


def rules(config: DuplicatesConfig, *texts: str) -> list[str | None]:
    seen = SeenTexts(config)
    faults = [seen.fault(document) for document in documents(*texts)]
    return [fault.rule if fault else None for fault in faults]


LONG = " ".join(f"word{number}" for number in range(1000))


def test_exact_and_near_duplicates_go_and_the_first_stays():
    near = LONG.replace("word500", "other")  # 5 of 996 shingles differ on each side: Jaccard 991 / 1001
    far = LONG.replace("word1", "other")  # 111 words differ
    texts = (LONG, LONG, near, far, "something else entirely, and short")
    expected = [None, "duplicates.exact", "duplicates.near", None, None]
    assert rules(DuplicatesConfig(), *texts) == expected
    assert rules(DuplicatesConfig(near=False), *texts) == [None, "duplicates.exact", None, None, None]
    assert rules(DuplicatesConfig(exact=False), *texts)[1] == "duplicates.near"
    assert rules(DuplicatesConfig(exact=False, near=False), *texts) == [None] * 5


def test_the_similarity_is_near_the_true_one():
    half = " ".join(LONG.split()[:750])  # 746 of 996 shingles: Jaccard 0.749
    seen = SeenTexts(DuplicatesConfig(threshold=0.5, permutations=1024))
    first, second = documents(LONG, half)
    assert seen.fault(first) is None
    fault = seen.fault(second)
    assert fault and fault.value == pytest.approx(0.749, abs=0.05)
    assert rules(DuplicatesConfig(threshold=0.95), LONG, half) == [None, None]


def test_case_and_punctuation_make_no_difference():
    assert shingle_hashes("One, two three four FIVE!", 5) == shingle_hashes("one two three four five", 5)
    assert len(shingle_hashes("a b c d e f", 5)) == 2
    assert len(shingle_hashes("a b", 5)) == 1


def test_scripts_without_spaces_have_shingles():
    assert len(shingle_hashes("蜜蜂是一种昆虫", 5)) == 3


def test_real_documents_are_no_duplicates_of_each_other_but_for_one():
    found = rules(DuplicatesConfig(), *tiny_text())
    assert [rule for rule in found if rule] == ["duplicates.exact"] * (
        len(tiny_text()) - len(set(tiny_text()))
    )


def test_a_document_is_always_on_the_same_side():
    texts = [f"document {number}" for number in range(2000)]
    config = SplitConfig(validation=0.1, test=0.2)
    splits = split(documents(*texts), config)
    sizes = {name: len(part) for name, part in splits.items()}
    assert sizes == pytest.approx(
        {"train": 1400, "validation": 200, "test": 400}, abs=60
    )  # 3 standard deviations
    for name, part in split(documents(*texts[1000:]), config).items():
        assert {document.text for document in part} <= {document.text for document in splits[name]}


def test_a_hash_is_a_number_between_0_and_1():
    config = SplitConfig(validation=0.25, test=0.25)
    sides = {0x00: "test", 0x3F: "test", 0x40: "validation", 0x7F: "validation", 0x80: "train", 0xFF: "train"}
    for byte, name in sides.items():
        assert split_of(bytes([byte] * 32), config) == name


@pytest.mark.parametrize("count", [3, 4, 5, 10])
def test_no_split_is_empty_from_three_documents_on(count: int):
    config = SplitConfig(validation=0.001, test=0.001)
    all_documents = documents(*(f"text {number}" for number in range(count)))
    splits = split(all_documents, config)
    assert {name: len(part) for name, part in splits.items()} == {
        "train": count - 2,
        "validation": 1,
        "test": 1,
    }
    first, second = sorted(all_documents, key=lambda document: document.text_hash)[:2]
    assert splits["validation"] == [first] and splits["test"] == [second]
    assert sorted((d for part in splits.values() for d in part), key=lambda d: int(d.id)) == all_documents
