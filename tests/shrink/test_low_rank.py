"""Matrices as two factors: better than plain SVD where it counts, exact where nothing is left out, and loaded as any model is."""

import json
import socket
import urllib.request

import pytest
import torch
from pydantic import ValidationError
from transformers import (
    AutoModelForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from flows.shrink import Prepared, as_saved, student_of
from leanpipe.compression.gguf_architectures import check_architecture
from leanpipe.core.errors import UserError
from leanpipe.core.estimate import Expected
from leanpipe.core.report import Silent
from leanpipe.core.store import Store, external
from leanpipe.models.count import parameters_of, read_config
from leanpipe.models.load import load_model, load_tokenizer, save_model, weight_bytes
from leanpipe.planning.steps import present
from leanpipe.processes.run_stage import run_stage
from leanpipe.serving.serve import MODEL_NAME, running_server
from leanpipe.settings.flows import PipelineConfig, ShrinkSettings
from leanpipe.shrink.covariance import covariances, factors, output_directions
from leanpipe.shrink.low_rank import LowRankConfig, LowRankInputs, check_low_rank, low_rank
from leanpipe.shrink.multiply_out import MultiplyOutConfig, MultiplyOutInputs, multiply_out
from leanpipe.shrink.prune import PruneConfig
from leanpipe.shrink.ranks import Product, choose_ranks, even_ranks, products_of
from leanpipe.training.distill.distill import DistillConfig, DistillInputs, distill
from tests.shrink.test_shrink import SIZES
from tests.support.tiny_models import tiny_llama, tiny_model, tiny_tokenizer
from tests.training.blocks import Recorder, tiny_blocks, write_blocks

TWO = {**SIZES, "num_hidden_layers": 2}
MODELS = {
    "llama": tiny_llama,
    "mistral": lambda: MistralForCausalLM(MistralConfig(**TWO)),
    "qwen2": lambda: Qwen2ForCausalLM(
        Qwen2Config(**{name: size for name, size in TWO.items() if name != "head_dim"})
    ),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**TWO)),
    "gemma3": lambda: Gemma3ForCausalLM(Gemma3TextConfig(**TWO)),
}


def factored(tmp_path, model=None, **settings):
    torch.set_num_threads(1)
    out, folder = tmp_path / "factored", tmp_path / "model"
    out.mkdir()
    save_model(model or tiny_llama(), tiny_tokenizer(), folder, torch.float32)
    blocks = write_blocks(tmp_path / "blocks")
    summary = low_rank.function(LowRankConfig(**settings), LowRankInputs(folder, blocks), out, Recorder())
    return summary, out, blocks


@pytest.mark.parametrize("name", MODELS)
def test_factors_meet_their_budget_and_load_as_any_model(tmp_path, name):
    """Grouped queries, norms of heads and biases are no obstacle, and multiplied out it is a plain model that computes the same."""
    model = MODELS[name]()
    summary, out, _ = factored(tmp_path, model, size=0.8)
    whole = sum(one.numel() for one in model.parameters())
    assert 0.75 * whole < summary["parameters"] <= 0.8 * whole
    assert weight_bytes(out) < 0.81 * weight_bytes(tmp_path / "model")
    made = load_model(out, torch.float32)
    assert sum(one.numel() for one in made.parameters()) == summary["parameters"]
    assert parameters_of(read_config(out)) == summary["parameters"]
    assert load_tokenizer(out).get_vocab() == tiny_tokenizer().get_vocab()
    plain = tmp_path / "plain"
    plain.mkdir()
    multiply_out.function(MultiplyOutConfig(), MultiplyOutInputs(out), plain, Recorder())
    again = AutoModelForCausalLM.from_pretrained(plain, dtype=torch.float32).eval()
    assert type(again) is type(model) and read_config(plain).model_type == model.config.model_type
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        torch.testing.assert_close(again(ids).logits, made(ids).logits, rtol=1e-4, atol=1e-5)
    assert weight_bytes(plain) == weight_bytes(tmp_path / "model")
    page = (out / "report" / "low_rank.md").read_text()
    assert "leanpipe alone loads it" in page and "k_proj" in page


def _lost(weight_OI, made_OI, covariance_II):
    """Mean square of what the output lacks, as a share of its own."""
    apart = made_OI - weight_OI
    return float(
        torch.einsum("oi,ij,oj", apart, covariance_II, apart)
        / torch.einsum("oi,ij,oj", weight_OI, covariance_II, weight_OI)
    )


