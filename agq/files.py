"""Files that are whole or absent: temporary name, fsync, rename. Also what is given to be read, hashes, free space and
the folder of the cache."""

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from agq.errors import AgqError

_CHUNK = 1 << 20
_MOST_OF_A_STREAM = 1 << 28  # bytes that are read of what is no regular file


def _disk_error(error: OSError, path: Path) -> AgqError:
    """The user's view of a failed write."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return AgqError(f"disk full while writing `{path}`", hint="free some space or choose another output path")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return AgqError(f"cannot write `{path}`: {error.strerror}", hint="check the permissions of its folder")
    if error.errno == errno.ENOENT:
        return AgqError(f"cannot write `{path}`: its folder does not exist", hint="create the folder first")
    if error.errno == errno.ENOTDIR:
        return AgqError(f"cannot write `{path}`: a part of the path is not a folder")
    if error.errno in (errno.EISDIR, errno.ENOTEMPTY, errno.EEXIST):
        return AgqError(f"cannot write `{path}`: a folder of that name is in the way")
    return AgqError(f"cannot write `{path}`: {error.strerror or error}")


def _sync_folder(folder: Path) -> None:
    """Makes a rename durable. Some file systems refuse to sync folders; their renames are as durable as they get."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)


def _file_mode() -> int:
    """Permission bits of a new file under the current umask (temporary files are made with 0600)."""
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


@contextlib.contextmanager
def atomic_writer(path: str | os.PathLike) -> Iterator[IO[bytes]]:
    """A binary file object (readable and seekable too) that becomes `path` when the block ends without an exception.

    Raises:
        AgqError: disk full, no permission, folder missing; `path` is a device or a pipe, in whose place a file would
            stand. Nothing is left behind then.
    """
    given, path = Path(path), Path(os.path.abspath(path))  # errors name absolute paths; the user's words are shown
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise AgqError(f"`{given}` is a device or a pipe, not a file", hint="name a file")
    temporary = None
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        temporary = Path(name)
        with os.fdopen(handle, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.fchmod(file.fileno(), _file_mode())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except BaseException as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
        # An OSError with another file's name came from the caller's reading, not from this write.
        if isinstance(error, OSError) and error.filename in (None, str(path), str(path.parent), str(temporary)):
            raise _disk_error(error, given) from error
        if isinstance(error, OSError) and str(error.filename or "").startswith(str(path.parent / f".{path.name}.")):
            raise _disk_error(error, given) from error
        raise


@contextlib.contextmanager
def atomic_directory(path: str | os.PathLike, overwrite: bool = False) -> Iterator[Path]:
    """A temporary folder beside `path` that is renamed to it when the block ends without an exception.

    Args:
        overwrite: replace what stands at `path`; otherwise only an absent or empty folder is replaced.

    Raises:
        AgqError: `path` exists and is not empty, disk full, no permission.
    """
    given, path = Path(path), Path(os.path.abspath(path))
    if not overwrite:
        check_absent_or_empty(given)
    temporary = None
    try:
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
        os.chmod(temporary, 0o777 & (_file_mode() | 0o111))
        yield temporary
        for file in sorted(temporary.rglob("*")):
            if file.is_file():
                with open(file, "rb") as handle:
                    os.fsync(handle.fileno())
        if path.is_dir() and not path.is_symlink():
            # rename() replaces an empty folder; a full one steps aside first, so that a crash leaves one of the two.
            if any(path.iterdir()):
                aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".old", dir=path.parent))
                os.replace(path, aside)
                os.replace(temporary, path)
                shutil.rmtree(aside, ignore_errors=True)
            else:
                os.replace(temporary, path)
        else:
            os.replace(temporary, path)
        _sync_folder(path.parent)
    except BaseException as error:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError) and (
            error.filename is None or str(error.filename).startswith((str(path), str(path.parent / f".{path.name}.")))
        ):
            raise _disk_error(error, given) from error
        raise


