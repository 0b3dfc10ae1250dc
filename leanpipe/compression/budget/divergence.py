"""How far a model's predictions move when some of its weights are rounded: the mean KL divergence over the tokens of a text.

A group of weights in layer n changes nothing of what the layers before n give out, so these are not computed again.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from leanpipe.compression.gguf_types import rounded_weights, stored_type
from leanpipe.compression.shapes import shape_of
from leanpipe.models.student import layer_list_name

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from leanpipe.compression.gguf_export import Importance


class Divergence:
    """A model and texts on which it is compared with itself as it was at the beginning."""

    def __init__(self, model: "PreTrainedModel", texts: Sequence["torch.Tensor"], layers: bool = True):
        """Read the texts once with the whole model, and remember what is predicted, and with `layers` what each gives out."""
        self._model, self._texts = model, texts
        self._layers = list(model.get_submodule(layer_list_name(model)))  # type: ignore[arg-type]
        self._outputs: list[list[Any]] = [[] for _ in self._layers]
        hooks = [
            layer.register_forward_hook(lambda _, __, output, kept=kept: kept.append(output))
            for layer, kept in zip(self._layers, self._outputs, strict=True)
            if layers
        ]
        try:
            self._expected = [self._logprobs(text) for text in texts]
        finally:
            for hook in hooks:
                hook.remove()

    def now(self, first_changed: int = 0) -> float:
        """Mean KL divergence in nats per token from the model at the beginning to the model as it is.

        Layers before `first_changed` are as they were, and so is what goes into them.
        """
        total, count = 0.0, 0
        for number, (text, expected) in enumerate(zip(self._texts, self._expected, strict=True)):
            with self._skipping(first_changed, number):
                actual = self._logprobs(text)
            total += float((expected.exp() * (expected - actual)).sum(dtype=expected.dtype))
            count += text.numel()
        return total / count

    def _logprobs(self, text: "torch.Tensor") -> "torch.Tensor":
        import torch

        with torch.inference_mode():
            return self._model(input_ids=text, use_cache=False).logits[0].float().log_softmax(-1)

    @contextlib.contextmanager
    def _skipping(self, first: int, number: int) -> Iterator[None]:
        """Let the layers before `first` give out at once what the last of them gave for this text at the beginning."""
        output = self._outputs[first - 1][number] if first else None
        skipped = self._layers[:first]
        for layer in skipped:
            layer.forward = lambda *_, **__: output  # type: ignore[method-assign]
        try:
            yield
        finally:
            for layer in skipped:
                del layer.forward


def mean_divergence(expected: Sequence["torch.Tensor"], actual: Sequence["torch.Tensor"]) -> float:
    """Mean KL divergence in nats per token between logits [tokens, vocabulary] of several texts."""
    total = 0.0
    for exact, other in zip(expected, actual, strict=True):
        p, q = exact.log_softmax(-1), other[:, : exact.shape[-1]].log_softmax(-1)
        total += float((p.exp() * (p - q)).sum(dtype=p.dtype))
    return total / sum(map(len, expected))


@contextlib.contextmanager
def rounded(
    model: "PreTrainedModel", types: Mapping[str, str], importance: "Importance | None"
) -> Iterator[None]:
    """Round the weights of modules to what is read back from a file of these types; afterwards they are as before."""
    import torch

    before: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        for name, kind in types.items():
            weight = model.get_submodule(name).weight
            before[name] = weight.detach().clone()
            weight.copy_(as_stored(model, name, kind, importance))
    try:
        yield
    finally:
        with torch.no_grad():
            for name, value in before.items():
                model.get_submodule(name).weight.copy_(value)


def as_stored(
    model: "PreTrainedModel", name: str, kind: str, importance: "Importance | None", rows: int | None = None
) -> "torch.Tensor":
    """The weights of a module as they are read back from a file; of the first and some more `rows` of them, if told."""
    values, turned = module_rows(model, name, rows)
    read = rounded_weights(values, stored_type(kind, values.shape[-1]), (importance or {}).get(name))
    return read.T if turned else read


def module_rows(model: "PreTrainedModel", name: str, rows: int | None = None) -> tuple["torch.Tensor", bool]:
    """The weights [outputs, inputs] of a module in float32, or about `rows` of them, and whether it holds them turned."""
    module = model.get_submodule(name)
    values = module.weight.detach().float().cpu()
    turned = shape_of(module) is not None and type(module).__name__ == "Conv1D"
    values = values.T.contiguous() if turned else values
    step = max(1, len(values) // rows) if rows else 1
    return values[::step].contiguous(), turned
