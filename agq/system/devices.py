"""Where torch computes: the processor or a CUDA device (imports torch)."""

from __future__ import annotations

import torch

from agq.errors import AgqError, UsageError


def torch_device(name: str | None = None) -> torch.device:
    """The device `name` ("cpu", "cuda", "cuda:1"); None: CUDA where there is one.

    Raises UsageError for another name, AgqError for a CUDA device that is not there.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (":" in name and not (kind == "cuda" and index.isdecimal())):
        raise UsageError(f"unknown device `{name}`", hint="use `cpu` or `cuda`")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise AgqError(
            f"there is no CUDA device `{name}` that PyTorch {torch.__version__} can use", hint="use `device: cpu`"
        )
    return torch.device(name)
