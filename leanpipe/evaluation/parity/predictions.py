"""What a stored model predicts and answers in process, by which answers over HTTP are judged."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leanpipe.evaluation.parity.bounds import Bounds, Fault
from leanpipe.evaluation.parity.probes import Probe
from leanpipe.evaluation.parity.served_answers import Said
from leanpipe.evaluation.parity.text_faults import TextSide
from leanpipe.models.offload import input_device

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from leanpipe.engines.open_engine import EngineLogits, GgufEngine

MOST_TOKENS = 512
"""Positions at which predictions are compared: their logits are held for both models."""


@dataclass(frozen=True)
class Answer:
    """A greedy answer, token by token, as far as it is known."""

    tokens: list[int]
    texts: list[str]
    """The answer after each of its tokens; a character that is not whole yet is left out."""
    margins: list[float]
    """How far each token was ahead of the second best, in nats."""
    ended: bool
    """Whether it ended by itself, rather than at the limit."""

    @property
    def text(self) -> str:
        return self.texts[-1] if self.texts else ""

    def parts(self, other: str) -> int | None:
        """Return the first token after which the answer is no beginning of `other`; None if it is one to its end."""
        beginnings = (number for number, text in enumerate(self.texts) if not other.startswith(text))
        return next(beginnings, None)


@dataclass(frozen=True)
class Predicted:
    """What a model made of the probes."""

    logprobs: "torch.Tensor"
    """[T, V] of all positions of all probes, as far as they were read, in float32 on the processor."""
    answers: list[Answer]
    """Of the conversations, or of the texts where there is no template: see `asked`."""


@dataclass(frozen=True)
class Divergence:
    """How far a model's predictions are from the trained one's."""

    kl: float
    """Nats per token, on average."""
    agreement: float
    """Share of positions at which both like the same token best."""


def asked(read: Sequence[Probe], prompts: int) -> list[Probe]:
    """Return the probes that are answered: one for each of the user's prompts, as conversations if there are any."""
    chats = [probe for probe in read if probe.is_chat]
    return chats[:prompts] or read[-prompts:]  # type: ignore[return-value]


def predict(
    model: "PreTrainedModel", side: TextSide, read: Sequence[Probe], questions: Sequence[Probe], tokens: int
) -> Predicted:
    """Read the probes, whose tokens are the trained model's, and answer `questions` with at most `tokens` tokens."""
    return Predicted(_logprobs(model, read), [_answer(model, side, probe, tokens) for probe in questions])


def predict_exported(
    folder: Path,
    side: TextSide,
    read: Sequence[Probe],
    questions: Sequence[Probe],
    answers: Sequence[Answer],
    engine: "GgufEngine",
) -> Predicted:
    """Do as `predict` with a GGUF or ONNX file, by the engine that serves it: `engine` if it is GGUF.

    Its own answers are read off what it predicts along the trained model's `answers`: up to the first token that it would
    have chosen otherwise.
    """
    import torch

    from leanpipe.engines.open_engine import open_logits

    longest = max(len(probe.tokens) for probe in read) + max(len(answer.tokens) for answer in answers)
    model = open_logits(folder, longest, engine)
    rows = [model(tokens).log_softmax(dim=-1) for tokens in _within_limit(read)]
    pairs = zip(questions, answers, strict=True)
    return Predicted(torch.cat(rows), [_along(model, side, probe, answer.tokens) for probe, answer in pairs])


def _along(model: "EngineLogits", side: TextSide, probe: Probe, answer: list[int]) -> Answer:
    predicted = model([*probe.tokens, *answer[:-1]])[len(probe.tokens) - 1 :]
    best = predicted.log_softmax(dim=-1).topk(2)
    chosen = best.indices[:, 0].tolist()
    same = next(
        (place for place, pair in enumerate(zip(chosen, answer, strict=True)) if pair[0] != pair[1]),
        len(answer) - 1,
    )
    tokens = chosen[: same + 1]
    texts = [_decoded(side, tokens[: number + 1]) for number in range(len(tokens))]
    margins = (best.values[:, 0] - best.values[:, 1]).tolist()[: same + 1]
    return Answer(tokens, texts, margins, tokens[-1] in side.ends)


