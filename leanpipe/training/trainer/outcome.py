"""How a training went, and the trained weights, which are kept beside its checkpoints.

Like a checkpoint those are either whole or not used. Frozen weights are not among them: the model has those already.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

from leanpipe.core import device
from leanpipe.models.load import load_model
from leanpipe.training.losses.objectives import CrossEntropy
from leanpipe.training.trainer import checkpoints
from leanpipe.training.trainer.data import collate, scored_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_FILE = "trained.safetensors"
_FACTS = "facts.json"
FINISHED = "finished"
"""The folder of those that a training ended with, so that what follows it may be killed without training again."""
INITIAL = "initial"
"""The folder of those that a training began with, which are the best where nothing that it learnt was any better."""


@dataclass(frozen=True)
class Outcome:
    """How a training went."""

    initial_validation: float
    """Nats per scored token of the validation text before training."""
    validation: float
    """Nats per scored token of the validation text under the weights that are kept."""
    loss: float
    """The last reported training loss."""
    tokens: int
    tokens_per_second: float
    mfu: float
    """Share of the device's measured matrix product peak that training's arithmetic reached."""
    micro_batch: int
    """Blocks that were in memory at once, in the end."""
    rewinds: int
    """How many times it went back to a checkpoint because the loss was no longer a training's."""


def saved_loss(folder: Path, blocks: Sequence[Any], arithmetic: str) -> float:
    """Measure nats per scored token of `blocks` under the model that was saved in `folder`, loaded as anybody would.

    What a stage tells of its model is this, and not how the weights did that were trained: saving rounds them, and adapters are
    merged into others than those they were trained on.
    """
    return mean_nats(load_saved(folder, arithmetic), blocks, arithmetic)


def load_saved(folder: Path, arithmetic: str) -> "PreTrainedModel":
    """Load a model to measure it, into memory that a training may have taken."""
    device.release_memory()
    return load_model(folder, device.dtype_of(arithmetic))


def mean_nats(model: Any, blocks: Sequence[Any], arithmetic: str) -> float:
    """Average -ln p of all scored tokens of the blocks under the model as it is now."""
    return total_nats(model, blocks, arithmetic) / max(scored_tokens(blocks), 1)


def total_nats(model: Any, blocks: Sequence[Any], arithmetic: str) -> float:
    """Sum -ln p of all scored tokens of the blocks under the model as it is now."""
    dtype, total = device.dtype_of(arithmetic), 0.0
    training = model.training
    model.eval()
    with torch.no_grad(), torch.autocast(device.name(), dtype, enabled=dtype != torch.float32):
        for block in blocks:
            batch = {name: value.to(device.name()) for name, value in collate([block]).items()}
            total += float(CrossEntropy()(model, batch)["loss"])
    model.train(training)
    return total


def save_finished(model: Any, folder: Path, outcome: Outcome) -> Outcome:
    """Keep what a training ended with among its checkpoints, until its result is published and they go."""
    save_trained(model, folder, FINISHED, asdict(outcome))
    return outcome


def take_up_finished(model: Any, folder: Path) -> Outcome | None:
    """Give `model` the weights of a training that had ended when what followed it was killed; None if there is none."""
    facts = read_facts(folder)
    if facts is None:
        return None
    weights = read_trained(folder, FINISHED)
    assert weights is not None
    load_trained(model, weights)
    return Outcome(**facts)


def save_trained(model: Any, folder: Path, name: str, facts: Mapping[str, Any] | None = None) -> None:
    """Write the trained weights of `model`, and `facts` about them, to `folder/name`, which survives a power cut."""
    place = checkpoints.aside(folder) / name
    place.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in _trained(model).items()}, place / _FILE)
    (place / _FACTS).write_text(json.dumps(facts or {}))
    checkpoints.publish_sealed(place, folder / name)


def read_facts(folder: Path) -> dict[str, Any] | None:
    """Read what is known of weights that a training ended with; None if they are missing or damaged."""
    place = folder / FINISHED
    return json.loads((place / _FACTS).read_text()) if checkpoints.is_whole(place) else None


def read_trained(folder: Path, name: str) -> dict[str, torch.Tensor] | None:
    """Read what `save_trained` wrote; None if it is missing or damaged."""
    place = folder / name
    return load_file(place / _FILE) if checkpoints.is_whole(place) else None


def load_trained(model: Any, weights: dict[str, torch.Tensor]) -> None:
    """Give a model that is not in shards the weights that `read_trained` read."""
    with torch.no_grad():
        for name, parameter in _trained(model).items():
            parameter.copy_(weights[name])


def _trained(model: Any) -> dict[str, torch.Tensor]:
    """The trained weights by name, tied ones once."""
    return {name: value.detach() for name, value in model.named_parameters() if value.requires_grad}
