"""Hadamard matrices, the fast Walsh-Hadamard transform, and the seeded rotations made of them.

A Hadamard matrix of order n has entries +1 and -1 and orthogonal rows; divided by sqrt(n) it is a rotation that spreads
one large channel evenly over all of them. Orders that are known here: powers of two (Sylvester), q + 1 for primes q = 3
mod 4 and 2 (q + 1) for primes q = 1 mod 4 (Paley 1933), and products of these with powers of two: 12, 20, 24, 28, 36,
... For other sizes the odd factor is an orthonormal DCT-II matrix, combined with a Sylvester matrix by a Kronecker
product.

Random signs and permutations come from SHA-256 of the seed, so that a seed means the same on every machine and version.
"""

from __future__ import annotations

import hashlib
import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor


def random_words(seed: int, label: str, n: int) -> np.ndarray:
    """n uniform 64-bit words, uint64 [n], from SHA-256 of (seed, label, counter)."""
    blocks = (hashlib.sha256(f"agq:{seed}:{label}:{i}".encode()).digest() for i in range(-(-n // 4)))
    return np.frombuffer(b"".join(blocks), dtype="<u8")[:n].astype(np.uint64)


def random_signs(seed: int, label: str, n: int) -> Tensor:
    """float64 [n] of +1 and -1."""
    return torch.from_numpy(1.0 - 2.0 * (random_words(seed, label, n) & np.uint64(1)).astype(np.float64))


def random_permutation(seed: int, label: str, n: int) -> Tensor:
    """int64 [n]."""
    return torch.from_numpy(np.argsort(random_words(seed, label, n), kind="stable").astype(np.int64))


def power_of_two(n: int) -> bool:
    return n > 0 and n & (n - 1) == 0


def largest_power_of_two(n: int) -> int:
    """The largest power of two that divides n."""
    return n & -n


def fwht(x: Tensor, size: int) -> Tensor:
    """Orthonormal Walsh-Hadamard transform (natural order) of every block of `size` channels of x, float32 [...,
    channels].

    size: a power of two that divides the channels. The butterflies run from neighbours to halves, (a, b) -> (a + b, a -
    b), and one multiplication by float32(1 / sqrt(size)) ends it: the order of operations of the C engine. The
    transform is its own inverse.
    Raises ValueError for other sizes.
    """
    channels = x.shape[-1]
    if not power_of_two(size) or channels % size:
        raise ValueError(f"a Hadamard block of {size} does not divide {channels} channels")
    shape = x.shape
    half = 1
    while half < size:
        pairs = x.reshape(-1, 2, half)
        first, second = pairs[:, 0], pairs[:, 1]
        x = torch.stack((first + second, first - second), dim=1)
        half *= 2
    return x.reshape(shape) * float(np.float32(1.0 / math.sqrt(size)))


def _prime(n: int) -> bool:
    return n > 1 and all(n % d for d in range(2, math.isqrt(n) + 1))


def _jacobsthal(q: int) -> np.ndarray:
    """Q[i, j] = Legendre symbol of i - j modulo the prime q."""
    squares = {x * x % q for x in range(1, q)}
    legendre = np.array([0] + [1 if x in squares else -1 for x in range(1, q)], dtype=np.int64)
    return legendre[(np.arange(q)[:, None] - np.arange(q)[None, :]) % q]


def _paley(order: int) -> np.ndarray | None:
    """A Hadamard matrix of `order` by one of Paley's constructions over prime fields, or None."""
    q = order - 1
    if q % 4 == 3 and _prime(q):
        skew = np.zeros((order, order), dtype=np.int64)
        skew[0, 1:], skew[1:, 0], skew[1:, 1:] = 1, -1, _jacobsthal(q)
        return skew + np.eye(order, dtype=np.int64)
    q = order // 2 - 1
    if order % 2 == 0 and q % 4 == 1 and _prime(q):
        symmetric = np.zeros((q + 1, q + 1), dtype=np.int64)
        symmetric[0, 1:], symmetric[1:, 0], symmetric[1:, 1:] = 1, 1, _jacobsthal(q)
        return np.kron(symmetric, [[1, 1], [1, -1]]) + np.kron(np.eye(q + 1, dtype=np.int64), [[1, -1], [-1, -1]])
    return None


@lru_cache(maxsize=8)
def basis(n: int) -> Tensor:
    """An orthonormal matrix float64 [n, n] with a constant first row whose entries are as equal in size as is known for
    n: a Hadamard matrix where one is known here, else DCT-II (x) Sylvester (largest entry sqrt(2 / n))."""
    twos = largest_power_of_two(n)
    odd = n // twos
    core: np.ndarray | None = np.ones((1, 1)) if odd == 1 else None
    rest = twos
    for factor in (2, 4, 8):
        if core is None and twos % factor == 0:
            found = _paley(odd * factor)
            if found is not None:
                # Rows and columns are negated until the first of each is all ones: still a Hadamard matrix.
                found = found * found[:, :1]
                found = found * found[:1, :]
                core, rest = found / math.sqrt(odd * factor), twos // factor
    if core is None:
        index = np.arange(odd)
        core = np.cos(np.pi * (index[None, :] + 0.5) * index[:, None] / odd) * math.sqrt(2.0 / odd)
        core[0] /= math.sqrt(2.0)
    sylvester: np.ndarray = np.ones((1, 1))
    while sylvester.shape[0] < rest:
        sylvester = np.kron([[1, 1], [1, -1]], sylvester)
    return torch.from_numpy(np.kron(core, sylvester / math.sqrt(rest)))


def random_rotation(n: int, seed: int, label: str) -> Tensor:
    """diag(random signs) x basis, float64 [n, n] orthonormal."""
    return random_signs(seed, label, n)[:, None] * basis(n)


def mean_keeping_rotation(n: int, seed: int, label: str) -> Tensor:
    """A random rotation Q, float64 [n, n], that maps the vector of ones to itself: the mean over channels stays what it
    is, and LayerNorm(h Q) = LayerNorm(h) Q.

    Q = B^T diag(1, signs) P B with the basis B (its first row is constant) and a permutation P that keeps the first
    place.
    """
    matrix = basis(n)
    signs = random_signs(seed, label, n)
    signs[0] = 1.0
    order = torch.cat((torch.zeros(1, dtype=torch.int64), 1 + random_permutation(seed, label, n - 1)))
    return matrix.t() @ (signs[:, None] * matrix[order])
