"""Threads of torch for the commands that use it."""

from __future__ import annotations

import os


def set_threads(threads: int | None) -> None:
    """Lets torch use `threads` threads; by default those that `run` would use (affinity, container limits).

    Before the first torch import, idle threads are told to sleep instead of spinning: on a busy machine spinning costs
    more than waking up.
    """
    from agq.system.threads import resolve_threads

    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    import torch

    torch.set_num_threads(resolve_threads(threads))
