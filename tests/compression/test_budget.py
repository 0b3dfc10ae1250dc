"""Types by budget: what each part loses, what all lose together, the best choice within bounds, and the file that is made."""

import itertools
import json
from dataclasses import replace

import pytest
import torch
from gguf import GGUFReader

from leanpipe.compression.budget.choose import Budget, choose_measured, choose_types
from leanpipe.compression.budget.divergence import Divergence, mean_divergence, rounded
from leanpipe.compression.budget.kernel_speed import (
    KernelSpeedConfig,
    KernelSpeedInputs,
    bytes_of_all,
    kernel_speed,
    read_speeds,
    seconds_of,
)
from leanpipe.compression.budget.sensitivity import (
    Sensitivity,
    SensitivityConfig,
    SensitivityInputs,
    sensitivity,
)
from leanpipe.compression.budget.solver import Bounds, Choice, LossOfSum, best_choice, least, totals
from leanpipe.compression.budget.weight_groups import weight_groups
from leanpipe.compression.calibration import (
    calibration_texts,
    measure_importance_matrix,
    validation_texts,
)
from leanpipe.compression.quantize import QuantizeConfig, QuantizeInputs, check_quantize, quantize
from leanpipe.core.errors import UserError
from leanpipe.core.estimate import Expected
from leanpipe.core.report import Silent
from leanpipe.engines.gguf_logits import GgufLogits
from leanpipe.evaluation.parity.bounds import BOUNDS
from leanpipe.evaluation.parity.gguf_faults import find_gguf_weight_faults
from leanpipe.models.load import load_model, load_tokenizer, save_model
from leanpipe.models.offload import GGUF_FILE
from tests.support.cleaned_corpus import kept, write_cleaned
from tests.support.tiny_models import tiny_llama, tiny_text, tiny_tokenizer


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    rows = [
        kept(number, text, "validation" if number % 3 == 0 else "train")
        for number, text in enumerate(tiny_text()[:30])
    ]
    return write_cleaned(tmp_path_factory.mktemp("documents"), rows)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A model whose inputs are of different size, as a trained one's are, and whose second layer does little."""
    model = tiny_llama()
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        for name, value in model.named_parameters():
            factor = 1 if "layers.1" in name else 3
            value.mul_(torch.randn_like(value).div(2).exp() if name.endswith("norm.weight") else factor)
    folder = tmp_path_factory.mktemp("source")
    save_model(model, tiny_tokenizer(), folder, torch.float32)
    return folder


@pytest.fixture(scope="module")
def measured(source, documents, tmp_path_factory):
    out = tmp_path_factory.mktemp("measured")
    config = SensitivityConfig(tokens=256, whole_tokens=512, calibration_tokens=512)
    return out, sensitivity.function(config, SensitivityInputs(source, documents), out, Silent())


def divergence_of(source, documents):
    model, tokenizer = load_model(source, torch.float32), load_tokenizer(source)
    texts = validation_texts(documents, tokenizer, model.config, 512)
    return model, texts, Divergence(model, texts)


def test_layers_before_the_changed_one_need_not_be_computed_again(source, documents):
    model, _, divergence = divergence_of(source, documents)
    assert divergence.now() == pytest.approx(0, abs=1e-7)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with rounded(model, {"model.layers.1.mlp.up_proj": "q4_0"}, None):
        moved = divergence.now()
        assert moved > 1e-7 and divergence.now(1) == pytest.approx(moved, rel=1e-2)
        assert divergence.now(2) < moved / 100  # nothing of it is seen then
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_weights_that_matter_most_are_rounded_best(source, documents):
    model, texts, divergence = divergence_of(source, documents)
    importance = measure_importance_matrix(model, texts)
    assert importance["model.embed_tokens"].shape == importance["model.layers.0.mlp.up_proj"].shape == (64,)
    types = {module: "q4_0" for group in weight_groups(model) for module in group.modules}
    losses = []
    for counts in (importance, None):
        with rounded(model, types, counts):
            losses.append(divergence.now())
    assert losses[0] < losses[1]


def test_what_the_parts_lose_is_measured_and_drawn(measured):
    out, summary = measured
    found = Sensitivity.read(out)
    losses = {part.name: part.alone for part in found.parts}
    assert set(losses) == {
        "embeddings",
        *(f"layer {n}, {kind}" for n in (0, 1) for kind in ("attention", "MLP")),
    }
    assert min(losses.values()) > 0 and summary["parts"] == 5
    assert losses[summary["most_sensitive"]] == max(losses.values())
    assert found.whole["q8_0"][1] < found.whole["q5_0"][1] < found.whole["q4_0"][1]
    assert (out / "report" / "sensitivity.png").exists() and (out / "report" / "sensitivity.csv").exists()


