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
        membership = _membership()
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
    for group, is_v2 in control_groups("memory", membership, mount):
        names = _V2 if is_v2 else _V1
        if (group / names.limit).exists() and (group / names.used).exists():
            yield group, names


def control_groups(
    controller: str, membership: str | None = None, mount: Path = CGROUPS
) -> Iterator[tuple[Path, bool]]:
    """List the folders of the groups in which a controller may limit this process, from its own upwards; True for version 2.

    A line of /proc/self/cgroup is `0::/path` in version 2 and `4:memory:/path` in version 1. In a container the path may be
    the host's, which is not mounted there: its own group is then the mount itself.
    """
    for line in (_membership() if membership is None else membership).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = mount / controller if controllers else mount
        own = root / path.lstrip("/")
        for group in (own, *own.parents):
            yield group, not controllers
            if group == root:
                break


def _membership() -> str:
    own = Path("/proc/self/cgroup")
    return own.read_text() if own.exists() else ""


def _left(found: tuple[Path, _Names]) -> int:
    group, names = found
    limit = (group / names.limit).read_text().strip()
    if limit == "max":
        return sys.maxsize
    statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    reclaimable = sum(int(statistics.get(name, 0)) for name in names.reclaimable)
    return int(limit) - int((group / names.used).read_text()) + reclaimable
