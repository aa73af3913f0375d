"""Hadamard matrices, the fast transform and the seeded rotations, against their definitions written out anew."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
import torch

from agq.numerics.hadamard import (
    basis,
    fwht,
    largest_power_of_two,
    mean_keeping_rotation,
    power_of_two,
    random_permutation,
    random_rotation,
    random_signs,
    random_words,
)

# Orders with a Hadamard matrix: Sylvester's, Paley's first (12 = 11 + 1) and second (28 = 2 (13 + 1)), and products.
KNOWN = (1, 2, 4, 8, 16, 12, 20, 24, 28, 36, 40, 44, 48, 56, 72, 80, 96, 104)


def words(seed: int, label: str, count: int) -> list[int]:
    """SHA-256 of "agq:seed:label:i", four little-endian words a digest."""
    found: list[int] = []
    for i in range(-(-count // 4)):
        digest = hashlib.sha256(f"agq:{seed}:{label}:{i}".encode()).digest()
        found += [int.from_bytes(digest[8 * k : 8 * k + 8], "little") for k in range(4)]
    return found[:count]


@pytest.mark.parametrize("count", [0, 1, 4, 5, 11])
def test_random_words_are_sha256_of_a_counter(count: int) -> None:
    assert random_words(3, "r1", count).tolist() == words(3, "r1", count)


def test_signs_and_permutations_are_those_of_the_words() -> None:
    drawn = words(5, "x", 23)
    assert random_signs(5, "x", 23).tolist() == [-1.0 if word % 2 else 1.0 for word in drawn]
    order = random_permutation(5, "x", 23)
    assert order.dtype == torch.int64 and order.tolist() == sorted(range(23), key=lambda i: drawn[i])


def test_powers_of_two() -> None:
    assert [n for n in range(-4, 70) if power_of_two(n)] == [1, 2, 4, 8, 16, 32, 64]
    assert [largest_power_of_two(n) for n in (1, 2, 3, 12, 40, 96, 128)] == [1, 2, 1, 4, 8, 32, 128]


@pytest.mark.parametrize("size", [1, 2, 8, 32])
def test_transform_is_the_sign_of_common_bits(size: int) -> None:
    """Natural order: entry (i, j) is (-1)^(number of ones in i and j) / sqrt(size), block by block."""
    matrix = np.array([[(-1) ** bin(i & j).count("1") for j in range(size)] for i in range(size)]) / math.sqrt(size)
    x = torch.randn(3, 5, 64, generator=torch.Generator().manual_seed(size))
    expected = (x.double().numpy().reshape(3, 5, -1, size) @ matrix).reshape(3, 5, 64)
    assert np.allclose(fwht(x, size), expected, atol=1e-6)
    assert torch.allclose(fwht(fwht(x, size), size), x, atol=1e-6)


def test_transform_by_hand() -> None:
    """Sums first, one multiplication at the end: 2^24 + 1 is not a float32, so the order of operations shows."""
    x = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 9.0])
    assert fwht(x, 4).tolist() == [5.0, -1.0, -2.0, 0.0, 13.5, -1.5, -2.5, 0.5]
    inverse = np.float32(1 / math.sqrt(8))
    assert fwht(x, 8).tolist() == (np.array([37, -5, -9, 1, -17, 1, 1, -1], np.float32) * inverse).tolist()
    large = torch.tensor([2.0**24, 0.0, 1.0, 0.0])
    assert fwht(large, 4)[0] == 2.0**23 and fwht(large[[0, 2, 1, 3]], 4)[0] == 2.0**23


@pytest.mark.parametrize("size", [0, 3, 12, 16])
def test_impossible_blocks(size: int) -> None:
    with pytest.raises(ValueError, match=f"block of {size} does not divide 24"):
        fwht(torch.zeros(2, 24), size)


@pytest.mark.parametrize("n", [*KNOWN, 3, 5, 6, 7, 10, 18, 22, 60, 92])
def test_basis_is_orthonormal_and_begins_with_a_constant_row(n: int) -> None:
    matrix = basis(n).numpy()
    assert matrix.dtype == np.float64 and np.allclose(matrix @ matrix.T, np.eye(n), atol=1e-12)
    assert np.allclose(matrix[0], 1 / math.sqrt(n), atol=1e-12)


@pytest.mark.parametrize("n", KNOWN)
def test_known_orders_have_entries_of_one_size(n: int) -> None:
    assert np.allclose(np.abs(basis(n).numpy()), 1 / math.sqrt(n), atol=1e-12)


def legendre(a: int, q: int) -> int:
    """Euler's criterion."""
    power = pow(a % q, (q - 1) // 2, q)
    return -1 if power == q - 1 else power


@pytest.mark.parametrize(
    ("n", "q", "rest"), [(12, 11, 1), (20, 19, 1), (24, 11, 2), (28, 13, 1), (36, 17, 1), (48, 11, 4)]
)
def test_paley_s_constructions(n: int, q: int, rest: int) -> None:
    """q = 3 mod 4: I + S with S = [[0, 1], [-1, Q]]; q = 1 mod 4, with C = [[0, 1], [1, Q]]: C (x) [[1, 1], [1, -1]] +
    I (x) [[1, -1], [-1, -1]]; Q[i, j] = (i - j | q). Rows and columns are negated until the first of each is positive;
    then times Sylvester's matrix."""
    jacobsthal = [[legendre(i - j, q) for j in range(q)] for i in range(q)]
    border = -1 if q % 4 == 3 else 1
    matrix = np.array([[0] + [1] * q] + [[border, *row] for row in jacobsthal])
    if q % 4 == 3:
        matrix = matrix + np.eye(q + 1)
    else:
        matrix = np.kron(matrix, [[1, 1], [1, -1]]) + np.kron(np.eye(q + 1), [[1, -1], [-1, -1]])
    matrix = matrix * matrix[:, :1]
    matrix = matrix * matrix[:1]
    sylvester = [[(-1) ** bin(i & j).count("1") for j in range(rest)] for i in range(rest)]
    assert np.allclose(basis(n).numpy(), np.kron(matrix, sylvester) / math.sqrt(n), atol=1e-12)


@pytest.mark.parametrize("n", [3, 5, 6, 10, 18, 22])
def test_other_orders_are_a_cosine_transform_of_the_odd_factor(n: int) -> None:
    odd = n // (n & -n)
    cosines = np.array(
        [
            [math.sqrt((1 if k == 0 else 2) / odd) * math.cos(math.pi * (j + 0.5) * k / odd) for j in range(odd)]
            for k in range(odd)
        ]
    )
    expected = cosines if n == odd else np.kron(cosines, np.array([[1, 1], [1, -1]]) / math.sqrt(2))
    assert np.allclose(basis(n).numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("n", [8, 12, 18, 40])
def test_random_rotation_negates_rows_of_the_basis(n: int) -> None:
    signs = np.array([-1.0 if word % 2 else 1.0 for word in words(7, "r1", n)])
    assert np.array_equal(random_rotation(n, 7, "r1").numpy(), signs[:, None] * basis(n).numpy())
    assert -n < signs.sum() < n  # some are negated, some not


@pytest.mark.parametrize("n", [8, 12, 18, 56])
def test_mean_keeping_rotation_is_its_formula(n: int) -> None:
    found, matrix = mean_keeping_rotation(n, 9, "r1").numpy(), basis(n).numpy()
    assert np.allclose(found @ found.T, np.eye(n), atol=1e-12)
    assert np.allclose(np.ones(n) @ found, 1, atol=1e-12) and np.allclose(found @ np.ones(n), 1, atol=1e-12)
    assert np.abs(found - np.eye(n)).max() > 0.1
    drawn, order = words(9, "r1", n), words(9, "r1", n - 1)
    signs = np.diag([1.0] + [-1.0 if word % 2 else 1.0 for word in drawn[1:]])
    rows = [0] + [1 + i for i in sorted(range(n - 1), key=lambda i: order[i])]
    assert np.allclose(found, matrix.T @ signs @ matrix[rows], atol=1e-12)
