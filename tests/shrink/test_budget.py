"""Shapes that meet a budget: counted by hand, and as transformers builds them."""

import pytest
from pydantic import ValidationError

from leanpipe.core.errors import UserError
from leanpipe.models.count import count_parameters, empty_model, parameters_of, with_layers
from leanpipe.planning.references import describe_model
from leanpipe.shrink.budget import AskedShape, BudgetConfig, Shape, choose_shape, odd_sizes
from leanpipe.shrink.narrow import Widths, narrow_config, shared_widths
from tests.support.tiny_models import tiny_llama

TEN = tiny_llama(layers=10).config
SMOLLM2 = describe_model("smollm2-135m-instruct")


def chosen(teacher=TEN, budget=None, **asked) -> Shape:
    return choose_shape(teacher, BudgetConfig(**(budget or {})), AskedShape(**asked))


def test_size_is_the_largest_share_of_parameters():
    """Beside embeddings of 32,832 a layer has 36,992, 12,288 fewer with half the channels: of ten (402,752) 60 % are
    241,651, room for 5 layers and, of half the channels, for 6 and more."""
    assert [chosen(budget={"size": size}).layers for size in (1, 0.6, 0.2)] == [10, 6, 1]
    assert chosen(budget={"size": 0.6}).widths.mlp_channels == 64
    assert chosen(budget={"size": 0.6}, mlp_channels=128).layers == 5


@pytest.mark.parametrize("size", [0.3, 0.45, 0.6, 0.9])
@pytest.mark.parametrize(
    "asked", [{}, {"layers": 20}, {"layers": 30}, {"width": 0.67}, {"kv_groups": 2, "hidden_size": 384}]
)
def test_no_shape_is_over_its_budget_and_few_leave_much_of_it(size, asked):
    try:
        shape = chosen(SMOLLM2, {"size": size}, **asked)
    except UserError as error:
        assert "the nearest" in str(error) and size < 0.6
        return
    built = count_parameters(
        empty_model(with_layers(narrow_config(SMOLLM2, shape.widths), list(range(shape.layers))))
    )
    assert built == shape.parameters(SMOLLM2) <= size * parameters_of(SMOLLM2)
    whole = shape.layers == asked.get("layers", 30) and shape.widths == AskedShape(**asked).widths(SMOLLM2)
    assert built > 0.93 * size * parameters_of(SMOLLM2) or whole


def test_a_number_of_parameters_and_of_megabytes_are_budgets_too():
    share = chosen(SMOLLM2, {"size": 0.5})
    half = parameters_of(SMOLLM2) // 2
    assert chosen(SMOLLM2, {"parameters": half}) == share
    assert chosen(SMOLLM2, {"megabytes": 2 * half / 1e6}) == share
    with pytest.raises(ValidationError, match="are two budgets: set one of them to 0"):
        BudgetConfig(parameters=1, megabytes=1)


def test_layers_that_are_asked_for_leave_the_channels_to_the_budget():
    shape = chosen(SMOLLM2, {"size": 0.6}, layers=24)
    assert shape.layers == 24 and shape.widths.mlp_channels < 1_536
    assert shape.widths.mlp_channels % 64 == 0


def test_a_multiple_of_256_is_taken_where_it_wastes_little():
    most = Shape(24, Widths(576, 1_088, 3)).parameters(SMOLLM2)
    assert chosen(SMOLLM2, {"parameters": most}, layers=24).widths.mlp_channels == 1_024


@pytest.mark.parametrize(
    ("budget", "advice"),
    [({"size": 0.02}, r"shrink.size=0\.\d+"), ({"parameters": 9_000}, r"shrink.parameters=\d+"), ({"megabytes": 0.01}, r"shrink.megabytes=[\d.]+")],
)  # fmt: skip
def test_a_budget_that_no_shape_meets_is_refused_with_the_nearest(budget, advice):
    with pytest.raises(UserError, match=rf"the nearest, 1 layers of 64 channels.*set {advice}") as refused:
        chosen(budget=budget)
    name, value = str(refused.value).partition("set shrink.")[2].partition(",")[0].split("=")
    kind = int if name == "parameters" else float
    assert chosen(budget={name: kind(value)}).layers <= 2  # the advice is right


def test_shares_of_the_width_are_counted_as_they_are_built():
    widths = shared_widths(TEN, 0.5)
    assert widths == Widths(32, 64, 1)
    assert chosen(budget={"size": 0.1}, width=0.5).layers == 2
    # Embeddings 16,384 + 32, a layer 5,120 / 2 * 2 + 6,144 + 64.
    assert Shape(10, widths).parameters(TEN) == 16_416 + 10 * 9_280


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"layers": 11}, r"shrink.layers=11 is more than the 10"),
        ({"mlp_channels": 256}, r"shrink.mlp_channels=256 is more than the 128"),
        ({"hidden_size": 50}, r"no multiple of the 4 heads.*set it to 4"),
    ],
)
def test_what_the_teacher_does_not_have_is_refused(asked, sentence):
    with pytest.raises(UserError, match=sentence):
        chosen(**asked)


def test_what_odd_sizes_cost_is_said():
    said = "\n".join(odd_sizes(SMOLLM2, Shape(10, Widths(576, 1_472, 3))))
    assert "K-quants" in said and "MLP channels 1472" in said and "Marlin" in said
    assert "bitsandbytes" not in said
    assert not list(odd_sizes(SMOLLM2, Shape(10, Widths(768, 1_536, 4))))
    assert "bitsandbytes" in "\n".join(odd_sizes(SMOLLM2, Shape(10, Widths(512, 1_000, 2))))
