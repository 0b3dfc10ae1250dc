"""Stage `cut_vocabulary`: the teacher without the tokens that corpus, instructions and evaluation sets do not use.

In a small model embeddings and head are a large part, and most of their rows belong to words of other texts. The teacher
that is left predicts what the whole one predicts, given that the next token is one of those that stay: the softmax of the
rows that stay is p(token) / p(kept). In training text, of which every token stays, that is its conditional distribution, and
a student of the same tokens learns it by the same ids, from the same cache.

What is left out can still be written, by smaller pieces. See `cut_tokenizer` for why kept text is cut as before.
"""

import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from leanpipe.core.config import StageConfig
from leanpipe.core.device import Kind
from leanpipe.core.errors import UserError
from leanpipe.core.estimate import (
    BYTES_PER_TOKEN,
    Estimate,
    ExpectedInputs,
    bytes_of_weight,
    host_bytes,
    process_bytes,
)
from leanpipe.core.keys import NotInKey
from leanpipe.core.lineage import NOTHING, PREPARED_FROM
from leanpipe.core.report import Report
from leanpipe.core.stage import Inputs, Stage, Summary, stage
from leanpipe.core.store import MANIFEST, REPORT, Artifact, Store
from leanpipe.models.card import carry_licence
from leanpipe.models.load import check_numbers, load_for_inference, load_tokenizer
from leanpipe.models.offload import is_quantized
from leanpipe.tokens.text_tokens import encode_text
from leanpipe.training.vocabulary.count_tokens import count_tokens, spelt_out, spelt_turns, texts_to_serve
from leanpipe.training.vocabulary.cut_model import KEPT, write_cut_model
from leanpipe.training.vocabulary.cut_tokenizer import CutTokenizer, read_cut_tokenizer

if TYPE_CHECKING:
    import numpy as np
    from transformers import PretrainedConfig

log = logging.getLogger(__name__)

_MULTIPLE = 64
"""The number of tokens is one of this: quantisers and matrix units like no odd sizes."""
_COVERED = 0.999
"""An earlier vocabulary is used again if it holds so much of what this one would."""
_SAMPLE_TOKENS = 4_096  # of which the teacher predicts the next
_SAMPLED_BYTES = 40
"""Bytes of text for each of them: so many documents give their beginnings."""
_ROW_TOKENS = 256  # that the teacher reads at once, at the most: of many documents a little
_TYPES_PER_ROOT = 48.0
"""Tokens that stay over the square root of a text's (Heaps' law): 43 that it uses, measured on web pages and Wikipedia, and a tenth of
that, which it does not and the teacher expects."""


class CutVocabularyConfig(StageConfig):
    """Which tokens of the teacher's vocabulary stay."""

    keep: Literal["used", "all"] = "used"
    """`used` leaves out what the text, the instructions and the evaluation sets do not need; `all` leaves this stage out."""
    min_occurrences: int = Field(1, ge=1, le=1_000_000)
    """Tokens that come up more rarely go, too: they are written by smaller pieces."""
    coverage: float = Field(1.0, gt=0, le=1)
    """The most frequent tokens stay that make up this share of the text."""
    max_gone: float = Field(0.005, ge=0, le=1)
    """The share of its probability that the teacher may give, on the training text, to tokens that go because the text does not
    use them: the likeliest of them stay until it is no more. It is about how often further text needs one; 1 keeps none of them."""
    counted_bytes: int = Field(100_000_000, ge=1_000, le=1_000_000_000_000)
    """Tokens are counted on so many bytes of the training text, taken from all of it evenly."""
    max_unseen: Annotated[float, NotInKey("what is refused, not what is kept")] = Field(0.3, gt=0, le=1)
    """The share of further text like this whose tokens may have gone, as the tokens tell that came up only once. A corpus that is so
    small that it would be more is refused."""


