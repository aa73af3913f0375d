"""Finding and choosing the C library."""

from __future__ import annotations

from pathlib import Path

import pytest

from agq.errors import AgqError, UsageError
from agq.native import cdef, library
from agq.native.library import libraries, load_library


def test_tables_are_those_of_the_header(tmp_path: Path) -> None:
    """After a change of agq.h: python -m agq.native.cdef."""
    cdef.write_module(tmp_path / "_agq_cdef.py")
    assert (tmp_path / "_agq_cdef.py").read_text() == cdef.MODULE.read_text()


def test_struct_sizes_are_the_compilers(tmp_path: Path) -> None:
    import subprocess

    kinds = ("agq_linear", "agq_norm", "agq_block", "agq_model", "agq_options", "agq_batch")
    source = tmp_path / "sizes.c"
    source.write_text(
        '#include <stdio.h>\n#include "agq.h"\nint main(void) {\n'
        + "".join(f'  printf("%zu\\n", sizeof({kind}));\n' for kind in kinds)
        + "}\n"
    )
    subprocess.run(["gcc", "-I", str(cdef.HEADER.parent), "-o", str(tmp_path / "sizes"), str(source)], check=True)
    sizes = subprocess.run([str(tmp_path / "sizes")], capture_output=True, text=True, check=True).stdout.split()
    assert [library.ffi.sizeof(kind) for kind in kinds] == list(map(int, sizes))


def test_the_best_one_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AGQ_ISA", raising=False)
    found = [item for item in libraries() if item.usable]
    assert found and found == sorted(found, key=lambda item: (-item.score, item.isa))
    assert load_library().isa == found[0].isa
    assert "scalar" in [item.isa for item in found]


def test_each_one_can_be_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    for item in libraries():
        monkeypatch.setenv("AGQ_ISA", item.isa)
        if item.usable:
            loaded = load_library()
            assert loaded.isa == item.isa == library.text(loaded.c.agq_isa())
        else:
            with pytest.raises(UsageError, match="do not run on this CPU"):
                load_library()


def test_unknown_name_lists_what_there_is() -> None:
    with pytest.raises(UsageError, match="`magic`") as caught:
        load_library("magic")
    assert "scalar" in caught.value.hint


def test_nothing_built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(library, "folders", lambda: [tmp_path])
    monkeypatch.delenv("AGQ_ISA", raising=False)
    with pytest.raises(AgqError) as caught:
        load_library()
    assert "make kernels" in caught.value.hint


def test_broken_and_foreign_libraries_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import subprocess

    (tmp_path / "libagq-scalar.so").write_bytes(b"\x7fELF nonsense")
    (tmp_path / "old.c").write_text("int agq_abi_version(void) { return 999; } int agq_cpu_score(void) { return 1; }")
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-o", str(tmp_path / "libagq-avx2.so"), str(tmp_path / "old.c")], check=True
    )
    (tmp_path / "other.c").write_text("int something(void) { return 1; }")
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-o", str(tmp_path / "libagq-sse41.so"), str(tmp_path / "other.c")], check=True
    )
    monkeypatch.setattr(library, "folders", lambda: [tmp_path])
    monkeypatch.delenv("AGQ_ISA", raising=False)
    with pytest.raises(AgqError) as caught:
        load_library()
    assert (
        "libagq-sse41.so" in caught.value.message
        and "libagq-scalar.so" in caught.value.message
        and "ABI version 999" in caught.value.message
    )
    with pytest.raises(UsageError, match="ABI version 999"):
        load_library("avx2")
