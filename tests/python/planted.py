"""Rows that were made from planted atoms: the fixture of the dictionary tests."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_MASK = (1 << 64) - 1


def uniforms(seed: int, count: int) -> np.ndarray:
    """The first `count` numbers of SplitMix64 in [0, 1): G. Steele, D. Lea, C. Flood, OOPSLA 2014."""
    z = (np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)) + np.uint64(seed & _MASK)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((z ^ (z >> np.uint64(31))) >> np.uint64(11)).astype(np.float64) * 2.0**-53


@dataclass(frozen=True)
class Planted:
    """x (N, P) float32; atoms (K, P) float64, unit rows."""

    x: np.ndarray
    atoms: np.ndarray


def planted(n: int, p: int, k: int, s: int, noise: float, seed: int) -> Planted:
    """Rows of `s` signed atoms out of `k` with magnitudes 0.5 + |n|, plus `noise * n`, n nearly normal."""
    # A row takes s draws of atoms, more on repetition, 5 s of signs and magnitudes and 4 p of noise.
    stream = uniforms(seed, 4 * k * p + n * (20 * s + 4 * p) + 1000)
    at = 0

    def normals(count: int) -> np.ndarray:
        nonlocal at
        u = stream[at : at + 4 * count].reshape(count, 4)
        at += 4 * count
        return (u[:, 0] + u[:, 1] + u[:, 2] + u[:, 3] - 2.0) * 1.7320508075688772

    atoms = normals(k * p).reshape(k, p)
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    x = np.empty((n, p))
    for row in x:
        chosen: list[int] = []
        while len(chosen) < s:
            atom = int(stream[at] * k)
            at += 1
            if atom not in chosen:
                chosen.append(atom)
        row[:] = 0.0
        for atom in chosen:
            sign = -1.0 if stream[at] < 0.5 else 1.0
            at += 1
            row += sign * (0.5 + abs(normals(1)[0])) * atoms[atom]
        row += noise * normals(p)
    return Planted(x.astype(np.float32), atoms)


def g1() -> Planted:
    return planted(2000, 32, 64, 3, 0.05, 7)
