"""The artifact's header: versions, the one form in which it is written, and its hash."""

import hashlib
import json
from typing import Any

from agq.artifact.layout import ALIGN

FORMAT = 1
# 3: an embedding of 8-bit rows. 4: sink tokens. 5, 6, 7: fields that are declared with them. All files of an older one
# are files of a newer one; a file is written with the oldest from LEAST_ABI on that knows everything in it.
ABI = 7
LEAST_ABI = 4
OLDEST_ABI = 2


def canonical(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces, ASCII. Hashes and headers are made of it."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def header_hash(header: dict[str, Any]) -> str:
    """Hex SHA-256 of a header's canonical JSON without `agq.header_sha256`."""
    metadata = {key: item for key, item in header["__metadata__"].items() if key != "agq.header_sha256"}
    return hashlib.sha256(canonical({**header, "__metadata__": metadata}).encode()).hexdigest()


def header_bytes(header: dict[str, Any]) -> bytes:
    """Length, canonical JSON and the spaces that align the data section to 64 bytes."""
    raw = canonical(header).encode()
    raw += b" " * (-(8 + len(raw)) % ALIGN)
    return len(raw).to_bytes(8, "little") + raw
