"""Stage `prune`: weights of single connections set to zero, by their size or by what they carry; training keeps them zero.

What it saves is said in its report: a file and a decoder of dense matrices have as many bytes as before. It is here so that it
can be compared with what does save something (layers, channels, bits).
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from leanpipe.core.config import StageConfig
from leanpipe.core.device import Kind
from leanpipe.core.errors import UserError
from leanpipe.core.estimate import Estimate, ExpectedInputs, bytes_of_weight, host_bytes, process_bytes
from leanpipe.core.lineage import PREPARED_FROM
from leanpipe.core.markdown import table
from leanpipe.core.report import Report
from leanpipe.core.stage import Page, Summary, stage
from leanpipe.core.store import REPORT
from leanpipe.models.load import check_numbers, load_model, load_tokenizer, save_model
from leanpipe.models.student import pass_on_shape
from leanpipe.models.zeros import PRUNED, matrices, share_of_zeros

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


class PruneConfig(StageConfig):
    """Which connections go."""

    sparsity: float = Field(0.0, ge=0, lt=1)
    """Share of the weights of each matrix that become zero; 0 leaves this stage out."""
    method: Literal["wanda", "magnitude"] = "wanda"
    """The smallest weights go, or with wanda those that carry least: weight times the size of what it is multiplied with."""
    pattern: Literal["unstructured", "2:4"] = "unstructured"
    """Zeros anywhere, or two of every four weights in a row, which is what matrix units of NVIDIA's cards can use."""
    calibration_tokens: int = Field(4_096, ge=1, le=10**9)
    """Tokens of the training text by which wanda tells what a weight carries."""

    @model_validator(mode="after")
    def _half_of_four(self) -> Self:
        if self.pattern == "2:4" and self.sparsity not in (0, 0.5):
            raise ValueError(
                f"pattern=2:4 makes half of the weights zero, and sparsity is {self.sparsity:g}: set it to 0.5"
            )
        return self


@dataclass(frozen=True)
class PruneInputs:
    """A model folder, and the output folder of the tokenize stage."""

    model: Path
    blocks: Path


def estimate_prune(config: PruneConfig, inputs: ExpectedInputs, kind: Kind) -> Estimate:
    """What `prune` takes: the model in full precision, and what is known of each of its matrices."""
    from leanpipe.models.count import expected_config, parameters_of

    model = expected_config(inputs["model"])
    parameters = parameters_of(model)
    parts = {"process": process_bytes(kind), "weights": 4 * parameters, "scores": parameters}
    peak = sum(parts.values())
    return Estimate(
        peak,
        host_bytes(kind, peak),
        bytes_of_weight() * parameters,
        2.0 * parameters * config.calibration_tokens,
        parts,
        result={"model": model, "tokenizer": inputs["blocks"].facts.get("tokenizer")},
    )


@stage(
    version=1,
    uses_device=True,
    estimate=estimate_prune,
    reads={"blocks": PREPARED_FROM},
    pages=(Page("pruned.md", "pruned", "What pruning saves, and what it does not"),),
)
def prune(config: PruneConfig, inputs: PruneInputs, out: Path, report: Report) -> Summary:
    """Write the model with zeros to `out`, and how they were chosen to `pruned.json`."""
    import torch

    from leanpipe.models.count import read_config
    from leanpipe.shrink.teacher_blocks import calibration_blocks

    model = load_model(inputs.model, torch.float32)
    check_numbers(model, inputs.model)
    carried = {}
    if config.method == "wanda":
        blocks = calibration_blocks(inputs.model, inputs.blocks, config.calibration_tokens)
        carried = input_norms(model, blocks)
    with torch.no_grad():
        for name, weight in matrices(model).items():
            rows_OI, turned = _rows(model, name, weight)
            scores_OI = rows_OI.abs() * carried.get(name, torch.ones(1, device=rows_OI.device))
            kept_OI = kept_weights(scores_OI, config)
            weight.mul_(kept_OI.T if turned else kept_OI)
    zeros = share_of_zeros(model)
    dtype = read_config(inputs.model).dtype or torch.bfloat16
    save_model(model, load_tokenizer(inputs.model), out, dtype, made_of=[inputs.model])
    (out / PRUNED).write_text(json.dumps({"method": config.method, "pattern": config.pattern}))
    pass_on_shape(inputs.model, out, first_layer=False)
    summary = {"zeros": zeros, "parameters": sum(one.numel() for one in model.parameters())}
    _write_page(out / REPORT, config, zeros)
    report.metrics({name: float(value) for name, value in summary.items()})
    return summary


