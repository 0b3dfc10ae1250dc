"""The device that models run on: which it is, what it can do, and how much of its memory was used.

torch is imported only where it is needed: a stage that only reads text should not wait for it.
"""

import contextlib
import ctypes
import functools
import gc
import importlib.util
import os
import platform
import resource
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from leanpipe.core.memory_limits import CGROUPS, control_groups, free_under_limits

if TYPE_CHECKING:
    import torch


Kind = Literal["cpu", "cuda"]


@functools.cache
def name() -> Kind:
    """Return "cuda" if this machine has an NVIDIA driver and torch can use it, else "cpu"."""
    if not has_nvidia_driver():
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def has_liger() -> bool:
    """Whether Liger's kernels can be used: there is a GPU, and the package (extra `gpu`)."""
    return name() == "cuda" and importlib.util.find_spec("liger_kernel") is not None


def count() -> int:
    """Count the GPUs that torch can use; 1 without any."""
    if name() == "cpu":
        return 1
    import torch

    return torch.cuda.device_count()


def cores(membership: str | None = None, mount: Path = CGROUPS) -> int:
    """Count the cores that this process may keep busy: those it may run on, or fewer if its container may use less of their time.

    `membership` and `mount` are as `free_in_cgroups` reads them.
    """
    allowed = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    quotas = (_quota(group, is_v2) for group, is_v2 in control_groups("cpu", membership, mount))
    return max(1, int(min([allowed, *(quota for quota in quotas if quota)])))


# https://docs.kernel.org/admin-guide/cgroup-v2.html, cpu, and https://docs.kernel.org/scheduler/sched-bwc.html
def _quota(group: Path, is_v2: bool) -> float | None:
    """Return how many cores' time a control group may use; None without a limit."""
    files = [group / name for name in (("cpu.max",) if is_v2 else ("cpu.cfs_quota_us", "cpu.cfs_period_us"))]
    if not all(file.exists() for file in files):
        return None
    quota, period = " ".join(file.read_text() for file in files).split()
    return None if quota in ("max", "-1") else int(quota) / int(period)


@functools.cache
def model() -> str:
    """Return what the maker calls the device, such as "NVIDIA H100 80GB HBM3": figures of two models do not compare."""
    if name() == "cuda":
        import torch

        return torch.cuda.get_device_name()
    cpu_info = Path("/proc/cpuinfo")
    text = cpu_info.read_text() if cpu_info.exists() else ""
    named = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    return named[0] if named else f"{platform.machine()} processor"


def has_nvidia_driver() -> bool:
    """Whether this machine has an NVIDIA driver; torch is not asked, which would start CUDA."""
    return Path("/dev/nvidiactl").exists() or Path("/dev/dxg").exists()


@functools.cache
def has_bfloat16() -> bool:
    """Whether the device multiplies bfloat16 matrices in hardware (else bf16 is slower than fp32)."""
    if name() == "cuda":
        import torch

        return torch.cuda.is_bf16_supported(including_emulation=False)
    cpu_info = Path("/proc/cpuinfo")
    flags = cpu_info.read_text() if cpu_info.exists() else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags or " bf16" in flags


def arithmetic_of(precision: str) -> str:
    """Decide on bf16, fp16 or fp32 for a setting that may also be "auto": bf16 where the device has it, else fp32."""
    if precision == "auto":
        return "bf16" if has_bfloat16() else "fp32"
    return precision


def compute_dtype() -> "torch.dtype":
    """Return the fastest type to compute in: bfloat16 where the device has it, else float32."""
    import torch

    return torch.bfloat16 if has_bfloat16() else torch.float32


def dtype_of(arithmetic: str) -> "torch.dtype":
    """Return torch's type for bf16, fp16 or fp32."""
    import torch

    return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[arithmetic]


def release_memory() -> None:
    """Give back what is free: PyTorch keeps memory of the GPU for later use, and the C library that of the process."""
    gc.collect()
    if name() == "cuda":
        import torch

        torch.cuda.empty_cache()
    with contextlib.suppress(AttributeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)


def reset_peak_memory() -> None:
    """Start measuring the peak of memory anew."""
    if name() == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats()
    elif sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM


def peak_memory() -> int:
    """Return the bytes taken at the peak since `reset_peak_memory`: allocated on the GPU, else resident in this process."""
    if name() == "cuda":
        import torch

        return torch.cuda.max_memory_allocated()
    return resident_peak()


def resident_peak(process: int | None = None) -> int:
    """Return the bytes of main memory that a process, by default this one, had at the peak."""
    if sys.platform == "linux":
        status = Path(f"/proc/{process or 'self'}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    import psutil

    return psutil.Process(process).memory_info().rss if process else _own_peak()


def _own_peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def free_memory() -> int:
    """Return the bytes of the device's memory that nothing uses now."""
    if name() == "cuda":
        import torch

        cached = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        return torch.cuda.mem_get_info()[0] + cached
    return free_host_memory()


def free_host_memory() -> int:
    """Return the bytes of main memory that this process may still take.

    What the machine has free, or less if its container (control group) or `ulimit -v` leaves less.
    """
    import psutil

    return min(psutil.virtual_memory().available, free_under_limits())


_PEAK_SECONDS = 0.1
_PEAK_SIZE = {"cpu": 1_024, "cuda": 8_192}


@functools.cache
def peak_flops(dtype: "torch.dtype") -> float:
    """Measure the floating-point operations per second of a large matrix product in `dtype` on this device, once per process.

    Takes a fifth of a second. The best of several, because other work on the machine only ever slows it down.
    """
    import torch

    size, where = _PEAK_SIZE[name()], name()
    generator = torch.Generator(where).manual_seed(0)
    # Of random numbers: a GPU multiplies zeros and ones faster than anything it will be given.
    a, b = (torch.randn(size, size, generator=generator, device=where).to(dtype) for _ in range(2))
    product_seconds(a, b)
    best, until = float("inf"), time.perf_counter() + _PEAK_SECONDS
    while time.perf_counter() < until:
        best = min(best, product_seconds(a, b))
    return 2 * size**3 / best


def product_seconds(a: "torch.Tensor", b: "torch.Tensor") -> float:
    """Time the device for one product of two matrices."""
    import torch

    if name() == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    torch.mm(a, b)
    if name() == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started
