"""`python -m benchmarks.compression_budget [MODEL]`: what choosing each part's type gains over one type for all.

By default of SmolLM2-135M-Instruct; MODEL is a folder, such as the student that `leanpipe run` made. Ten budgets lie evenly
between the smallest and the largest file of one type. For each: the mean KL divergence from the full model on held-out text
with the solver's types, with the best file of one type that is no larger (its embeddings in the same type or in 8 bits, and
rounded by the same importance matrix), and what the solver foretold, on the text that it was told by and on the held-out.
`python -m benchmarks.compression_budget types` compares the squared errors of our types with llama.cpp's own rounding.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.report import claim, write
from leanpipe.processes.threads import thread_environment

HOME = Path(__file__).parent / ".compression"
TOKENS = int(os.environ.get("LEANPIPE_BENCH_TOKENS", 2_048))
BUDGETS = 10
TYPES = ("q4_0", "q4_k", "q4_1", "q5_k", "q5_1", "q6_k", "q8_0")


def main(model: str) -> None:
    from leanpipe.compression.budget.choose import Budget, choose_types
    from leanpipe.compression.budget.sensitivity import Sensitivity

    source, documents, measured = material(model)
    bench = Bench(source, documents)
    sensitivity = Sensitivity.read(measured)
    uniform = {
        (kind, embeddings): bench.plan(kind, embeddings)
        for kind in TYPES
        for embeddings in dict.fromkeys((kind, "q8_0"))
    }
    smallest, largest = min(uniform.values()), uniform["q8_0", "q8_0"]
    rows, wins, near = [], 0, 0
    for number in range(BUDGETS):
        budget = smallest + (largest - smallest) * (number + 0.5) / BUDGETS
        chosen = choose_types(bench.model, bench.tokenizer, Budget(budget / 1e6), frozenset(), sensitivity)
        ours = bench.losses(chosen.types.chosen)
        theirs = min(
            bench.losses(bench.types(*pair))["held out"] for pair, size in uniform.items() if size <= budget
        )
        wins += ours["held out"] < theirs
        near += abs(chosen.loss / ours["calibration"] - 1) <= 0.1
        rows.append(
            {
                "name": f"{budget / 1e6:.1f} MB",
                "MB": chosen.bytes / 1e6,
                "KL": ours["held out"],
                "KL of the best type for all": theirs,
                "foretold": chosen.loss,
                "measured": ours["calibration"],
            }
        )
        print(rows[-1], flush=True)
    name = Path(model).name
    rows.append(claim(f"{name}, budgets won", wins, BUDGETS, "", 0.9))
    rows.append(claim(f"{name}, losses foretold within 10%", near, BUDGETS, "", 0.9))
    write("compression_budget", rows)


class Bench:
    """A model, and how far it moves when its weights are rounded."""

    def __init__(self, source: Path, documents: Path):
        import torch

        from leanpipe.compression.budget.divergence import Divergence
        from leanpipe.compression.budget.weight_groups import weight_groups
        from leanpipe.compression.calibration import calibration_texts, measure_importance_matrix
        from leanpipe.models.load import load_model, load_tokenizer

        self.model, self.tokenizer = load_model(source, torch.float32), load_tokenizer(source)
        config = self.model.config
        self.groups = weight_groups(self.model)
        self.importance = measure_importance_matrix(
            self.model, calibration_texts(documents, self.tokenizer, config, 2 * TOKENS)
        )
        self.texts = {
            "held out": Divergence(self.model, held_out_texts(documents, self.tokenizer)),
            "calibration": Divergence(
                self.model, calibration_texts(documents, self.tokenizer, config, TOKENS)
            ),
        }
        self.seen: dict[tuple[str, ...], dict[str, float]] = {}

    def types(self, kind: str, embeddings: str) -> dict[str, str]:
        """The types of a file of one type."""
        from leanpipe.compression.budget.weight_groups import chosen_modules

        chosen = {group.name: kind if group.layer is not None else embeddings for group in self.groups}
        return chosen_modules(self.groups, chosen)

    def plan(self, kind: str, embeddings: str) -> int:
        """Bytes of a file of one type."""
        from leanpipe.compression.gguf_export import GgufTypes, plan_gguf

        return plan_gguf(self.model, self.tokenizer, GgufTypes(kind, embeddings)).bytes

    def losses(self, types: Mapping[str, str]) -> dict[str, float]:
        """Mean KL divergence from the full model, by text."""
        from leanpipe.compression.budget.divergence import rounded

        key = tuple(types.values())
        if key not in self.seen:
            with rounded(self.model, types, self.importance):
                self.seen[key] = {name: text.now() for name, text in self.texts.items()}
        return self.seen[key]


def held_out_texts(documents: Path, tokenizer: Any) -> list[Any]:
    import torch

    from leanpipe.evaluation.held_out import held_out
    from leanpipe.models.load import document_start
    from leanpipe.tokens.text_tokens import encode_text

    first = document_start(tokenizer)
    found = [
        [first, *encode_text(tokenizer, one.text)][:256] for one in held_out(documents, 8 * TOKENS, 2_000)
    ]
    return [torch.tensor([ids]) for ids in found][: max(1, TOKENS // 256)]


def material(model: str) -> tuple[Path, Path, Path]:
    """The model, the documents and what was measured, made by leanpipe's own stages and kept."""
    from leanpipe.assets.resolve import resolve_corpus, resolve_model
    from leanpipe.compression.budget.sensitivity import SensitivityConfig, sensitivity
    from leanpipe.core.home import Home
    from leanpipe.core.report import Silent
    from leanpipe.core.stage import Inputs, Stage
    from leanpipe.core.store import Artifact, Store
    from leanpipe.corpus.clean import CleanConfig, clean
    from leanpipe.processes.run_stage import run_stage

    home = Home(HOME)

    def run(stage: Stage, config: Any, inputs: Inputs) -> Artifact:
        return run_stage(stage, config, inputs, Store(home.store), Silent())

    source = resolve_model(model, home, run)
    documents = run(clean, CleanConfig(), {"corpus": resolve_corpus(("sample",), home)})
    config = SensitivityConfig(tokens=TOKENS, calibration_tokens=2 * TOKENS)
    measured = run(sensitivity, config, {"model": source, "documents": documents})
    return source.path, documents.path, measured.path