@dataclass(frozen=True)
class CutVocabularyInputs:
    """The teacher's model folder, the output folder of the clean stage, and what else the model is to read and write."""

    teacher: Path
    documents: Path
    instructions: Path | None = None
    evaluation_sets: tuple[Path, ...] = ()
    earlier: tuple[Path, ...] = ()
    """Earlier results for other text: one that has what this needs is used again, so that what follows is too."""


def find_earlier_vocabularies(
    stage: Stage, store: Store, config: CutVocabularyConfig, inputs: Inputs
) -> tuple[Artifact, ...]:
    """Find the results for this teacher and these settings that were made for other text, once each."""
    wanted = stage.digests(inputs)
    keys = [
        manifest.key
        for _, manifest in store.manifests(stage.name)
        if manifest.inputs.get("teacher") == wanted["teacher"]
        and manifest.inputs.get("documents") != wanted["documents"]
        and stage.made(manifest) == config
    ]
    found = (store.find(stage.name, key) for key in keys)
    by_digest = {one.digest: one for one in found if one}
    return tuple(by_digest[digest] for digest in sorted(by_digest))


def check_cut_vocabulary(config: CutVocabularyConfig, inputs: ExpectedInputs) -> None:
    """Raise UserError for a teacher whose tokenizer cannot be cut. Loads no weights."""
    if path := inputs["teacher"].path:
        if is_quantized(path):
            raise UserError(
                f"the weights of {path} are quantised, so its vocabulary is not cut: set cut_vocabulary.keep=all"
            )
        read_cut_tokenizer(path)


def estimate_cut_vocabulary(config: CutVocabularyConfig, inputs: ExpectedInputs, kind: Kind) -> Estimate:
    """What `cut_vocabulary` takes: the teacher twice, and a pass over some text."""
    from leanpipe.models.count import expected_config, tokenizer_folder, whole_parameters

    whole = expected_config(inputs["teacher"])
    parameters = whole_parameters(whole)
    cut = _expected_config(whole, inputs["documents"].facts.get("bytes", 0))
    weights = bytes_of_weight() * parameters
    parts = {
        "process": process_bytes(kind),
        "weights": weights,
        "logits": 4 * 3 * _ROW_TOKENS * whole.get_text_config().vocab_size,
    }
    peak = sum(parts.values())
    host = max(host_bytes(kind, peak), 2 * weights)
    result = {"model": cut, "tokenizer": tokenizer_folder(inputs["teacher"])}
    work = 2.0 * parameters * _SAMPLE_TOKENS
    return Estimate(peak, host, weights, work, parts, weights, result=result)


def _expected_config(whole: "PretrainedConfig", text_bytes: int) -> "PretrainedConfig":
    """The config of the model that is left of `whole` for a text of so many bytes; 0 if that is not known."""
    import copy

    from leanpipe.models.count import whole_parameters

    cut, text = copy.deepcopy(whole), whole.get_text_config()
    if text_bytes:
        types = round(_TYPES_PER_ROOT * (text_bytes / BYTES_PER_TOKEN) ** 0.5 / _MULTIPLE) * _MULTIPLE
        cut.get_text_config().vocab_size = min(text.vocab_size, max(_MULTIPLE * 8, types))
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):  # which are among the first, or will be
            setattr(cut, name, None)
    cut.uncut_parameters = whole_parameters(whole)
    return cut


