"""What long work tells its caller while it runs."""

from __future__ import annotations

from typing import Any


class Progress:
    """What a quantization run tells its caller; every method may be overridden."""

    def stage(self, name: str, steps: int | None, unit: str = "steps") -> None:
        """A part of the work begins whose steps take as long as each other, but not as long as those of another part.
        steps: how many `advance` will count; None: not known."""

    def advance(self, text: str) -> None:
        """A step of the stage is done."""

    def step(self, text: str) -> None:
        """What is going on, within a step."""

    def start(self, blocks: int) -> None:
        """The walk over the blocks begins."""

    def layer(self, index: int, report: Any) -> None: ...

    def block(self, index: int, seconds: float, resumed: bool) -> None: ...

    def note(self, text: str) -> None: ...

    def decided(self, lines: list[str]) -> None:
        """What was measured and decided before the rest of the work, for people."""
