"""ONNX files say what the model says that they were made of, by onnxruntime alone, with a cache and without."""

import json
from pathlib import Path

import pytest

from leanpipe.core.errors import UserError
from leanpipe.engines.open_engine import open_engine, open_logits
from leanpipe.evaluation.perplexity import bits_per_byte, score_documents
from leanpipe.export.onnx_blocks import dequantize_blocks, quantize_blocks
from leanpipe.export.onnx_export import OnnxTypes, check_onnx, write_onnx_folder
from leanpipe.models.load import load_model, load_tokenizer
from leanpipe.models.offload import ONNX_DATA, ONNX_FILE, is_quantized, weight_files
from tests.evaluation.parity.test_false_alarms import other
from tests.support.tiny_models import tiny_llama, tiny_model, tiny_text, tiny_tokenizer

pytest.importorskip("onnxruntime")
TEXT = "The river rises in the hills to the north, and passes three small towns."


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    folder = tiny_model(tmp_path_factory.mktemp("onnx") / "source")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A model\n")
    return folder


@pytest.fixture(scope="module")
def folders(source, tmp_path_factory) -> dict[str, Path]:
    import torch

    root, tokenizer = tmp_path_factory.mktemp("forms"), load_tokenizer(source)
    for form in ("onnx", "onnx_int8", "onnx_int4"):
        write_onnx_folder(load_model(source, torch.float32), root / form, OnnxTypes(form), tokenizer)
    return {form.name: form for form in root.iterdir()}


def logits_of(model, tokens):
    import torch

    with torch.inference_mode():
        return model(input_ids=torch.tensor([tokens])).logits[0].float()


@pytest.mark.parametrize(
    "model",
    [tiny_llama, lambda: tiny_llama(tied=False), lambda: other("qwen2", 6), lambda: other("qwen3", 7), lambda: other("mistral", 8)],
    ids=["llama, tied", "llama, untied", "qwen2 with biases", "qwen3 with norms of heads", "mistral"],
)  # fmt: skip
def test_the_file_predicts_what_the_model_predicts(model, tmp_path):
    made, tokens = model(), tiny_tokenizer()(TEXT)["input_ids"]
    write_onnx_folder(made, tmp_path, OnnxTypes("onnx"), tiny_tokenizer())
    expected = logits_of(made, tokens)
    assert float((open_logits(tmp_path, 64)(tokens) - expected).norm() / expected.norm()) < 1e-5


def test_plain_onnxruntime_loads_it_and_reads_on_with_its_cache(source, folders):
    import numpy as np
    import onnxruntime
    import torch

    session = onnxruntime.InferenceSession(folders["onnx"] / ONNX_FILE)
    tokens = load_tokenizer(source)(TEXT)["input_ids"]
    past = {
        one.name: np.zeros((1, one.shape[1], 0, one.shape[3]), np.float32)
        for one in session.get_inputs()
        if "past" in one.name
    }
    said = []
    for first, last in ((0, 9), (9, len(tokens))):
        given = {"input_ids": np.array([tokens[first:last]]), "attention_mask": np.ones((1, last), np.int64)}
        logits, *present = session.run(None, given | past)
        past = dict(zip(past, present, strict=True))
        said.append(logits[0])
    expected = logits_of(load_model(source, torch.float32), tokens).numpy()
    assert np.abs(np.concatenate(said) - expected).max() < 1e-4


def test_fewer_bits_are_smaller_and_lose_little(source, folders):
    import torch

    tokenizer, texts = load_tokenizer(source), [text[:300] for text in tiny_text()[:4]]
    full = bits_per_byte(score_documents(load_model(source, torch.float32), tokenizer, texts, 0, 64))
    bits = {form: bits_per_byte(score_documents(open_logits(folder, 64), tokenizer, texts, 0, 64)) for form, folder in folders.items()}  # fmt: skip
    assert bits["onnx"] == pytest.approx(full, rel=1e-5)
    assert bits["onnx_int8"] == pytest.approx(full, rel=1e-3) and bits["onnx_int4"] == pytest.approx(
        full, rel=2e-2
    )
    sizes = [sum(file.stat().st_size for file in weight_files(folders[form])) for form in ("onnx", "onnx_int8", "onnx_int4")]  # fmt: skip
    assert sizes == sorted(sizes, reverse=True) and all(is_quantized(folder) for folder in folders.values())


