import pytest
import torch

from leanpipe.core.errors import UserError
from leanpipe.models.count import count_parameters, empty_model, with_layers
from leanpipe.models.student import change_vocabulary, evenly_spaced, first_and_last, layer_list_name
from tests.support.tiny_models import student_from_teacher, tiny_llama, tiny_tokenizer


@pytest.mark.parametrize(
    ("layers", "kept", "indices"),
    [
        (4, 4, [0, 1, 2, 3]),
        (5, 3, [0, 2, 4]),
        (9, 5, [0, 2, 4, 6, 8]),
        (10, 4, [0, 3, 6, 9]),
        (30, 2, [0, 29]),
        (7, 1, [0]),
    ],
)
def test_layers_are_evenly_spaced_with_first_and_last(layers, kept, indices):
    assert evenly_spaced(layers, kept) == indices


def test_every_choice_of_layers_rises_from_first_to_last():
    for layers in range(2, 40):
        for kept in range(2, layers + 1):
            chosen = evenly_spaced(layers, kept)
            assert chosen == sorted(set(chosen)) and len(chosen) == kept
            assert (chosen[0], chosen[-1]) == (0, layers - 1)


@pytest.mark.parametrize(
    ("layers", "kept", "indices"),
    [
        (30, 15, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 25, 26, 27, 28, 29]),
        (10, 3, [0, 1, 9]),
        (10, 2, [0, 1]),
        (10, 1, [0]),
        (4, 4, [0, 1, 2, 3]),
    ],
)
def test_two_thirds_are_the_first_layers_one_third_the_last(layers, kept, indices):
    assert first_and_last(layers, kept) == indices


def test_a_student_has_the_teachers_layers_0_2_4():
    teacher = tiny_llama(layers=5)
    student = student_from_teacher(teacher, [0, 2, 4])
    for new, old in enumerate((0, 2, 4)):
        for mine, theirs in zip(
            student.model.layers[new].parameters(), teacher.model.layers[old].parameters(), strict=True
        ):
            assert torch.equal(mine, theirs)
    assert torch.equal(student.lm_head.weight, teacher.lm_head.weight)
    assert student.lm_head.weight is student.model.embed_tokens.weight
    assert [layer.self_attn.layer_idx for layer in student.model.layers] == [0, 1, 2]


def test_all_layers_give_the_teacher_itself():
    teacher, tokens = tiny_llama(layers=3), torch.tensor([[5, 6, 7]])
    student = student_from_teacher(teacher, [0, 1, 2]).eval()
    assert torch.equal(student(tokens).logits, teacher(tokens).logits)


def test_gpt2_gives_layers_too():
    from transformers import GPT2Config, GPT2LMHeadModel

    teacher = GPT2LMHeadModel(GPT2Config(vocab_size=32, n_positions=16, n_embd=8, n_layer=5, n_head=2))
    student = student_from_teacher(teacher, [0, 2, 4])
    assert torch.equal(student.transformer.h[1].mlp.c_fc.weight, teacher.transformer.h[2].mlp.c_fc.weight)
    assert torch.equal(student.transformer.wpe.weight, teacher.transformer.wpe.weight)


def test_layers_that_lie_in_no_list_are_refused():
    teacher = tiny_llama(layers=3)
    teacher.config.num_hidden_layers = 4
    with pytest.raises(UserError, match="layers cannot be taken from a llama model"):
        layer_list_name(teacher)


def test_parameters_are_counted_by_hand():
    """Embeddings 512 x 64, tied; attention 2 x 64 x 64 + 2 x 64 x 32; MLP 3 x 64 x 128; norms 64."""
    layer = 2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128 + 2 * 64
    assert count_parameters(empty_model(tiny_llama(layers=3).config)) == 512 * 64 + 3 * layer + 64


def test_a_list_of_layer_types_is_cut_with_the_layers():
    config = tiny_llama(layers=4).config
    config.layer_types = ["a", "b", "c", "d"]
    assert with_layers(config, [0, 3]).layer_types == ["a", "d"]


def test_a_new_vocabulary_keeps_the_vectors_of_shared_tokens():
    model, old, new = tiny_llama(), tiny_tokenizer(512), tiny_tokenizer(400)
    before = model.get_input_embeddings().weight.detach().clone()
    token = "Ġthe"
    change_vocabulary(model, old, new)
    after = model.get_input_embeddings().weight
    assert after.shape == (400, 64) and model.config.vocab_size == 400
    assert torch.equal(after[new.get_vocab()[token]], before[old.get_vocab()[token]])
    assert model.get_output_embeddings().weight is after
    assert model(torch.tensor([[399]])).logits.shape == (1, 1, 400)
