"""Adam on the scales and the rounding of linears (arXiv 1412.6980), its rates falling as a half cosine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agq.files import atomic_writer
from agq.numerics.hadamard import random_permutation
from agq.quantization.tuning.linear import TrainedLinear
from agq.recipe import TuneOptions

# The share of the learning rate that is left at the end.
_FINAL_RATE = 0.1
# Steps that a GPU does one kernel after the other, before a step is recorded as one graph and played from then on.
_EAGER = 3


@contextmanager
def fast_products() -> Iterator[None]:
    """Float32 products of a GPU take inputs of 10 bits of mantissa (TF32) meanwhile."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """The one on which gradients are computed: a tensor's gradient belongs to the stream that it began on."""
    return torch.cuda.Stream(device)


def order_of_windows(seed: int, name: str, count: int, needed: int) -> Tensor:
    """Indices of `needed` of `count` windows, int64: all in an order that `name` draws, then all in another one."""
    rounds = -(-needed // count)
    return torch.cat([random_permutation(seed, f"{name}.{i}", count) for i in range(rounds)])


class Descent:
    """loss: () -> what is made small, a scalar, computed from tensors that stay where they are, so that a GPU can play
    the step as one graph. steps: of the whole descent."""

    def __init__(
        self,
        linears: Iterable[TrainedLinear],
        options: TuneOptions,
        steps: int,
        loss: Callable[[], Tensor],
        device: torch.device,
    ) -> None:
        linears = list(linears)
        self.loss, self.steps, self.done = loss, steps, 0
        self._device, self._cuda = device, device.type == "cuda"
        groups: list[dict[str, Any]] = [{"params": [linear.log for linear in linears], "rate": options.learning_rate}]
        if options.rounding:
            groups.append({"params": [linear.steps for linear in linears], "rate": options.rounding_rate})
        for group in groups if self._cuda else ():
            group["lr"] = torch.tensor(group["rate"], device=device)
        self.optimizer = torch.optim.Adam(
            groups, betas=(0.9, 0.95), capturable=self._cuda, fused=True if self._cuda else None
        )
        self._graph: torch.cuda.CUDAGraph | None = None
        self._recordable = True
        self._played: Tensor | None = None
        self._eager = 0

    def step(self) -> Tensor:
        """One step; the loss before it, a scalar."""
        share = 0.5 * (1 + float(np.cos(np.pi * self.done / self.steps)))
        for group in self.optimizer.param_groups:
            rate = group["rate"] * (_FINAL_RATE + (1 - _FINAL_RATE) * share)
            if self._cuda:
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        self.done += 1
        if not self._cuda:
            return self._computed(set_to_none=True)
        with fast_products():
            return self._on_gpu()

    def _computed(self, set_to_none: bool) -> Tensor:
        self.optimizer.zero_grad(set_to_none=set_to_none)
        loss = self.loss()
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def _on_gpu(self) -> Tensor:
        stream = _stream(self._device)
        if self._eager < _EAGER or not self._recordable:
            self._eager += 1
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                loss = self._computed(set_to_none=False)
            torch.cuda.current_stream().wait_stream(stream)
            return loss
        if self._graph is None:
            graph = torch.cuda.CUDAGraph()
            try:
                with torch.cuda.graph(graph, stream=stream):
                    self._played = self._computed(set_to_none=False)
            except RuntimeError:  # a step that waits for the GPU; nothing was computed
                self._recordable = False
                torch.cuda.synchronize()
                return self._on_gpu()
            self._graph = graph
        self._graph.replay()
        assert self._played is not None
        return self._played

    def save(self, path: Path, more: dict[str, Any]) -> None:
        """Stores where the descent is, and `more`, whole or not at all."""
        values = [value.detach() for group in self.optimizer.param_groups for value in group["params"]]
        state = {"done": self.done, "values": values, "optimizer": self.optimizer.state_dict(), **more}
        with atomic_writer(path) as file:
            torch.save(state, file)

    def load(self, path: Path) -> dict[str, Any]:
        """Goes on where `save` was called; what it stored."""
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        values = [value for group in self.optimizer.param_groups for value in group["params"]]
        with torch.no_grad():
            for value, stored in zip(values, state["values"], strict=True):
                value.copy_(stored)
        self.optimizer.load_state_dict(state["optimizer"])
        for group in self.optimizer.param_groups if self._cuda else ():
            # A graph changes the rate only where it lies on the device.
            group["lr"] = torch.tensor(float(group["lr"]), device=self._device)
        self.done = int(state["done"])
        return state
