"""The device that models run on: which it is, what it can do, and how much of its memory was used.

torch is imported only where it is needed: a stage that only reads text should not wait for it.
"""

import contextlib
import ctypes
import functools
import gc
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@functools.cache
def name() -> str:
    """ "cuda" if this machine has an NVIDIA driver and torch can use it, else "cpu"."""
    if not has_nvidia_driver():
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def has_nvidia_driver() -> bool:
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


def compute_dtype() -> "torch.dtype":
    """bfloat16 where the device has it, else float32."""
    import torch

    return torch.bfloat16 if has_bfloat16() else torch.float32


def release_memory() -> None:
    """Give back what is free: PyTorch keeps memory of the GPU for later use, and the C library that of the process."""
    gc.collect()
    if name() == "cuda":
        import torch

        torch.cuda.empty_cache()
    with contextlib.suppress(AttributeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)


def reset_peak_memory() -> None:
    """Start measuring the peak anew."""
    if name() == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats()
    elif sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM


def peak_memory() -> int:
    """Bytes at the peak since `reset_peak_memory`: allocated on the GPU, else resident in this process."""
    if name() == "cuda":
        import torch

        return torch.cuda.max_memory_allocated()
    if sys.platform == "linux":
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
