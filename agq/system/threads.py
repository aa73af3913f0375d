"""How many threads to compute with: processors allowed to this process, the container's quota, big cores, physical
cores.

More threads than that make decoding slower, on processors with big and little cores by half: a product is only as
fast as its slowest thread.
"""

import os
import re
from pathlib import Path

# Cores slower than this share of the fastest one are little ones. RK3588: A55 1.8 GHz, A76 2.4 GHz; capacity 530 of
# 1024. The cores of one kind differ by a few percent only (x86 "favoured" cores 4 %).
_BIG_CAPACITY = 0.75
_BIG_FREQUENCY = 0.8


def allowed_cpus() -> set[int]:
    """Processors that this process may run on."""
    try:
        return os.sched_getaffinity(0)
    except (AttributeError, OSError):
        return set(range(os.cpu_count() or 1))


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return None


def _number(path: Path) -> int | None:
    value = _read(path)
    return int(value) if value is not None and re.fullmatch(r"-?\d{1,18}", value) else None


def _upwards(base: Path, inner: str) -> list[Path]:
    """A control group's folder and those above it, as far as they can be seen from here."""
    parts = [part for part in inner.split("/") if part not in ("", "..")]
    return [base.joinpath(*parts[:count]) for count in range(len(parts), -1, -1)]


def cpu_quota(root: Path = Path("/")) -> float | None:
    """Processors' worth of time that the container may use (control groups v2 and v1); None without a limit."""
    base = root / "sys/fs/cgroup"
    limits = []
    for line in (_read(root / "proc/self/cgroup") or "0::/").splitlines():
        fields = line.split(":", 2)
        if len(fields) != 3:
            continue
        controllers = fields[1].split(",")
        if controllers == [""]:
            for folder in _upwards(base, fields[2]):
                words = (_read(folder / "cpu.max") or "").split()
                if len(words) == 2 and words[0].isdigit() and words[1].isdigit() and int(words[1]):
                    limits.append(int(words[0]) / int(words[1]))
        elif "cpu" in controllers:
            for mount in {fields[1], "cpu", "cpu,cpuacct"}:
                for folder in _upwards(base / mount, fields[2]):
                    quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
                    if quota is not None and quota > 0 and period:
                        limits.append(quota / period)
    return min(limits, default=None)


def _speeds(cpus: set[int], folder: Path) -> tuple[dict[int, int], float]:
    """Speed of each processor in any one unit, and the share of the highest that makes a big core; empty where
    unknown.
    """
    for name, share in (("cpu_capacity", _BIG_CAPACITY), ("cpufreq/cpuinfo_max_freq", _BIG_FREQUENCY)):
        values = {cpu: _number(folder / f"cpu{cpu}" / name) for cpu in cpus}
        if all(value is not None and value > 0 for value in values.values()):
            return {cpu: value for cpu, value in values.items() if value is not None}, share
    return {}, 0.0


def big_cores(cpus: set[int], root: Path = Path("/")) -> set[int]:
    """Of these processors the big ones: all of them where all are alike or nothing is known."""
    speeds, share = _speeds(cpus, root / "sys/devices/system/cpu")
    fastest = max(speeds.values(), default=0)
    return {cpu for cpu in cpus if cpu not in speeds or speeds[cpu] >= share * fastest}


def physical_cores(cpus: set[int], root: Path = Path("/")) -> int:
    """Cores that these processors stand on: two hardware threads of one core count once."""
    cores = set()
    for cpu in cpus:
        folder = root / "sys/devices/system/cpu" / f"cpu{cpu}" / "topology"
        siblings = _read(folder / "core_cpus_list") or _read(folder / "thread_siblings_list")
        cores.add(siblings or f"cpu{cpu}")
    return len(cores)


def default_threads(root: Path = Path("/"), cpus: set[int] | None = None) -> int:
    """Threads to use where nobody says: physical big cores that this process may use, at most the container's quota.

    Args:
        root: where /sys and /proc are looked for (tests give other machines).
        cpus: processors allowed; default those of this process.
    """
    cpus = allowed_cpus() if cpus is None else cpus
    count = physical_cores(big_cores(cpus, root), root)
    quota = cpu_quota(root)
    if quota is not None:
        count = min(count, int(quota))  # a quota of 1.5 used up by two threads stops both
    return max(count, 1)


def most_threads(root: Path = Path("/"), cpus: set[int] | None = None) -> int:
    """The largest number that makes sense: processors allowed, at most the container's quota rounded up."""
    count = len(allowed_cpus() if cpus is None else cpus)
    quota = cpu_quota(root)
    return max(count if quota is None else min(count, -int(-quota // 1)), 1)


def resolve_threads(requested: int | None, warn: bool = True) -> int:
    """The number to compute with; one that is too large is lowered, with a warning (once per process and number)."""
    if requested is None:
        return default_threads()
    most = most_threads()
    if requested <= most:
        return requested
    if warn:
        from agq.reporting import console

        console.warning(
            f"{requested} threads asked for, but only {most} processor{'s' * (most > 1)} can be used: using {most}"
        )
    return most
