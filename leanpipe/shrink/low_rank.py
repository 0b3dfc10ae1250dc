"""Stage `low_rank`: products of a model's layers as pairs of factors, with ranks by a budget and directions by what text carries.

What is kept of a matrix is what matters of its outputs on the corpus (SVD-LLM), and not, as plain SVD has it, of its entries.
Distillation then trains the factors. Stage `multiply_out` makes a plain model of them again, which saves nothing but loads
everywhere.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from leanpipe.core.device import Kind
from leanpipe.core.estimate import (
    Estimate,
    Expected,
    ExpectedInputs,
    bytes_of_weight,
    host_bytes,
    process_bytes,
)
from leanpipe.core.keys import NotInKey
from leanpipe.core.lineage import PREPARED_FROM
from leanpipe.core.markdown import table
from leanpipe.core.report import Report
from leanpipe.core.stage import Page, Summary, stage
from leanpipe.core.store import REPORT
from leanpipe.models.load import check_numbers, load_model, load_tokenizer, save_model
from leanpipe.models.student import layer_list_name, pass_on_shape
from leanpipe.shrink.budget import BudgetConfig
from leanpipe.shrink.covariance import covariances, factors, output_directions
from leanpipe.shrink.importance import layer_influence
from leanpipe.shrink.ranks import Product, check_budget, choose_ranks, even_ranks, products_of

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel


class LowRankConfig(BudgetConfig):
    """How large the model may be whose matrices become factors of low rank."""

    size: float = Field(1.0, gt=0, le=1)
    """Size as a share of the parameters that the model has before; 1 leaves this stage out."""
    parameters: int = Field(0, ge=0, le=10**13)
    """The most parameters that the model may have, in place of a share; 0 for `size`."""
    megabytes: float = Field(0, ge=0, le=10**8)
    """The most megabytes that the factors' file may have in 16 bits, in place of a share; 0 for `size`."""
    saved: Annotated[Literal["factored", "dense"], NotInKey("what another stage makes of it")] = "factored"
    """After learning: keep the factors, which are fewer bytes but load in leanpipe alone, or multiply them out, which is a plain
    model for every engine, as large as before."""
    calibration_tokens: int = Field(4_096, ge=1, le=10**9)
    """Tokens of the training text by which it is told what of each product's output matters."""

    def most_parameters(self, teacher: "PretrainedConfig") -> int:
        """Return how many parameters the model may have; `size` is a share of what it has now."""
        from leanpipe.models.count import parameters_of

        return self.parameters or int(self.megabytes * 1e6 / 2) or int(self.size * parameters_of(teacher))


@dataclass(frozen=True)
class LowRankInputs:
    """A model folder, and the output folder of the tokenize stage."""

    model: Path
    blocks: Path


def check_low_rank(config: LowRankConfig, inputs: ExpectedInputs) -> None:
    """Raise UserError for a model that has no such factors, or a budget that no ranks meet. Reads its config only."""
    if inputs["model"].path or "model" in inputs["model"].facts:
        _expected_ranks(config, inputs["model"])


def _expected_ranks(config: LowRankConfig, model: Expected) -> "tuple[PretrainedConfig, dict[str, int]]":
    """The model's config, and about which ranks its products will have: all the same share of their weights."""
    from leanpipe.models.count import count_parameters, empty_model, expected_config

    described = expected_config(model)
    empty = empty_model(described)
    products, whole = products_of(empty), count_parameters(empty)
    most = config.most_parameters(described)
    check_budget(products, whole, most, described)
    return described, even_ranks(products, _for_products(products, whole, most))


def _for_products(products: Sequence[Product], whole: int, most: int) -> int:
    """How many weights the budget leaves to the products."""
    return most - (whole - sum(one.dense for one in products))


def estimate_low_rank(config: LowRankConfig, inputs: ExpectedInputs, kind: Kind) -> Estimate:
    """What `low_rank` takes: the model in full precision, the directions of its outputs, and the covariances of some inputs."""
    from leanpipe.models.count import parameters_of
    from leanpipe.models.factored import factored_config

    model, ranks = _expected_ranks(config, inputs["model"])
    parameters = parameters_of(model)
    made = factored_config(model, ranks)
    made.dtype = model.dtype or "bfloat16"
    widest = max(model.hidden_size, getattr(model, "intermediate_size", 0))
    parts = {
        "process": process_bytes(kind),
        "weights": 4 * parameters,
        "directions": 4 * parameters,
        "factors": 4 * parameters,
        "covariances": min(2_000_000_000, 8 * 7 * model.num_hidden_layers * widest**2) + 24 * widest**2,
    }
    peak = sum(parts.values())
    return Estimate(
        peak,
        host_bytes(kind, peak),
        bytes_of_weight() * config.most_parameters(model),
        2.0 * parameters * config.calibration_tokens + 20.0 * parameters * widest,
        parts,
        result={"model": made, "tokenizer": inputs["blocks"].facts.get("tokenizer")},
    )


