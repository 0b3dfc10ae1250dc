"""What of a model matters, measured on text: which layers, which entries of the hidden states, which neurons, which heads.

Letters in names of tensors: N tokens, L layers, D width, F neurons of a layer's MLP, G groups of heads with one key, H size
of a head.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from leanpipe.core.errors import UserError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


@dataclass
class Importance:
    """Holds sums over tokens that say how much each part of a model does; only their order counts, but for `squares`."""

    influence_L: "torch.Tensor"
    """1 - cosine between a layer's input and its output: how much it changes (Men et al. 2024, "ShortGPT", section 3.2,
    arXiv 2403.03853)."""
    hidden_D: "torch.Tensor"
    """|entry| of what the norms before attention and MLP give out (Muralidharan et al. 2024, "Compact Language Models via
    Pruning and Knowledge Distillation", section 2.2, arXiv 2407.14679)."""
    neurons_LF: "torch.Tensor"
    """|activation| that goes into the MLP's last product."""
    groups_LG: "torch.Tensor"
    """Length of what the heads of a group give out."""
    squares: dict[str, "torch.Tensor"] = field(default_factory=dict)
    """By the name of each norm the squares of what goes in (D,): what a norm over fewer entries would divide by."""


def layer_influence(
    model: "PreTrainedModel", layers: Sequence["torch.nn.Module"], blocks: Sequence[Any]
) -> "torch.Tensor":
    """Measure how much each of `layers` changes what goes through it (L,), from 0 (nothing) to 2, the mean over tokens."""
    import torch

    influence_L = torch.zeros(len(layers), dtype=torch.float64)

    def watch(index: int) -> Callable[..., None]:
        def look(_: Any, given: Any, made: Any) -> None:
            before, after = given[0].float(), (made[0] if isinstance(made, tuple) else made).float()
            same_BT = torch.cosine_similarity(before, after.view_as(before), dim=-1)
            influence_L[index] += (1 - same_BT).mean().double().cpu() / len(blocks)

        return look

    with _hooked([(layer, watch(index)) for index, layer in enumerate(layers)]):
        _read(model, blocks)
    return influence_L


def measure_importance(
    model: "PreTrainedModel", layers: Sequence["torch.nn.Module"], blocks: Sequence[Any]
) -> Importance:
    """Measure on `blocks` what of the model matters. Raises UserError for layers that are not built as Llama's."""
    import torch

    check_parts(model, layers)
    config = model.config
    groups = config.num_key_value_heads
    found = Importance(
        influence_L=torch.zeros(0),
        hidden_D=torch.zeros(config.hidden_size, dtype=torch.float64),
        neurons_LF=torch.zeros(len(layers), config.intermediate_size, dtype=torch.float64),
        groups_LG=torch.zeros(len(layers), groups, dtype=torch.float64),
    )

    def watch_norm(name: str, inner: bool) -> Callable[..., None]:
        found.squares[name] = torch.zeros(config.hidden_size, dtype=torch.float64)

        def look(_: Any, given: Any, made: Any) -> None:
            found.squares[name] += given[0].double().square().flatten(0, -2).sum(0).cpu()
            if inner:
                found.hidden_D += made.double().abs().flatten(0, -2).sum(0).cpu()

        return look

    def watch_neurons(index: int) -> Callable[..., None]:
        def look(_: Any, given: Any, made: Any) -> None:
            found.neurons_LF[index] += given[0].double().abs().flatten(0, -2).sum(0).cpu()

        return look

    def watch_heads(index: int) -> Callable[..., None]:
        def look(_: Any, given: Any, made: Any) -> None:
            states_NGH = given[0].double().flatten(0, -2).unflatten(-1, (groups, -1))
            found.groups_LG[index] += states_NGH.norm(dim=-1).sum(0).cpu()

        return look

    watched = [(norm, watch_norm(name, inner)) for name, norm, inner in norms(model, layers)]
    watched += [(layer.mlp.down_proj, watch_neurons(index)) for index, layer in enumerate(layers)]
    watched += [(layer.self_attn.o_proj, watch_heads(index)) for index, layer in enumerate(layers)]
    with _hooked(watched):
        _read(model, blocks)
    found.influence_L = layer_influence(model, layers, blocks)
    return found


def norms(
    model: "PreTrainedModel", layers: Sequence["torch.nn.Module"]
) -> Iterator[tuple[str, "torch.nn.Module", bool]]:
    """Iterate over every norm of the hidden states with its name, and whether it lies in a layer."""
    inside = {module for layer in layers for module in layer.modules()}
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if (
            "Norm" in type(module).__name__
            and weight is not None
            and weight.shape == (model.config.hidden_size,)
        ):
            yield name, module, module in inside


_PARTS = {"self_attn": ("q_proj", "k_proj", "v_proj", "o_proj"), "mlp": ("gate_proj", "up_proj", "down_proj")}


def check_parts(model: "PreTrainedModel", layers: Sequence["torch.nn.Module"]) -> None:
    """Raise UserError unless the layers consist of the products that Llama's consist of, and of norms."""
    for layer in layers:
        found = {
            name for name, module in layer.named_modules() if getattr(module, "weight", None) is not None
        }
        wanted = {f"{part}.{name}" for part, names in _PARTS.items() for name in names}
        of_norms = {name for name in found if name.endswith("layernorm")}
        if found != wanted | of_norms:
            raise UserError(
                f"a {model.config.model_type} model cannot be made narrower, only models built as Llama can: "
                "set distill.width to 1"
            )


@contextmanager
def _hooked(watched: Sequence[tuple["torch.nn.Module", Callable[..., None]]]) -> Iterator[None]:
    handles = [module.register_forward_hook(look) for module, look in watched]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _read(model: "PreTrainedModel", blocks: Sequence[Any]) -> None:
    import torch

    with torch.no_grad():
        for block in blocks:
            ids, positions = (block[name][None].to(model.device) for name in ("input_ids", "position_ids"))
            model.base_model(input_ids=ids, position_ids=positions, use_cache=False)
