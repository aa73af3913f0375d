"""Artifacts made on the way: a model folder given to `run` is packed into the cache folder once, and found there
again.
"""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from agq.artifact.header import ABI
from agq.artifact.reader import Artifact, open_artifact
from agq.errors import AgqError
from agq.files import cache_dir

_RELEVANT = (".safetensors", ".json", ".jinja")


def folder_key(folder: Path) -> str:
    """Hex digest of what decides on the artifact: names, sizes and times of the folder's files, agq's version and
    the artifact's.
    """
    from agq.version import __version__

    digest = hashlib.sha256(f"{__version__}\0{ABI}\0{folder.resolve()}".encode())
    for path in sorted(folder.iterdir()):
        if path.suffix in _RELEVANT and path.is_file():
            status = path.stat()
            digest.update(f"\0{path.name}\0{status.st_size}\0{status.st_mtime_ns}".encode())
    return digest.hexdigest()[:16]


def packed_path(folder: Path) -> Path:
    """Where the folder's artifact lies in the cache, whether or not it is there."""
    return cache_dir() / "packed" / f"{folder.resolve().name}-{folder_key(folder)}.agq.safetensors"


def find_model(path: str | os.PathLike[str]) -> Path:
    """The path of an artifact or model folder that is there.

    Raises:
        AgqError: it is not.
    """
    path = Path(path)
    if not path.exists():
        raise AgqError(
            f"`{path}` does not exist", hint="give a packed artifact (`agq pack` makes one) or a model folder"
        )
    return path


def open_model(path: str | os.PathLike[str], say: Callable[[str], None]) -> Artifact:
    """Opens an artifact; a model folder is packed into the cache first, unless it has not changed since.

    Args:
        say: is told when something is packed, and where to.

    Raises:
        AgqError: no such file or folder, and whatever open_artifact and pack raise.
    """
    path = find_model(path)
    if not path.is_dir():
        return open_artifact(path)
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
    pack(path, target)
    return open_artifact(target)