def test_what_parts_lose_adds_up_to_what_is_measured_of_all_layers_and_of_embeddings(
    source, documents, measured
):
    """In each type, on the text of the split validation that the whole is measured on."""
    model, _, divergence = divergence_of(source, documents)
    groups, found = weight_groups(model), Sensitivity.read(measured[0])
    texts = calibration_texts(documents, load_tokenizer(source), model.config, 512)
    importance = measure_importance_matrix(model, texts)
    for kind in ("q4_0", "iq4_nl", "q5_0"):
        for vocabulary in (False, True):
            some = [group for group in groups if (group.layer is None) == vocabulary]
            with rounded(model, {one: kind for group in some for one in group.modules}, importance):
                lost = divergence.now()
            names = {group.name for group in some}
            told = sum(part.losses[kind] for part in found.parts if part.name in names)
            assert told == pytest.approx(lost, rel=1e-3)


def test_losses_are_measured_on_text_that_nothing_was_fitted_to(source, documents, tmp_path):
    """On documents of the split validation, all of them; if there are too few, on training text too."""
    tokenizer, config = load_tokenizer(source), load_model(source).config

    def read(texts):
        return " ".join(tokenizer.decode(text[0], skip_special_tokens=True) for text in texts)

    short = tiny_text()[:3]
    rows = [kept(number, text, "train" if number else "validation") for number, text in enumerate(short)]
    few = write_cleaned(tmp_path / "few", rows)
    found = validation_texts(documents, tokenizer, config, 512)
    assert 400 <= sum(text.numel() for text in found) <= 512 + 256
    assert all(read([text])[:40].strip() in " ".join(tiny_text()[:30:3]) for text in found)
    assert short[0][:30] in read(validation_texts(few, tokenizer, config, 64))
    assert short[1][:30] in read(validation_texts(few, tokenizer, config, 4_096))


def test_a_file_within_a_budget_has_the_types_that_lose_least(source, documents, measured, tmp_path):
    """It is no larger, loses about what was foretold, less than one type for all, and parity knows it."""
    uniform = QuantizeConfig(formats=("q5_0",), embeddings="q5_0")
    inputs = QuantizeInputs(source, documents, measured[0])
    size = quantize.function(uniform, inputs, tmp_path / "uniform", Silent())["q5_0_bytes"]
    config = QuantizeConfig(formats=("mixed",), max_mb=size / 1e6)
    summary = quantize.function(config, inputs, tmp_path / "out", Silent())
    assert summary["mixed_bytes"] <= size
    model, _, divergence = divergence_of(source, documents)
    texts = calibration_texts(documents, load_tokenizer(source), model.config, 4_096)
    importance = measure_importance_matrix(model, texts)
    chosen = choose_types(
        model, load_tokenizer(source), Budget(size / 1e6), frozenset(), Sensitivity.read(measured[0])
    )
    stored = {
        one.name: one.tensor_type.name for one in GGUFReader(tmp_path / "out/mixed" / GGUF_FILE).tensors
    }
    assert len({kind for kind in stored.values() if kind != "F32"}) > 1
    losses = []
    for types in (chosen.types.chosen, dict.fromkeys(chosen.types.chosen, "q5_0")):
        with rounded(model, types, importance):
            losses.append(divergence.now())
    assert losses[0] < losses[1]
    engine = Sensitivity.read(measured[0]).engine
    assert summary["mixed_expected_loss"] == pytest.approx(losses[0] + engine, rel=0.15)
    texts = validation_texts(
        documents, load_tokenizer(source), model.config, SensitivityConfig().whole_tokens
    )
    read = GgufLogits(tmp_path / "out/mixed", 256)
    with torch.no_grad():
        both = [(model(input_ids=text).logits[0], read(text[0].tolist())) for text in texts]
    assert summary["mixed_loss"] == pytest.approx(mean_divergence(*zip(*both, strict=True)), rel=0.1)
    assert not list(find_gguf_weight_faults(model, tmp_path / "out/mixed", BOUNDS["q4_0"]))


def test_what_the_arithmetic_of_the_engine_costs_is_foretold_too(source, measured):
    """Of a file of nearly whole weights it is most of what is lost."""
    model, tokenizer = load_model(source), load_tokenizer(source)
    found = Sensitivity.read(measured[0])
    assert 0 < found.engine < found.whole["q5_0"][1]
    with_it, without = (
        choose_types(model, tokenizer, Budget(10), frozenset(), one)
        for one in (found, replace(found, engine=0.0))
    )
    assert with_it.loss == pytest.approx(without.loss + found.engine)
    assert set(with_it.parts.values()) == {"q8_0"} and without.loss < 0.5 * with_it.loss