def compare_types() -> None:
    """Squared errors of rounding 4 million weights, with llama.cpp's own rounding as 1."""
    import torch

    from leanpipe.compression.gguf_types import rounded_weights

    made = torch.Generator().manual_seed(0)
    values = torch.randn(4_096, 1_024, generator=made) * torch.rand(4_096, 1, generator=made)
    counts = torch.randn(1_024, generator=made).square()
    rows = []
    for kind in (*TYPES[:3], "iq4_nl", "q5_0", *TYPES[3:]):
        for name, importance in (("", None), (" with importance", counts)):
            ours = error(values, rounded_weights(values, kind, importance), importance)
            rows.append(
                claim(
                    f"{kind}{name}",
                    ours,
                    error(values, theirs(values, kind, importance), importance),
                    "",
                    1.02,
                    at_most=True,
                )
            )
    write("compression_types", rows)


def error(values: Any, read: Any, counts: Any = None) -> float:
    """Squared error of weights that were read back, each counted as its input says."""
    return float((((values - read) ** 2) * (1 if counts is None else counts)).sum())


def theirs(values: Any, kind: str, counts: Any = None) -> Any:
    """What llama.cpp itself, as it is installed here, rounds weights to."""
    import ctypes

    import gguf
    import numpy as np
    import torch
    import xllamacpp

    from leanpipe.compression.gguf_types import sizes_of

    library = ctypes.CDLL(str(next(Path(xllamacpp.__file__).parent.glob("*.so"))))
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    library.ggml_quantize_chunk.argtypes = [ctypes.c_int, pointer, pointer, number, number, number, pointer]
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    block, size = sizes_of(kind)
    rows, row = values.shape
    out, given = np.zeros((rows, row // block * size), np.uint8), values.numpy()
    matrix = None if counts is None else counts.numpy().ctypes.data
    type_ = gguf.GGMLQuantizationType[kind.upper()]
    library.ggml_quantize_chunk(int(type_), given.ctypes.data, out.ctypes.data, 0, rows, row, matrix)
    return torch.from_numpy(gguf.quants.dequantize(out, type_))


if __name__ == "__main__":
    os.environ |= {"HF_HUB_OFFLINE": "1", **thread_environment()}
    if sys.argv[1:] == ["types"]:
        compare_types()
    else:
        main((sys.argv[1:] or ["smollm2-135m-instruct"])[0])
