"""A model that several processes hold together, a part of every weight in each (FSDP: Zhao et al. 2023, arXiv 2304.11277).

The parts of a layer are gathered when it computes and let go again; gradients and the optimiser's state exist in parts only.
"""

import copy
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as parts
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from transformers import Trainer

from leanpipe.core import device
from leanpipe.models.student import layer_list_name
from leanpipe.models.unwrap import unwrap_adapters
from leanpipe.processes.launcher import rank

_PARTS = "parts"
_SCHEDULER = "scheduler.pt"
_TRAINED = StateDictOptions(ignore_frozen_params=True, strict=False)
_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)

_SCATTERED = StateDictOptions(full_state_dict=True, ignore_frozen_params=True, strict=False)


def is_sharded(model: Any) -> bool:
    """Whether this process holds a part of the model only."""
    return isinstance(model, FSDPModule)


def shard_model(model: Any, arithmetic: torch.dtype) -> Any:
    """Divide a model among the processes, and return this one's part.

    `model` itself is left to main memory in the first process, and of no use in the others.

    There is no way back from parts to a plain module: `gather_weights` gives the first process's model their weights.
    """
    model.cpu()
    divided = model if rank() else copy.deepcopy(model)
    adapted = hasattr(divided, "get_base_model")
    causal = unwrap_adapters(divided)
    # Autocast would keep a whole copy of every layer in `arithmetic` until its backward pass. Frozen layers are in it.
    gathered = None if adapted else arithmetic
    policy = MixedPrecisionPolicy(param_dtype=gathered, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for layer in causal.get_submodule(layer_list_name(causal)):
        fully_shard(layer, mp_policy=policy)
    # Embeddings and output layer, which may be one matrix, belong to the whole: they stay gathered for the chunked loss.
    fully_shard(divided)
    causal._is_distributed_loading_by_transformers = True  # else the Trainer wraps it once more
    return divided


def gather_weights(divided: Any, model: Any) -> None:
    """Give the first process's `model` the weights that were trained in parts, and put it on the device."""
    weights = get_model_state_dict(divided, options=_WHOLE)
    if rank() == 0:
        model.load_state_dict(weights, strict=False)
        model.to(device.name())


def scatter_weights(divided: Any, weights: dict[str, torch.Tensor]) -> None:
    """Give a model in shards whole weights, which every process has."""
    divided.reshard()  # what is still gathered since the last forward pass would take no parts
    set_model_state_dict(divided, weights, options=_SCATTERED)


class ShardedTrainer(Trainer):
    """Trainer for a model in parts. Every process writes its own into a checkpoint."""

    optimizer: Any

    def _clip_grad_norm(self, model: Any) -> Any:
        return super()._clip_grad_norm(model).full_tensor()

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Save nothing here: the weights are saved with the optimiser's state."""

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        parts.save(
            {"model": self._weights(), "optimizer": self._state()}, checkpoint_id=Path(output_dir, _PARTS)
        )
        if self.args.should_save:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir, _SCHEDULER))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        weights = self._weights()
        parts.load({"model": weights}, checkpoint_id=Path(resume_from_checkpoint, _PARTS))
        set_model_state_dict(self.model, weights, options=_TRAINED)

    def _load_optimizer_and_scheduler(self, checkpoint: str) -> None:
        state = self._state()
        parts.load({"optimizer": state}, checkpoint_id=Path(checkpoint, _PARTS))
        set_optimizer_state_dict(self.model, self.optimizer.optimizer, state, options=_TRAINED)
        self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint, _SCHEDULER)))

    def _weights(self) -> dict[str, Any]:
        return get_model_state_dict(self.model, options=_TRAINED)

    def _state(self) -> dict[str, Any]:
        return get_optimizer_state_dict(self.model, self.optimizer.optimizer, options=_TRAINED)
