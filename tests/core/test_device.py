"""What a device can do, measured, and what of its memory this process may take under real limits."""

import mmap
from pathlib import Path

import pytest
import torch

from leanpipe.core import device, memory_limits
from tests.support.processes import in_a_process_of_its_own, leave_free, lift_limit

MEGABYTE = 2**20


def test_the_peak_is_that_of_real_hardware_and_measured_once():
    peak = device.peak_flops(torch.float32)
    assert 1e8 < peak < 1e16
    assert device.peak_flops(torch.float32) == peak


def test_of_an_address_space_that_is_limited_only_the_rest_is_free():
    before, free, after_taking_30 = in_a_process_of_its_own(__name__, _free_within, 100 * MEGABYTE)
    assert before > 100 * MEGABYTE
    assert 90 * MEGABYTE < free <= 100 * MEGABYTE
    assert free - after_taking_30 == pytest.approx(30 * MEGABYTE, rel=0.1)


def _free_within(limit: int) -> tuple[int, int, int]:
    before = device.free_host_memory()
    leave_free(limit)
    free = device.free_host_memory()
    held = mmap.mmap(-1, 30 * MEGABYTE)  # not the heap, which may have as much to spare
    after = device.free_host_memory()
    held.close()
    lift_limit()
    return before, free, after


def write_group(folder: Path, limit: str, used: int, files: int, version: int) -> None:
    """A control group's files as the kernel writes them."""
    folder.mkdir(parents=True, exist_ok=True)
    names = (
        ("memory.max", "memory.current")
        if version == 2
        else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    )
    for name, value in zip(names, (limit, used), strict=True):
        (folder / name).write_text(f"{value}\n")
    prefix = "" if version == 2 else "total_"
    (folder / "memory.stat").write_text(
        f"anon {used - files}\n{prefix}active_file {files // 4}\n{prefix}inactive_file {files - files // 4}\n"
    )


def test_a_container_of_version_2_leaves_its_limit_less_what_is_used_and_cannot_be_given_back(tmp_path: Path):
    write_group(tmp_path, "1000", used=700, files=400, version=2)
    assert memory_limits.free_in_cgroups("0::/\n", tmp_path) == 700


def test_the_tightest_of_nested_groups_counts(tmp_path: Path):
    write_group(tmp_path / "user.slice", "5000", used=4800, files=0, version=2)
    write_group(tmp_path / "user.slice" / "job.scope", "max", used=100, files=0, version=2)
    assert memory_limits.free_in_cgroups("0::/user.slice/job.scope\n", tmp_path) == 200


@pytest.mark.parametrize("seen_from", ["/", "/docker/0123abcd"])
def test_a_container_of_version_1_lies_at_the_mount_whatever_its_path_on_the_host(tmp_path: Path, seen_from):
    write_group(tmp_path / "memory", "1000", used=700, files=400, version=1)
    membership = f"5:cpu,cpuacct:{seen_from}\n4:memory:{seen_from}\n0::/\n"
    assert memory_limits.free_in_cgroups(membership, tmp_path) == 700


def test_without_a_group_or_a_limit_all_of_the_machine_is_free(tmp_path: Path):
    assert memory_limits.free_in_cgroups("", tmp_path) > 2**60
    write_group(tmp_path, "max", used=700, files=0, version=2)
    assert memory_limits.free_in_cgroups("0::/\n", tmp_path) > 2**60


@pytest.mark.skipif(not Path("/proc/self/cgroup").exists(), reason="no control groups here")
def test_the_groups_of_this_process_leave_room_for_it():
    assert memory_limits.free_in_cgroups() > 0
