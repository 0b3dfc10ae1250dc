"""The stage as a whole, on a tiny model, and the choice of its text."""

import json
import shutil

import pandas
import pytest

from leanpipe.core.errors import UserError
from leanpipe.core.report import Silent
from leanpipe.core.store import Store, external
from leanpipe.evaluation.evaluate import EvaluateConfig, EvaluateInputs, evaluate
from leanpipe.evaluation.held_out import held_out, text_digest
from leanpipe.processes.run_stage import run_stage
from tests.support.tiny_models import tiny_model, tiny_text

CONFIG = EvaluateConfig(
    text_bytes=2_000,
    document_bytes=500,
    context=64,
    prompts=("What is a list?", "And a tuple?"),
    max_new_tokens=5,
    prefill_tokens=16,
    decode_tokens=4,
    repeats=1,
    batch_sizes=(4,),
)


def write_documents(folder, texts):
    (folder / "test").mkdir(parents=True, exist_ok=True)
    table = pandas.DataFrame(
        {"id": [f"doc-{i}" for i in range(len(texts))], "text": texts, "source": "topics"}
    )
    table.to_parquet(folder / "test" / "00000.parquet")
    return folder


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    return write_documents(tmp_path_factory.mktemp("clean"), tiny_text()[:20])


@pytest.fixture(scope="module")
def result(tmp_path_factory, documents):
    out = tmp_path_factory.mktemp("out")
    model = tiny_model(tmp_path_factory.mktemp("model"))
    return out, evaluate.function(CONFIG, EvaluateInputs(model, documents), out, Silent())


def test_summary_has_every_figure(result):
    _, summary = result
    assert summary["held_out_bytes"] == 2_000
    assert summary["held_out_documents"] == 4
    assert 2 < summary["bits_per_byte"] < 9  # untrained: about 9 bits for each token of one to three bytes
    assert summary["bits_per_byte_error"] > 0
    # Embedding 512·64; per layer q 64², k and v 64·32, o 64², three of 64·128, two norms of 64; one norm at the end.
    assert summary["parameters"] == 512 * 64 + 2 * (2 * 64**2 + 2 * 64 * 32 + 3 * 64 * 128 + 2 * 64) + 64
    assert summary["size_bytes"] > 4 * summary["parameters"]
    for name in (
        "prefill_tokens_per_second",
        "decode_tokens_per_second",
        "first_token_seconds",
        "peak_memory_bytes",
        "load_seconds",
        *(f"batch_{size}_tokens_per_second" for size in CONFIG.batch_sizes),
        *(f"{sampling}_answer_tokens" for sampling in ("greedy", "top_p_0.9")),
    ):
        assert summary[name] > 0, name
    # What 95 of 100 are at least as fast as is no faster than what half of them are.
    assert 0 < summary["prefill_p95_tokens_per_second"] <= summary["prefill_tokens_per_second"]
    assert 0 < summary["decode_p95_tokens_per_second"] < 2 * summary["decode_tokens_per_second"]
    assert summary["first_token_p95_seconds"] >= summary["first_token_seconds"]


def test_files_hold_what_the_summary_sums_up(result):
    out, summary = result
    everything = json.loads((out / "evaluation.json").read_text())
    assert everything["summary"] == summary
    assert sum(one["bytes"] for one in everything["documents"]) == 2_000
    assert len(everything["speed"]["decode_seconds"]) == CONFIG.repeats
    assert len(everything["speed"]["token_seconds"]) == CONFIG.repeats * CONFIG.decode_tokens
    assert (out / "report" / "bits_per_byte.png").stat().st_size > 1_000


def test_every_prompt_is_answered(result):
    out, _ = result
    answers = [json.loads(line) for line in (out / "generations.jsonl").read_text().splitlines()]
    assert [one["prompt"] for one in answers] == 2 * list(CONFIG.prompts)
    assert [one["sampling"] for one in answers] == ["greedy"] * 2 + ["top_p_0.9"] * 2
    assert all(0 < one["tokens"] <= CONFIG.max_new_tokens for one in answers)
    assert any(one["text"] for one in answers)
    assert "### And a tuple?" in (out / "report" / "generations.md").read_text()


def test_quality_is_the_same_when_measured_again(result, documents, tmp_path):
    summary = result[1]
    again = evaluate.function(
        CONFIG, EvaluateInputs(tiny_model(tmp_path / "m"), documents), tmp_path, Silent()
    )
    for name in ("bits_per_byte", "perplexity", "held_out_digest", "weights_digest"):
        assert again[name] == summary[name], name


def test_a_model_that_was_evaluated_on_the_same_text_is_not_evaluated_again(documents, tmp_path):
    """Whatever it is called, wherever it lies, and whatever else is scored beside it."""
    store, model = Store(tmp_path / "store"), tiny_model(tmp_path / "model")

    def run(model, config=CONFIG, text=documents):
        inputs = {"model": external("model", model), "documents": external("documents", text)}
        return run_stage(evaluate, config, inputs, store, Silent())

    first = run(model)
    other_name = shutil.copytree(model, tmp_path / "another" / "name")
    same_text = shutil.copytree(documents, tmp_path / "same-text")
    again = run(other_name, CONFIG.model_copy(update={"stored_weights": True}), same_text)
    assert again.path == first.path and again.seconds == first.seconds
    other_text = write_documents(tmp_path / "other", tiny_text()[20:40])
    assert run(model, text=other_text).path != first.path
    assert len(list((store.root / "evaluate").iterdir())) == 2


def test_text_does_not_depend_on_the_order_of_rows_and_files(documents, tmp_path):
    table = pandas.read_parquet(documents / "test")
    (tmp_path / "test").mkdir()
    table.iloc[::-3].to_parquet(tmp_path / "test/00000.parquet")
    table.drop(table.index[::-3]).to_parquet(tmp_path / "test/00001.parquet")
    assert held_out(tmp_path, 5_000, 500) == held_out(documents, 5_000, 500)


def test_text_is_cut_to_the_budget_and_never_within_a_character(tmp_path):
    write_documents(tmp_path, ["€" * 100] * 10)
    passages = held_out(tmp_path, 200, 100)
    assert [passage.text for passage in passages] == ["€" * 33, "€" * 33]


def test_digest_names_text_and_windows(documents):
    passages = held_out(documents, 5_000, 500)
    digests = {
        text_digest(passages, 64, 64),
        text_digest(passages, 65, 64),
        text_digest(passages, 64, 32),
        text_digest(passages[1:], 64, 64),
    }
    assert len(digests) == 4


def test_missing_or_too_little_text_is_refused(tmp_path):
    with pytest.raises(UserError, match="test has no documents"):
        held_out(tmp_path, 1_000, 1_000)
    write_documents(tmp_path, ["a single document", "  "])
    with pytest.raises(UserError, match="holds 1 documents"):
        held_out(tmp_path, 1_000, 1_000)
