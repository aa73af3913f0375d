"""The default number of threads on machines that are not here: /sys and /proc of boards and containers, written to a
folder.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from agq.system.threads import cpu_quota, default_threads, most_threads, resolve_threads


def machine(
    root: Path,
    count: int,
    capacity: list[int] | None = None,
    frequency: list[int] | None = None,
    siblings: list[str] | None = None,
    cgroup: str = "0::/\n",
    files: dict[str, str] | None = None,
) -> Path:
    for cpu in range(count):
        folder = root / f"sys/devices/system/cpu/cpu{cpu}"
        (folder / "topology").mkdir(parents=True)
        (folder / "topology/core_cpus_list").write_text(f"{siblings[cpu] if siblings else cpu}\n")
        if capacity:
            (folder / "cpu_capacity").write_text(f"{capacity[cpu]}\n")
        if frequency:
            (folder / "cpufreq").mkdir()
            (folder / "cpufreq/cpuinfo_max_freq").write_text(f"{frequency[cpu]}\n")
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(cgroup)
    for name, content in (files or {}).items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def threads(root: Path, count: int) -> int:
    return default_threads(root, set(range(count)))


def test_raspberry_pi_4_and_5(tmp_path: Path) -> None:
    assert threads(machine(tmp_path / "4", 4, capacity=[1024] * 4, frequency=[1_800_000] * 4), 4) == 4
    assert threads(machine(tmp_path / "5", 4, frequency=[2_400_000] * 4), 4) == 4


def test_rk3588_uses_its_big_cores(tmp_path: Path) -> None:
    capacity = [530] * 4 + [1024] * 4
    frequency = [1_800_000] * 4 + [2_400_000, 2_400_000, 2_352_000, 2_352_000]
    assert threads(machine(tmp_path / "capacity", 8, capacity=capacity, frequency=frequency), 8) == 4
    assert threads(machine(tmp_path / "frequency", 8, frequency=frequency), 8) == 4
    little = machine(tmp_path / "little", 8, capacity=capacity)
    assert default_threads(little, {0, 1, 2, 3}) == 4  # bound to the little ones: then they are all there is


def test_hyperthreads_count_once(tmp_path: Path) -> None:
    root = machine(tmp_path, 8, frequency=[5_100_000] * 2 + [5_000_000] * 6, siblings=["0,4", "1,5", "2,6", "3,7"] * 2)
    assert threads(root, 8) == 4
    assert default_threads(root, {0, 4}) == 1


def test_hybrid_desktop(tmp_path: Path) -> None:
    root = machine(
        tmp_path,
        12,
        frequency=[5_300_000] * 4 + [3_900_000] * 8,
        siblings=["0-1", "0-1", "2-3", "2-3", *map(str, range(4, 12))],
    )
    assert threads(root, 12) == 2


@pytest.mark.parametrize(
    ("quota", "expected", "most"),
    [
        ("200000 100000", 2, 2),
        ("150000 100000", 1, 2),
        ("50000 100000", 1, 1),
        ("max 100000", 8, 8),
        ("nonsense", 8, 8),
    ],
)
def test_container_quota_v2(tmp_path: Path, quota: str, expected: int, most: int) -> None:
    root = machine(
        tmp_path,
        8,
        cgroup="0::/docker/abc\n",
        files={"docker/abc/cpu.max": "max 100000\n", "docker/cpu.max": quota + "\n"},
    )
    assert threads(root, 8) == expected
    assert most_threads(root, set(range(8))) == most


def test_container_quota_v1(tmp_path: Path) -> None:
    cgroup = "4:cpu,cpuacct:/docker/abc\n3:memory:/docker/abc\n0::/\n"
    seen_from_inside = {"cpu,cpuacct/cpu.cfs_quota_us": "300000\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"}
    assert threads(machine(tmp_path / "a", 8, cgroup=cgroup, files=seen_from_inside), 8) == 3
    from_outside = {
        f"cpu,cpuacct/docker/abc/{name}": value
        for name, value in (("cpu.cfs_quota_us", "-1"), ("cpu.cfs_period_us", "100000"))
    }
    assert cpu_quota(machine(tmp_path / "b", 8, cgroup=cgroup, files=from_outside)) is None


def test_nothing_known(tmp_path: Path) -> None:
    assert default_threads(tmp_path, {0, 1, 2}) == 3


def test_too_many_are_lowered_with_one_warning(capsys: pytest.CaptureFixture[str]) -> None:
    most = most_threads()
    assert resolve_threads(most) == most
    assert resolve_threads(most + 1000) == most
    assert resolve_threads(most + 1000) == most
    assert capsys.readouterr().err.count("warning: ") == 1
