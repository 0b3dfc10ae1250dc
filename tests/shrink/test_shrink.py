"""Students of every class that can be cut: what is left is a plain model, and what did nothing went first."""

import json

import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    MixtralConfig,
    MixtralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from leanpipe.core import device
from leanpipe.core.errors import UserError
from leanpipe.core.estimate import Expected
from leanpipe.models.load import load_model, load_tokenizer, save_model
from leanpipe.shrink.shrink import ShrinkConfig, ShrinkInputs, check_shrink, shrink, student_config
from leanpipe.training.trainer.data import collate
from tests.support.tiny_models import tiny_llama, tiny_tokenizer
from tests.training.blocks import Recorder, tiny_blocks, write_blocks

SIZES = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 128,
    "eos_token_id": 2,
    "bos_token_id": 1,
    "pad_token_id": 2,
}
ALL = {"layers": 2, "mlp_channels": 64, "kv_groups": 1, "hidden_size": 32}
TEACHERS = {
    "llama": (lambda: tiny_llama(layers=4, tied=False), ALL),
    "qwen2": (
        lambda: Qwen2ForCausalLM(
            Qwen2Config(**{name: size for name, size in SIZES.items() if name != "head_dim"})
        ),
        ALL,
    ),
    "qwen3": (lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES)), ALL),
    "gemma3": (
        lambda: Gemma3ForCausalLM(Gemma3TextConfig(**SIZES)),
        {"layers": 2, "mlp_channels": 64, "kv_groups": 1},
    ),
    "gpt2": (
        lambda: GPT2LMHeadModel(GPT2Config(vocab_size=512, n_positions=128, n_embd=64, n_layer=4, n_head=4)),
        {"layers": 2, "mlp_channels": 128},
    ),
}


def teacher_folder(tmp_path, model):
    save_model(model, tiny_tokenizer(), tmp_path / "teacher", torch.float32)
    return tmp_path / "teacher"


def shrunk(tmp_path, model, vocabulary=512, **settings):
    torch.set_num_threads(1)
    out = tmp_path / "out"
    out.mkdir()
    inputs = ShrinkInputs(
        teacher_folder(tmp_path, model), write_blocks(tmp_path / "blocks", vocabulary=vocabulary)
    )
    return shrink.function(ShrinkConfig(**settings), inputs, out, Recorder()), out


@pytest.mark.parametrize("name", TEACHERS)
def test_a_student_is_a_smaller_model_of_the_teachers_class(tmp_path, name):
    made, shape = TEACHERS[name]
    teacher = made().eval()
    summary, out = shrunk(tmp_path, teacher, **shape)
    student = load_model(out, torch.float32)
    assert type(student) is type(teacher)
    assert sum(one.numel() for one in student.parameters()) == summary["parameters"]
    assert {name: summary[name] for name in shape} == shape
    told = json.loads((out / "shape.json").read_text())
    assert len(told["layers"]) == 2 and len(told["hidden"]) == summary["hidden_size"]
    assert "MLP channels" in (out / "report" / "shape.md").read_text()
    assert student(torch.tensor([[5, 6, 7]])).logits.isfinite().all()


@pytest.mark.parametrize("name", TEACHERS)
def test_what_does_nothing_can_go_without_a_change(tmp_path, name):
    """Two layers add nothing; of the others half of the channels and one group of heads do not reach the output."""
    made, shape = TEACHERS[name]
    teacher = made().eval()
    layers = teacher.transformer.h if name == "gpt2" else teacher.model.layers
    with torch.no_grad():
        for parameter in teacher.parameters():  # as exact as they are read
            parameter.copy_(parameter.to(device.compute_dtype()))
        for number, layer in enumerate(layers):
            last = layer.mlp.c_proj if name == "gpt2" else layer.mlp.down_proj
            out = layer.attn.c_proj if name == "gpt2" else layer.self_attn.o_proj
            if number in (1, 2):
                last.weight.zero_()
                out.weight.zero_()
            elif name == "gpt2":  # stored as (in, out); 256 channels, of which the first do nothing
                layer.mlp.c_fc.weight[:, :128] = 0
                last.weight[:128] = 0
            else:
                layer.mlp.up_proj.weight[1::2] = 0
                layer.self_attn.v_proj.weight[:16] = 0
                if name == "qwen2":
                    layer.self_attn.v_proj.bias[:16] = 0
    kept = {part: size for part, size in shape.items() if part != "hidden_size"}
    _, out = shrunk(tmp_path, teacher, **kept)
    assert json.loads((out / "shape.json").read_text())["layers"] == [0, 3]
    batch = collate([tiny_blocks(tmp_path / "blocks")[0]])["input_ids"]
    with torch.no_grad():
        torch.testing.assert_close(
            load_model(out, torch.float32)(batch).logits, teacher(batch).logits, rtol=1e-3, atol=1e-4
        )