def test_the_engine_answers_greedily_as_transformers_does_and_draws_the_same_by_the_same_seed(
    source, folders
):
    import torch

    model, tokenizer = load_model(source, torch.float32), load_tokenizer(source)
    tokens = tokenizer(TEXT)["input_ids"]
    wanted = model.generate(torch.tensor([tokens]), attention_mask=torch.ones(1, len(tokens), dtype=torch.long), do_sample=False, max_new_tokens=12)  # fmt: skip
    engine = open_engine(folders["onnx"], 512)
    asked = {"prompt": tokens, "max_tokens": 12, "temperature": 0.0}
    done = engine.complete(asked)
    assert done["choices"][0]["text"] == tokenizer.decode(wanted[0, len(tokens) :], skip_special_tokens=True)
    parts: list[str] = []
    engine.complete(asked, lambda part: bool(parts.append(part["choices"][0]["text"])))
    assert "".join(parts) == done["choices"][0]["text"] and len(parts) > 3
    assert done["usage"]["total_tokens"] == len(tokens) + done["usage"]["completion_tokens"]
    drawn = [engine.complete({**asked, "temperature": 1.5, "top_k": 50, "seed": seed})["choices"][0]["text"] for seed in (1, 1, 2)]  # fmt: skip
    assert drawn[0] == drawn[1] != drawn[2]
    for cut in ({"top_k": 1}, {"min_p": 1.0}):  # one token is left to draw from
        assert engine.complete({**asked, "temperature": 1.5, **cut})["choices"] == done["choices"]
    never = [[int(wanted[0, len(tokens)]), -100.0]]
    assert engine.complete({**asked, "logit_bias": never})["choices"][0]["text"] != done["choices"][0]["text"]
    stop = done["choices"][0]["text"][2:4]
    assert engine.complete({**asked, "stop": [stop]})["choices"][0]["finish_reason"] == "stop"


def test_the_file_says_what_it_was_made_of(source, folders):
    import onnx

    said = {one.key: one.value for one in onnx.load(folders["onnx_int4"] / ONNX_FILE, load_external_data=False).metadata_props}  # fmt: skip
    assert said["general.license"] == "apache-2.0" and len(said["leanpipe.source_sha256"]) == 64
    assert {"config.json", "generation_config.json", "tokenizer.json", ONNX_DATA} <= {file.name for file in folders["onnx_int4"].iterdir()}  # fmt: skip


@pytest.mark.parametrize(("bits", "bound"), [(8, 0.008), (4, 0.1)])
def test_blocks_lose_what_their_bits_can_tell(bits, bound):
    import numpy as np

    values = np.random.default_rng(0).normal(size=(8, 96)).astype(np.float32)
    values[0] = 0
    again = dequantize_blocks(quantize_blocks(values, bits), bits)
    assert np.linalg.norm(again - values) / np.linalg.norm(values) < bound and not again[0].any()


def test_what_the_graph_does_not_compute_is_refused_by_its_name(folders):
    with pytest.raises(UserError, match="type gpt2 cannot be written as ONNX"):
        check_onnx(other("gpt2", 0).config)
    config = tiny_llama().config
    config.hidden_act = "gelu"
    with pytest.raises(UserError, match="its activation is gelu"):
        check_onnx(config)
    with pytest.raises(UserError, match="an ONNX file, which onnxruntime serves"):
        load_model(folders["onnx"])


def test_a_file_without_its_weights_is_refused_in_a_sentence(folders, tmp_path):
    for name in ("config.json", ONNX_FILE):
        (tmp_path / name).write_bytes((folders["onnx"] / name).read_bytes())
    with pytest.raises(UserError, match=r"lacks model\.onnx\.data"):
        open_logits(tmp_path, 64)
    (tmp_path / ONNX_DATA).write_bytes(b"short")
    with pytest.raises(UserError, match="onnxruntime cannot load"):
        open_logits(tmp_path, 64)


def test_what_the_model_can_read_is_what_the_file_has_rotations_for(tmp_path):
    model = tiny_llama()
    model.config.max_position_embeddings = 100_000
    write_onnx_folder(model, tmp_path, OnnxTypes("onnx_int4"), tiny_tokenizer())
    assert json.loads((tmp_path / "config.json").read_text())["max_position_embeddings"] == 8_192
