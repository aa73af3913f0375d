"""Instruction-set levels are known by their names in few files; everything else asks for a feature."""

from __future__ import annotations

import re

from tests.support import REPOSITORY

SOURCES = REPOSITORY / "kernels" / "src"


def levels() -> list[str]:
    """Names of the rows of levels.def."""
    table = (SOURCES / "isa" / "levels.def").read_text(encoding="utf-8")
    return re.findall(r"^LEVEL\((\w+)", table, re.MULTILINE)


def asks(text: str, names: list[str]) -> bool:
    """Whether C code is compiled otherwise for a level by its name."""
    return re.search(rf"\bAGQ_(WITH|ISA|KERNELS|LEVEL)_({'|'.join(names)})\b", text) is not None


def test_no_other_file_knows_a_level() -> None:
    names = levels()
    found = {path for path in SOURCES.rglob("*.[ch]") if asks(path.read_text(encoding="utf-8"), names)}
    own = {SOURCES / "gemm" / "levels" / f"{name}.h" for name in names}
    assert own <= found
    # The table names the portable kernels beside those of the library's own level.
    assert sorted(str(path.relative_to(SOURCES)) for path in found - own) == ["gemm/table.c", "isa/features.h"]


def test_it_sees_what_it_should() -> None:
    assert asks("#if defined(AGQ_WITH_avx2)", ["avx2"]) and not asks("#if defined(AGQ_HAS_SDOT)", ["avx2"])
