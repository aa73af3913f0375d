"""Artifacts made on the way: a model folder or GGUF file given to `run` is packed into the cache folder once, and found
there again.
"""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from agq.artifact.header import ABI
from agq.artifact.reader import Artifact, open_artifact
from agq.errors import AgqError
from agq.files import NoRoom, cache_dir
from agq.gguf.files import is_gguf, split_parts, stem
from agq.hub import find_model
from agq.reporting.progress_bar import progress

_RELEVANT = (".safetensors", ".json", ".jinja")


def _files(model: Path) -> list[Path]:
    """The files that decide on the artifact of a folder or GGUF file."""
    if not model.is_dir():
        return split_parts(model)
    return [path for path in sorted(model.iterdir()) if path.suffix in _RELEVANT and path.is_file()]


def model_key(model: Path) -> str:
    """Hex digest of what decides on the artifact: names, sizes and times of the model's files, agq's version and the
    artifact's.
    """
    from agq.version import __version__

    digest = hashlib.sha256(f"{__version__}\0{ABI}\0{model.resolve()}".encode())
    for path in _files(model):
        status = path.stat()
        digest.update(f"\0{path.name}\0{status.st_size}\0{status.st_mtime_ns}".encode())
    return digest.hexdigest()[:16]


def packed_folder() -> Path:
    """Where artifacts lie in the cache."""
    return cache_dir() / "packed"


def packed_files() -> list[Path]:
    """The artifacts in the cache, by name."""
    return sorted(packed_folder().glob("*.agq.safetensors"))


def packed_path(model: Path) -> Path:
    """Where a model's artifact lies in the cache, whether or not it is there."""
    name = model.resolve().name if model.is_dir() else stem(model.resolve())
    return packed_folder() / f"{name}-{model_key(model)}.agq.safetensors"


def packed_gguf(path: Path, say: Callable[[str], None]) -> Path:
    """The packed file of a GGUF file, made where it is not in the cache; any other path as it is."""
    return Path(open_model(path, say).path) if is_gguf(path) else path


def find_source(name: str | os.PathLike[str]) -> tuple[Path, Artifact | None]:
    """The file or folder of MODEL; the artifact, where it is one: what it is, is said before anything else is done.

    Raises:
        AgqError: no such model; a file that is neither a GGUF file nor an artifact.
    """
    path, _ = find_model(name)
    return path, None if path.is_dir() or is_gguf(path) else open_artifact(path)


def open_model(path: str | os.PathLike[str], say: Callable[[str], None]) -> Artifact:
    """Opens an artifact; a model folder or GGUF file is packed into the cache first, unless it has not changed since.

    Args:
        path: of an artifact or a folder, or another name of a model (agq/recipe/models.py).
        say: is told when something is packed, and where to.

    Raises:
        AgqError: no such model, and whatever open_artifact and pack raise.
    """
    path, packed = find_source(path)
    if packed is not None:
        return packed
    target = packed_path(path)
    if target.exists():
        try:
            return open_artifact(target)
        except AgqError as error:
            say(f"the packed copy in the cache cannot be used ({error.message})")
    from agq.artifact.pack import pack

    say(f"packing `{path}` into `{target}` (once; `agq pack` makes an artifact of your own)")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AgqError(
            f"cannot make the cache folder `{target.parent}`: {error.strerror}", hint="AGQ_CACHE_DIR names another one"
        ) from error
    try:
        with progress("pack", unit="MB") as bar:
            report = pack(path, target, progress=bar.megabytes)
    except NoRoom as error:
        hint = "`agq cache` lists what was packed before and can be cleared; AGQ_CACHE_DIR names another folder"
        raise AgqError(error.message, hint=hint) from error
    say(f"packed in {report.seconds:.1f} s: {report.bytes / 1e6:.0f} MB")
    for note in report.notes:
        say(note)
    return open_artifact(target)