@stage(
    version=1,
    uses_device=True,
    check=check_low_rank,
    estimate=estimate_low_rank,
    reads={"blocks": PREPARED_FROM},
    pages=(Page("low_rank.md", "low-rank", "Which ranks the model's products have, and what that saves"),),
)
def low_rank(config: LowRankConfig, inputs: LowRankInputs, out: Path, report: Report) -> Summary:
    """Write the model with factors of low rank in place of its products to `out`."""
    import torch

    from leanpipe.models.count import count_parameters, read_config
    from leanpipe.models.factored import factors_of
    from leanpipe.shrink.teacher_blocks import calibration_blocks

    check_low_rank(config, {"model": Expected(inputs.model)})
    described = read_config(inputs.model)
    model = load_model(inputs.model, torch.float32)
    check_numbers(model, inputs.model)
    products, whole = products_of(model), count_parameters(model)
    blocks = calibration_blocks(inputs.model, inputs.blocks, config.calibration_tokens)
    directions, squares = _directions(model, products, blocks, report)
    weights = _for_products(products, whole, config.most_parameters(described))
    layers = list(model.get_submodule(layer_list_name(model)))
    influence_L = layer_influence(model, layers, blocks).clamp(min=1e-9).tolist()
    ranks = choose_ranks(products, squares, influence_L, weights)
    with torch.no_grad():
        pairs = {
            name: factors(model.get_submodule(name).weight, directions.pop(name), rank)
            for name, rank in ranks.items()
        }
    made = factors_of(model, ranks, pairs)
    parameters = count_parameters(made)
    dtype = described.dtype or torch.bfloat16
    save_model(made, load_tokenizer(inputs.model), out, dtype, made_of=[inputs.model])
    pass_on_shape(inputs.model, out, first_layer=False)
    lost = {name: sum(squares[name][rank:]) / (sum(squares[name]) or 1.0) for name, rank in ranks.items()}
    summary = {
        "parameters": parameters,
        "parameters_before": whole,
        "factored": len(ranks),
        "lost": sum(lost.values()) / len(products),
    }
    report.metrics({name: float(value) for name, value in summary.items()})
    _write_page(out / REPORT, products, ranks, lost, summary)
    return summary


def _directions(
    model: "PreTrainedModel", products: Sequence[Product], blocks: list[object], report: Report
) -> "tuple[dict[str, torch.Tensor], dict[str, list[float]]]":
    """The directions of every product's outputs, and their mean squares."""
    directions, squares = {}, {}
    names = [one.name for one in products]
    for number, (name, covariance_II) in enumerate(covariances(model, names, blocks)):
        report.progress(number, len(names), "products factored")
        found_OK, found_K = output_directions(model.get_submodule(name).weight.detach(), covariance_II)
        directions[name], squares[name] = found_OK.float(), found_K.tolist()
    return directions, squares


def _write_page(
    folder: Path,
    products: Sequence[Product],
    ranks: Mapping[str, int],
    lost: Mapping[str, float],
    summary: Summary,
) -> None:
    kinds: dict[str, list[Product]] = {}
    for one in products:
        kinds.setdefault(one.name.rpartition(".")[2], []).append(one)
    rows = []
    for kind, members in kinds.items():
        made = [ranks[one.name] for one in members if one.name in ranks]
        part = sum(lost.get(one.name, 0.0) for one in members) / len(members)
        size = f"{members[0].outputs:,} x {members[0].inputs:,}"
        spread = f"{min(made)} to {max(made)}" if made else ""
        rows.append((kind, size, str(members[0].most), spread, str(len(members) - len(made)), f"{part:.2%}"))
    before, after = summary["parameters_before"], summary["parameters"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "low_rank.md").write_text(
        table(
            ("product", "size", "largest rank that saves", "ranks", "left whole", "of its output lost"), rows
        )
        + f"\n{before:,} parameters before, {after:,} as factors: {1 - after / before:.1%} of the bytes less, in memory and on disk. "
        "Of engines leanpipe alone loads it (no llama.cpp, ONNX, vLLM, MLflow). Multiplied out (low_rank.saved=dense) every engine does, "
        "and it saves neither bytes nor time.\n"
    )
