"""What the tests of sparse dictionaries share: rows of planted atoms, small options, comparisons."""

from __future__ import annotations

from typing import Any

import numpy as np
from dictionary_fixtures import g1

import arrowschur_native as asn

X, ATOMS = g1()
OPTIONS: dict[str, Any] = {"n_components": 64, "n_nonzero_coefs": 3}
# Exactly five refreshes.
FIVE: dict[str, Any] = {**OPTIONS, "max_iter": 5, "tol": 0.0, "patience": 0, "keep": "last"}


def model(**options: Any) -> asn.SparseDictionary:
    return asn.SparseDictionary(**{**OPTIONS, "max_iter": 3, **options})


def variance(x: np.ndarray) -> float:
    x = x.astype(np.float64)
    return float(np.sum((x - x.mean(axis=0)) ** 2))


def reconstruction(fit: asn.SparseDictionaryFit) -> np.ndarray:
    assert fit.indices is not None
    assert fit.codes is not None
    slots = fit.codes.astype(np.float64)[:, :, None] * fit.decoder.astype(np.float64)[fit.indices]
    return slots.sum(axis=1) + fit.mean.astype(np.float64)


def bits(*arrays: Any) -> list[bytes]:
    return [np.asarray(array).tobytes() for array in arrays]
