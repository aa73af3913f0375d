"""What long work tells its caller while it runs."""

from __future__ import annotations

from typing import Any


class Progress:
    """What a walk over decoder blocks tells its caller; every method may be overridden."""

    def step(self, text: str) -> None: ...

    def start(self, blocks: int) -> None: ...

    def layer(self, index: int, report: Any) -> None: ...

    def block(self, index: int, seconds: float, resumed: bool) -> None: ...

    def note(self, text: str) -> None: ...