def diverge(trained: Predicted, served: Predicted) -> Divergence:
    """Compare predictions position by position, over the tokens that both know."""
    one, other = trained.logprobs, served.logprobs
    kl = (one.exp() * (one - other)).nan_to_num(nan=float("inf")).sum(dim=1)
    same = one.argmax(dim=1) == other.argmax(dim=1)
    return Divergence(float(kl.mean()), float(same.float().mean()))


def find_prediction_faults(found: Divergence, bounds: Bounds) -> Iterator[Fault]:
    """Yield the fault if predictions are further from the trained model's than the format should move them."""
    if not found.kl <= bounds.kl:
        yield Fault(
            "predictions_differ",
            f"its predictions are {found.kl:.3g} nats per token from the trained model's (the same token is best at "
            f"{found.agreement:.1%} of positions), and {bounds.kl:g} is the most in this format: the weights are right, so "
            "the arithmetic is not; try another format",
        )


def find_answer_faults(known: Answer, said: Said, margin: float, whose: str, called: str) -> Iterator[Fault]:
    """Yield the fault if the server's answer parts from `known`, which is `whose`, where that was sure of its token."""
    place = known.parts(said.text)
    went_on = place is None and known.ended and said.tokens > len(known.texts)
    if went_on:
        place = len(known.texts) - 1  # the token that ended it
    if place is None or known.margins[place] <= margin:
        return
    if went_on:
        yield Fault(
            "end_of_turn",
            f"the server does not end its answer to {called} where {whose} does, after {place + 1} tokens, and goes on to "
            f"{said.tokens}: put the end of turn into eos_token_id of generation_config.json",
        )
        return
    yield Fault(
        "flipped_tokens",
        f"the server answers {called} with {said.text[:60]!r}, and {whose} with {known.text[:60]!r}: that was sure of "
        f"token {place + 1} by {known.margins[place]:.2f} nats, and {margin:g} is the most that may flip, so the arithmetic "
        "of the engine changes answers; serve the model with another engine, or in another format",
    )


def _logprobs(model: "PreTrainedModel", read: Sequence[Probe]) -> "torch.Tensor":
    import torch

    rows = []
    with torch.inference_mode():
        for tokens in _within_limit(read):
            logits = model(
                input_ids=torch.tensor([tokens], device=input_device(model)), use_cache=False
            ).logits
            rows.append(logits[0].float().log_softmax(dim=-1).cpu())
    return torch.cat(rows)


def _within_limit(read: Sequence[Probe]) -> Iterator[list[int]]:
    """The probes' tokens, as far as their logits can be held."""
    left = MOST_TOKENS
    for probe in read:
        if tokens := probe.tokens[:left]:
            left -= len(tokens)
            yield tokens


def _answer(model: "PreTrainedModel", side: TextSide, probe: Probe, most: int) -> Answer:
    import torch

    settings = copy.deepcopy(side.generation)
    settings.update(
        do_sample=False,
        temperature=None,
        top_p=None,
        top_k=None,
        max_new_tokens=most,
        max_length=None,
        eos_token_id=sorted(side.ends) or None,
        pad_token_id=side.tokenizer.pad_token_id if side.tokenizer.pad_token_id is not None else 0,
        output_scores=True,
        return_dict_in_generate=True,
    )
    tokens = torch.tensor([probe.tokens], device=input_device(model))
    with torch.inference_mode():
        generated: Any = model.generate(  # type: ignore[operator]
            tokens, attention_mask=torch.ones_like(tokens), generation_config=settings
        )
    new = generated.sequences[0, tokens.shape[1] :].tolist()
    best = [scores[0].float().log_softmax(dim=-1).topk(2).values for scores in generated.scores]
    texts = [_decoded(side, new[: number + 1]) for number in range(len(new))]
    return Answer(new, texts, [float(one[0] - one[1]) for one in best], bool(new) and new[-1] in side.ends)


def _decoded(side: TextSide, tokens: list[int]) -> str:
    return str(side.tokenizer.decode(tokens, skip_special_tokens=True)).rstrip("\ufffd")
