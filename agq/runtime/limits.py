"""What a machine can do at most, and what a forward pass must do at least: the time that no engine can beat.

The bound of a pass is the longer of two times: every weight (and the KV cache that stands before it) read once at the
machine's read bandwidth, and every product of integers at the peak of the instructions in use. Attention's products,
norms and products of float activations are left out: it is a bound, not a forecast.
"""

from dataclasses import dataclass

from agq.artifact.reader import Artifact
from agq.errors import AgqError
from agq.native.library import Library, text

_MOST_BYTES = 512 << 20  # of the buffer that is read: beyond every cache, within every machine's memory
_LEAST_BYTES = 1 << 20
SECONDS = 0.15  # for each measurement


@dataclass(frozen=True)
class Limits:
    """Of one number of threads and one library.

    Attributes:
        bandwidth: bytes read per second from a buffer as large as the model's weights (at most 512 MiB: a small model
            lives in caches, and so does its buffer). peak: 8-bit multiply-accumulates per second. instruction: that
            makes them.
    """

    bandwidth: float
    peak: float
    instruction: str

    def best(self, other: "Limits") -> "Limits":
        """The higher of two measurements."""
        return Limits(max(self.bandwidth, other.bandwidth), max(self.peak, other.peak), self.instruction)


@dataclass(frozen=True)
class Work:
    """Of one or several forward passes: bytes that must be read, integer multiply-accumulates."""

    read: float
    products: float

    def bound_s(self, limits: Limits) -> tuple[float, str]:
        """(least seconds, "memory" or "compute": which limit makes it)."""
        memory, compute = self.read / limits.bandwidth, self.products / limits.peak
        return (memory, "memory") if memory >= compute else (compute, "compute")


def measure_limits(library: Library, threads: int, weight_bytes: int, seconds: float = SECONDS) -> Limits:
    """Measures both limits, `seconds` each.

    Raises:
        AgqError: no memory for the buffer.
    """
    size = min(max(weight_bytes, _LEAST_BYTES), _MOST_BYTES)
    bandwidth = library.c.agq_measure_bandwidth(threads, size, seconds)
    peak = library.c.agq_measure_peak(threads, seconds)
    if bandwidth <= 0 or peak <= 0:
        raise AgqError(
            "the limits of this machine cannot be measured", hint="is there memory left? `limits: false` skips it"
        )
    return Limits(bandwidth, peak, text(library.c.agq_peak_name()))


def weight_bytes(artifact: Artifact, names: list[str] | None = None) -> int:
    """Bytes of linears (default: all): codes, scales, zero points, biases."""
    infos = artifact.linears
    chosen = infos if names is None else {name: infos[name] for name in names}
    return sum(size.nbytes for name, info in chosen.items() for size in info.tensors(name).values())


def _products(artifact: Artifact, names: list[str]) -> int:
    """Multiply-accumulates of one token through linears that compute in integers."""
    infos = (artifact.linears[name] for name in names)
    return sum(info.out * info.inputs for info in infos if info.activations.quantized)


def prefill_work(artifact: Artifact, tokens: int, sequences: int, cached_bytes: float) -> Work:
    """`tokens` of each sequence at once, logits of the last ones; cached_bytes: of all KV caches before."""
    inner = [name for name in artifact.linears if name != "head"]
    head = [name for name in artifact.linears if name == "head"]
    products = sequences * (tokens * _products(artifact, inner) + _products(artifact, head))
    return Work(weight_bytes(artifact) + cached_bytes, products)


def decode_work(artifact: Artifact, tokens: int, sequences: int, depth: int, position_bytes: float) -> Work:
    """`tokens` passes of one token per sequence, the first one at `depth`; position_bytes: of one KV cache."""
    positions = tokens * depth + tokens * (tokens - 1) / 2
    products = tokens * sequences * _products(artifact, list(artifact.linears))
    return Work(tokens * weight_bytes(artifact) + sequences * positions * position_bytes, products)


# Parts of the profile (agq_profile_name) that are nothing but a linear of every block, or the head.
PARTS = {"qkv": "qkv", "attention output": "out", "up and activation": "up", "down": "down", "head": "head"}


def part_work(artifact: Artifact, part: str, tokens: int, passes: int, head_tokens: int) -> Work | None:
    """Work of a part over `passes` forward passes of `tokens` tokens in all; None for parts that are not linears."""
    role = PARTS.get(part)
    if role is None:
        return None
    names = [name for name in artifact.linears if name == role or name.endswith("." + role)]
    count = head_tokens if role == "head" else tokens
    return Work(passes * weight_bytes(artifact, names), count * _products(artifact, names))
