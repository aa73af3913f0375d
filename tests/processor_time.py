"""Seconds of processor time of each test, of its process and of those that it started: where `make test` spends them.

    OMP_NUM_THREADS=1 python -m pytest -n 2 --dist loadfile -p tests.processor_time [--processor-times 40]

A fixture counts for the test that makes it first, and so does a module that is imported then.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests.command_server import CommandServer

_PROPERTY = "processor seconds"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--processor-times", type=int, default=30, metavar="N", help="list the N tests of the most processor time"
    )


def _seconds() -> float:
    """Of this process, of those of its children that have ended, and of the commands that were run for it."""
    return sum(os.times()[:4]) + CommandServer.seconds()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    # No report is made after the last part of a test, so each part's seconds stand in its report.
    item.stash[_started] = _seconds()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[Any]:
    report = yield
    now = _seconds()
    report.user_properties = [(_PROPERTY, now - item.stash[_started])]
    item.stash[_started] = now
    return report


_started = pytest.StashKey[float]()


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    tests: Counter[tuple[str, str]] = Counter()
    parts: Counter[str] = Counter()
    folders: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, seconds in getattr(report, "user_properties", ()):
                if name == _PROPERTY:
                    part = "fixtures" if report.when == "setup" else "test"
                    tests[report.nodeid, part] += seconds
                    folders["/".join(report.nodeid.split("::")[0].split("/")[:2])] += seconds
                    parts[part] += seconds
    terminalreporter.section("seconds of processor time")
    for (name, part), seconds in tests.most_common(config.getoption("--processor-times")):
        terminalreporter.write_line(f"{seconds:7.1f}  {name}{' (its fixtures)' if part == 'fixtures' else ''}")
    terminalreporter.write_line("")
    for name, seconds in folders.most_common():
        terminalreporter.write_line(f"{seconds:7.1f}  {name}")
    terminalreporter.write_line(f"{sum(folders.values()):7.1f}  in all; of it fixtures {parts['fixtures']:.1f}")
