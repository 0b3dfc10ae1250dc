"""`python -m benchmarks.attention [cuda]`: what attention costs as text grows longer, pattern by pattern.

One layer's attention with two heads of 32, forward and backward, a batch of one, one thread, fp32, lengths of 512 to 8192. The
peer is full attention as transformers runs it on packed blocks, where documents must not see each other: SDPA under a
causal mask of all pairs. `full, causal` is SDPA without a mask, which cannot keep documents apart: its memory is linear,
its time quadratic. Time is the least of several repeats, in turns; memory is what the call adds to the peak. The exponent
is the slope of a line through the logarithms: 1 grows with length, 2 with its square.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

import ctypes
import math
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace

import torch
import torch.nn.functional as F

from benchmarks.report import claim, write
from leanpipe.core import device
from leanpipe.models.attention.attention_patterns import KEY, AttentionConfig
from leanpipe.models.attention.sparse_attention import sparse_attention_forward

LENGTHS = (512, 1024, 2048, 4096, 8192)
REPEATS = 3
HEADS, WIDTH, WINDOW = 2, 32, 128
PATTERNS = {
    "sliding_window": AttentionConfig(pattern="sliding_window", window=WINDOW),
    "longformer": AttentionConfig(pattern="longformer", window=WINDOW, global_tokens=8),
    "bigbird": AttentionConfig(pattern="bigbird", window=WINDOW, global_tokens=8, random_blocks=2, block=32),
    "reformer": AttentionConfig(pattern="reformer", window=WINDOW, buckets=16),
}
FULL = "full, packed"
_M_MMAP_THRESHOLD = -3


def main(where: str) -> None:
    torch.set_num_threads(1)
    ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 16_384)  # memory that is freed is returned, and counts anew
    calls = {FULL: full_packed, "full, causal": full_causal}
    calls |= {name: sparse(pattern) for name, pattern in PATTERNS.items()}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    memory: dict[str, list[float]] = {name: [] for name in calls}
    for length in LENGTHS:
        inputs = draw(length, where)
        for name, call in calls.items():
            memory[name].append(added_memory(call, inputs, where))
        for name, least in fastest(calls, inputs, where).items():
            seconds[name].append(least)
    show("milliseconds", seconds, 1e3)
    show("megabytes", memory, 1e-6)
    write("attention", claims(seconds, "time") + claims(memory, "memory"))


def draw(length: int, where: str) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(1, HEADS, length, WIDTH, generator=generator).to(where).requires_grad_() for _ in range(3)
    )
    # Two documents, one of a third of the block.
    positions = torch.cat([torch.arange(length // 3), torch.arange(length - length // 3)])[None]
    return query, key, value, positions.to(where)


def full_packed(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, positions: torch.Tensor):
    place = torch.arange(positions.shape[1], device=positions.device)
    documents = (positions == 0).cumsum(1)[0]
    mask = (place[:, None] >= place) & (documents[:, None] == documents)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask[None, None])


def full_causal(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, positions: torch.Tensor):
    return F.scaled_dot_product_attention(query, key, value, is_causal=True)


def sparse(pattern: AttentionConfig) -> Callable[..., torch.Tensor]:
    layer = SimpleNamespace(config=SimpleNamespace(**{KEY: pattern.model_dump(mode="json")}), layer_idx=0)

    def call(query, key, value, positions):
        # A copy of the positions, so that no layout is remembered from the call before.
        return sparse_attention_forward(layer, query, key, value, None, position_ids=positions.clone())[0]  # type: ignore[arg-type]

    return call


def step(call: Callable[..., torch.Tensor], inputs: tuple[torch.Tensor, ...], where: str) -> None:
    call(*inputs).sum().backward()
    for tensor in inputs[:3]:
        tensor.grad = None
    if where == "cuda":
        torch.cuda.synchronize()


def added_memory(call: Callable[..., torch.Tensor], inputs: tuple[torch.Tensor, ...], where: str) -> float:
    """Bytes by which a step raises the peak; what was there before is left out."""
    step(call, inputs, where)
    device.reset_peak_memory()
    before = torch.cuda.memory_allocated() if where == "cuda" else device.peak_memory()  # just reset
    step(call, inputs, where)
    return max(1.0, device.peak_memory() - before)


def fastest(
    calls: dict[str, Callable[..., torch.Tensor]], inputs: tuple[torch.Tensor, ...], where: str
) -> dict[str, float]:
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(REPEATS):
        for name, call in calls.items():
            started = time.perf_counter()
            step(call, inputs, where)
            taken[name].append(time.perf_counter() - started)
    return {name: min(times) for name, times in taken.items()}


def exponent(values: list[float]) -> float:
    """Slope of the least-squares line of the logarithms of values over those of the lengths."""
    x, y = [math.log(length) for length in LENGTHS], [math.log(value) for value in values]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    top = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return top / sum((a - mean_x) ** 2 for a in x)


def show(unit: str, values: dict[str, list[float]], scale: float) -> None:
    print(f"{unit:<16}" + "".join(f"{length:>10}" for length in LENGTHS) + "  exponent")
    for name, row in values.items():
        print(f"{name:<16}" + "".join(f"{value * scale:10.2f}" for value in row) + f"{exponent(row):10.2f}")


def claims(values: dict[str, list[float]], what: str) -> list[dict]:
    peer = exponent(values[FULL])
    return [
        claim(f"{what}: exponent of {name}, of full", exponent(values[name]), peer, "", 0.75, at_most=True)
        for name in PATTERNS
    ]


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "cpu")
