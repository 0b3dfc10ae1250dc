"""What a student keeps of its teacher as it was: it does not learn, and a plan knows that it does not."""

import json

import pytest
import torch

from leanpipe.core.estimate import Expected
from leanpipe.models.load import load_model
from leanpipe.models.student import SHAPE, freeze, pass_on_shape
from leanpipe.shrink.low_rank import LowRankConfig, LowRankInputs, low_rank
from leanpipe.shrink.prune import PruneConfig, PruneInputs, prune
from leanpipe.shrink.shrink import ShrinkConfig, ShrinkInputs, estimate_shrink, shrink
from leanpipe.tokens.blocks import expected_blocks
from leanpipe.training.distill.distill import (
    DistillConfig,
    DistillInputs,
    distill,
    estimate_distill,
    with_recipe,
)
from tests.support.tiny_models import tiny_model
from tests.training.blocks import Recorder, write_blocks


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("teacher"), layers=4)


@pytest.fixture(scope="module")
def blocks(tmp_path_factory):
    return write_blocks(tmp_path_factory.mktemp("text") / "blocks")


def shrunk(teacher, blocks, out, **settings):
    out.mkdir()
    shrink.function(ShrinkConfig(**{"layers": 2} | settings), ShrinkInputs(teacher, blocks), out, Recorder())
    return out


def learned(begun, teacher, blocks, out, **settings):
    """The names of the weights that a short distillation changed."""
    out.mkdir()
    torch.set_num_threads(1)
    config = DistillConfig(
        **{"tokens": 512, "batch": 4, "learning_rate": 1e-2, "validation_tokens": 32, "kl_weight": 0}
        | settings
    )
    distill.function(config, DistillInputs(teacher, blocks, student=begun), out, Recorder())
    before, after = (dict(load_model(one, torch.float32).named_parameters()) for one in (begun, out))
    return {name for name, weight in after.items() if not torch.equal(weight, before[name])}


def test_what_was_not_cut_stays_the_teachers(tmp_path, teacher, blocks):
    begun = shrunk(teacher, blocks, tmp_path / "begun", keep="first_and_last")
    assert json.loads((begun / SHAPE).read_text())["intact"] == ["embeddings", "norms", "first_layer"]
    changed = learned(begun, teacher, blocks, tmp_path / "out")
    matrices = {
        name for name, one in load_model(begun).named_parameters() if one.ndim == 2 and "embed" not in name
    }
    assert changed == {name for name in matrices if ".layers.1." in name} and changed


def test_none_trains_every_weight(tmp_path, teacher, blocks):
    begun = shrunk(teacher, blocks, tmp_path / "begun", keep="first_and_last")
    changed = learned(begun, teacher, blocks, tmp_path / "out", frozen="none")
    assert changed == set(dict(load_model(begun).named_parameters()))


@pytest.mark.parametrize(
    ("shape", "intact"),
    [
        ({"mlp_channels": 128}, ["embeddings", "norms"]),
        ({"size": 1.0, "layers": 4}, ["embeddings", "norms"]),
        ({"hidden_size": 32}, []),
        ({"initialization": "random"}, []),
    ],
    ids=str,
)
def test_what_was_cut_learns(tmp_path, teacher, blocks, shape, intact):
    begun = shrunk(teacher, blocks, tmp_path / "begun", **shape)
    assert json.loads((begun / SHAPE).read_text())["intact"] == intact
    changed = learned(begun, teacher, blocks, tmp_path / "out")
    assert ("model.embed_tokens.weight" in changed) == (not intact)
    assert "model.layers.0.mlp.down_proj.weight" in changed


def test_a_vocabulary_of_its_own_learns(tmp_path, teacher):
    other = write_blocks(tmp_path / "blocks", vocabulary=400)
    begun = shrunk(teacher, other, tmp_path / "begun")
    assert "model.embed_tokens.weight" in learned(begun, teacher, other, tmp_path / "out")


def test_a_first_layer_with_zeros_or_factors_learns(tmp_path, teacher, blocks):
    begun = shrunk(teacher, blocks, tmp_path / "begun", keep="first_and_last")
    zeros, factors = tmp_path / "zeros", tmp_path / "factors"
    for folder in (zeros, factors):
        folder.mkdir()
    prune.function(
        PruneConfig(sparsity=0.5, method="magnitude"), PruneInputs(begun, blocks), zeros, Recorder()
    )
    low_rank.function(LowRankConfig(size=0.8), LowRankInputs(begun, blocks), factors, Recorder())
    for folder in (zeros, factors):
        assert json.loads((folder / SHAPE).read_text())["intact"] == ["embeddings", "norms"]
        changed = learned(folder, teacher, blocks, folder / "out")
        assert any(name.startswith("model.layers.0.") for name in changed)
        assert "model.embed_tokens.weight" not in changed


def test_a_model_that_is_no_student_passes_nothing_on(tmp_path, teacher):
    pass_on_shape(teacher, tmp_path)
    assert not (tmp_path / SHAPE).exists()


def test_tied_embeddings_are_counted_once(teacher):
    model = load_model(teacher, torch.float32)
    assert model.config.tie_word_embeddings
    assert freeze(model, ["embeddings"]) == model.get_input_embeddings().weight.numel()
    assert not model.get_output_embeddings().weight.requires_grad


def test_what_does_not_learn_leaves_room_for_a_higher_rate(tmp_path, teacher, blocks):
    begun, text = shrunk(teacher, blocks, tmp_path / "begun"), expected_blocks(blocks)
    rates = [
        with_recipe(DistillConfig(frozen=frozen), Expected(student), text).learning_rate
        for student, frozen in ((begun, "intact"), (begun, "none"), (teacher, "intact"))
    ]
    assert rates[0] > max(rates[1:])


def test_a_plan_knows_before_there_is_a_student(tmp_path, teacher, blocks):
    text = expected_blocks(blocks)
    planned = estimate_shrink(
        ShrinkConfig(layers=2), {"teacher": Expected(teacher), "blocks": text}, "cpu"
    ).result
    begun = shrunk(teacher, blocks, tmp_path / "begun")
    for student in (Expected(None, planned), Expected(begun)):
        inputs = {"teacher": Expected(teacher), "student": student, "blocks": text}
        config = DistillConfig(tokens=1_000)
        still, learning = (
            estimate_distill(config.model_copy(update={"frozen": one}), inputs, "cpu")
            for one in ("intact", "none")
        )
        embeddings = 512 * 64
        assert learning.parts["gradients"] - still.parts["gradients"] == 4 * embeddings
        assert learning.parts["optimiser"] - still.parts["optimiser"] == 8 * embeddings
        assert learning.parts["weights"] == still.parts["weights"]
        assert learning.work - still.work == 2 * embeddings * 1_000
        assert (still.repeated[0].what, learning.repeated[0].what) == ("train_layers", "train")
