"""stderr by verbosity, progress with and without a terminal, JSON and tables on stdout."""

import contextlib
import io
import json
import math
import os
import pty
import random
import sys

import numpy as np
import pytest

from agq.errors import UsageError
from agq.reporting import console, output, progress_bar
from agq.reporting.environment import flag, number


@pytest.fixture(autouse=True)
def settings(monkeypatch):
    for name in ("NO_COLOR", "FORCE_COLOR", "AGQ_COLOR", "AGQ_VERBOSE", "AGQ_QUIET", "AGQ_NO_PROGRESS"):
        monkeypatch.delenv(name, raising=False)
    console.reset()
    yield
    console.reset()


@pytest.mark.parametrize(("verbosity", "seen"), [(-2, ""), (-1, "w"), (0, "ws"), (1, "wsd"), (2, "wsde")])
def test_verbosity(capsys, verbosity, seen):
    console.configure(verbosity=verbosity)
    console.warning("w")
    console.warning("w")  # once
    console.say("s")
    console.detail("d")
    console.detail("e", 2)
    captured = capsys.readouterr()
    assert "".join(line[-1] for line in captured.err.splitlines()) == seen and captured.out == ""


def test_settings_from_the_environment(monkeypatch):
    monkeypatch.setenv("AGQ_QUIET", "1")
    monkeypatch.setenv("AGQ_NO_PROGRESS", "yes")
    monkeypatch.setenv("AGQ_COLOR", "never")
    console.reset()
    assert (console.settings.verbosity, console.settings.progress, console.settings.color) == (-1, False, "never")
    monkeypatch.setenv("AGQ_VERBOSE", "3")
    assert number("AGQ_VERBOSE") == 3 and number("AGQ_QUIET") == 1 and not flag("AGQ_NOTHING")
    monkeypatch.setenv("AGQ_VERBOSE", "loud")
    with pytest.raises(UsageError, match="AGQ_VERBOSE"):
        console.reset()
    monkeypatch.delenv("AGQ_VERBOSE")


def test_progress_lines_without_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(progress_bar, "_LINE_INTERVAL", 0.0)
    with progress_bar.progress("work", total=2, unit="layers") as bar:
        bar.advance(note="layer 1")
        bar.advance()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "work: 1/2 layers, layer 1" and lines[1].startswith("work: 2/2 layers")


@pytest.mark.parametrize("how", [{"progress": False}, {"verbosity": -1}])
def test_progress_can_be_switched_off(capsys, monkeypatch, how):
    monkeypatch.setattr(progress_bar, "_LINE_INTERVAL", 0.0)
    console.configure(**how)
    with progress_bar.progress("work", total=1) as bar:
        bar.advance()
        assert bar.done == 1 and bar.eta() == 0.0
    assert capsys.readouterr().err == ""


