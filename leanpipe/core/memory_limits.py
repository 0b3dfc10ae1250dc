"""What the operating system's limits leave to this process: those of its control groups, and of its address space."""

import resource
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

CGROUPS = Path("/sys/fs/cgroup")


def free_under_limits() -> int:
    """Return the bytes that this process may still take before a limit stops it; sys.maxsize without one."""
    return max(0, min(free_in_cgroups(), free_address_space()))


def free_address_space() -> int:
    """Return the bytes that `ulimit -v` (RLIMIT_AS) leaves: beyond it an allocation fails."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY or sys.platform != "linux":
        return sys.maxsize
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return limit - pages * resource.getpagesize()


def free_in_cgroups(membership: str | None = None, mount: Path = CGROUPS) -> int:
    """Return the bytes that the control groups of this process leave, its container's among them: beyond it the kernel kills.

    `membership` is what /proc/self/cgroup says, by default that of this process; `mount` is where control groups lie.
    Every group above the process's own counts too.
    """
    if membership is None:
        own = Path("/proc/self/cgroup")
        membership = own.read_text() if own.exists() else ""
    return min((_left(group) for group in _groups(membership, mount)), default=sys.maxsize)


class _Names(NamedTuple):
    """How a version of control groups calls its files, and in `memory.stat` the pages of files that it gives back."""

    limit: str
    used: str
    reclaimable: Sequence[str]


# https://docs.kernel.org/admin-guide/cgroup-v2.html, memory, and https://docs.kernel.org/admin-guide/cgroup-v1/memory.html
_V2 = _Names("memory.max", "memory.current", ("active_file", "inactive_file"))
_V1 = _Names("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_active_file", "total_inactive_file"))


def _groups(membership: str, mount: Path) -> Iterator[tuple[Path, _Names]]:
    """Folders of the groups that limit memory, from the process's own upwards.

    A line is `0::/path` in version 2 and `4:memory:/path` in version 1. In a container the path may be the host's, which is
    not mounted there: its own group is then the mount itself.
    """
    for line in membership.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root, names = (mount / "memory", _V1) if controllers else (mount, _V2)
        own = root / path.lstrip("/")
        for group in (own, *own.parents):
            if (group / names.limit).exists() and (group / names.used).exists():
                yield group, names
            if group == root:
                break


def _left(found: tuple[Path, _Names]) -> int:
    group, names = found
    limit = (group / names.limit).read_text().strip()
    if limit == "max":
        return sys.maxsize
    statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    reclaimable = sum(int(statistics.get(name, 0)) for name in names.reclaimable)
    return int(limit) - int((group / names.used).read_text()) + reclaimable
