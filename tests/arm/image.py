"""Writes what run_tokens.c reads: the engine's model descriptor as bytes, its pointers as offsets.

Works on any cffi `agq_model` whose pointers lead into the artifact's mapping or to small arrays made beside it.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np


def pointer_fields(ffi: Any, kind: Any, start: int = 0) -> list[tuple[int, str]]:
    """Byte offset and dotted name of every pointer inside a struct type."""
    found = []
    for name, field in kind.fields:
        if field.type.kind == "pointer":
            found.append((start + field.offset, name))
        elif field.type.kind == "struct":
            found += [
                (offset, f"{name}.{inner}") for offset, inner in pointer_fields(ffi, field.type, start + field.offset)
            ]
    return found


def model_image(
    ffi: Any,
    model: Any,
    artifact_address: int,
    artifact_size: int,
    inv_freq: np.ndarray | None,
    rope_scaling: float,
    prompt: list[int],
    generate: int,
    context: int,
    kv_bits: int = 8,
    threads: int = 2,
) -> bytes:
    """The image of one `agq_model *`. `inv_freq`: float32 [head_dim / 2], None without RoPE.

    Raises:
        ValueError: a pointer that leads neither into the artifact nor to an array of known size.
    """
    model_kind, block_kind = ffi.typeof("agq_model"), ffi.typeof("agq_block")
    model_size, block_size = ffi.sizeof(model_kind), ffi.sizeof(block_kind)
    structs = bytearray(ffi.buffer(model, model_size)) + bytearray(ffi.buffer(model.blocks, block_size * model.layers))
    fields = pointer_fields(ffi, model_kind)
    for layer in range(model.layers):
        fields += pointer_fields(ffi, block_kind, model_size + layer * block_size)
    sizes = {"alibi_slopes": 4 * model.heads}
    pointers = []
    for where, name in fields:
        (address,) = struct.unpack_from("<Q", structs, where)
        if address == 0:
            continue
        if name == "blocks":
            pointers.append((where, model_size, 1))
        elif artifact_address <= address < artifact_address + artifact_size:
            pointers.append((where, address - artifact_address, 0))
        elif name in sizes:
            pointers.append((where, len(structs), 1))
            structs += bytes(ffi.buffer(ffi.cast("char *", address), sizes[name]))
            structs += bytes(-len(structs) % 8)
        else:
            raise ValueError(f"{name} points outside the artifact")
        struct.pack_into("<Q", structs, where, 0)
    rope = np.zeros(0, np.float32) if inv_freq is None else np.ascontiguousarray(inv_freq, np.float32)
    header = struct.pack(
        "<8s4Q7if",
        b"agqimage",
        model_size,
        block_size,
        len(structs),
        len(pointers),
        model.layers,
        context,
        kv_bits,
        threads,
        len(prompt),
        generate,
        len(rope),
        rope_scaling,
    )
    return b"".join(
        [
            header,
            structs,
            *(struct.pack("<3Q", *pointer) for pointer in pointers),
            rope.tobytes(),
            np.asarray(prompt, np.int32).tobytes(),
        ]
    )
