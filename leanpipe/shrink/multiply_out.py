"""Stage `multiply_out`: a plain model of one whose products are pairs of factors, for engines that do not know such."""

from dataclasses import dataclass
from pathlib import Path

from leanpipe.core.config import StageConfig
from leanpipe.core.device import Kind
from leanpipe.core.estimate import Estimate, ExpectedInputs, host_bytes, process_bytes
from leanpipe.core.report import Report
from leanpipe.core.stage import Summary, stage
from leanpipe.models.load import load_model, load_tokenizer, save_model
from leanpipe.models.student import pass_on_shape


class MultiplyOutConfig(StageConfig):
    """Nothing can be chosen."""


@dataclass(frozen=True)
class MultiplyOutInputs:
    """The folder of a model with pairs of factors."""

    model: Path


def estimate_multiply_out(config: MultiplyOutConfig, inputs: ExpectedInputs, kind: Kind) -> Estimate:
    """What `multiply_out` takes: the factors and the plain model, both in full precision."""
    from leanpipe.models.count import expected_config, parameters_of, tokenizer_folder
    from leanpipe.models.factored import plain_config

    factored = expected_config(inputs["model"])
    plain = plain_config(factored)
    plain.dtype = "bfloat16"
    made = parameters_of(plain)
    parts = {
        "process": process_bytes(kind),
        "factors": 4 * parameters_of(factored),
        "products": 4 * made,
    }
    peak = sum(parts.values())
    return Estimate(
        peak,
        host_bytes(kind, peak),
        2 * made,
        parts=parts,
        result={"model": plain, "tokenizer": tokenizer_folder(inputs["model"])},
    )


@stage(version=1, uses_device=True, estimate=estimate_multiply_out)
def multiply_out(config: MultiplyOutConfig, inputs: MultiplyOutInputs, out: Path, report: Report) -> Summary:
    """Write the model with each pair of factors as their product to `out`."""
    import torch

    from leanpipe.models.count import count_parameters, read_config
    from leanpipe.models.factored import multiplied_out

    made = multiplied_out(load_model(inputs.model, torch.float32))
    dtype = read_config(inputs.model).dtype or torch.bfloat16
    save_model(made, load_tokenizer(inputs.model), out, dtype, made_of=[inputs.model])
    pass_on_shape(inputs.model, out)
    summary = {"parameters": count_parameters(made)}
    report.metrics({name: float(value) for name, value in summary.items()})
    return summary
