import gc
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from leanpipe.core import device
from leanpipe.core.errors import UserError
from leanpipe.core.report import Silent
from leanpipe.evaluation.evaluate import EvaluateConfig, EvaluateInputs, evaluate
from leanpipe.models.count import read_config
from leanpipe.models.load import check_tokenizer, load_for_inference, load_model, load_tokenizer, save_model
from leanpipe.models.offload import input_device, loaded_bytes, room
from leanpipe.planning.preflight import CheckConfig, CheckInputs, check
from leanpipe.training.distill.distill import DistillConfig, DistillInputs, distill
from tests.evaluation.test_evaluate import CONFIG, write_documents
from tests.support.tiny_models import student_from_teacher, tiny_llama, tiny_model, tiny_text, tiny_tokenizer
from tests.training.blocks import Recorder, write_blocks

TOKENS = torch.arange(5, 45)[None]
FOUR_LAYERS = 723_200
"""Bytes of the sharded model in float32: embedding 512 · 64, four layers of 36,992, a norm of 64."""
LIMITS = (1, 300_000, 500_000)
"""Bytes that hold nothing, the embedding and perhaps a layer, half of the layers."""


@pytest.fixture(scope="module")
def sharded(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("sharded")
    tiny_llama(4).save_pretrained(path, max_shard_size="100KB")
    tiny_tokenizer().save_pretrained(path)
    assert len(list(path.glob("*.safetensors"))) > 4
    return path


@pytest.fixture(autouse=True)
def full_precision(monkeypatch):
    """So that figures can be compared to the bit."""
    monkeypatch.setattr(device, "compute_dtype", lambda: torch.float32)


def logits(model, tokens=TOKENS):
    with torch.inference_mode():
        return model(tokens.to(input_device(model)), use_cache=False).logits


# Where there is a card, what does not fit lies in the host's memory first.
on_a_processor = pytest.mark.skipif(
    device.name() != "cpu", reason="a card's weights go to the host's memory, not to disk"
)


@on_a_processor
@pytest.mark.parametrize("limit", LIMITS)
def test_a_model_that_does_not_fit_gives_the_same_logits_from_disk(sharded, limit):
    model = load_for_inference(sharded, limit / 10**9)
    assert "disk" in model.hf_device_map.values()
    on_disk = [name for name, weight in model.named_parameters() if weight.is_meta]
    assert len(on_disk) > 9 and any(name.startswith("model.layers.3") for name in on_disk)
    assert torch.equal(logits(model), logits(load_model(sharded)))


def test_a_model_that_fits_is_whole(sharded):
    model = load_for_inference(sharded, FOUR_LAYERS / 10**9)
    assert not any(weight.is_meta for weight in model.parameters())


@pytest.mark.gpu
@pytest.mark.skipif(device.name() != "cuda", reason="there is no CUDA GPU here")
def test_a_model_larger_than_the_card_may_hold_gives_the_same_logits_from_the_hosts_memory(sharded):
    model, whole = load_for_inference(sharded, LIMITS[-1] / 10**9), load_model(sharded)
    assert {0, "cpu"} <= set(model.hf_device_map.values())
    torch.testing.assert_close(logits(model), logits(whole))
    with pytest.raises(UserError, match="do not hold the embeddings and one layer"):
        load_for_inference(sharded, 1 / 10**9)


@on_a_processor
def test_what_is_free_decides_where_nothing_is_said(sharded, monkeypatch):
    monkeypatch.setattr(device, "free_memory", lambda: 600_000)
    assert any(weight.is_meta for weight in load_for_inference(sharded).parameters())
    assert room(0, spare=100_000) == 450_000
    with pytest.raises(UserError, match=r"take 0.00 GB and cpu has 0.00 GB free: a model that is trained"):
        load_model(sharded)
    monkeypatch.setattr(device, "free_memory", lambda: 10**9)
    assert not any(weight.is_meta for weight in load_for_inference(sharded).parameters())
    assert any(weight.is_meta for weight in load_for_inference(sharded, spare=10**9).parameters())


@pytest.mark.parametrize(("stored", "loaded"), [("float32", "bfloat16"), ("bfloat16", "float32")])
def test_the_size_of_a_model_is_known_before_it_is_loaded(tmp_path, stored, loaded):
    save_model(tiny_llama(4), tiny_tokenizer(), tmp_path, getattr(torch, stored))
    wanted = getattr(torch, loaded)
    model = load_model(tmp_path, wanted)
    assert loaded_bytes(tmp_path, wanted) == sum(one.nbytes for one in model.parameters())
    assert loaded_bytes(tmp_path, torch.float32) == FOUR_LAYERS


@on_a_processor
def test_the_folder_for_what_is_written_goes_with_the_model(tmp_path, sharded, monkeypatch):
    """Weights that are not in safetensors files must be written before they can be read one by one."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    source = tmp_path / "torch"
    source.mkdir()
    whole = load_model(sharded)
    whole.config.save_pretrained(source)
    torch.save(whole.state_dict(), source / "pytorch_model.bin")
    model = load_for_inference(source, 300_000 / 10**9)
    (folder,) = tmp_path.glob("leanpipe-offload-*")
    assert any(folder.iterdir())
    assert torch.equal(logits(model), logits(whole))
    del model
    gc.collect()
    assert not folder.exists()


def test_a_student_is_made_of_layers_that_are_on_disk(sharded):
    offloaded, whole = load_for_inference(sharded, LIMITS[1] / 10**9), load_model(sharded)
    kept = [0, 3]
    ours, theirs = (student_from_teacher(one, kept).state_dict() for one in (offloaded, whole))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@on_a_processor
def test_a_student_learns_the_same_from_a_teacher_on_disk(tmp_path, sharded):
    blocks = write_blocks(tmp_path / "blocks")
    written = []
    for memory in (0, LIMITS[1] / 10**9):
        out = tmp_path / str(memory)
        out.mkdir()
        config = DistillConfig(
            tokens=4 * 128,
            batch=2,
            micro_batch=2,
            validation_tokens=128,
            precision="fp32",
            teacher_logprobs="online",
            teacher_memory=memory,
            kl_weight=0.9,
        )
        distill.function(config, DistillInputs(sharded, blocks), out, Recorder())
        written.append(load_file(out / "model.safetensors"))
    for name, weight in written[0].items():
        torch.testing.assert_close(weight, written[1][name], rtol=0.01, atol=1e-4)
    keys = {
        distill.key(DistillConfig(teacher_memory=memory), {}) for memory in (0, 2.5)
    }  # and so it is the same result
    assert len(keys) == 1


def test_a_model_on_disk_is_evaluated_as_if_it_fitted(tmp_path, sharded):
    documents = write_documents(tmp_path / "clean", tiny_text()[:20])
    found = {}
    for memory in (0, LIMITS[1] / 10**9):
        out = tmp_path / str(memory)
        out.mkdir()
        config = EvaluateConfig(**{**CONFIG.model_dump(), "model_memory": memory})
        summary = evaluate.function(config, EvaluateInputs(sharded, documents), out, Silent())
        found[memory] = (summary["perplexity"], (out / "generations.jsonl").read_text())
    assert len(set(found.values())) == 1


LOAD = """
import sys, torch
from pathlib import Path
from leanpipe.core import device
from leanpipe.models.load import load_model
load_model(Path(sys.argv[2]))
device.reset_peak_memory()
before = device.peak_memory()
model = load_model(Path(sys.argv[1]), torch.float32)
total = sum(float(weight.sum()) for weight in model.parameters())
print(device.peak_memory() - before)
"""


@on_a_processor
def test_shards_are_read_one_by_one_into_the_only_copy(tmp_path):
    """Every weight is read; a state dict that was read first and copied then would take twice the size."""
    from transformers import LlamaConfig, LlamaForCausalLM

    large, small = tmp_path / "large", tiny_model(tmp_path / "small")
    config = LlamaConfig(
        vocab_size=4096, hidden_size=1024, intermediate_size=2048, num_hidden_layers=4, num_attention_heads=8
    )
    LlamaForCausalLM(config).save_pretrained(large, max_shard_size="40MB")
    shards = list(large.glob("*.safetensors"))
    size = sum(shard.stat().st_size for shard in shards)
    assert len(shards) > 4 and size > 150_000_000
    run = subprocess.run(
        [sys.executable, "-c", LOAD, large, small], capture_output=True, text=True, check=True
    )
    assert size < int(run.stdout) < 1.3 * size


def own_code(path: Path, file: str, entry: dict) -> Path:
    """Give the folder code that leaves a trace if it is ever run."""
    (path / "code.py").write_text(f"open({str(path / 'it-ran')!r}, 'w')\n")
    settings = json.loads((path / file).read_text())
    (path / file).write_text(json.dumps(settings | entry))
    return path


def test_code_that_comes_with_a_model_is_refused_and_not_run(tmp_path):
    path = own_code(
        tiny_model(tmp_path),
        "config.json",
        {
            "model_type": "unheard-of",
            "auto_map": {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"},
        },
    )
    for load in (read_config, load_model, load_for_inference):
        with pytest.raises(UserError, match=r"without running the Python code that came with it") as refusal:
            load(path)
        assert str(refusal.value).count("\n") == 0
    assert not (path / "it-ran").exists()


def test_code_that_comes_with_a_tokenizer_is_refused_and_not_run(tmp_path):
    entry = {"tokenizer_class": "Unheard", "auto_map": {"AutoTokenizer": ["code.Unheard", None]}}
    path = own_code(tiny_model(tmp_path), "tokenizer_config.json", entry)
    (path / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"without running the Python code that came with it"):
        load_tokenizer(path)
    assert not (path / "it-ran").exists()


def test_an_architecture_that_transformers_has_is_loaded_without_the_code_beside_it(tmp_path):
    whole = logits(load_model(tiny_model(tmp_path)))
    path = own_code(tmp_path, "config.json", {"auto_map": {"AutoModelForCausalLM": "code.Model"}})
    assert torch.equal(logits(load_model(path)), whole)
    assert not (path / "it-ran").exists()


def test_tokenizer_and_chat_template_travel_with_the_model(tmp_path, sharded):
    messages = [{"role": "user", "content": "What is a list?"}]
    first = load_tokenizer(sharded)
    save_model(load_model(sharded), first, tmp_path / "copy")
    second = load_tokenizer(tmp_path / "copy")
    assert second.get_vocab() == first.get_vocab() == tiny_tokenizer().get_vocab()
    for tokenizer in (first, second):
        written = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert written == tiny_tokenizer().apply_chat_template(
            messages, add_generation_prompt=True, return_dict=False
        )


def test_a_model_and_its_own_tokenizer_are_a_pair(tmp_path):
    check_tokenizer(tiny_model(tmp_path))


def test_a_tokenizer_with_more_tokens_than_the_model_has_rows_is_refused(tmp_path):
    folder = tiny_model(tmp_path)
    tokenizer = load_tokenizer(folder)
    tokenizer.add_tokens([f"<new_{number}>" for number in range(500)])
    tokenizer.save_pretrained(folder)
    with pytest.raises(UserError, match=r"has 1,012 tokens, and the model's embeddings have \d+ rows"):
        check_tokenizer(folder)


def test_a_tokenizer_without_an_end_of_text_is_refused(tmp_path):
    folder = tiny_model(tmp_path)
    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_text())
    for name in ("eos_token", "pad_token"):
        config.pop(name, None)
    file.write_text(json.dumps(config))
    with pytest.raises(UserError, match="names no end of text: put eos_token"):
        check_tokenizer(folder)


def test_every_flow_refuses_such_a_model_before_any_work(tmp_path):
    folder = tiny_model(tmp_path / "model")
    tokenizer = load_tokenizer(folder)
    tokenizer.add_tokens([f"<new_{number}>" for number in range(500)])
    tokenizer.save_pretrained(folder)
    inputs = CheckInputs(models=(folder,))
    with pytest.raises(UserError, match="embeddings have"):
        check.function(CheckConfig(device=device.name(), steps=()), inputs, tmp_path / "out", Silent())
