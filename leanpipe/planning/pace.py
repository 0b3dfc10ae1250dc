"""Stage `pace`: how long a little of the work takes that a run will do over and over, so that a first plan need not assume it.

The models are of the run's shapes and have random weights, which are as fast as any others: nothing is read or fetched.
"""

import importlib
import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from leanpipe.core import device
from leanpipe.core.config import StageConfig
from leanpipe.core.estimate import Repeated
from leanpipe.core.report import Report
from leanpipe.core.stage import Runner, Summary, stage

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)

_SECONDS = 2.0
"""For which steps of one kind are repeated, at most."""
TIMED_STEPS = 2
"""So many steps count, after one that does not: the first asks for memory."""
_WRITTEN = 8
"""Tokens that a step of writing writes."""
_RANK = 16
_MOST_TOKENS = {"cpu": 1_024, "cuda": 2**15}
"""Of one step: larger ones are no faster per token."""


class PaceConfig(StageConfig):
    """One kind of work, and on what it is timed: the times of another device say nothing."""

    device: str = Field(max_length=1_000)
    """What the maker calls the device."""
    cores: int = Field(ge=1, le=100_000)
    """How many cores work at it."""
    what: Literal["train", "adapt", "read", "write"]
    """See `Repeated`."""
    model: dict[str, Any]
    """The model's config."""
    length: int = Field(ge=1, le=10**18)
    """Tokens of a block."""
    rows: int = Field(ge=1, le=10**18)
    """Blocks at once."""
    arithmetic: str = Field(pattern="^(bf16|fp16|fp32)$")
    """Type of the matrix products."""


@dataclass(frozen=True)
class PaceInputs:
    """Nothing: shapes are enough."""


def measure(works: Sequence[Repeated], run: Runner) -> dict[Repeated, float]:
    """Return seconds per token of each of the `works`, as the stage `pace` measures them, or has measured them here before.

    What cannot be timed is left out: a plan that knows less stops no run.
    """
    found: dict[Repeated, float] = {}
    for work in works:
        try:
            summary = run(pace, _config(work), {}).summary
        except Exception as error:  # noqa: BLE001 - whatever it was, the stage itself will say it better
            log.info("%s was not timed for the plan: %s", work.what, error)
            continue
        if seconds := summary.get("seconds_per_token"):
            found[work] = seconds
    return found


def _config(work: Repeated) -> PaceConfig:
    rows = max(1, min(work.rows, _MOST_TOKENS[device.name()] // work.length))
    return PaceConfig(
        device=device.model(),
        cores=device.cores(),
        what=work.what,
        model=json.loads(work.model.to_json_string(use_diff=False)),
        length=work.length,
        rows=rows,
        arithmetic=work.arithmetic,
    )


@stage(version=1, uses_device=True)
def pace(config: PaceConfig, inputs: PaceInputs, out: Path, report: Report) -> Summary:
    """Time some steps of the work; nothing is said where there is no memory for it."""
    steps = {"train": _training, "adapt": _training, "read": _reading, "write": _writing}
    try:
        step = steps[config.what](config)
        taken = [_timed(step)]
        while len(taken) <= TIMED_STEPS and sum(taken) < _SECONDS:
            taken.append(_timed(step))
    except (RuntimeError, MemoryError):
        return {}
    tokens = _WRITTEN if config.what == "write" else config.rows * config.length
    return {"seconds_per_token": min(taken[1:] or taken) / tokens, "steps": len(taken)}


def _timed(step: Callable[[], object]) -> float:
    started = time.perf_counter()
    step()
    if device.name() == "cuda":
        import torch

        torch.cuda.synchronize()
    return time.perf_counter() - started


def _model(work: PaceConfig, dtype: "torch.dtype") -> "PreTrainedModel":
    import torch
    from transformers import AutoConfig

    from leanpipe.models.count import FACTORED, empty_model

    if work.model["model_type"].startswith(FACTORED):
        importlib.import_module("leanpipe.models.factored")
    kind = {name: value for name, value in work.model.items() if name not in ("model_type", "dtype")}
    model = empty_model(AutoConfig.for_model(work.model["model_type"], **kind))
    model = model.to(dtype).to_empty(device=device.name())
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.uniform_(-0.02, 0.02)
    model.tie_weights()
    return model


def _tokens(work: PaceConfig) -> "torch.Tensor":
    import torch

    return torch.randint(0, work.model["vocab_size"], (work.rows, work.length), device=device.name())


def _training(work: PaceConfig) -> Callable[[], None]:
    """A step of a training: of all weights, or of adapters beside frozen ones."""
    import torch

    from leanpipe.training.finetune.lora import ALL_LINEAR, lora_config
    from leanpipe.training.losses.objectives import CrossEntropy
    from leanpipe.training.trainer.config import TrainingConfig
    from leanpipe.training.trainer.kernels import fast_kernels

    short = device.dtype_of(work.arithmetic)
    model: Any = _model(work, short if work.what == "adapt" else torch.float32)
    if work.what == "adapt":
        from peft import get_peft_model

        model = get_peft_model(model, lora_config(_RANK, 2 * _RANK, 0.0, (ALL_LINEAR,)))
    optimizer = torch.optim.AdamW(one for one in model.parameters() if one.requires_grad)
    tokens = _tokens(work)
    batch = {
        "input_ids": tokens,
        "labels": tokens,
        "position_ids": torch.arange(work.length, device=device.name()).expand_as(tokens),
    }
    autocast = torch.autocast(device.name(), short, enabled=short != torch.float32)

    def step() -> None:
        with fast_kernels(model, TrainingConfig(precision=work.arithmetic)):
            with autocast:
                loss = CrossEntropy()(model, batch)["loss"]
            (loss / tokens.numel()).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _reading(work: PaceConfig) -> Callable[[], None]:
    import torch

    from leanpipe.models.unwrap import unwrap_adapters
    from leanpipe.training.trainer.kernels import use_inference_kernels

    model = unwrap_adapters(_model(work, device.dtype_of(work.arithmetic)).eval())
    use_inference_kernels(model)
    tokens = _tokens(work)
    positions = torch.arange(work.length, device=device.name()).expand_as(tokens)

    @torch.inference_mode()
    def step() -> None:
        model(input_ids=tokens, position_ids=positions, use_cache=False).logits.float().log_softmax(-1)

    return step


def _writing(work: PaceConfig) -> Callable[[], None]:
    import torch

    model: Any = _model(work, device.dtype_of(work.arithmetic)).eval()
    tokens = _tokens(work)

    @torch.inference_mode()
    def step() -> None:
        model.generate(
            tokens, max_new_tokens=_WRITTEN, min_new_tokens=_WRITTEN, do_sample=False, pad_token_id=0
        )

    return step