def test_what_text_carries_is_kept_better_than_by_plain_svd(tmp_path):
    """On real activations, of every product; and at full rank nothing is lost by either."""
    model, blocks = tiny_llama(), tiny_blocks(tmp_path)
    names = [one.name for one in products_of(model)]
    assert len(names) == 14
    text = [blocks[index] for index in range(8)]
    for name, covariance_II in covariances(model, names, text):
        weight_OI = model.get_submodule(name).weight.detach().double()
        directions_OK, squares_K = output_directions(weight_OI, covariance_II)
        up_OR, down_RI = (one.double() for one in factors(weight_OI, directions_OK, 16))
        ours = _lost(weight_OI, up_OR @ down_RI, covariance_II)
        left, sizes, right = torch.linalg.svd(weight_OI, full_matrices=False)
        plain = _lost(weight_OI, (left[:, :16] * sizes[:16]) @ right[:16], covariance_II)
        assert ours < 0.9 * plain, name
        assert ours == pytest.approx(float(squares_K[16:].sum() / squares_K.sum()), rel=1e-3)
        up_OR, down_RI = factors(weight_OI, directions_OK, min(weight_OI.shape))
        torch.testing.assert_close((up_OR @ down_RI).double(), weight_OI, rtol=1e-4, atol=1e-6)


def test_a_covariance_is_that_of_the_inputs(tmp_path):
    """Of the first layer's queries by hand: normed embeddings; keys and values read the same, the MLP's last product does not."""
    model, blocks = tiny_llama(layers=1), tiny_blocks(tmp_path)
    text = [blocks[0], blocks[1]]
    found = dict(covariances(model, [one.name for one in products_of(model)], text))
    first = model.model.layers[0]
    ids = torch.cat([torch.as_tensor(block["input_ids"]) for block in text])
    with torch.no_grad():
        rows = first.input_layernorm(model.model.embed_tokens(ids)).double()
    torch.testing.assert_close(
        found["model.layers.0.self_attn.q_proj"], rows.T @ rows / len(ids), rtol=1e-4, atol=1e-6
    )
    assert torch.equal(found["model.layers.0.self_attn.q_proj"], found["model.layers.0.self_attn.v_proj"])
    assert found["model.layers.0.mlp.down_proj"].shape == (128, 128)


def test_ranks_go_where_they_gain_most_and_never_cost_more_than_the_matrix():
    spread, steep = Product("spread", 64, 64), Product("steep", 64, 64)
    squares = {"spread": [1.0] * 64, "steep": [100.0] * 8 + [1e-3] * 56}
    ranks = choose_ranks([spread, steep], squares, [1.0], 32 * 128)
    assert ranks == {"spread": 24, "steep": 8}
    assert choose_ranks([spread, steep], squares, [1.0], 64 * 64 + 8 * 128) == {
        "steep": 8
    }  # the other stays whole
    assert spread.most == 24 and even_ranks([spread, steep], 32 * 128) == {"spread": 16, "steep": 16}
    shared = [Product("k", 64, 64, readers=4), Product("q", 64, 64)]
    same = dict.fromkeys("kq", [1.0] * 64)
    assert choose_ranks(shared, same, [1.0], 24 * 128) == {"k": 16, "q": 8}
    layers = [Product("k", 64, 64, layer=0), Product("q", 64, 64, layer=1)]
    assert choose_ranks(layers, same, [0.1, 0.4], 24 * 128) == {"k": 8, "q": 16}


def test_factors_learn_and_stay_factors(tmp_path):
    """Distillation trains the factors themselves; what it saves is of the same ranks, and is better than before."""
    _, begun, blocks = factored(tmp_path, size=0.75)
    out = tmp_path / "learned"
    out.mkdir()
    config = DistillConfig(tokens=512, batch=4, kl_weight=0, learning_rate=1e-2, validation_tokens=128)
    teacher = tmp_path / "model"
    summary = distill.function(config, DistillInputs(teacher, blocks, student=begun), out, Recorder())
    assert summary["bits_per_byte"] < summary["initial_bits_per_byte"]
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (begun, out))
    assert after["ranks"] == before["ranks"] and after["model_type"] == "low_rank_llama"
    name = "model.layers.0.mlp.up_proj.down.weight"
    first, last = (load_model(folder, torch.float32).state_dict()[name] for folder in (begun, out))
    assert not torch.equal(first, last)


