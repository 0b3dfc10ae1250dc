"""Shapes of one size, and what each of them is worth before it learns: how far it is from its teacher, how fast it decodes."""

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from leanpipe.core.errors import UserError
from leanpipe.shrink.budget import AskedShape, BudgetConfig, Shape, choose_shape, whole_shape

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

_LEAST_CHANNELS = 0.25
"""A share of the teacher's channels; shapes with fewer are never good."""
DECODED = 12
"""Tokens by which the speed of a shape is told."""
_CHUNK = 512  # tokens whose logits are held at once


@dataclass
class Candidate:
    """A shape, and what is known of it."""

    shape: Shape
    parameters: int
    kl: float = float("nan")
    """Nats per token from the teacher to the shape as it is cut."""
    decode_seconds: float = float("nan")
    """For one token, one after the other."""
    bits_per_byte: float | None = None
    """After a short recovery; None if it had none."""


def enumerate_shapes(
    teacher: "PretrainedConfig", budget: BudgetConfig, depths: int, groups: Sequence[int]
) -> list[Candidate]:
    """List the shapes of this size: up to `depths` numbers of layers, each with all and with each of `groups` groups of heads.

    The MLP's channels are what the budget leaves. Raises UserError, with the nearest, if there is none.
    """
    whole, found = whole_shape(teacher), {}
    first = choose_shape(teacher, budget, AskedShape())
    span = whole.layers - first.layers
    layers = {first.layers + round(span * step / max(1, depths - 1)) for step in range(depths)}
    for asked in sorted(layers):
        for count in (0, *groups):
            try:
                shape = choose_shape(teacher, budget, AskedShape(layers=asked, kv_groups=count))
            except UserError:
                continue
            if shape.widths.mlp_channels >= _LEAST_CHANNELS * whole.widths.mlp_channels:
                found[shape] = Candidate(shape, shape.parameters(teacher))
    return list(found.values()) or [Candidate(first, first.parameters(teacher))]


def finalists(candidates: Sequence[Candidate], count: int) -> list[Candidate]:
    """Choose those to be recovered: the best of each number of layers, and of these the best.

    What is near its teacher before it learns is not always so after; shapes of other depths are the likeliest to pass it.
    """
    best: dict[int, Candidate] = {}
    for one in sorted(candidates, key=lambda one: one.kl):
        best.setdefault(one.shape.layers, one)
    return list(best.values())[:count]


class Scorer:
    """Measures students against what their teacher says, which is asked once."""

    def __init__(self, teacher: "PreTrainedModel", blocks: Sequence[Any]):
        import torch

        self._blocks, self._head = list(blocks), teacher.get_output_embeddings()
        with torch.inference_mode():
            self._states = list(_states(teacher, self._blocks))

    def kl(self, student: "PreTrainedModel") -> float:
        """Return the divergence from the teacher to the student, in nats per token of the blocks."""
        import torch

        total, tokens, head = 0.0, 0, student.get_output_embeddings()
        with torch.inference_mode():
            for mine_TD, theirs_TD in zip(_states(student, self._blocks), self._states, strict=True):
                for start in range(0, len(mine_TD), _CHUNK):
                    part = slice(start, start + _CHUNK)
                    ours_CV = head(mine_TD[part]).float().log_softmax(-1)
                    told_CV = self._head(theirs_TD[part]).float().log_softmax(-1)
                    total += float((told_CV.exp() * (told_CV - ours_CV)).sum())
                tokens += len(mine_TD)
        return total / tokens


def _states(model: "PreTrainedModel", blocks: Sequence[Any]) -> "Iterator[torch.Tensor]":
    """The last hidden states of each block, (T, D)."""
    for block in blocks:
        ids, positions = (block[name][None].to(model.device) for name in ("input_ids", "position_ids"))
        yield model.base_model(input_ids=ids, position_ids=positions, use_cache=False).last_hidden_state[0]


def decode_seconds(model: "PreTrainedModel") -> float:
    """Return the median time of one token, decoded after those before it."""
    import torch

    token, cache, taken = torch.zeros(1, 1, dtype=torch.long, device=model.device), None, []
    with torch.inference_mode():
        for _ in range(DECODED):
            started = time.perf_counter()
            out = model(input_ids=token, past_key_values=cache, use_cache=True)
            token, cache = out.logits[:, -1:].argmax(-1), out.past_key_values
            token = token.cpu().to(model.device)  # waits for the device
            taken.append(time.perf_counter() - started)
    return statistics.median(taken)
