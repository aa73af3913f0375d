"""What a model of mixed number formats is to take: bits a weight, bytes, or time on a machine."""

from __future__ import annotations

import re
from dataclasses import dataclass

from agq import structured
from agq.errors import AgqError
from agq.recipe.declaration import METHOD, option

# Decimal units, as `human_size` writes them, and binary ones by their own names.
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
# What is said where a text is none.
SIZES = "4G, 900M and 4GiB are sizes"


def size_in_bytes(text: str) -> int | None:
    """ "4G" -> 4000000000, "900MB", "4GiB"; None: not a size, or one of nothing."""
    match = re.fullmatch(r"(\d{1,12}(?:\.\d{1,6})?) *([KMGT]I?)?B?", text.strip().upper())
    return (int(float(match[1]) * _UNITS[match[2] or ""]) if match else 0) or None


@dataclass(frozen=True)
class TargetOptions:
    """What the formats of the blocks' linears are chosen for (agq/quantization/allocation); at most one of bits, size
    and a board with its speed. Nothing: all linears have the recipe's scheme.

    Attributes:
        bits: the most stored bits a weight of the blocks' linears, scales included, in the packed file, on average.
        size: the most bytes of the packed file, as `size_in_bytes` reads them.
        board: a machine of agq/planning/machines.yaml. min_tps: the least tokens a second of an answer there.
    """

    bits: float | None = option(
        None,
        "Choose 4 or 8 bits for each linear by what it loses, so that a weight of the blocks has at most so many bits "
        "on average, scales included. Default: all have those of {scheme}.",
        name="target_bits",
        panel=METHOD,
        metavar="BITS",
    )
    size: str | None = option(
        None,
        "The same, so that the packed file has at most this size: `900M`, `1.2G`. Default: none.",
        name="target_size",
        panel=METHOD,
        metavar="SIZE",
    )
    board: str | None = option(
        None,
        "The same, so that {min_tps} is reached on this machine, by its documented figures: `pi5-8gb`; `agq recommend` "
        "lists them. Default: none.",
        panel=METHOD,
        metavar="MACHINE",
    )
    min_tps: float | None = option(
        None, "Tokens a second that an answer is to have on {board}. Default: none.", panel=METHOD, metavar="RATE"
    )

    def __post_init__(self) -> None:
        structured.check(self)
        given = [name for name, value in self._names().items() if value is not None]
        if self.board is not None and self.min_tps is None:
            raise AgqError("`board:` needs `min_tps:`", hint="say how fast, for example `min_tps: 5`")
        if self.min_tps is not None and self.board is None:
            raise AgqError("`min_tps:` needs `board:`", hint="say where, for example `board: pi5`")
        kinds = [name for name in given if name != "min_tps"]
        if len(kinds) > 1:
            raise AgqError(f"`{kinds[0]}:` and `{kinds[1]}:` exclude each other", hint="say one of them")
        if self.size is not None and size_in_bytes(self.size) is None:
            raise AgqError(f"`target_size: {self.size}` is not a size", hint=SIZES)
        for name, value in (("target_bits", self.bits), ("min_tps", self.min_tps)):
            if value is not None and not value > 0:
                raise AgqError(f"`{name}: {value}` is not a positive number", hint="leave it out, or say how many")

    def _names(self) -> dict[str, float | str | None]:
        """Values by the names of the options."""
        return {"target_bits": self.bits, "target_size": self.size, "board": self.board, "min_tps": self.min_tps}

    @property
    def active(self) -> bool:
        """Formats are chosen."""
        return any(value is not None for value in self._names().values())

    @property
    def bytes(self) -> int | None:
        """The most bytes of the packed file; None: not said."""
        return None if self.size is None else size_in_bytes(self.size)
