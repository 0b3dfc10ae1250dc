"""The rules on one document: cleaning stops at the first that it breaks, the dry run asks all."""

import pytest

from leanpipe.corpus.config import CleanConfig
from leanpipe.corpus.document import EXCERPT, Document
from leanpipe.corpus.rules import GROUPS, DocumentRules
from tests.support.tiny_models import tiny_text

MAIL = "Write to bee@hive.org soon."
HTML = "<html><body><p>Bees dance.</p></body></html>"
CONFIG = CleanConfig.model_validate({
    "languages": ("en",),
    "c4": {"enabled": True},
    "fineweb": {"enabled": True},
    "extract": {"max_characters": 1000},
})  # fmt: skip
DOCUMENTS = [
    *(Document(str(number), text, "") for number, text in enumerate(tiny_text())),
    Document("mail", MAIL, ""),
    Document("blank", " \n ", ""),
    Document("page", HTML, "", html=True),
    Document("large", HTML + MAIL * 100, "", html=True),
    Document("german", "Die Bienen im Tal tanzen, um ihren Schwestern zu sagen, wo die Blumen stehen.", ""),
]


@pytest.fixture(scope="module")
def rules() -> DocumentRules:
    return DocumentRules(CONFIG)


@pytest.mark.parametrize("document", DOCUMENTS[-20:], ids=lambda document: document.id)
def test_the_first_fault_is_the_first_of_all(rules: DocumentRules, document: Document):
    first, every = rules.first_fault(document), rules.every_fault(document)
    assert first.faults == every.faults[:1]
    assert (first.language, first.readable) == (every.language, every.readable)
    if not first.faults:
        assert first.text == every.text and first.redacted == every.redacted


def test_faults_come_in_the_order_of_their_groups(rules: DocumentRules):
    for document in DOCUMENTS:
        groups = [GROUPS.index(fault.rule.split(".")[0]) for fault in rules.every_fault(document).faults]
        assert groups == sorted(groups)


def test_what_is_shown_of_a_dropped_document_has_no_personal_data(rules: DocumentRules):
    for name in ("mail", "large"):
        [document] = [one for one in DOCUMENTS if one.id == name]
        checked = rules.first_fault(document)
        [fault], [detail] = checked.faults, checked.details.values()
        assert checked.details[fault.rule] == detail
        assert "<EMAIL>" in detail and "bee@hive" not in detail and len(detail) <= EXCERPT


def test_after_the_first_fault_nothing_is_done(rules: DocumentRules):
    """Personal data are replaced last, so what was dropped before has none counted; a dry run counts them."""
    assert rules.first_fault(Document("a", MAIL, "")).redacted == {}
    assert rules.every_fault(Document("a", MAIL, "")).redacted == {"email": 1}


def test_a_text_that_is_not_there_breaks_one_rule_alone(rules: DocumentRules):
    by_id = {one.id: [fault.rule for fault in rules.every_fault(one).faults] for one in DOCUMENTS}
    assert by_id["blank"] == ["empty"] and by_id["large"] == ["extract.max_characters"]
    assert by_id["german"][0] == "languages" and len(by_id["german"]) > 1