def input_norms(model: "PreTrainedModel", blocks: list[Any]) -> "dict[str, torch.Tensor]":
    """Return, by the matrix that reads it, the length of each input over all tokens (I,), as Wanda has it.

    (Sun et al. 2023, "A Simple and Effective Pruning Approach for Large Language Models", arXiv 2306.11695, section 3.)
    """
    import torch

    squares: dict[str, torch.Tensor] = {}

    def watch(name: str) -> Any:
        def look(_: Any, given: Any, made: Any) -> None:
            seen_I = given[0].detach().double().flatten(0, -2).square().sum(0)
            squares[name] = squares.get(name, 0) + seen_I

        return look

    handles = [
        model.get_submodule(name.removesuffix(".weight")).register_forward_hook(watch(name))
        for name in matrices(model)
    ]
    try:
        with torch.no_grad():
            for block in blocks:
                ids, positions = (block[one][None].to(model.device) for one in ("input_ids", "position_ids"))
                model.base_model(input_ids=ids, position_ids=positions, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    for name, seen_I in squares.items():
        if not seen_I.isfinite().all():
            raise UserError(
                f"what goes into {name} came out as NaN or infinite on the corpus, so no weight of it can be said to "
                "carry least: give another model, or set prune.method=magnitude"
            )
    return {name: seen_I.sqrt().float() for name, seen_I in squares.items()}


def kept_weights(scores_OI: "torch.Tensor", config: PruneConfig) -> "torch.Tensor":
    """Return which weights stay (O, I): wanda compares those of one row, magnitude those of the whole matrix."""
    import torch

    kept_OI = torch.ones_like(scores_OI, dtype=torch.bool)
    if config.pattern == "2:4":
        whole = scores_OI.shape[1] // 4 * 4
        least = scores_OI[:, :whole].unflatten(1, (-1, 4)).topk(2, largest=False).indices
        kept_OI[:, :whole].unflatten(1, (-1, 4)).scatter_(2, least, False)
        return kept_OI
    if config.method == "magnitude":
        flat = scores_OI.flatten()
        kept_OI.view(-1)[flat.topk(round(config.sparsity * len(flat)), largest=False).indices] = False
        return kept_OI
    count = round(config.sparsity * scores_OI.shape[1])
    return kept_OI.scatter_(1, scores_OI.topk(count, largest=False).indices, False)


def _rows(model: "PreTrainedModel", name: str, weight: "torch.nn.Parameter") -> "tuple[torch.Tensor, bool]":
    """The matrix as (out, in), and whether it is stored the other way round, as GPT-2's are."""
    turned = type(model.get_submodule(name.removesuffix(".weight"))).__name__ == "Conv1D"
    return (weight.T if turned else weight), turned


def _savings(config: PruneConfig, zeros: float) -> Iterator[tuple[str, str]]:
    yield "parameters that are not zero", f"{1 - zeros:.0%} of the matrices"
    yield "bytes on disk", "as before: zeros are written too"
    yield "bytes in memory, decode speed", "as before: every engine here multiplies dense matrices"
    used = "2:4 has kernels on NVIDIA cards from Ampere on, none of which is used here"
    yield "what could use it", used if config.pattern == "2:4" else "no common engine"


def _write_page(folder: Path, config: PruneConfig, zeros: float) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pruned.md").write_text(table(("what", "after pruning"), _savings(config, zeros), "ll"))
