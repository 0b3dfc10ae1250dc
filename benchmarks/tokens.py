"""`python -m benchmarks.tokens`: documents to packed blocks, against `datasets.map` with concatenation, and against
nothing but `tokenizers.encode_batch_fast`; and how much of the blocks is padding.

Same English texts (extracted once, by resiliparse), same tokenizer (SmolLM2's), same threads, one process, in turns. Ours
is the code of the stage, from a Parquet file to two files of blocks, with no word known beforehand. `datasets` has read
the Parquet file before its time is taken, and writes its blocks to a file as it does by default; the other peer is given
the strings and keeps what it makes in memory. The tokenizer is loaded, and copied for each run, before the time is taken.
"""

import os
import shutil
import tempfile
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "true", "HF_HUB_OFFLINE": "1"}
os.environ.setdefault("RAYON_NUM_THREADS", str(os.cpu_count()))

from benchmarks.pages import PAGES, pages
from benchmarks.report import claim, interleaved, write
from leanpipe.assets.packages import fetch
from leanpipe.assets.samples import SMOLLM2
from leanpipe.corpus.document import Document
from leanpipe.tokens.encode import backend_of
from leanpipe.tokens.token_shards import Packer, Shard
from tests.support.cleaned_corpus import write_documents

REPEATS = 5
BLOCK_LENGTH = 1024


def main() -> None:
    from transformers import AutoTokenizer

    model = fetch(SMOLLM2, PAGES / "smollm2").popitem()[1]
    tokenizer = AutoTokenizer.from_pretrained(model.parent, gguf_file=model.name)
    texts = extracted()
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "00000.parquet"
        write_documents(source, [Document(str(number), text, "") for number, text in enumerate(texts)])
        rows = speed(tokenizer, texts, source) + padding(tokenizer, source)
    write("tokens", rows)


def extracted() -> list[str]:
    from resiliparse.extract.html2text import extract_plain_text

    found = (extract_plain_text(path.read_text(errors="replace"), main_content=True) for path in pages())
    return [text for text in found if text.strip()]


def speed(tokenizer: Any, texts: list[str], source: Path) -> list[dict[str, Any]]:
    size = sum(len(text.encode()) for text in texts) / 1e6
    documents = dataset(source)
    datasets_map(tokenizer, documents.select(range(20)))  # imports
    pack(packer(tokenizer), source)
    packers = iter([packer(tokenizer) for _ in range(REPEATS)])
    backends = iter([backend_of(tokenizer) for _ in range(REPEATS)])
    runs: list[Callable[[], Any]] = [
        lambda: pack(next(packers), source),
        lambda: datasets_map(tokenizer, documents),
        lambda: next(backends).encode_batch_fast(texts, add_special_tokens=False),
    ]
    rates = [size / seconds for seconds in interleaved(runs, REPEATS)]
    return [
        claim("tokenise and pack, datasets.map", rates[0], rates[1], "MB/s", 2),
        claim("tokenise and pack, encode_batch_fast alone", rates[0], rates[2], "MB/s", 0.85),
    ]


def packer(tokenizer: Any, length: int = BLOCK_LENGTH) -> Packer:
    return Packer(tokenizer, length, "best_fit", 0.01)


def pack(packer: Packer, source: Path) -> Shard:
    place = source.parent / "out" / "00000"
    shard = packer.make(source, place, packer.key(source), lambda documents: None)
    shutil.rmtree(place.parent)
    return shard


def dataset(source: Path) -> Any:
    import datasets

    datasets.disable_progress_bars()
    return datasets.load_dataset(
        "parquet",
        data_files=str(source),
        columns=["text"],
        split="train",
        cache_dir=str(source.parent / "cache"),
    )


def datasets_map(tokenizer: Any, documents: Any) -> None:
    """As transformers' run_clm.py does it."""

    def group(batch: dict[str, list[list[int]]]) -> dict[str, list[list[int]]]:
        row = {name: list(chain.from_iterable(lists)) for name, lists in batch.items()}
        end = len(row["input_ids"]) // BLOCK_LENGTH * BLOCK_LENGTH
        blocks = {
            name: [ids[begin : begin + BLOCK_LENGTH] for begin in range(0, end, BLOCK_LENGTH)]
            for name, ids in row.items()
        }
        return blocks | {"labels": [ids.copy() for ids in blocks["input_ids"]]}

    encoded = documents.map(
        lambda batch: tokenizer(batch["text"]),
        batched=True,
        remove_columns=["text"],
        load_from_cache_file=False,
    )
    encoded.map(group, batched=True, load_from_cache_file=False)
    documents.cleanup_cache_files()


def padding(tokenizer: Any, source: Path) -> list[dict[str, Any]]:
    rows = []
    for length in (256, 1024, 2048):
        shard = pack(packer(tokenizer, length), source)
        empty = 1 - shard.tokens / (shard.blocks * length)
        rows.append(claim(f"padding, blocks of {length}", empty, 1, "share", 0.01, at_most=True))
    return rows


if __name__ == "__main__":
    main()
