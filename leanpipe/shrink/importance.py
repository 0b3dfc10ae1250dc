"""What of a model matters, measured on text: which layers, which entries of the hidden states, which neurons, which heads.

Letters in names of tensors: N tokens, L layers, D width, F neurons of a layer's MLP, G groups of heads with one key, H size
of a head.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from leanpipe.core.errors import UserError
from leanpipe.shrink.cuttable import cuttable_parts, mlp_channels, mlp_output

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
    moments: list["torch.Tensor"] = field(default_factory=list)
    """By layer the products of what its channels carry (F, F), where the channels that stay are to be fitted anew."""
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

    with hooked([(layer, watch(index)) for index, layer in enumerate(layers)]):
        read_blocks(model, blocks)
    return influence_L


def measure_importance(
    model: "PreTrainedModel",
    layers: Sequence["torch.nn.Module"],
    blocks: Sequence[Any],
    moments: bool = False,
) -> Importance:
    """Measure on `blocks` what of the model matters, of those of its parts that can be cut; `moments` of channels too.

    Raises UserError for a model that computes no numbers: what is important could only be guessed.
    """
    import torch

    parts, config = cuttable_parts(model), model.config
    found = Importance(
        influence_L=torch.zeros(0),
        hidden_D=torch.zeros(config.hidden_size, dtype=torch.float64),
        neurons_LF=torch.zeros(len(layers), mlp_channels(config), dtype=torch.float64),
        groups_LG=torch.zeros(
            len(layers), getattr(config, "num_key_value_heads", None) or 0, dtype=torch.float64
        ),
    )
    watched: list[tuple[torch.nn.Module, Callable[..., None]]] = []
    if "hidden_size" in parts:
        watched += [(norm, _watch_norm(found, name, inner)) for name, norm, inner in norms(model, layers)]
    if "mlp_channels" in parts:
        found.moments = [torch.zeros(0) for _ in layers] if moments else []
        watched += [(mlp_output(layer), _watch_neurons(found, index)) for index, layer in enumerate(layers)]
    if "kv_groups" in parts:
        watched += [
            (layer.get_submodule("self_attn.o_proj"), _watch_heads(found, index))
            for index, layer in enumerate(layers)
        ]
    with hooked(watched):
        found.influence_L = layer_influence(model, layers, blocks)
    check_finite(found)
    return found


def _watch_norm(found: Importance, name: str, inner: bool) -> Callable[..., None]:
    import torch

    found.squares[name] = torch.zeros_like(found.hidden_D)

    def look(_: Any, given: Any, made: Any) -> None:
        found.squares[name] += given[0].double().square().flatten(0, -2).sum(0).cpu()
        if inner:
            found.hidden_D += made.double().abs().flatten(0, -2).sum(0).cpu()

    return look


def _watch_neurons(found: Importance, index: int) -> Callable[..., None]:
    def look(_: Any, given: Any, made: Any) -> None:
        found.neurons_LF[index] += given[0].double().abs().flatten(0, -2).sum(0).cpu()
        if found.moments:
            states_NF = given[0].flatten(0, -2).float()
            products_FF, before = (states_NF.T @ states_NF).cpu(), found.moments[index]
            found.moments[index] = before + products_FF if before.numel() else products_FF

    return look


def _watch_heads(found: Importance, index: int) -> Callable[..., None]:
    def look(_: Any, given: Any, made: Any) -> None:
        states_NGH = given[0].double().flatten(0, -2).unflatten(-1, (found.groups_LG.shape[1], -1))
        found.groups_LG[index] += states_NGH.norm(dim=-1).sum(0).cpu()

    return look


def check_finite(found: Importance) -> None:
    """Raise UserError if the importance of some part is no number: its order would be chance."""
    for name, values in (
        ("layers", found.influence_L),
        ("hidden states", found.hidden_D),
        ("MLP channels", found.neurons_LF),
        ("heads", found.groups_LG),
    ):
        if not values.isfinite().all():
            raise UserError(
                f"the importance of the teacher's {name} came out as NaN or infinite on the corpus: its weights are "
                "damaged or overflow in this device's arithmetic; fetch the teacher again, or give another one"
            )


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


@contextmanager
def hooked(watched: Sequence[tuple["torch.nn.Module", Callable[..., None]]]) -> Iterator[None]:
    """Have each module call a function with what goes in and comes out, in a context."""
    handles = [module.register_forward_hook(look) for module, look in watched]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def read_blocks(model: "PreTrainedModel", blocks: Sequence[Any]) -> None:
    """Run the model over the blocks, one after the other, for what its hooks see."""
    import torch

    with torch.no_grad():
        for block in blocks:
            ids, positions = (block[name][None].to(model.device) for name in ("input_ids", "position_ids"))
            model.base_model(input_ids=ids, position_ids=positions, use_cache=False)