def test_progress_bar_on_a_terminal(monkeypatch):
    master, slave = pty.openpty()
    with os.fdopen(slave, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setenv("TERM", "xterm")
        with progress_bar.progress("work", unit="windows") as bar:
            bar.update(note="reading", total=3)
            bar.advance(2, "ppl 12.5")
        terminal.flush()
    data = b""
    with contextlib.suppress(OSError):  # EIO: all has been read
        while chunk := os.read(master, 4096):
            data += chunk
    os.close(master)
    shown = data.decode()
    assert "work" in shown and "2/3" in shown and "ppl 12.5" in shown


def test_colour_follows_stream_and_settings(monkeypatch):
    stream = io.StringIO()
    assert not console.use_color(stream)
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert console.use_color(stream)
    monkeypatch.setenv("NO_COLOR", "1")
    assert not console.use_color(stream)
    console.configure(color="always")
    assert console.paint("x", "red", stream=stream) == "\x1b[31mx\x1b[0m"
    console.configure(color="never")
    assert console.paint("x", "red", stream=stream) == "x"


def test_clock():
    assert [console.clock(value) for value in (0.4, 59.4, 75, 3700)] == ["0 s", "59 s", "1:15", "1:01:40"]


def test_json_has_no_nan_and_takes_numpy(capsys, tmp_path):
    output.print_json(
        {"a": math.nan, "b": [math.inf, np.float32(1.5)], "c": np.arange(2), "d": tmp_path, "ü": "\n", "e": np.int64(3)}
    )
    line = capsys.readouterr().out
    assert line.count("\n") == 1
    assert json.loads(line) == {"a": None, "b": [None, 1.5], "c": [0, 1], "d": str(tmp_path), "ü": "\n", "e": 3}
    with pytest.raises(TypeError):
        output.dumps(object())


def test_sizes():
    assert [output.human_size(n) for n in (0, 999, 1500, 13638144, 4.2e9, 7e12)] == [
        "0 bytes",
        "999 bytes",
        "1.5 kB",
        "13.6 MB",
        "4.2 GB",
        "7.0 TB",
    ]


def test_tables_are_not_cut_where_there_is_no_terminal(capsys):
    long = "x" * 60
    output.print_table(["name", "number"], [[long, 1.5], ["[b]", None]], title="Title", right=(1,))
    shown = capsys.readouterr().out
    assert long in shown and "[b]" in shown and "-" in shown and "Title" in shown
    output.print_pairs({"a": 1, "long name": long, "none": None}, title="T")
    assert capsys.readouterr().out == f"T\na          1\nlong name  {long}\n"


def test_time_left_is_that_of_the_part(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress_bar.time, "monotonic", lambda: now[0])
    bar = progress_bar.Progress("transform", 10)
    assert bar.eta() is None
    now[0] += 50
    bar.advance(5)
    assert bar.eta() == 50
    now[0] += 6  # a step goes on: the time left runs down
    assert bar.eta() == 44
    now[0] += 14  # it takes longer than the others did: six steps in 70 seconds, at the best
    assert bar.eta() == pytest.approx(70 / 6 * 5 - 20)
    bar.begin("tune", 4)
    assert bar.eta() is None and bar.done == 0
    now[0] += 1
    bar.advance()
    assert bar.eta() is None  # the first step, and a short one
    now[0] += 2
    bar.advance()
    assert bar.eta() == 4


@pytest.mark.parametrize("kind", ["even", "noisy", "slow start", "alternating"])
def test_times_left_are_right_within_a_factor(kind, monkeypatch):
    """After the first tenth of a part, looked at often, until the last step; by a made-up clock."""
    now = [0.0]
    monkeypatch.setattr(progress_bar.time, "monotonic", lambda: now[0])
    draw = random.Random(kind)
    steps = {
        "even": [3.0] * 30,
        "noisy": [draw.uniform(2.4, 3.6) for _ in range(30)],
        "slow start": [9.0] + [3.0] * 40,
        "alternating": [2.0, 4.0] * 15,
    }[kind]
    bar, whole = progress_bar.Progress("work", len(steps)), sum(steps)
    for step in steps:
        for _ in range(10):
            now[0] += step / 10
            left = whole - now[0]
            if now[0] >= whole / 10 and left >= max(steps):
                assert left / 1.5 <= bar.eta() <= left * 1.5, (now[0], left, bar.eta())
        bar.advance()
    assert bar.eta() == 0


def test_a_time_left_that_is_foretold():
    bar = progress_bar.Progress("sweep", 7)
    bar.foretell(lambda: 12.0)
    assert bar.eta() == 12
    bar.reach(7, 7)
    assert bar.eta() == 0


def test_counts_of_bytes():
    bar = progress_bar.Progress("pack", unit="MB")
    bar.megabytes(30_400_000, 99_900_000, "layer")
    assert (bar.done, bar.total, bar.note) == (30, 100, "layer")
    bar.megabytes(100, 200)
    assert (bar.done, bar.total) == (0, 1)


def test_narrow_tables_drop_columns(capsys, monkeypatch):
    from agq.reporting.output import print_table

    rows = [["blocks.0-29.qkv", "960 x 576", "u4s8_32x12_avx2"], ["head", None, "i8s8"]]
    for width, shown in ((80, {"layer", "shape", "kernel"}), (36, {"layer", "kernel"}), (20, {"layer"})):
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setattr(console, "is_terminal", lambda stream: True)
        print_table(("layer", "shape", "kernel"), rows, least=("shape", "kernel"))
        text = capsys.readouterr().out
        heading = next(line for line in text.splitlines() if "layer" in line)
        assert set(heading.replace("\x1b[1m", "").replace("\x1b[0m", "").split()) == shown
        assert "blocks.0-29.qkv" in text and max(map(len, text.splitlines())) <= width + 40
        assert ("shape" in text.splitlines()[-1] or "kernel" in "".join(text.splitlines()[-2:])) == (len(shown) < 3)
