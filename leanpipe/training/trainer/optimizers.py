"""Muon for the weights of layers, AdamW for the rest (Jordan et al. 2024, kellerjordan.github.io/posts/muon)."""

from typing import Any

import torch

from leanpipe.models.unwrap import unwrap_adapters


class MuonAndAdamW(torch.optim.Optimizer):
    """Steps Muon and AdamW together.

    Muon's updates are scaled to the size of AdamW's (Liu et al. 2025, "Muon is Scalable for LLM Training", arXiv 2502.16982,
    section 2.2), so that one learning rate and one weight decay suit both.
    """

    def __init__(
        self,
        matrices: list[torch.nn.Parameter],
        others: list[dict[str, Any]],
        lr: float,
        weight_decay: float,
        betas: tuple[float, float],
    ):
        self._both: dict[str, torch.optim.Optimizer] = {}
        if matrices:
            self._both["muon"] = torch.optim.Muon(
                matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
            )
        if others:  # adapters are all matrices
            self._both["adamw"] = torch.optim.AdamW(others, lr=lr, betas=betas)
        super().__init__([{"params": matrices}, *others], {})
        self._link()

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """Update all weights once."""
        for optimizer in self._both.values():
            optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of both, by name."""
        return {name: optimizer.state_dict() for name, optimizer in self._both.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state of both."""
        for name, optimizer in self._both.items():
            optimizer.load_state_dict(state_dict[name])
        self._link()

    def _link(self) -> None:
        """Make the two's groups ours: the schedule writes learning rates into them."""
        self.param_groups = [group for optimizer in self._both.values() for group in optimizer.param_groups]


def muon_and_adamw(
    model: Any, decayed: set[str], lr: float, weight_decay: float, betas: tuple[float, float]
) -> MuonAndAdamW:
    """Make the optimiser for the trained parameters of `model`; of those that AdamW trains, the `decayed` decay."""
    causal = unwrap_adapters(model)
    ends = {id(module.weight) for module in (causal.get_input_embeddings(), causal.get_output_embeddings())}
    trained = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    matrices = [weight for _, weight in trained if weight.ndim == 2 and id(weight) not in ends]
    rest = [(name, weight) for name, weight in trained if weight.ndim != 2 or id(weight) in ends]
    groups = [
        {"params": [weight for name, weight in rest if name in decayed], "weight_decay": weight_decay},
        {"params": [weight for name, weight in rest if name not in decayed], "weight_decay": 0.0},
    ]
    return MuonAndAdamW(matrices, [group for group in groups if group["params"]], lr, weight_decay, betas)
