"""A licence goes with a model from the file that it came in to every file that is made of it, through every stage between."""

import ast
from pathlib import Path

import pytest
import yaml
from gguf import GGUFReader, GGUFValueType, GGUFWriter, Metadata
from huggingface_hub import ModelCard, constants
from huggingface_hub.utils import filter_repo_objects

from leanpipe.assets.gguf import ImportGgufConfig, ImportGgufInputs, import_gguf
from leanpipe.assets.resolve import HUB_FILES, OTHER_FORMS, resolve_model
from leanpipe.compression.gguf_export import GgufTypes, plan_gguf, write_gguf
from leanpipe.compression.quantize import QuantizeConfig, QuantizeInputs, quantize
from leanpipe.core.home import Home
from leanpipe.core.report import Silent
from leanpipe.core.store import external
from leanpipe.evaluation.model_card import model_card
from leanpipe.export.gguf_licence import read_gguf_licence
from leanpipe.export.modelfile import MODELFILE
from leanpipe.models.card import CARD, front_matter, inherited, licence_name, write_card
from leanpipe.models.count import empty_model, read_config
from leanpipe.models.load import load_tokenizer
from leanpipe.models.offload import GGUF_FILE
from leanpipe.quantization_aware.quantization_aware import (
    QuantizationAwareConfig,
    QuantizationAwareInputs,
    quantization_aware,
)
from leanpipe.shrink.low_rank import LowRankConfig, LowRankInputs, low_rank
from leanpipe.shrink.multiply_out import MultiplyOutConfig, MultiplyOutInputs, multiply_out
from leanpipe.shrink.prune import PruneConfig, PruneInputs, prune
from leanpipe.shrink.shrink import ShrinkConfig, ShrinkInputs, shrink
from leanpipe.training.distill.distill import DistillConfig, DistillInputs, distill
from leanpipe.training.finetune.finetune import FinetuneConfig, FinetuneInputs, finetune
from leanpipe.training.on_policy.on_policy import OnPolicyConfig, OnPolicyInputs, on_policy
from leanpipe.training.vocabulary.cut_vocabulary import (
    CutVocabularyConfig,
    CutVocabularyInputs,
    cut_vocabulary,
)
from tests.support.cleaned_corpus import kept, write_cleaned
from tests.support.tiny_models import tiny_llama, tiny_model, tiny_text, tiny_tokenizer
from tests.training.blocks import write_blocks
from tests.training.finetune.test_finetune import write_instructions

pytestmark = pytest.mark.usefixtures("one_thread")

TERMS = "https://example.org/terms"
TOLD = {
    "license": "other",
    "license_name": "tiny-licence",
    "license_link": TERMS,
    "base_model": ["someone/grandparent", "https://example.org/other"],
}
SHORT = {"tokens": 128, "batch": 1, "validation_tokens": 64, "precision": "fp32"}
MADE = (
    "import_gguf",
    "cut_vocabulary",
    "shrink",
    "prune",
    "low_rank",
    "multiply_out",
    "distill",
    "on_policy",
    "finetune",
    "quantization_aware",
)
"""What makes a model of another, in the order of the chain."""