def check_absent_or_empty(path: Path) -> None:
    """Refuses an output folder that already holds something (AgqError)."""
    if path.is_dir():
        if any(path.iterdir()):
            raise AgqError(f"output folder `{path}` is not empty", hint="choose another one, or pass `force: true`")
    elif path.exists():
        raise AgqError(f"`{path}` exists and is not a folder")


def atomic_write_bytes(path: str | os.PathLike, data: bytes) -> None:
    """Writes a whole file or none of it."""
    with atomic_writer(path) as file:
        file.write(data)


def atomic_write_text(path: str | os.PathLike, text: str) -> None:
    """Writes a whole UTF-8 file or none of it."""
    atomic_write_bytes(path, text.encode("utf-8"))


def read_input(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a file, pipe or device that a user names.

    Raises:
        AgqError: as read_stream. OSError: as open.
    """
    with open(path, "rb") as file:
        return read_stream(file, f"`{os.fspath(path)}`")


def read_stream(file: IO[bytes], name: str) -> bytes:
    """All bytes of an open file. name: what messages call it.

    Raises:
        AgqError: a pipe or a device gives more than 256 MiB, as `/dev/zero` does, which would fill the memory.
    """
    if _is_regular(file):
        return file.read()
    data = file.read(_MOST_OF_A_STREAM + 1)
    if len(data) > _MOST_OF_A_STREAM:
        raise AgqError(
            f"{name} is no file, and gives more than {_MOST_OF_A_STREAM >> 20} MiB",
            hint="write what is to be read into a file, and name that",
        )
    return data


def _is_regular(file: IO[bytes]) -> bool:
    try:
        return stat.S_ISREG(os.fstat(file.fileno()).st_mode)
    except OSError:  # no file of the system, as in tests
        return False


def sha256_file(path: str | os.PathLike) -> str:
    """Hex SHA-256 of a file's bytes; AgqError when it cannot be read."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise AgqError(f"cannot read `{path}`: {error.strerror or error}") from error
    return digest.hexdigest()


def cache_dir() -> Path:
    """AGQ_CACHE_DIR, else XDG_CACHE_HOME/agq, else ~/.cache/agq. The folder is made by whoever writes to it.

    Raises AgqError: none of the variables is set, and the user has no home folder.
    """
    if value := os.environ.get("AGQ_CACHE_DIR"):
        return Path(value).expanduser()
    if value := os.environ.get("XDG_CACHE_HOME"):
        return Path(value) / "agq"
    try:
        return Path.home() / ".cache" / "agq"
    except RuntimeError as error:  # a user without a home folder
        raise AgqError("there is no home folder to make a cache in", hint="AGQ_CACHE_DIR names another one") from error


class NoRoom(AgqError):
    """A file system has too little room for what is to be written."""


def ensure_free_space(path: str | os.PathLike, nbytes: int) -> None:
    """Refuses (NoRoom) to start writing `nbytes` where the file system of `path` has less room."""
    folder = Path(path).absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return  # no answer is no reason to stop: the write itself is checked
    if free < nbytes:
        raise NoRoom(
            f"not enough room for `{path}`: {nbytes / 1e6:.1f} MB needed, {free / 1e6:.1f} MB free",
            hint="free some space or choose another output path",
        )


@contextlib.contextmanager
def exclusive(path: Path, work: str) -> Iterator[None]:
    """Only one process at a time writes `path`: a lock on the file `.NAME.agq-lock` beside it, which holds the
    process's number and is gone afterwards. work: what the process does, for the other one's message.

    Raises:
        AgqError: another process holds it.
    """
    lock = path.resolve().parent / f".{path.resolve().name}.agq-lock"
    try:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError:
        yield  # where no lock can be made, nothing can be written: the work says so in its own words
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(handle, 32).decode("ascii", "replace").strip()
        os.close(handle)
        raise AgqError(
            f"another {work} (process {holder or 'unknown'}) writes `{path}`",
            hint="wait for it, end it, or choose another output with `output:`",
        ) from None
    try:
        os.ftruncate(handle, 0)
        os.write(handle, str(os.getpid()).encode())
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(handle)