def test_what_cannot_be_reached_is_refused_by_the_bound_that_is_in_the_way(source, measured):
    model, tokenizer = load_model(source), load_tokenizer(source)
    found, speeds = Sensitivity.read(measured[0]), dict.fromkeys(bytes_of_all(weight_groups(model)), 0.01)

    def refused(*bounds):
        with pytest.raises(UserError) as error:
            choose_types(model, tokenizer, Budget(*bounds), frozenset(), found, speeds)
        return str(error.value)

    assert "within quantize.max_mb=0.01: the nearest that can be reached is quantize.max_mb=0.0" in refused(
        0.01
    )
    assert "quantize.min_tokens_per_second=500: the nearest that can be reached is" in refused(0, 0, 500)
    both = refused(0.075, 1e-9)
    assert "quantize.max_loss=1e-09: the nearest" in both
    smallest = choose_types(model, tokenizer, Budget(max_loss=0.5), frozenset(), found)
    assert smallest.loss <= 0.5 and set(smallest.parts.values()) <= {"iq4_nl", "q4_0"}


def test_a_bound_of_loss_holds_for_what_is_measured(source, documents, measured):
    """What was foretold may be too little: then types are chosen anew."""
    model, texts, _ = divergence_of(source, documents)
    tokenizer, found = load_tokenizer(source), Sensitivity.read(measured[0])
    boasting = replace(found, whole={kind: (sum_, loss / 3) for kind, (sum_, loss) in found.whole.items()})
    budget = Budget(max_loss=found.whole["q5_0"][1])

    def choose(within):
        return choose_types(model, tokenizer, within, frozenset(), boasting)

    chosen, loss = choose_measured(model, budget, choose, texts, None)
    assert loss <= budget.max_loss < 3 * choose(budget).loss
    assert chosen.bytes > choose(budget).bytes


def test_the_choice_is_the_best_of_all():
    made = torch.Generator().manual_seed(0)
    sizes = {"a": 100, "b": 60, "c": 30}
    choices = [
        Choice(str(part), kind, size, float(torch.rand(1, generator=made)) * 100 / size, size / 1_000)
        for part in range(4)
        for kind, size in sizes.items()
    ]
    by_part = [[one for one in choices if one.part == str(part)] for part in range(4)]
    for most in range(120, 400, 20):
        for slowest in (None, 0.2, 0.3):
            fit = [
                all_
                for all_ in itertools.product(*by_part)
                if totals(all_)[0] <= most and (slowest is None or totals(all_)[2] <= slowest + 1e-9)
            ]
            found = best_choice(choices, Bounds(most, None, slowest))
            assert (found is None) == (not fit)
            if found:
                assert totals(found)[1] == pytest.approx(min(totals(all_)[1] for all_ in fit), rel=1e-4)
    assert totals(least(choices, "bytes", Bounds()))[0] == 120


def test_the_loss_of_the_whole_follows_what_was_measured():
    of_sum = LossOfSum({"q4_0": (0.2, 0.3), "q8_0": (0.001, 0.001)})
    assert of_sum(0.2) == pytest.approx(0.3) and of_sum(0.4) == pytest.approx(0.6)
    assert 0.02 < of_sum(0.02) < 0.03
    assert of_sum(of_sum.inverse(0.3)) == pytest.approx(0.3)


def test_each_type_is_timed_by_the_engine(source, tmp_path):
    """A part takes its share of the time of the type that it gets."""
    config = KernelSpeedConfig(tokens=4, repeats=1)
    summary = kernel_speed.function(config, KernelSpeedInputs(source), tmp_path, Silent())
    speeds = read_speeds(tmp_path)
    assert summary["q4_0_tokens_per_second"] == pytest.approx(1 / speeds["q4_0"]) and min(speeds.values()) > 0
    groups = weight_groups(load_model(source))
    total = bytes_of_all(groups)
    for kind in ("q8_0", "q4_0"):
        assert sum(seconds_of(one, kind, speeds, total) for one in groups) == pytest.approx(speeds[kind])
    assert not list(tmp_path.glob("*.gguf")) and json.loads((tmp_path / "kernel_speed.json").read_text())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"formats": ("mixed",)}, "needs a bound"),
        ({"formats": ("q4_0",), "max_mb": 1}, "bounds of the format"),
    ],
)
def test_bounds_and_the_format_mixed_go_together(settings, said, source):
    with pytest.raises(UserError, match=said):
        check_quantize(QuantizeConfig(**settings), {"model": Expected(source)})