def write_metadata(file: Path, said: Metadata) -> Path:
    """Say it in a GGUF file as llama.cpp's converter does."""
    plain = file.with_name("plain.gguf")
    write_gguf(tiny_llama(), tiny_tokenizer(), GgufTypes("q8_0", "q8_0"), plain)
    reader = GGUFReader(plain)
    writer = GGUFWriter(file, "llama")
    said.set_gguf_meta_model(writer)
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            kind = field.types
            array = kind[-1] if kind[0] == GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), kind[0], array)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def imported(folder: Path, said: Metadata) -> Path:
    """The model folder that is made of a GGUF file which says this of itself, beside which another card lies."""
    (folder / "given").mkdir(parents=True)
    file = write_metadata(folder / "given" / "tiny.gguf", said)
    write_card(folder / "given", {"license": "mit"}, "# The card of something else")
    out = folder / "import_gguf"
    out.mkdir()
    import_gguf.function(ImportGgufConfig(), ImportGgufInputs(file), out, Silent())
    return out


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """The folder of every stage's model, by its name: each is made of the one before."""
    root = tmp_path_factory.mktemp("chain")
    addresses = (
        {"repo_url": "https://huggingface.co/someone/grandparent"},
        {"repo_url": "https://example.org/other"},
    )
    said = Metadata(
        name="Tiny One",
        license="other",
        license_name="tiny-licence",
        license_link=TERMS,
        base_models=[{"name": "Grandparent"} | addresses[0], {"name": "Other"} | addresses[1]],
    )
    teacher = imported(root, said)
    blocks, told = write_blocks(root / "blocks"), write_instructions(root / "colours.jsonl")
    rows = [kept(number, text) for number, text in enumerate(tiny_text()[:20])]
    documents = write_cleaned(root / "documents", rows)
    places = {name: root / name for name in MADE}
    for one in list(places.values())[1:]:
        one.mkdir()
    silent = Silent()
    cut = CutVocabularyConfig(max_unseen=1.0)
    cut_vocabulary.function(cut, CutVocabularyInputs(teacher, documents), places["cut_vocabulary"], silent)
    shrink.function(
        ShrinkConfig(layers=1, calibration_tokens=64), ShrinkInputs(teacher, blocks), places["shrink"], silent
    )
    prune.function(
        PruneConfig(method="magnitude"), PruneInputs(places["shrink"], blocks), places["prune"], silent
    )
    low = LowRankConfig(size=0.95, calibration_tokens=64)
    low_rank.function(low, LowRankInputs(places["prune"], blocks), places["low_rank"], silent)
    multiply_out.function(
        MultiplyOutConfig(), MultiplyOutInputs(places["low_rank"]), places["multiply_out"], silent
    )
    learn = DistillConfig(teacher_logprobs="online", **SHORT)
    distill.function(
        learn, DistillInputs(teacher, blocks, student=places["multiply_out"]), places["distill"], silent
    )
    own = OnPolicyConfig(steps=1, batch=1, max_new_tokens=4, validation_conversations=1, precision="fp32")
    on_policy.function(own, OnPolicyInputs(teacher, places["distill"], told), places["on_policy"], silent)
    adapt = FinetuneConfig(tokens=128, batch=1, max_length=64, precision="fp32")
    finetune.function(adapt, FinetuneInputs(places["on_policy"], told), places["finetune"], silent)
    aware = QuantizationAwareConfig(validation_share=0.2, calibration_tokens=0, **SHORT)
    given = QuantizationAwareInputs(places["finetune"], blocks, told)
    quantization_aware.function(aware, given, places["quantization_aware"], silent)
    return places


@pytest.mark.parametrize("stage", MADE)
def test_what_a_stage_makes_of_a_licensed_model_has_its_licence(stage, chain):
    """So has what is made of a student that comes from another place than its tokenizer, as the blocks' is."""
    assert inherited(chain[stage]) == TOLD


def test_every_module_that_writes_a_model_says_what_it_was_made_of():
    """The tokenizer's folder, from which the licence is taken otherwise, may be another one than the model's."""
    writers = []
    for path in Path("leanpipe").rglob("*.py"):
        text = path.read_text()
        for node in ast.walk(ast.parse(text)) if "save_model(" in text else ():
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id == "save_model"
            ):
                writers.append(path)
                assert any(one.arg == "made_of" for one in node.keywords), f"{path}:{node.lineno}"
    assert len(writers) > 10


@pytest.fixture(scope="module")
def exported(chain, tmp_path_factory):
    pytest.importorskip("onnx")
    out = tmp_path_factory.mktemp("exported")
    config = QuantizeConfig(formats=("q8_0", "onnx_int8"))
    quantize.function(config, QuantizeInputs(chain["quantization_aware"]), out, Silent())
    return out


