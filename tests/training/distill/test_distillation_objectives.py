"""Hidden states and padded vocabularies in what a student learns from a teacher."""

import pytest
import torch

from leanpipe.training.distill.distillation_objectives import (
    Distillation,
    HiddenStateMatching,
    teacher_layers_followed,
)
from leanpipe.training.losses.divergences import DistillationLoss
from leanpipe.training.trainer.data import collate
from tests.support.tiny_models import tiny_llama
from tests.training.blocks import tiny_blocks


@pytest.fixture(scope="module")
def batch(tmp_path_factory):
    torch.set_num_threads(1)
    blocks = tiny_blocks(tmp_path_factory.mktemp("blocks"))
    return collate([blocks[0], blocks[1]])


def test_a_students_layer_follows_the_last_of_those_that_it_stands_for():
    assert teacher_layers_followed([0, 1, 4], 6) == [0, 3, 5]
    assert teacher_layers_followed([0, 1, 2], 3) == [0, 1, 2]


def test_hidden_states_of_the_same_model_are_not_apart(batch):
    hidden = HiddenStateMatching(2.0, [0, 1])
    sums = Distillation(tiny_llama(), DistillationLoss(), hidden=hidden)(tiny_llama(), batch)
    assert sums["hidden"].item() == pytest.approx(0, abs=1e-3)
    assert sums["loss"].item() == pytest.approx(0, abs=1e-2)


def test_hidden_states_are_compared_layer_by_layer_where_tokens_are_scored(batch):
    teacher, student, weight = tiny_llama(layers=3), tiny_llama(layers=2, seed=1), 0.7
    sums = Distillation(teacher, DistillationLoss(), hidden=HiddenStateMatching(weight, [1, 2]))(
        student, batch
    )
    with torch.no_grad():
        arguments = {
            "input_ids": batch["input_ids"],
            "position_ids": batch["position_ids"],
            "use_cache": False,
        }
        mine, theirs = (
            model.model(**arguments, output_hidden_states=True).hidden_states for model in (student, teacher)
        )
    scored = batch["labels"][:, 1:] != -100
    pairs = ((mine[1], theirs[2]), (mine[2], theirs[3]))
    apart = [1 - torch.cosine_similarity(a[:, :-1][scored], b[:, :-1][scored], dim=-1) for a, b in pairs]
    expected = float(sum(each.sum() for each in apart)) / 2
    assert sums["hidden"].item() == pytest.approx(expected, rel=1e-4)
    assert sums["loss"].item() == pytest.approx(sums["kl"].item() + weight * expected, rel=1e-4)


def test_training_brings_hidden_states_together(batch):
    teacher, student = tiny_llama(), tiny_llama(seed=1)
    objective = Distillation(teacher, DistillationLoss(), hidden=HiddenStateMatching(5.0, [0, 1]))
    optimizer, apart = torch.optim.AdamW(student.parameters(), lr=5e-3), []
    for _ in range(10):
        sums = objective(student, batch)
        apart.append(sums["hidden"].item())
        (sums["loss"] / 60).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert apart[-1] < 0.8 * apart[0]


def test_a_narrower_student_is_compared_with_the_entries_that_it_has(batch):
    teacher, entries = tiny_llama(), torch.arange(1, 64, 2)
    student = type(teacher)(type(teacher.config)(**{**teacher.config.to_dict(), "hidden_size": 32}))
    with_entries, without = (
        Distillation(teacher, DistillationLoss(), hidden=HiddenStateMatching(1.0, [0, 1], chosen))(
            student, batch
        )["hidden"]
        for chosen in (entries, None)
    )
    assert with_entries.item() != pytest.approx(without.item())


@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl", "jensen_shannon"])
def test_what_a_padded_teacher_says_of_tokens_that_do_not_exist_is_not_learnt(batch, kind):
    teacher, padded = tiny_llama(), tiny_llama()
    padded.resize_token_embeddings(576)
    with torch.no_grad():
        padded.get_output_embeddings().weight[512:] = 1.0
    for student in (tiny_llama(seed=1), tiny_llama(seed=1, vocabulary=576)):
        kl = [
            Distillation(each, DistillationLoss(divergence=kind), vocabulary=512)(student, batch)["kl"].item()
            for each in (teacher, padded)
        ]
        assert kl[0] == pytest.approx(kl[1], rel=1e-4)
