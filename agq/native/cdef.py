"""Makes `_agq_cdef.py`, the C boundary as cffi tables, from `kernels/include/agq.h`.

Parsing C declarations at start-up would cost more than loading the library, so the tables are generated once and
kept with the source: `python -m agq.native.cdef` after a change of agq.h. A test compares the two.
"""

import re
from pathlib import Path

HEADER = Path(__file__).resolve().parents[2] / "kernels" / "include" / "agq.h"
MODULE = Path(__file__).resolve().with_name("_agq_cdef.py")
_NUMBER = re.compile(r"#define\s+(AGQ_\w+)\s+(\d+)$")


def declarations(header: str) -> str:
    """The header without comments and preprocessor lines, numbers that it defines kept: what cffi's parser reads."""
    text = re.sub(r"/\*.*?\*/|//[^\n]*", "", header, flags=re.DOTALL)
    text = re.sub(r"#ifdef __cplusplus.*?#endif", "", text, flags=re.DOTALL)
    lines = []
    for line in text.splitlines():
        line = line.strip()
        if line.startswith("#"):
            if number := _NUMBER.match(line):
                lines.append(f"#define {number[1]} {number[2]}")
        elif line:
            lines.append(line)
    return "\n".join(lines) + "\n"


def write_module(path: Path, header: Path = HEADER) -> None:
    """Writes the out-of-line module (cffi's ABI mode) for `header` to `path`."""
    from cffi import FFI

    ffi = FFI()
    ffi.cdef(declarations(header.read_text(encoding="utf-8")))
    ffi.set_source("_agq_cdef", None)
    ffi.emit_python_code(str(path))


if __name__ == "__main__":
    write_module(MODULE)
