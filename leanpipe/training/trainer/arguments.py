"""Translate our settings into those of transformers' Trainer."""

import math
from pathlib import Path
from typing import Any, Protocol, TypeVar

from transformers import TrainingArguments

from leanpipe.core import device
from leanpipe.training.trainer import checkpoints
from leanpipe.training.trainer.config import TrainingConfig

_Arguments = TypeVar("_Arguments", bound=TrainingArguments)

BETAS = (0.9, 0.95)
"""Of AdamW. Runs are short: 0.999 would average over more steps than many have."""
_OPTIMIZERS = {
    "adamw": "adamw_torch_fused",
    "adamw_8bit": "adamw_bnb_8bit",
    "adamw_8bit_paged": "paged_adamw_8bit",
    "adafactor": "adafactor",
    "muon": "adamw_torch",  # its place; `muon_and_adamw` takes it
}
_SCHEDULES = {
    "cosine": "cosine",
    "linear": "linear",
    "wsd": "warmup_stable_decay",
    "constant": "constant_with_warmup",
}
_DECAY = 0.2
"""Share of a wsd schedule in which the learning rate falls (Hägele et al. 2024, arXiv 2405.18392, section 3)."""


def steps_of(config: TrainingConfig, block: int) -> int:
    """Count the steps of the optimiser that `config.tokens` make with blocks of `block` tokens."""
    return math.ceil(config.tokens / (config.batch * block))


class _Settings(Protocol):
    """What the settings of every training have."""

    @property
    def learning_rate(self) -> float: ...
    @property
    def arithmetic(self) -> str: ...
    @property
    def log_every_steps(self) -> int: ...
    @property
    def seed(self) -> int: ...


def shared_arguments(config: _Settings, steps: int, folder: Path, resumed: bool) -> dict[str, Any]:
    """Return what every Trainer is told here, ours and TRL's: when to measure and save is for our callbacks to decide."""
    return {
        "output_dir": str(checkpoints.aside(folder)),
        "max_steps": steps,
        "learning_rate": config.learning_rate,
        "adam_beta1": BETAS[0],
        "adam_beta2": BETAS[1],
        "bf16": config.arithmetic == "bf16",
        "logging_steps": config.log_every_steps,
        "logging_first_step": True,
        "logging_nan_inf_filter": False,  # it would report a broken training as a good one
        "eval_on_start": not resumed,
        "eval_strategy": "no",
        "save_strategy": "no",
        "seed": config.seed,
        "use_cpu": device.name() == "cpu",
        "disable_tqdm": True,
        "report_to": "none",
    }


def on_one_device(made: _Arguments) -> _Arguments:
    """Keep a Trainer to one GPU: it would spread over all that it sees, with a batch on each, and TRL's refuses to."""
    made._n_gpu = min(made.n_gpu, 1)
    return made


def training_arguments(config: TrainingConfig, steps: int, folder: Path, resumed: bool) -> TrainingArguments:
    """Return what the Trainer needs to know. It sees whole batches: `_Trainer` cuts them into micro-batches by itself."""
    made = TrainingArguments(
        **shared_arguments(config, steps, folder, resumed),
        per_device_train_batch_size=config.share,
        lr_scheduler_type=_SCHEDULES[config.schedule],
        lr_scheduler_kwargs={"num_decay_steps": math.ceil(_DECAY * steps)}
        if config.schedule == "wsd"
        else {},
        warmup_steps=round(config.warmup * steps),
        optim=_OPTIMIZERS[config.optimizer],
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        fp16=config.arithmetic == "fp16",
        activation_checkpointing=config.gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False},
        train_sampling_strategy="sequential",  # `ShuffledEpochs` shuffles
        remove_unused_columns=False,
        ddp_find_unused_parameters=False,
        dataloader_pin_memory=device.name() == "cuda",
    )
    return on_one_device(made)
