"""Ask a teacher once what it predicts, and keep that: every student and every sweep on the same text learns from it.

The teacher then takes neither time nor memory while a student trains.
"""

import json
import logging
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from leanpipe.core import device
from leanpipe.core.config import StageConfig
from leanpipe.core.device import Kind
from leanpipe.core.errors import UserError
from leanpipe.core.estimate import (
    Estimate,
    Expected,
    ExpectedInputs,
    Repeated,
    bytes_of_weight,
    host_bytes,
    process_bytes,
    read_arithmetic,
)
from leanpipe.core.files import link_or_copy, write_text, written_whole
from leanpipe.core.keys import NotInKey
from leanpipe.core.report import Report
from leanpipe.core.stage import NOT_COMPARED, Inputs, Stage, Summary, stage
from leanpipe.core.store import CHECKPOINTS, Artifact, Store
from leanpipe.models.load import load_for_inference, load_tokenizer, vocabulary_size

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from leanpipe.training.distill.teacher_logprobs import LogprobFormat
    from leanpipe.training.trainer.data import Subset

log = logging.getLogger(__name__)

_FILE_TOKENS = 2**16  # of one file: what a killed run loses is at most that
_BATCH_TOKENS = {"cpu": 2**12, "cuda": 2**15}  # that the teacher reads at once
_CHUNK = 512  # tokens whose logits are held at once


class CacheSettings(StageConfig):
    """How much of a teacher's predictions is kept on disk, if it is asked once and not at every step."""

    top_k: int = Field(22, ge=1, le=10_000)
    """The most likely tokens whose probabilities are kept. A token takes 3 bytes, beyond 65,536 tokens of vocabulary 4: 22
    and 29 sampled ones are 157 or 208 bytes for each token of text."""
    tail_samples: int = Field(29, ge=0, le=10_000)
    """How many of all other tokens are kept too, drawn by their probability: so a student learns without bias how the
    teacher distributes the rest. Only forward_kl learns from them."""
    max_gigabytes: Annotated[float, NotInKey("whether there is a result, not which")] = Field(
        20.0, gt=0, le=1_000_000
    )
    """Predictions that would take more than this on disk are refused before any work."""


class CacheConfig(CacheSettings):
    """What a teacher is asked, and how much of what it says is kept."""

    blocks: int = Field(ge=1, le=10**12)
    """How many of the training blocks a student will read."""


@dataclass(frozen=True)
class CacheInputs:
    """The teacher's model folder, and the output folder of the tokenize stage."""

    teacher: Path
    blocks: Path
    base: Path | None = None
    """Predictions of this teacher on more or fewer of these blocks: whole files of them are used again."""


