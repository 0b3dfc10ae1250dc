"""Layers left out one after the other, by what the teacher's predictions lose, on tiny models of several families."""

import pytest
import torch

from leanpipe.core.errors import UserError
from leanpipe.models.count import with_layers
from leanpipe.models.student import kept_names, layer_list_name, random_student
from leanpipe.shrink.greedy_layers import least_divergent, only_layers, readings
from tests.shrink.test_narrow import silence
from tests.shrink.test_shrink import TEACHERS, shrunk
from tests.support.tiny_models import tiny_llama
from tests.training.blocks import tiny_blocks


@pytest.fixture(scope="module")
def blocks(tmp_path_factory):
    torch.set_num_threads(1)
    found = tiny_blocks(tmp_path_factory.mktemp("blocks"))
    return [found[index] for index in range(3)]


def logits(model, block):
    with torch.no_grad():
        return model(
            input_ids=block["input_ids"][None], position_ids=block["position_ids"][None], use_cache=False
        ).logits[0]


def without(model, layer: int):
    """A model of its own that never had the layer."""
    kept = [index for index in range(model.config.num_hidden_layers) if index != layer]
    cut = random_student(with_layers(model.config, kept))
    names = kept_names(model.state_dict(), layer_list_name(model), kept)
    cut.load_state_dict({name: model.state_dict()[old] for name, old in names.items()})
    return cut.eval()


@pytest.mark.parametrize("family", sorted(TEACHERS))
def test_some_layers_alone_are_the_model_that_has_only_these(family, blocks):
    torch.manual_seed(0)
    model = TEACHERS[family][0]().eval()
    before, cut = logits(model, blocks[0]), logits(without(model, 1), blocks[0])
    with only_layers(model, layer_list_name(model), [0, 2, 3]):
        assert torch.allclose(logits(model, blocks[0]), cut, atol=1e-5)
    assert torch.equal(logits(model, blocks[0]), before)


def test_the_layer_goes_without_which_the_predictions_stay_nearest(blocks):
    torch.manual_seed(0)
    model = tiny_llama(layers=4).eval()
    with torch.no_grad():  # so that layers differ in what they do
        for factor, layer in zip((3.0, 0.3, 2.0, 1.0), model.model.layers, strict=True):
            layer.mlp.down_proj.weight.mul_(20 * factor)

    def divergence(layer: int) -> float:
        cut, sums = without(model, layer), []
        for block in blocks:
            p, q = logits(model, block).log_softmax(-1), logits(cut, block).log_softmax(-1)
            sums.append((p.exp() * (p - q)).sum(-1))
        return float(torch.cat(sums).mean())

    costs = [divergence(layer) for layer in range(4)]
    kept, found = least_divergent(model, "model.layers", blocks, 3)
    assert found == [pytest.approx(min(costs), rel=1e-4)]
    assert kept == [layer for layer in range(4) if layer != costs.index(min(costs))]


def test_layers_that_do_nothing_go_first(blocks):
    model = tiny_llama(layers=5).eval()
    for layer in (1, 3):
        silence(model.model.layers[layer])
    kept, costs = least_divergent(model, "model.layers", blocks, 3)
    assert kept == [0, 2, 4] and costs == pytest.approx([0, 0], abs=1e-6)
    assert readings(5, 3) == 1 + 5 + 4 and readings(30, 18) == 1 + 30 + 11 * 8


def test_predictions_that_are_no_number_are_refused(blocks):
    model = tiny_llama(layers=3).eval()
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.fill_(float("nan"))
    with pytest.raises(UserError, match="came out as NaN"):
        least_divergent(model, "model.layers", blocks, 2)


def test_a_student_is_cut_by_it(tmp_path):
    model = tiny_llama(layers=4, tied=False)
    silence(model.model.layers[0])
    summary = shrunk(tmp_path, model, size=1.0, layers=3, keep="divergence")[0]
    assert summary["layers"] == 3 and (tmp_path / "out" / "shape.json").read_text().startswith(
        '{"layers": [1, 2, 3]'
    )
