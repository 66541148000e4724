"""Planted sparse data for the dictionary tests, from SplitMix64 alone."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def splitmix64_units(seed: int, count: int) -> Array:
    """The first `count` outputs of SplitMix64, as doubles in [0, 1)."""
    mask = np.uint64(0xFFFFFFFFFFFFFFFF)
    z = (np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed)) & mask
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return np.asarray((z >> np.uint64(11)).astype(np.float64) * 2.0**-53)


class Draws:
    def __init__(self, seed: int, count: int) -> None:
        self.units = splitmix64_units(seed, count)
        self.used = 0

    def unit(self) -> float:
        self.used += 1
        return float(self.units[self.used - 1])

    def normals(self, count: int) -> Array:
        u = self.units[self.used : self.used + 4 * count].reshape(count, 4)
        self.used += 4 * count
        return np.asarray((u[:, 0] + u[:, 1] + u[:, 2] + u[:, 3] - 2.0) * 1.7320508075688772)


@cache
def planted(n: int, p: int, k: int, s: int, noise: float, seed: int) -> tuple[Array, Array]:
    """Rows (n, p) float32 and the planted atoms (k, p) float64."""
    draws = Draws(seed, 4 * k * p + n * (4 * p + 40 * s))
    atoms = draws.normals(k * p).reshape(k, p)
    atoms /= np.sqrt((atoms * atoms).sum(axis=1, keepdims=True))
    x = np.zeros((n, p))
    for row in x:
        chosen: list[int] = []
        while len(chosen) < s:
            atom = int(draws.unit() * k)
            if atom not in chosen:
                chosen.append(atom)
        for atom in chosen:
            sign = -1.0 if draws.unit() < 0.5 else 1.0
            row += sign * (0.5 + abs(draws.normals(1)[0])) * atoms[atom]
        row += noise * draws.normals(p)
    rows = x.astype(np.float32)
    rows.setflags(write=False)
    atoms.setflags(write=False)
    return rows, atoms


def g1() -> tuple[Array, Array]:
    return planted(2000, 32, 64, 3, 0.05, 7)


def g2() -> tuple[Array, Array]:
    return planted(600, 16, 24, 1, 0.02, 11)