def test_factors_are_served(tmp_path):
    """By the server of `leanpipe serve`, which loads no code that comes with a model: the same text as the model itself writes."""
    _, out, _ = factored(tmp_path, size=0.8)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    asked = {"model": MODEL_NAME, "prompt": "The", "max_tokens": 4, "temperature": 0}
    with running_server(out, port=port) as (url, _):
        request = urllib.request.Request(f"{url}/v1/completions", json.dumps(asked).encode(), method="POST")
        with urllib.request.urlopen(request, timeout=120) as answer:
            told = json.loads(answer.read())["choices"][0]["text"]
    model, tokenizer = load_model(out), load_tokenizer(out)
    ids = torch.tensor([tokenizer.encode("The")], device=model.device)
    own = model.generate(ids, max_new_tokens=4, do_sample=False)[0, ids.shape[1] :]
    assert told == tokenizer.decode(own, skip_special_tokens=True)


class Here:
    """Runs stages as flows do, in this process."""

    def __init__(self, root):
        self.store, self.ran = Store(root), []

    def stage(self, stage, config, *, label=None, **inputs):
        self.ran.append(stage.name)
        return run_stage(stage, config, present(inputs), self.store, Silent())


def test_a_dense_student_is_multiplied_out_after_it_was_factored(tmp_path):
    """`low_rank.saved` decides nothing of the factors themselves: both find the same ones in the store."""
    teacher = tiny_model(tmp_path / "teacher", layers=4)
    prepared = Prepared(
        None, external("teacher", teacher), external("tokenize", write_blocks(tmp_path / "blocks"))
    )
    run, made = Here(tmp_path / "store"), {}
    for saved in ("factored", "dense"):
        config = ShrinkSettings(low_rank=LowRankConfig(size=0.8, saved=saved))
        made[saved] = as_saved(run, config, student_of(run, config, prepared))
    assert run.ran == ["shrink", "low_rank", "shrink", "low_rank", "multiply_out"]
    types = [read_config(made[saved].path).model_type for saved in ("factored", "dense")]
    assert types == ["low_rank_llama", "llama"]
    assert len(list(run.store.manifests("low_rank"))) == 1
    assert (made["dense"].path / "shape.json").exists()


@pytest.mark.parametrize(
    ("model", "asked", "sentence"),
    [
        (tiny_llama, {"parameters": 10**6}, "factors would be larger than the matrices that they replace"),
        (tiny_llama, {"size": 0.3}, r"no ranks bring this llama model to .*set low_rank\.size=0\.464 or"),
        (
            lambda: GPT2LMHeadModel(GPT2Config(vocab_size=512, n_embd=64, n_layer=2, n_head=4)),
            {"size": 0.8},
            "the products of a gpt2 model cannot be replaced by factors of low rank, only those of llama, mistral",
        ),
    ],
    ids=["larger", "smaller", "class"],
)
def test_what_cannot_be_is_said_before_any_work(model, asked, sentence):
    known = {"model": Expected(facts={"model": model().config})}
    with pytest.raises(UserError, match=sentence) as refused:
        check_low_rank(LowRankConfig(**asked), known)
    assert "\n" not in str(refused.value)


def test_inputs_must_be_numbers(tmp_path):
    model = tiny_llama()
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = float("nan")
    with pytest.raises(UserError, match="are damaged"):
        factored(tmp_path, model, size=0.8)
    names = [one.name for one in products_of(model)]
    with pytest.raises(UserError, match="came out as NaN or infinite"):
        dict(covariances(model, names, [tiny_blocks(tmp_path / "text")[0]]))
    assert not list((tmp_path / "factored").iterdir())


def test_engines_that_cannot_load_factors_are_named_before_any_work(tmp_path):
    _, out, _ = factored(tmp_path, size=0.8)
    with pytest.raises(UserError, match=r"low_rank_llama cannot be written as GGUF.*low_rank\.saved=dense"):
        check_architecture(read_config(out))
    with pytest.raises(ValidationError, match=r"leanpipe alone loads.*set low_rank\.saved=dense"):
        PipelineConfig(low_rank=LowRankConfig(size=0.8))
    assert PipelineConfig(low_rank=LowRankConfig(size=0.8, saved="dense"))
    with pytest.raises(ValidationError, match="factors of a matrix have none of its zeros"):
        ShrinkSettings(low_rank=LowRankConfig(size=0.8), prune=PruneConfig(sparsity=0.5))
