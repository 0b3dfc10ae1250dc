"""`make bench-corpus`: cleaning as a whole against stock datatrove with the same steps, memory, and what a new file costs.

Same pages, one process, one thread each. Our time is that of the stage but for its report (a data card and four pictures:
datatrove has none), and the report's is printed.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}

from benchmarks.pages import pages
from benchmarks.report import claim, interleaved, write

REPEATS = 3
SAMPLE = 300  # pages: stock datatrove takes half a minute for them


def main() -> None:
    sample = pages(SAMPLE)
    size = sum(path.stat().st_size for path in sample) / 1e6
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        corpus = copy(sample, work / "corpus")
        ours, peer = (lambda: clean(corpus, work / "ours")), (lambda: stock(corpus, work / "peer"))
        ours(), stock(copy(sample[:3], work / "few"), work / "peer")  # imports, and tables that are made once
        seconds, peer_seconds = interleaved([ours, peer], REPEATS)
        rows = [claim("whole cleaning", size / seconds, size / peer_seconds, "MB/s", 15)]
        print(f"(the report on it takes {report(clean(corpus, work / 'reported', keep=True)):.1f} s more)")
        rows += [memory(work), new_files(work)]
    write("corpus", rows)


def copy(paths: list[Path], folder: Path) -> Path:
    folder.mkdir()
    for number, path in enumerate(paths):
        shutil.copyfile(path, folder / f"{number:06d}-{path.name}")
    return folder


def settings():
    """All filters on, as the peer has them, and one worker."""
    from leanpipe.corpus.clean import CleanConfig

    return CleanConfig.model_validate({
        "c4": {"enabled": True},
        "fineweb": {"enabled": True},
        "execution": {"workers": 1, "shard_megabytes": 8},
    })  # fmt: skip


def clean(corpus: Path, home: Path, base: Path | None = None, keep: bool = False) -> Path:
    """The stage, computed anew (its result is removed unless it is to be kept)."""
    from leanpipe.core.report import Silent
    from leanpipe.corpus.clean import CleanInputs, clean_documents
    from leanpipe.corpus.sources.file_index import index_corpus
    from leanpipe.corpus.sources.read_log import ReadLog

    out = home / str(time.time_ns())
    out.mkdir(parents=True)
    file_index = index_corpus(str(corpus), ReadLog())
    clean_documents(settings(), CleanInputs((), base), [file_index], out, Silent())
    if not keep:
        shutil.rmtree(out)
    return out


def as_stored(folder: Path) -> None:
    """Write the manifest that the store writes: a run adds to a result of which it says what belongs to it."""
    from leanpipe.core.store import MANIFEST, Manifest, digest_files

    nothing = {
        "key": "",
        "config": {},
        "inputs": {},
        "summary": {},
        "versions": {},
        "seconds": 0.0,
        "peak_memory": 0,
    }
    manifest = Manifest(stage="clean", files=digest_files(folder), **nothing)
    (folder / MANIFEST).write_text(manifest.model_dump_json())


def report(cleaned: Path) -> float:
    """Seconds for the data card and its pictures."""
    from leanpipe.corpus.report.corpus_report import write_corpus_report

    started = time.perf_counter()
    write_corpus_report(cleaned / "report", cleaned, settings().model_dump(mode="json"), [])
    return time.perf_counter() - started


def stock(corpus: Path, folder: Path) -> None:
    """datatrove's own blocks, as FineWeb's pipeline puts them together, with MinHash."""
    import datatrove.utils.hashes.xxhash as hashes
    import xxhash
    from datatrove.data import Document
    from datatrove.executor.local import LocalPipelineExecutor
    from datatrove.pipeline.dedup import minhash
    from datatrove.pipeline.extractors import Trafilatura
    from datatrove.pipeline.filters import (
        C4QualityFilter,
        FineWebQualityFilter,
        GopherQualityFilter,
        GopherRepetitionFilter,
    )
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers.jsonl import JsonlWriter
    from datatrove.utils.logging import logger

    logger.remove()
    # datatrove 0.10 hands text to xxhash, which since its version 4 takes bytes alone.
    hashes.xxhash.xxh64_intdigest = lambda text: xxhash.xxh64(text.encode()).intdigest()
    shutil.rmtree(folder, ignore_errors=True)

    def read(data, rank, world_size):
        for path in sorted(corpus.iterdir()):
            yield Document(path.read_text(errors="replace"), path.name)

    steps = [
        [
            read,
            Trafilatura(timeout=10),
            GopherRepetitionFilter(),
            GopherQualityFilter(),
            C4QualityFilter(filter_no_terminal_punct=False),
            FineWebQualityFilter(),
            JsonlWriter(str(folder / "filtered")),
        ],
        [JsonlReader(str(folder / "filtered")), minhash.MinhashDedupSignature(str(folder / "signatures"))],
        [minhash.MinhashDedupBuckets(str(folder / "signatures"), str(folder / "buckets"))],
        [minhash.MinhashDedupCluster(str(folder / "buckets"), str(folder / "remove"))],
        [
            JsonlReader(str(folder / "filtered")),
            minhash.MinhashDedupFilter(str(folder / "remove")),
            JsonlWriter(str(folder / "kept")),
        ],
    ]
    for number, step in enumerate(steps):
        tasks = minhash.MinhashConfig().num_buckets if number == 2 else 1
        logs = str(folder / "logs" / str(number))
        LocalPipelineExecutor(step, tasks, workers=1, logging_dir=logs).run()


def memory(work: Path) -> dict:
    """Peak memory of a process that cleans ten times as much, against one that cleans the smaller corpus."""
    few, many = synthetic(work / "small", 1), synthetic(work / "large", 10)
    peaks = [peak(corpus, work) for corpus in (few, many)]
    return claim("peak memory, ten times the corpus", peaks[1], peaks[0], "MB", 1.2, at_most=True)


def synthetic(folder: Path, times: int) -> Path:
    """All pages, `times` over, each copy with words of its own, so that none is a duplicate."""
    folder.mkdir()
    for number, path in enumerate(pages()):
        text = path.read_text(errors="replace")
        for copy in range(times):
            words = (
                text.replace(" the ", f" the{copy} ")
                .replace(" a ", f" a{copy} ")
                .replace(" of ", f" of{copy} ")
            )
            (folder / f"{copy}-{number:05d}.html").write_text(words if copy else text)
    return folder


def peak(corpus: Path, work: Path) -> float:
    """Megabytes."""
    code = "import sys; from pathlib import Path; from benchmarks import corpus; corpus.report_peak(*map(Path, sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, corpus, work / "peak"], check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def report_peak(corpus: Path, home: Path) -> None:
    """In a process of its own: clean, and say what it took."""
    clean(corpus, home)
    # getrusage would answer with the peak of the process that started this one, if that was higher.
    peak = re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())
    assert peak
    print(json.dumps(int(peak[1]) / 1e3))


def new_files(work: Path) -> dict:
    """Seconds to add a hundredth of new pages, against those of the first run."""
    everything = pages()
    new = everything[::100]
    old = [path for path in everything if path not in set(new)]
    corpus = copy(old, work / "grown")
    started = time.perf_counter()
    base = clean(corpus, work / "first", keep=True)
    first = time.perf_counter() - started
    as_stored(base)
    for number, path in enumerate(new):
        shutil.copyfile(path, corpus / f"new-{number}-{path.name}")
    (again,) = interleaved([lambda: clean(corpus, work / "again", base)], REPEATS)
    return claim("adding 1% of new documents", again, first, "s", 0.05, at_most=True)


if __name__ == "__main__":
    main()
