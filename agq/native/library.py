"""Finding, choosing and loading the C library: one `libagq-<isa>.so` per instruction-set level, the best that this
CPU runs.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agq.errors import AgqError, UsageError
from agq.native._agq_cdef import ffi

ABI_VERSION = 7
_PACKAGE = Path(__file__).resolve().parents[1]
_NAME = re.compile(r"libagq-([a-z0-9]+)\.so$")
_loaded: dict[Path, Any] = {}


@dataclass(frozen=True)
class Candidate:
    """A library that was found. score: 0 where this CPU cannot run it; `problem` says why it cannot be used
    otherwise.
    """

    isa: str
    path: Path
    score: int
    problem: str | None = None

    @property
    def usable(self) -> bool:
        return self.score > 0 and self.problem is None


@dataclass(frozen=True)
class Library:
    """A loaded library. `c` has the functions of agq.h; `ffi` makes and reads their arguments."""

    isa: str
    path: Path
    c: Any
    ffi: Any = ffi

    @property
    def cpu_features(self) -> list[str]:
        """Features of this CPU that agq knows, as the library found them."""
        return text(self.c.agq_cpu_features()).split()


def text(pointer: Any) -> str:
    """A C string; empty for NULL."""
    return ffi.string(pointer).decode("utf-8", "replace") if pointer else ""


def machine() -> str:
    """Architecture in the words of the kernels' Makefile: x86_64, aarch64."""
    name = os.uname().machine
    return {"AMD64": "x86_64", "amd64": "x86_64", "arm64": "aarch64"}.get(name, name)


def folders() -> list[Path]:
    """Where libraries may lie: inside the installed package, else in the build folder of a source tree."""
    return [_PACKAGE / "lib", _PACKAGE.parent / "kernels" / "build" / machine()]


def _open(path: Path) -> Any:
    path = path.resolve()
    if path not in _loaded:
        _loaded[path] = ffi.dlopen(str(path))
    return _loaded[path]


def _candidate(isa: str, path: Path) -> Candidate:
    try:
        c = _open(path)
        version = c.agq_abi_version()
        if version != ABI_VERSION:
            return Candidate(isa, path, 0, f"has ABI version {version}, not {ABI_VERSION}")
        return Candidate(isa, path, c.agq_cpu_score())
    except (OSError, ffi.error) as error:
        return Candidate(isa, path, 0, f"cannot be loaded: {error}")


def libraries() -> list[Candidate]:
    """All libraries of the first folder that holds any, best first. Loads each one to ask for its score."""
    for folder in folders():
        found = [(match[1], path) for path in sorted(folder.glob("libagq-*.so")) if (match := _NAME.match(path.name))]
        if found:
            return sorted((_candidate(isa, path) for isa, path in found), key=lambda item: (-item.score, item.isa))
    return []


def load_library(isa: str | None = None) -> Library:
    """The best library for this CPU, or the one that `isa` (by default AGQ_ISA) names.

    Raises:
        UsageError: an unknown name, or one that this CPU cannot run.
        AgqError: no library was built, or none can be loaded.
    """
    wanted = isa or os.environ.get("AGQ_ISA") or None
    if wanted in (None, "auto"):
        found = libraries()
        usable = [item for item in found if item.usable]
        if usable:
            return Library(usable[0].isa, usable[0].path, _open(usable[0].path))
        if not found:
            raise AgqError(
                "the C kernels are not built", hint="run `make kernels` in the source tree, or reinstall agq"
            )
        problems = "; ".join(f"`{item.path.name}` {item.problem or 'needs another CPU'}" for item in found)
        raise AgqError(
            f"no C kernel library can be used: {problems}",
            hint="run `make kernels` in the source tree, or reinstall agq",
        )
    found = libraries()
    chosen = next((item for item in found if item.isa == wanted), None)
    if chosen is not None and chosen.usable:
        return Library(chosen.isa, chosen.path, _open(chosen.path))
    available = ", ".join(item.isa for item in found if item.usable)
    hint = f"AGQ_ISA can be: {available}" if available else "run `make kernels` in the source tree, or reinstall agq"
    if chosen is None:
        raise UsageError(f"there is no kernel library for `{wanted}`", hint=hint)
    raise UsageError(f"the kernels for `{wanted}` {chosen.problem or 'do not run on this CPU'}", hint=hint)
