"""Threads of torch for the commands that use it."""

from __future__ import annotations

import os


def idle_threads_sleep() -> None:
    """Before the first torch import: idle threads sleep instead of spinning. On a busy machine spinning costs more than
    waking up."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def set_threads(threads: int | None) -> None:
    """Lets torch use `threads` threads; by default those that `run` would use (affinity, container limits)."""
    from agq.system.threads import resolve_threads

    idle_threads_sleep()
    import torch

    torch.set_num_threads(resolve_threads(threads))