def cache_config(settings: CacheSettings, blocks: Artifact | Expected, tokens: int) -> CacheConfig:
    """What stage `cache_teacher` is told for a student that reads `tokens` tokens of `blocks`, which may not be there yet."""
    if blocks.path is None:
        return CacheConfig(**dict(settings), blocks=max(1, -(-tokens // blocks.facts["block_length"])))
    from leanpipe.tokens.blocks import Blocks
    from leanpipe.training.trainer.data import Subset

    return CacheConfig(**dict(settings), blocks=len(Subset(Blocks(blocks.path, "train"), tokens)))


def find_cache(stage: Stage, store: Store, config: CacheConfig, inputs: Inputs) -> Artifact | None:
    """The largest earlier result of `cache_teacher` for this teacher and these blocks."""
    found = [
        (made.blocks, manifest.key)
        for _, manifest in store.manifests(stage.name)
        if manifest.inputs == stage.digests(inputs)
        and isinstance(made := stage.made(manifest), CacheConfig)
        and (made.top_k, made.tail_samples) == (config.top_k, config.tail_samples)
    ]
    return store.find(stage.name, max(found)[1]) if found else None


def check_cache(config: CacheConfig, inputs: ExpectedInputs) -> None:
    """Raise UserError for blocks that are longer than the teacher can read. Reads its config only."""
    from leanpipe.models.count import check_context

    check_context(inputs["teacher"], inputs["blocks"].facts["block_length"], "tokenize.block_length")


def estimate_cache(config: CacheConfig, inputs: ExpectedInputs, kind: Kind) -> Estimate:
    """What `cache_teacher` takes: the teacher, what it computes of one batch, and a chunk of its logits."""
    from leanpipe.models.count import expected_config
    from leanpipe.training.trainer.memory import size_of

    teacher, block = expected_config(inputs["teacher"]), inputs["blocks"].facts["block_length"]
    size, tokens, short = size_of(teacher), config.blocks * block, bytes_of_weight()
    weights = short * size.parameters
    layer = 4 * size.mlp_width + 4 * size.width + 2 * size.heads_width
    parts = {
        "process": process_bytes(kind),
        "weights": weights,
        "activations": min(tokens, _BATCH_TOKENS[kind]) * short * layer,
        "logits": _CHUNK * size.vocabulary * (short + 1),
    }
    peak = sum(parts.values())
    # Ids take 2 or 3 bytes, probabilities 1.
    entry = 3 if size.vocabulary <= 2**16 else 4
    disk = tokens * ((config.top_k + config.tail_samples) * entry + 4)
    work, rows = 2.0 * size.parameters * tokens, max(1, min(tokens, _BATCH_TOKENS[kind]) // block)
    repeated = (Repeated("read", teacher, tokens, block, rows, read_arithmetic()),)
    return Estimate(peak, host_bytes(kind, peak), disk, work, parts, weights, repeated=repeated)


@stage(
    version=1,
    uses_device=True,
    shortcuts=("base",),
    check=check_cache,
    estimate=estimate_cache,
    base=find_cache,
    reads={"teacher": {"train": "prepared from it"}, "blocks": {"train": "prepared from it"}},
    groups=dict.fromkeys(("blocks", "tokens", "peak_memory"), NOT_COMPARED),
)
def cache_teacher(config: CacheConfig, inputs: CacheInputs, out: Path, report: Report) -> Summary:
    """Write what the teacher predicts in the first `config.blocks` blocks (`leanpipe/training/distill/teacher_logprobs.py`)."""
    from leanpipe.tokens.blocks import Blocks, expected_blocks
    from leanpipe.training.distill.teacher_logprobs import INFO, LogprobFormat
    from leanpipe.training.trainer.data import Subset, scored_tokens

    blocks = Blocks(inputs.blocks, "train")
    check_same_tokens(inputs.teacher, inputs.blocks)
    chosen = Subset(blocks, config.blocks * blocks.block_length)
    vocabulary = vocabulary_size(load_tokenizer(inputs.blocks / "tokenizer"))
    format = LogprobFormat(
        top_k=config.top_k,
        tail_samples=config.tail_samples,
        vocabulary=vocabulary,
        blocks=len(chosen),
        block_length=blocks.block_length,
    )
    check_budget(format, config.max_gigabytes, out)
    check_cache(config, {"teacher": Expected(inputs.teacher), "blocks": expected_blocks(inputs.blocks)})
    speed = AskingSpeed(out / CHECKPOINTS / "asking.json")
    write_teacher_logprobs(inputs, chosen, format, out, report, speed=speed)
    (out / INFO).write_text(format.model_dump_json(indent=2))
    size = sum(path.stat().st_size for path in out.glob("*.npy"))
    mass_N = _mass_kept(out)
    _draw(mass_N, out / "report" / "mass_kept.png")
    return {
        "blocks": len(chosen),
        "tokens": (tokens := scored_tokens(chosen)),
        "bytes": size,
        "bytes_per_token": size / tokens,
        "mass_kept": float(mass_N.mean()),
        "tokens_per_second": speed.blocks_per_second * blocks.block_length,
        "peak_memory": device.peak_memory(),
    }


def check_same_tokens(teacher: Path, blocks: Path) -> None:
    """Raise UserError if the text in `blocks` was not cut into tokens that mean the same to the teacher."""
    wrong = differing_tokens(load_tokenizer(teacher), load_tokenizer(blocks / "tokenizer"))
    if wrong:
        raise UserError(
            f"the text was tokenised with another vocabulary than the teacher's ({teacher}): {len(wrong)} tokens differ, "
            f"{wrong[0]!r} is one, so their predictions cannot be compared: tokenise with the tokenizer 'teacher', or set "
            "distill.kl_weight to 0"
        )


def differing_tokens(theirs: "PreTrainedTokenizerBase", ours: "PreTrainedTokenizerBase") -> list[str]:
    """List the tokens that do not mean the same to both. What was added to the teacher's after its training, ours may lack."""
    known, added, own = theirs.get_vocab(), theirs.get_added_vocab(), ours.get_vocab()
    wrong = [token for token, index in own.items() if known.get(token) != index]
    return wrong + [token for token in known if token not in own and token not in added]


def check_budget(format: "LogprobFormat", max_gigabytes: float, out: Path) -> None:
    """Raise UserError if the predictions would take more of the disk than they may, or than there is."""
    wanted, free = format.bytes / 1e9, shutil.disk_usage(out).free / 1e9
    size = f"{wanted:.3g} GB ({format.blocks * format.block_length:,} tokens of {format.record_bytes} bytes)"
    knobs = "lower distill.tokens or cache.top_k, or set distill.teacher_logprobs to online"
    if wanted > max_gigabytes:
        raise UserError(
            f"the teacher's predictions would take {size}, but cache.max_gigabytes is {max_gigabytes:g}: raise it, {knobs}"
        )
    if wanted > free:
        raise UserError(
            f"the teacher's predictions would take {size}, but {out} has {free:.3g} GB left: {knobs}"
        )


def write_teacher_logprobs(
    inputs: CacheInputs,
    chosen: "Subset",
    format: "LogprobFormat",
    out: Path,
    report: Report,
    file_tokens: int = _FILE_TOKENS,
    speed: "AskingSpeed | None" = None,
) -> int:
    """Write the files that are not there yet; return for how many blocks the teacher was asked.

    `speed` is told how long each file took.
    """
    teacher: Any = None
    asked, rows = 0, max(1, file_tokens // format.block_length)
    for number, start in enumerate(range(0, len(chosen), rows)):
        path = out / f"{number:05}.npy"
        indices = range(start, min(start + rows, len(chosen)))
        if not path.exists() and not _link(inputs.base, path, len(indices)):
            teacher = teacher or _load_teacher(inputs.teacher)
            started = time.perf_counter()
            _write(path, _ask(teacher, chosen, indices, format, report))
            asked += len(indices)
            if speed:
                speed.add(len(indices), time.perf_counter() - started)
        report.progress(indices.stop * format.block_length, len(chosen) * format.block_length, "tokens")
    log.info("the teacher was asked about %d of %d blocks", asked, len(chosen))
    return asked


class AskingSpeed:
    """How fast the teacher is asked, over all attempts: written to a file, so that one that was killed counts, too."""

    def __init__(self, file: Path):
        self._file = file
        earlier: list[Any] = json.loads(file.read_text()) if file.exists() else [0, 0.0]
        self._blocks: int = earlier[0]
        self._seconds: float = earlier[1]

    def add(self, blocks: int, seconds: float) -> None:
        """Count blocks that the teacher was asked about."""
        self._blocks, self._seconds = self._blocks + blocks, self._seconds + seconds
        self._file.parent.mkdir(exist_ok=True)
        write_text(self._file, json.dumps([self._blocks, self._seconds]))

    @property
    def blocks_per_second(self) -> float:
        """Blocks in each second of asking; 0 if the teacher was not asked at all."""
        return self._blocks / self._seconds if self._seconds else 0.0


def _load_teacher(path: Path) -> "PreTrainedModel":
    from leanpipe.training.trainer.kernels import use_inference_kernels

    teacher = load_for_inference(path)
    use_inference_kernels(teacher)
    return teacher


def _ask(
    teacher: "PreTrainedModel", chosen: "Subset", indices: range, format: "LogprobFormat", report: Report
) -> "np.ndarray":
    """Records (blocks, T - 1, bytes), uint8, of the blocks `indices`."""
    import numpy as np
    import torch

    from leanpipe.training.trainer.data import collate

    length = format.block_length
    at_once = max(1, _BATCH_TOKENS[device.name()] // length)
    parts = []
    for start in range(indices.start, indices.stop, at_once):
        batch = collate([chosen[index] for index in range(start, min(start + at_once, indices.stop))])
        # Its own for every batch: what is sampled must not depend on where a killed run went on.
        generator = torch.Generator().manual_seed(start)
        records = [part.cpu().numpy() for part in _records(teacher, batch, format, generator)]
        parts.append(np.concatenate(records).reshape(-1, length - 1, format.record_bytes))
        report.progress((start + len(parts[-1])) * length, len(chosen) * length, "tokens")
    return np.concatenate(parts)


def _records(
    teacher: "PreTrainedModel", batch: dict[str, Any], format: "LogprobFormat", generator: "torch.Generator"
) -> Iterator[Any]:
    """Yield the records of every token of the batch but the first of each block, a chunk at a time."""
    import torch

    where = {name: batch[name].to(teacher.device) for name in ("input_ids", "position_ids")}
    with torch.inference_mode():
        hidden_BTD = teacher.base_model(**where, use_cache=False).last_hidden_state
        hidden_ND = hidden_BTD[:, :-1].flatten(0, 1)
        for hidden_CD in hidden_ND.split(_CHUNK):
            yield format.encode(teacher.get_output_embeddings()(hidden_CD), generator)


def _write(path: Path, records: "np.ndarray") -> None:
    """Write a file of records that is either whole or not there."""
    import numpy as np

    with written_whole(path) as partial, partial.open("wb") as file:
        np.save(file, records)


def _link(base: Path | None, path: Path, blocks: int) -> bool:
    """Take the file `path` from an earlier result if it has the same; whether it could. The last file may be of fewer blocks there."""
    import numpy as np

    earlier = base / path.name if base else None
    if not earlier or not earlier.exists() or len(np.load(earlier, mmap_mode="r")) != blocks:
        return False
    link_or_copy(earlier, path)
    return True


def _draw(mass_N: "torch.Tensor", path: Path) -> None:
    """Draw for how many tokens of the text the kept ones have how much of the probability."""
    from leanpipe.core.plots import NEUTRAL, picture

    with picture(path) as axes:
        axes.hist(mass_N.numpy(), bins=50, range=(0, 1), color=NEUTRAL)
        axes.set_xlabel("share of the teacher's probability that is kept by name")
        axes.set_ylabel("tokens of the text")
        axes.set_title(
            f"What the cache keeps of the teacher's predictions: {float(mass_N.mean()):.1%} on average"
        )


def _mass_kept(out: Path) -> "torch.Tensor":
    """The share of the probability that the kept tokens have, for each token of the first blocks, (N,)."""
    import torch

    from leanpipe.training.distill.teacher_logprobs import TeacherLogprobs

    records_NR = torch.cat(
        [TeacherLogprobs(out)[index] for index in range(min(64, len(TeacherLogprobs(out))))]
    )
    tail_N2 = records_NR[:, -4:].contiguous().view(torch.float16).float()
    return 1 - tail_N2[:, 0].exp()