def test_what_a_gguf_file_said_is_said_by_all_that_is_exported(chain, exported):
    import onnx

    for form in ("q8_0", "onnx_int8"):
        assert inherited(exported / form) == TOLD
        assert f"Its licence is tiny-licence ({TERMS})." in (exported / form / CARD).read_text()
    reader = GGUFReader(exported / "q8_0" / GGUF_FILE)
    assert read_gguf_licence(reader) == TOLD
    assert f'LICENSE """tiny-licence ({TERMS})"""' in (exported / "q8_0" / MODELFILE).read_text()
    props = onnx.load(exported / "onnx_int8" / "model.onnx", load_external_data=False).metadata_props
    said = {one.key: one.value for one in props}
    assert said["general.license"] == "other" and said["general.license.name"] == "tiny-licence"
    assert said["general.base_model"] == ", ".join(TOLD["base_model"])
    planned = plan_gguf(
        empty_model(read_config(chain["quantization_aware"])),
        load_tokenizer(chain["quantization_aware"]),
        GgufTypes("q8_0", "q8_0"),
    )
    assert planned.bytes == (exported / "q8_0" / GGUF_FILE).stat().st_size


def test_what_we_export_can_be_given_as_a_model_again(exported, tmp_path):
    file = ImportGgufInputs(exported / "q8_0" / GGUF_FILE)
    (tmp_path / "again").mkdir()
    import_gguf.function(ImportGgufConfig(), file, tmp_path / "again", Silent())
    assert inherited(tmp_path / "again") == TOLD


def test_a_file_that_says_nothing_of_a_licence_gets_none(tmp_path):
    """A base model without an address is no hub model either, whatever it is called, and neither is a card beside the file its own."""
    folder = imported(
        tmp_path, Metadata(name="Tiny One", base_models=[{"name": "Some Model", "organization": "Someone"}])
    )
    assert front_matter(folder) == {"model_name": "Tiny One"}
    assert "general.base_model.0.name: Some Model" in (folder / CARD).read_text()
    assert inherited(folder) == {}


def test_licences_that_differ_are_all_named_and_none_is_guessed(tmp_path):
    """Of a student and its teacher, say; and a rule in a card's text begins no facts."""
    cards = {
        "a": {"license": "apache-2.0", "base_model": "someone/a"},
        "b": {"license": "other", "license_name": "tiny-licence", "base_model": ["someone/a", "someone/b"]},
        "c": {},
    }
    for name, facts in cards.items():
        (tmp_path / name).mkdir()
        write_card(tmp_path / name, facts, "# A model\n\n---\nlicense: mit\n---\n")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / CARD).write_text("# A model\n\n---\nlicense: mit\n---\n")
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / CARD).write_bytes(b"\xef\xbb\xbf---\r\nlicense: mit\r\n---\r\n# A model\r\n")
    folders = {name: tmp_path / name for name in "abcde"}
    assert inherited(folders["a"], folders["c"], folders["a"]) == cards["a"]
    assert inherited(folders["c"]) == inherited(folders["d"]) == {}
    assert inherited(folders["e"]) == {"license": "mit"}
    both = inherited(folders["a"], folders["b"])
    assert both == {
        "license": "other",
        "license_name": "apache-2.0-and-tiny-licence",
        "base_model": ["someone/a", "someone/b"],
    }
    assert licence_name(both) == "apache-2.0-and-tiny-licence"


@pytest.mark.parametrize("stage", [shrink, distill, quantize], ids=lambda stage: stage.name)
def test_only_results_that_lack_a_licence_are_made_anew(stage, tmp_path):
    """The keys of results for models without one are what they were."""
    silent, licensed = (external(name, tiny_model(tmp_path / name)) for name in ("silent", "licensed"))
    (licensed.path / CARD).write_text("---\nlicense: mit\n---\n")
    role = "model" if stage is quantize else "teacher"
    assert stage.digests({role: silent}) == {role: silent.digest}
    assert stage.digests({role: licensed}) == {role: licensed.digest, "licence": "carried"}


