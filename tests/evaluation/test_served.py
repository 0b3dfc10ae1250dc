"""GGUF models in the stage `evaluate`: figures of every kind, near those of the model that they were made of."""

import json

import pytest
import torch

from leanpipe.compression.quantize import QuantizeConfig, QuantizeInputs, quantize
from leanpipe.core.report import Silent
from leanpipe.engines.gguf_logits import GgufLogits
from leanpipe.engines.llama_cpp import LlamaCpp
from leanpipe.evaluation.evaluate import EvaluateConfig, EvaluateInputs, evaluate
from leanpipe.models.load import load_model, load_tokenizer
from leanpipe.models.offload import GGUF_FILE
from leanpipe.tokens.text_tokens import encode_question
from tests.evaluation.test_evaluate import CONFIG, documents  # noqa: F401 - a fixture
from tests.support.tiny_models import tiny_model

FORMATS = ("q8_0", "q4_0")
MAY_BE_NOUGHT = ("repetition", "rate", "distinct_1", "distinct_2", "distinct_3")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def quantized(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("quantised")
    quantize.function(QuantizeConfig(formats=FORMATS), QuantizeInputs(source), out, Silent())
    return out


@pytest.fixture(scope="module")
def results(source, quantized, documents, tmp_path_factory):  # noqa: F811
    folders = {"full": source, **{form: quantized / form for form in FORMATS}}
    out = tmp_path_factory.mktemp("evaluations")
    found = {}
    for name, folder in folders.items():
        (out / name).mkdir()
        found[name] = evaluate.function(CONFIG, EvaluateInputs(folder, documents), out / name, Silent())
    return out, found


def test_a_gguf_model_has_every_figure_that_others_have(results):
    _, found = results
    for form in FORMATS:
        assert found[form].keys() == found["full"].keys()
        assert all(value for name, value in found[form].items() if not name.endswith(MAY_BE_NOUGHT))
        for name in ("parameters", "held_out_digest", "held_out_tokens"):
            assert found[form][name] == found["full"][name]
    digests = {summary["weights_digest"] for summary in found.values()}
    assert len(digests) == 3
    assert found["q4_0"]["size_bytes"] < found["q8_0"]["size_bytes"] < found["full"]["size_bytes"]


def test_its_bits_are_those_of_the_model_and_what_quantising_costs(results):
    """Random weights in 8 bits predict almost what they did; in 4 bits other tokens, and on the whole as well."""
    _, found = results
    full = found["full"]["bits_per_byte"]
    assert found["q8_0"]["bits_per_byte"] == pytest.approx(full, rel=1e-3)
    assert found["q4_0"]["bits_per_byte"] == pytest.approx(full, rel=2e-2)
    assert len({found[form]["bits_per_byte"] for form in found}) == 3


def test_it_is_measured_as_often_as_asked_and_answers_every_prompt(results):
    out, _ = results
    speed = json.loads((out / "q4_0" / "evaluation.json").read_text())["speed"]
    assert len(speed["decode_seconds"]) == len(speed["prefill_seconds"]) == CONFIG.repeats
    assert 0 < speed["prefill_tokens"] <= CONFIG.prefill_tokens
    answers = [json.loads(line) for line in (out / "q4_0" / "generations.jsonl").read_text().splitlines()]
    assert [one["prompt"] for one in answers] == 2 * list(CONFIG.prompts)
    assert {one["sampling"] for one in answers} == {"greedy", "top_p_0.9"}
    assert all(0 < one["tokens"] <= CONFIG.max_new_tokens for one in answers)


def test_what_is_scored_is_what_the_engine_serves(source, quantized):
    """The hidden states and the head give the probabilities that llama.cpp's own server reports, and its greedy text."""
    folder = quantized / "q4_0"
    tokens = encode_question(load_tokenizer(folder), "What is a list?")
    asked = {"prompt": tokens, "max_tokens": 6, "temperature": 0, "n_probs": 1}
    answer = LlamaCpp(folder / GGUF_FILE, 128).complete(asked)
    reported = answer["choices"][0]["logprobs"]["content"]
    logits = GgufLogits(folder, 128)
    for one in reported:
        predicted = torch.log_softmax(logits(tokens)[-1], -1)
        assert predicted.argmax() == one["id"]
        assert float(predicted.max()) == pytest.approx(one["logprob"], abs=2e-3)
        tokens = [*tokens, one["id"]]


def test_the_stored_weights_read_back_predict_what_the_engine_does(source, quantized):
    """Apart from the rounding of activations: transformers reads the file too, and turns its weights into floats."""
    from transformers import AutoModelForCausalLM

    folder = quantized / "q4_0"
    tokens = [number * 37 % 500 + 5 for number in range(64)]
    stored = AutoModelForCausalLM.from_pretrained(folder, gguf_file=GGUF_FILE, dtype=torch.float32).eval()
    with torch.inference_mode():
        expected = stored(torch.tensor([tokens])).logits[0]
        full = load_model(source, torch.float32)(torch.tensor([tokens])).logits[0]
    actual = GgufLogits(folder, 64)(tokens)
    rounding = (actual - expected).norm() / expected.norm()
    assert rounding < 0.03 < (actual - full).norm() / full.norm()


def test_a_context_shorter_than_a_document_is_enough(quantized, documents, tmp_path):  # noqa: F811
    config = EvaluateConfig.model_validate(CONFIG.model_dump() | {"context": 16})
    summary = evaluate.function(config, EvaluateInputs(quantized / "q8_0", documents), tmp_path, Silent())
    assert summary["held_out_bytes"] == CONFIG.text_bytes


def test_a_gguf_model_is_measured_by_the_engine_that_is_asked_for(quantized, documents, tmp_path, results):  # noqa: F811
    pytest.importorskip("openvino_genai")
    config = CONFIG.model_copy(update={"gguf_engine": "openvino"})
    found = evaluate.function(config, EvaluateInputs(quantized / "q8_0", documents), tmp_path, Silent())
    by_llama_cpp = results[1]["q8_0"]
    assert found.keys() == by_llama_cpp.keys()
    assert (found["engine"], by_llama_cpp["engine"]) == ("openvino", "llama.cpp")
    bits = found["bits_per_byte"], by_llama_cpp["bits_per_byte"]
    assert bits[0] != bits[1] and bits[0] == pytest.approx(bits[1], rel=1e-3)
