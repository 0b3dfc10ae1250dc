"""What stays of an MLP does what went, on tiny models of every class whose channels can be cut."""

import pytest
import torch

from leanpipe.models.load import load_model
from leanpipe.models.student import layer_list_name
from leanpipe.shrink.cuttable import mlp_output
from leanpipe.shrink.importance import measure_importance
from leanpipe.shrink.narrow import cut_model, widths_of
from leanpipe.shrink.refit import refit
from tests.shrink.test_greedy_layers import logits
from tests.shrink.test_shrink import TEACHERS, shrunk
from tests.support.tiny_models import tiny_llama
from tests.training.blocks import tiny_blocks


@pytest.fixture(scope="module")
def blocks(tmp_path_factory):
    torch.set_num_threads(1)
    found = tiny_blocks(tmp_path_factory.mktemp("blocks"))
    return [found[index] for index in range(24)]


def test_channels_that_stay_take_over_what_others_said_too():
    """Each of the last two channels carries a sum of the first ones: nothing is lost without them."""
    torch.manual_seed(0)
    states_NF = torch.randn(200, 6)
    states_NF[:, 4], states_NF[:, 5] = states_NF[:, 0] + states_NF[:, 1], 2 * states_NF[:, 2]
    weight_FD = torch.randn(6, 3)
    moments_FF, kept = states_NF.T @ states_NF, torch.arange(4)
    before = states_NF @ weight_FD
    error = (states_NF[:, kept] @ refit(weight_FD, moments_FF, kept) - before).norm() / before.norm()
    cut = (states_NF[:, kept] @ weight_FD[kept] - before).norm() / before.norm()
    assert error < 0.02 < 0.5 < cut


def test_what_the_text_does_not_show_stays_as_it_was():
    weight_FD = torch.randn(4, 3)
    assert torch.allclose(
        refit(weight_FD, torch.zeros(4, 4) + 1e-9 * torch.eye(4), torch.arange(3)), weight_FD[:3]
    )
    assert torch.allclose(refit(weight_FD, torch.eye(4), torch.arange(4)), weight_FD, atol=1e-6)


@pytest.mark.parametrize("family", [name for name in sorted(TEACHERS) if "mlp_channels" in TEACHERS[name][1]])
def test_a_narrower_mlp_says_more_of_what_the_whole_one_said(family, blocks):
    torch.manual_seed(0)
    model = TEACHERS[family][0]().eval()
    name = layer_list_name(model)
    layers = list(model.get_submodule(name))
    with torch.no_grad():
        for layer in layers:
            mlp_output(layer).weight.mul_(8)  # so that MLPs say more than the rest
    widths = widths_of(model.config)
    widths = widths._replace(mlp_channels=widths.mlp_channels // 2)
    importance = measure_importance(model, layers, blocks)
    kept = list(range(len(layers)))
    cut = cut_model(model, name, kept, widths, importance).model.eval()
    importance = measure_importance(model, layers, blocks, moments=True)
    fitted = cut_model(model, name, kept, widths, importance).model.eval()

    def error(student) -> float:
        return sum(float((logits(student, block) - logits(model, block)).square().sum()) for block in blocks)

    assert error(fitted) < 0.8 * error(cut)


def test_shrink_fits_them(tmp_path):
    """Half of the channels say what the other half says, more softly: without them all is as it was."""
    model = tiny_llama(layers=2, tied=False)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.down_proj.weight.mul_(8)  # so that MLPs say more than the rest
            half = layer.mlp.down_proj.weight.shape[1] // 2
            layer.mlp.gate_proj.weight[half:] = layer.mlp.gate_proj.weight[:half]
            layer.mlp.up_proj.weight[half:] = 0.5 * layer.mlp.up_proj.weight[:half]
    _, out = shrunk(tmp_path, model, size=1.0, mlp_channels=half)
    block = tiny_blocks(tmp_path / "more")[0]
    before = logits(model, block)
    error = (logits(load_model(out, torch.float32), block) - before).norm() / before.norm()
    assert error < 0.1, error