@pytest.mark.parametrize(
    ("model", "asked", "sentence"),
    [
        (
            lambda: GPT2LMHeadModel(GPT2Config(vocab_size=512, n_embd=64, n_layer=2, n_head=4)),
            {"width": 0.5},
            "the hidden size of a gpt2 model cannot be cut, only layers, MLP channels can",
        ),
        (
            lambda: Gemma3ForCausalLM(Gemma3TextConfig(**SIZES)),
            {"hidden_size": 32},
            "the hidden size of a gemma3_text model cannot be cut, only layers, MLP channels, groups",
        ),
        (
            lambda: MixtralForCausalLM(MixtralConfig(**SIZES, num_local_experts=2)),
            {"layers": 2, "mlp_channels": 64},
            "the MLP channels of a mixtral model cannot be cut, only layers, groups of attention heads can",
        ),
        (
            lambda: BloomForCausalLM(BloomConfig(vocab_size=512, hidden_size=64, n_layer=2, n_head=4)),
            {"layers": 1, "mlp_channels": 64},
            "cannot be cut, only layers can",
        ),
    ],
    ids=["gpt2", "gemma", "mixtral", "bloom"],
)
def test_a_part_that_cannot_be_cut_is_refused_before_any_work(model, asked, sentence):
    known = {"teacher": Expected(facts={"model": model().config})}
    with pytest.raises(UserError, match=sentence) as refused:
        check_shrink(ShrinkConfig(**asked), known)
    assert "\n" not in str(refused.value)


def test_what_goes_is_layers_and_channels_or_layers_alone():
    """By default twelve of thirty; with cut=layers_and_channels half as many, and channels for the rest of the same size."""
    sizes = {"vocab_size": 31_552, "hidden_size": 576, "intermediate_size": 1_536, "num_hidden_layers": 30}
    heads = {"num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True}
    teacher = LlamaConfig(**sizes, **heads)
    both = student_config(ShrinkConfig(parameters=80_700_000, cut="layers_and_channels"), teacher)
    alone = student_config(ShrinkConfig(parameters=80_700_000), teacher)
    # 24 layers would have 960, which K-quants of GGUF cannot hold.
    assert (both.num_hidden_layers, both.intermediate_size) == (23, 1_024)
    assert alone.num_hidden_layers == 18 and 1_408 < alone.intermediate_size <= 1_536
    asked = student_config(ShrinkConfig(parameters=80_700_000, layers=20), teacher)
    assert asked.num_hidden_layers == 20 and 1_280 <= asked.intermediate_size < 1_408


def test_a_teacher_of_experts_gives_whole_layers():
    config = MixtralConfig(**SIZES, num_local_experts=2)
    check_shrink(ShrinkConfig(), {"teacher": Expected(facts={"model": config})})
    student = student_config(ShrinkConfig(), config)
    assert student.intermediate_size == 128 and student.num_hidden_layers < 4


def test_importance_that_is_no_number_is_refused_and_nothing_written(tmp_path):
    teacher = tiny_llama(layers=4)
    with torch.no_grad():
        teacher.model.layers[2].mlp.up_proj.weight[3, 4] = float("nan")
    with pytest.raises(UserError, match=r"came out as NaN or infinite.*fetch the teacher again"):
        shrunk(tmp_path, teacher)
    assert not list((tmp_path / "out").iterdir())


def test_a_student_of_another_vocabulary_is_cut_by_text_that_the_teacher_can_read(tmp_path):
    """Its importance is the same as if the blocks were of the teacher's tokens, but for where they are cut."""
    _, out = shrunk(tmp_path, tiny_llama(layers=4), vocabulary=400, layers=2, mlp_channels=128)
    assert load_model(out).config.vocab_size == 400 == len(load_tokenizer(out))


def test_the_same_settings_write_the_same_weights(tmp_path):
    files = []
    for number, name in enumerate("ab"):
        (tmp_path / name).mkdir()
        torch.manual_seed(number)
        _, out = shrunk(tmp_path / name, tiny_llama(layers=4), initialization="random")
        files.append((out / "model.safetensors").read_bytes())
    assert files[0] == files[1]
