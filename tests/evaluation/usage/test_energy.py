"""Energy as Linux counts it, from counters in files of its layout."""

import pytest

from leanpipe.evaluation.usage.energy import joules_between, read_counters


def zone(powercap, name, called, energy, most=1_000_000_000):
    folder = powercap / name
    folder.mkdir(exist_ok=True)
    (folder / "name").write_text(f"{called}\n")
    (folder / "energy_uj").write_text(f"{energy}\n")
    (folder / "max_energy_range_uj").write_text(f"{most}\n")


@pytest.fixture
def powercap(tmp_path):
    zone(tmp_path, "intel-rapl:0", "package-0", 5_000_000)
    zone(tmp_path, "intel-rapl:0:0", "core", 1_000_000)
    zone(tmp_path, "intel-rapl:1", "package-1", 999_000_000)
    zone(tmp_path, "intel-rapl:2", "psys", 7)
    return tmp_path


def test_packages_are_counted_and_not_their_parts_a_second_time(powercap):
    before = read_counters(powercap=powercap)
    zone(powercap, "intel-rapl:0", "package-0", 7_500_000)
    zone(powercap, "intel-rapl:0:0", "core", 3_000_000)
    zone(powercap, "intel-rapl:1", "package-1", 1_000_000)  # it began again at 0
    assert joules_between(before, read_counters(powercap=powercap)) == pytest.approx(2.5 + 2.0)


def test_what_nobody_counts_is_not_guessed(powercap, tmp_path):
    nothing = read_counters(powercap=tmp_path / "nowhere")
    assert joules_between(nothing, nothing) is None
    before = read_counters(powercap=powercap)
    (powercap / "intel-rapl:1" / "energy_uj").write_text("")  # as if it could not be read any more
    assert joules_between(before, read_counters(powercap=powercap)) is None