@stage(
    version=3,
    uses_device=True,
    check=check_cut_vocabulary,
    estimate=estimate_cut_vocabulary,
    earlier=find_earlier_vocabularies,
    reads={
        "documents": PREPARED_FROM,
        "instructions": PREPARED_FROM,
        "teacher": NOTHING,
        "evaluation_sets": NOTHING,
        "earlier": NOTHING,
    },
)
def cut_vocabulary(
    config: CutVocabularyConfig, inputs: CutVocabularyInputs, out: Path, report: Report
) -> Summary:
    """Write the teacher as a model folder of fewer tokens to `out`, and which they were to `kept_tokens.json`.

    `mass_kept` is the share of the teacher's probability that the kept tokens have, on average over a sample of the
    training text.
    """
    from leanpipe.models.count import parameters_of, read_config, whole_parameters

    tokenizer, loaded = read_cut_tokenizer(inputs.teacher), load_tokenizer(inputs.teacher)
    texts = texts_to_serve(
        inputs.documents, config.counted_bytes, inputs.instructions, inputs.evaluation_sets
    )
    counts_V = count_tokens(loaded, tokenizer.size, texts)
    check_counted(counts_V, config.max_unseen)
    always = tokenizer.always(spelt_out(inputs.teacher))
    of_template = [spelt_out(inputs.teacher), *spelt_turns(inputs.teacher)]
    always |= set(count_tokens(loaded, tokenizer.size, of_template).nonzero()[0].tolist())
    wanted = choose_tokens(counts_V, config.min_occurrences, config.coverage) | always
    predicted_V = predicted_counts(inputs, tokenizer.size)
    likely = likely_tokens(predicted_V, counts_V == 0, config.max_gone)
    wanted |= {index for index in likely if tokenizer.has(index)}
    earlier = next((one for one in inputs.earlier if _covers(one, counts_V, wanted, always)), None)
    if earlier:
        log.info("the vocabulary of an earlier corpus has what this one needs: it stays")
        _copy(earlier, out)
        kept = json.loads((out / KEPT).read_text())
    else:
        rounded = round_up(tokenizer, wanted, counts_V, _MULTIPLE)
        kept = write_cut_model(inputs.teacher, out, tokenizer, rounded)
    carry_licence([inputs.teacher], out)
    config_before, config_after = read_config(inputs.teacher), read_config(out)
    summary: Summary = {
        "tokens_kept": len(kept),
        "tokens_before": tokenizer.size,
        "parameters": parameters_of(config_after),
        "parameters_before": whole_parameters(config_before),
        "text_covered": float(counts_V[kept].sum() / max(1, counts_V.sum())),
        "mass_kept": float(predicted_V[kept].sum() / predicted_V.sum()),
    }
    _write_report(counts_V, kept, out / REPORT)
    report.metrics({name: float(value) for name, value in summary.items()})
    return summary


def check_counted(counts_V: "np.ndarray", max_unseen: float) -> None:
    """Raise UserError for a text that is too small to say which tokens others like it need.

    The share of tokens that came up once estimates the share of further text that is of tokens that never did (Good 1953, "The
    Population Frequencies of Species and the Estimation of Population Parameters").
    """
    once, total = int((counts_V == 1).sum()), int(counts_V.sum())
    if once > max_unseen * total:
        raise UserError(
            f"the corpus is too small to count a vocabulary on: of its {total:,} tokens {once:,} come up only once, so about "
            f"{once / total:.0%} of other text like it would be of tokens that are cut: give more text, or set "
            "cut_vocabulary.keep=all"
        )


def choose_tokens(counts_V: "np.ndarray", min_occurrences: int, coverage: float) -> set[int]:
    """The ids that come up often enough, the most frequent first, until they make up the share `coverage` of all."""
    import numpy as np

    order_V = np.argsort(-counts_V, kind="stable")
    before_V = np.concatenate([[0], np.cumsum(counts_V[order_V])[:-1]])
    needed_V = (before_V < coverage * counts_V.sum()) & (counts_V[order_V] >= min_occurrences)
    return set(order_V[needed_V].tolist())


def round_up(tokenizer: CutTokenizer, wanted: set[int], counts_V: "np.ndarray", multiple: int) -> set[int]:
    """The wanted ids, their parts, and further ones that make their number a multiple: frequent ones, then such of low id."""
    import numpy as np

    kept = tokenizer.with_parts(wanted)
    for index in np.argsort(-counts_V, kind="stable").tolist():
        missing = -len(kept) % multiple
        if not missing:
            break
        if index in kept or not tokenizer.has(index):
            continue
        grown = tokenizer.with_parts({index}) | kept
        if len(grown) - len(kept) <= missing:
            kept = grown
    return kept