ROW = {
    "bits_per_byte": 1.0,
    "bits_per_byte_error": 0.01,
    "perplexity": 2.0,
    "size_bytes": 1,
    "held_out_bytes": 1,
    "held_out_digest": "text",
    "parameters": 1,
    "prefill_tokens_per_second": 1.0,
    "decode_tokens_per_second": 1.0,
    "first_token_seconds": 1.0,
    "peak_memory_bytes": 1,
}


def registered_card(folder: Path, label: str, teacher: str = "/models/teacher") -> str:
    rows = {"teacher": ROW, label: ROW}
    facts = {"name": "leanpipe", "corpus": "letters", "stages": {}, "reason": "-"}
    return model_card(label=label, teacher=teacher, rows=rows, folder=folder, **facts)


def test_what_is_registered_says_what_its_folder_says(exported, tmp_path):
    for label in ("q8_0", "onnx_int8"):
        text = registered_card(exported / label, label, "someone/teacher")
        (tmp_path / CARD).write_text(text)
        assert inherited(tmp_path) == TOLD
        assert front_matter(tmp_path)["leanpipe"] == front_matter(exported / label)["leanpipe"]
        assert f"What it was made of is licensed as tiny-licence ({TERMS})." in text
    (tmp_path / "silent").mkdir()
    text = registered_card(tmp_path / "silent", "q8_0", "someone/teacher")
    assert "is licensed as" not in text and "base_model: someone/teacher" in text
    assert "license" not in yaml.safe_load(text.split("---")[1])


def test_a_folder_is_no_model_of_the_hub_though_it_is_written_as_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "someone" / "teacher").mkdir(parents=True)
    assert "base_model" not in registered_card(tmp_path, "q8_0", "someone/teacher").split("---")[1]


def test_the_hub_s_own_library_reads_every_card(chain, exported, tmp_path):
    """What it makes of a card is what the card says, in the types that it documents."""
    (tmp_path / "q8_0").mkdir()
    (tmp_path / "q8_0" / CARD).write_text(registered_card(exported / "q8_0", "q8_0"))
    for folder in (chain["import_gguf"], chain["finetune"], *exported.glob("[!r]*"), tmp_path / "q8_0"):
        card = ModelCard.load(folder / CARD)
        known = card.data.to_dict()
        assert known == front_matter(folder)
        assert {name: known[name] for name in TOLD} == TOLD
        for name in ("license", "license_name", "license_link", "library_name", "pipeline_tag", "model_name"):
            assert isinstance(known.get(name, ""), str)
        assert len(set(known.get("tags", ()))) == len(known.get("tags", ()))
        assert card.text.strip().startswith(("# ", "Made of"))


def test_a_model_of_the_hub_brings_its_licence_and_its_card_s_words_change_no_model(tmp_path, monkeypatch):
    """As it lies in the hub's own cache."""
    files = ["README.md", "config.json", "model.safetensors", "onnx/model.safetensors", "pytorch_model.bin"]
    fetched = filter_repo_objects(files, allow_patterns=HUB_FILES, ignore_patterns=OTHER_FORMS)
    assert list(fetched) == files[:3]
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    snapshot = tmp_path / "models--me--mine" / "snapshots" / ("0" * 40)
    (tmp_path / "models--me--mine" / "refs").mkdir(parents=True)
    (tmp_path / "models--me--mine" / "refs" / "main").write_text(snapshot.name)
    tiny_model(snapshot)

    def digest(card: str) -> str:
        (snapshot / CARD).write_text(card)
        found = resolve_model("me/mine", Home(tmp_path), lambda *_: pytest.fail("no stage is needed here"))
        assert found.path == snapshot
        return found.digest

    before = external("me/mine", snapshot).digest
    licensed = digest("---\nlicense: mit\n---\n# A model")
    assert inherited(snapshot) == {"license": "mit"}
    assert digest("# A model") == digest("# The model") == before != licensed
    assert digest("---\nlicense: mit\n---\n# The model") == licensed != digest("---\nlicense: gemma\n---\n")
