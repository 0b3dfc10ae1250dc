"""What every exported folder says of itself: digests of its weights and of its parents, the licence, the base model."""

import importlib.util

import pytest
from gguf import GGUFReader

from leanpipe.compression.quantize import QuantizeConfig, QuantizeInputs, quantize
from leanpipe.core.report import Silent
from leanpipe.core.store import Store, content_digest, digest_file, external
from leanpipe.models.card import CARD, front_matter
from leanpipe.models.load import load_model, load_tokenizer, save_model
from leanpipe.models.offload import GGUF_FILE, weight_files
from tests.support.published_results import next_partial, publish
from tests.support.tiny_models import tiny_model

PACKAGES = {"onnx_int8": "onnx", "w8a16": "compressed_tensors", "torchao_int8": "torchao"}
FORMS = ("q4_0", "nf4", *(form for form, package in PACKAGES.items() if importlib.util.find_spec(package)))
LICENCE = "---\nlicense: apache-2.0\nbase_model: someone/teacher\nlanguage: en\n---\n# A model\n"


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A finetuned model in a store, made of a student and instructions, and a folder of each form of it."""
    root = tmp_path_factory.mktemp("exported")
    store = Store(root / "store")
    (root / "student").write_text("a student")
    student = external("student", root / "student")
    tiny_model(next_partial(store, "finetune"))
    source = publish(store, "finetune", {CARD: LICENCE}, model=student, instructions=student)
    quantize.function(QuantizeConfig(formats=FORMS), QuantizeInputs(source.path), root / "out", Silent())
    return source, student, root / "out"


def weights(folder):
    return content_digest({file.name: digest_file(file) for file in weight_files(folder)})


@pytest.mark.parametrize("form", FORMS)
def test_every_form_names_its_digest_its_parents_and_its_licence(form, exported):
    source, student, out = exported
    facts = front_matter(out / form)
    assert (facts["license"], facts["base_model"]) == ("apache-2.0", "someone/teacher")
    told = facts["leanpipe"]
    assert told["format"] == form and told["sha256"] == weights(out / form)
    assert (told["stage"], told["key"]) == ("finetune", source.key)
    assert told["source_sha256"] == weights(source.path)
    assert told["parents"] == {"model": student.digest, "instructions": student.digest}
    text = (out / form / CARD).read_text()
    assert "Its licence is apache-2.0." in text and student.digest in text


def test_a_gguf_file_alone_names_the_weights_that_it_was_made_of(exported):
    source, _, out = exported
    field = GGUFReader(out / "q4_0" / GGUF_FILE).get_field("leanpipe.source_sha256")
    assert field is not None and field.contents() == weights(source.path)


def test_a_licence_goes_with_what_is_made_of_a_model_and_none_is_guessed(tmp_path):
    licensed, silent = tiny_model(tmp_path / "licensed"), tiny_model(tmp_path / "silent")
    (licensed / CARD).write_text(LICENCE)
    for folder in (licensed, silent):
        save_model(load_model(folder), load_tokenizer(folder), tmp_path / "made" / folder.name)
    assert front_matter(tmp_path / "made" / "licensed") == {
        "license": "apache-2.0",
        "base_model": "someone/teacher",
    }
    assert not (tmp_path / "made" / "silent" / CARD).exists()
    quantize.function(QuantizeConfig(formats=("nf4",)), QuantizeInputs(silent), tmp_path / "out", Silent())
    facts = front_matter(tmp_path / "out" / "nf4")
    assert "license" not in facts and "parents" not in facts["leanpipe"]
    assert "No licence of what it was made of is known" in (tmp_path / "out" / "nf4" / CARD).read_text()