def likely_tokens(predicted_V: "np.ndarray", unused_V: "np.ndarray", max_gone: float) -> set[int]:
    """The unused ids, the likeliest first, so many that the others are predicted with a share of at most `max_gone`."""
    import numpy as np

    order = np.flatnonzero(unused_V)
    order = order[np.argsort(predicted_V[order], kind="stable")]
    gone = np.cumsum(predicted_V[order])  # if it went, and all that are less likely
    return set(order[gone > max_gone * predicted_V.sum()].tolist())


def predicted_counts(inputs: CutVocabularyInputs, size: int) -> "np.ndarray":
    """How often the whole teacher expects each of `size` tokens in training text, (V,): its probabilities' sum over a sample."""
    import numpy as np
    import torch

    from leanpipe.models.count import longest_text

    teacher, tokenizer = load_for_inference(inputs.teacher), load_tokenizer(inputs.teacher)
    length = min(_ROW_TOKENS, longest_text(teacher.config) or _ROW_TOKENS)
    read = 0  # tokens
    expected_V = torch.zeros(size, dtype=torch.float64)
    with torch.inference_mode():
        for text in texts_to_serve(inputs.documents, _SAMPLE_TOKENS * _SAMPLED_BYTES, None, ()):
            tokens = encode_text(tokenizer, text)[: min(length, _SAMPLE_TOKENS - read)]
            if not tokens:
                continue
            read += len(tokens)
            tokens_1T = torch.tensor([tokens], device=teacher.device)
            logits_TV = teacher(input_ids=tokens_1T, use_cache=False).logits[0]
            # Some models have more rows than there are tokens.
            expected_V += logits_TV.float().softmax(-1).sum(0, dtype=torch.float64)[:size].cpu()
            if read >= _SAMPLE_TOKENS:
                break
    if not expected_V.isfinite().all():
        check_numbers(teacher, inputs.teacher)
        raise UserError(
            f"what {inputs.teacher} predicts of the corpus is NaN: it overflows in this device's arithmetic; give another teacher"
        )
    return np.asarray(expected_V)


def _covers(earlier: Path, counts_V: "np.ndarray", wanted: set[int], always: set[int]) -> bool:
    """Whether an earlier vocabulary has nearly all of the text that the wanted tokens make up, and what always stays."""
    ids, had = sorted(wanted), set(json.loads((earlier / KEPT).read_text()))
    there = sorted(wanted & had)
    return always <= had and bool(counts_V[there].sum() >= _COVERED * counts_V[ids].sum())


def _copy(earlier: Path, out: Path) -> None:
    for file in earlier.iterdir():
        if file.is_file() and file.name != MANIFEST:
            shutil.copyfile(file, out / file.name)


def _write_report(counts_V: "np.ndarray", kept: list[int], folder: Path) -> None:
    """Draw how much of the text the most frequent tokens make up, and where the cut is."""
    import numpy as np

    from leanpipe.core.plots import DROPPED, picture
    from leanpipe.core.plots import KEPT as KEPT_COLOR

    ordered_V = np.sort(counts_V)[::-1]
    share_V = np.cumsum(ordered_V) / max(1, ordered_V.sum())
    with picture(folder / "vocabulary.png") as axes:
        axes.plot(np.arange(1, len(share_V) + 1), share_V, color=KEPT_COLOR)
        axes.axvline(len(kept), color=DROPPED, linestyle="--")
        axes.annotate(f" {len(kept):,} of {len(counts_V):,} tokens stay", (len(kept), 0.5), color=DROPPED)
        axes.set(
            xscale="log",
            xlabel="most frequent tokens",
            ylabel="share of the text",
            title="What the text uses of the vocabulary",
        )
