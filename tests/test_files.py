"""Whole or absent files."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

import pytest

from agq.errors import AgqError
from agq.files import (
    atomic_directory,
    atomic_write_bytes,
    atomic_write_text,
    atomic_writer,
    cache_dir,
    ensure_free_space,
    read_input,
    sha256_file,
)


def test_writes_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "x"
    atomic_write_text(path, "één")
    assert path.read_text(encoding="utf-8") == "één"
    atomic_write_bytes(path, b"two")
    assert path.read_bytes() == b"two" and os.listdir(tmp_path) == ["x"]
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


def test_failure_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    atomic_write_bytes(path, b"old")
    with pytest.raises(KeyError), atomic_writer(path) as file:
        file.write(b"new")
        raise KeyError
    with pytest.raises(KeyboardInterrupt), atomic_writer(path) as file:
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["x"]


def test_a_reading_error_inside_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_writer(tmp_path / "x"):
        open(tmp_path / "y" / "z")
    assert os.listdir(tmp_path) == []


def test_a_device_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agq.files._MOST_OF_A_STREAM", 1 << 10)
    with pytest.raises(AgqError, match="`/dev/zero` is no file, and gives more than 0 MiB"):
        read_input("/dev/zero")
    assert read_input("/dev/null") == b""
    atomic_write_bytes(tmp_path / "long", bytes(1 << 12))
    assert len(read_input(tmp_path / "long")) == 1 << 12
    read, write = os.pipe()
    with open(write, "wb") as end:
        end.write(bytes(1 << 10))
    assert len(read_input(f"/dev/fd/{read}")) == 1 << 10
    os.close(read)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(AgqError, match="does not exist"):
        atomic_write_bytes(tmp_path / "a" / "b", b"")
    (tmp_path / "dir").mkdir()
    with pytest.raises(AgqError, match="in the way"):
        atomic_write_bytes(tmp_path / "dir", b"")
    assert os.listdir(tmp_path) == ["dir"]


def test_directory(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with atomic_directory(target) as folder:
        (folder / "a").write_text("1")
        assert not target.exists()
    assert os.listdir(tmp_path) == ["out"] and (target / "a").read_text() == "1"
    with pytest.raises(AgqError, match="not empty"), atomic_directory(target):
        pass
    with pytest.raises(KeyError), atomic_directory(target, overwrite=True) as folder:
        raise KeyError
    assert (target / "a").read_text() == "1"
    with atomic_directory(target, overwrite=True) as folder:
        (folder / "b").write_text("2")
    assert os.listdir(target) == ["b"] and os.listdir(tmp_path) == ["out"]
    (tmp_path / "empty").mkdir()
    with atomic_directory(tmp_path / "empty") as folder:
        (folder / "c").write_text("3")
    assert os.listdir(tmp_path / "empty") == ["c"]
    (tmp_path / "file").write_text("")
    with pytest.raises(AgqError, match="not a folder"), atomic_directory(tmp_path / "file"):
        pass


def test_hash_space_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").write_bytes(b"abc" * 1000000)
    assert sha256_file(tmp_path / "x") == hashlib.sha256(b"abc" * 1000000).hexdigest()
    with pytest.raises(AgqError, match="cannot read"):
        sha256_file(tmp_path / "y")
    ensure_free_space(tmp_path / "not" / "yet" / "there", 1)
    with pytest.raises(AgqError, match="not enough room"):
        ensure_free_space(tmp_path / "x", 1 << 60)
    monkeypatch.setenv("AGQ_CACHE_DIR", str(tmp_path / "c"))
    assert cache_dir() == tmp_path / "c"
    monkeypatch.delenv("AGQ_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache_dir() == Path("/x/agq")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert cache_dir() == Path("/home/someone/.cache/agq")


def test_a_user_without_a_home_is_told_of_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("AGQ_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", none)
    with pytest.raises(AgqError, match="no home folder") as caught:
        cache_dir()
    assert "AGQ_CACHE_DIR" in str(caught.value.hint)


def test_a_pipe_is_not_replaced(tmp_path: Path) -> None:
    """Nor a device: root's `-o /dev/null` would make a file of it for everybody."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(AgqError, match="is a device or a pipe, not a file"), atomic_writer(tmp_path / "pipe"):
        pass
    assert (tmp_path / "pipe").is_fifo() and list(tmp_path.iterdir()) == [tmp_path / "pipe"]
