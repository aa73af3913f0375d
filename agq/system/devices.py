"""Where torch computes: the processor or a CUDA device."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agq.errors import AgqError, UsageError

if TYPE_CHECKING:
    import torch

PROCESSOR = "cpu"


def kind_of(device: str) -> str:
    """The first word of a device's name: `cpu` or `cuda`."""
    return device.partition(":")[0]


def device_name(name: str | None = None) -> str:
    """The name of the device that `torch_device` finds."""
    return PROCESSOR if name == PROCESSOR else str(torch_device(name))


def free_bytes(device: str) -> int:
    """Memory of a CUDA device that is free."""
    import torch

    return torch.cuda.mem_get_info(torch.device(device))[0]


def torch_device(name: str | None = None) -> torch.device:
    """The device `name` ("cpu", "cuda", "cuda:1"); None: CUDA where there is one.

    Raises UsageError for another name, AgqError for a CUDA device that is not there.
    """
    import torch

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
