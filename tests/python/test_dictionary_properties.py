"""Routing and codes of a frozen decoder on inputs that hypothesis makes: a float64 sort, numpy.linalg.lstsq."""

from __future__ import annotations

from typing import Any, NamedTuple

import hypothesis
import hypothesis.strategies as st
import numpy as np
from hypothesis import given

import arrowschur_native as asn
from arrowschur_native import _core


class Problem(NamedTuple):
    x: np.ndarray  # (N, P) float32
    decoder: np.ndarray  # (K, P) float32, rows of norm 1 or 0
    s: int


def unit(rows: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.where(norms > 0, norms, 1)).astype(np.float32)


@st.composite
def problems(draw: st.DrawFn, most_atoms: int = 70) -> Problem:
    """Rows and atoms; with ties, copies, opposites, dormant atoms and zero rows."""
    n, p, k = draw(st.integers(1, 12)), draw(st.integers(1, 40)), draw(st.integers(1, most_atoms))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if draw(st.booleans()):
        decoder, x = rng.normal(size=(k, p)), rng.normal(size=(n, p))
    else:  # small whole numbers: many equal scores
        decoder, x = rng.integers(-1, 2, (k, p)).astype(float), rng.integers(-2, 3, (n, p)).astype(float)
    for _ in range(draw(st.integers(0, 3))):
        source, target = rng.integers(0, k, 2)
        decoder[target] = draw(st.sampled_from([1.0, -1.0, 0.0])) * decoder[source]
    if draw(st.booleans()):
        x[rng.integers(0, n)] = 0.0
    x *= draw(st.sampled_from([1.0, 2.0**-20, 1e6]))
    return Problem(x.astype(np.float32), unit(decoder), draw(st.integers(1, 9)))


def rows_of(x: np.ndarray) -> _core.DictionaryRows:
    return _core.DictionaryRows(x, *x.shape, "float32", None)


def encode(problem: Problem, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    model = _core.DictionaryModel(problem.decoder, None, 0)
    indices, codes, _ = model.encode(rows_of(problem.x), n_nonzero_coefs=problem.s, **options)
    return indices, codes


def exact_scores(x: np.ndarray, decoder: np.ndarray) -> np.ndarray:
    """Dot products in float64 over eight lanes, as the library defines them: the same bits."""
    products = decoder.astype(np.float64) * x.astype(np.float64)
    products = np.pad(products, ((0, 0), (0, -products.shape[1] % 8)))
    lanes = np.zeros((len(decoder), 8))
    for block in range(0, products.shape[1], 8):
        lanes += products[:, block : block + 8]
    a = lanes[:, :4] + lanes[:, 4:]
    return (a[:, 0] + a[:, 2]) + (a[:, 1] + a[:, 3])


def winners(scores: np.ndarray, s: int) -> np.ndarray:
    order = np.lexsort((np.arange(len(scores)), -np.abs(scores)))
    return order[np.abs(scores[order]) > 0][:s]


@given(problem=problems(), tile=st.sampled_from([1, 7, 64, 4096]), batch=st.sampled_from([1, 5, 512]))
def test_topk_routing_is_a_full_float64_sort(problem: Problem, tile: int, batch: int) -> None:
    indices, codes = encode(problem, router="topk", score_tile=tile, batch_size=batch)

    assert indices.shape == codes.shape == (len(problem.x), min(problem.s, len(problem.decoder)))
    for row, found, code in zip(problem.x, indices, codes, strict=True):
        expected = winners(exact_scores(row, problem.decoder), indices.shape[1])
        assert np.array_equal(found[: len(expected)], expected)
        # Empty slots: the first index, or 0, and no code.
        assert np.all(found[len(expected) :] == (expected[0] if len(expected) else 0))
        assert np.all(code[len(expected) :] == 0.0)


@given(problem=problems(most_atoms=30))
def test_omp_is_orthogonal_matching_pursuit(problem: Problem) -> None:
    indices, _ = encode(problem, router="omp", code_ridge=1e-6)

    decoder = problem.decoder.astype(np.float64)
    for row, found in zip(problem.x.astype(np.float64), indices, strict=True):
        chosen: list[int] = []
        for slot in range(len(found)):
            if chosen:
                g = decoder[chosen] @ decoder[chosen].T + 1e-6 * np.eye(len(chosen))
                residual = row - decoder[chosen].T @ np.linalg.solve(g, decoder[chosen] @ row)
            else:
                residual = row
            left = np.abs(decoder @ residual)
            left[chosen] = -1.0
            scale = np.linalg.norm(row)
            if left.max() <= 1e-9 * scale:
                break  # at roundoff either side may stop
            atom = int(found[slot])
            # The choice is the largest; where several agree to roundoff, it is one of them.
            assert left[atom] >= left.max() - 1e-9 * scale
            chosen.append(atom)


@given(problem=problems(), router=st.sampled_from(["topk", "refine", "omp"]))
def test_codes_are_least_squares_on_their_atoms(problem: Problem, router: str) -> None:
    indices, codes = encode(problem, router=router, code_ridge=0.0)

    for row, found, code in zip(problem.x.astype(np.float64), indices, codes.astype(np.float64), strict=True):
        used = list(dict.fromkeys(found[code != 0].tolist()))
        # Slots without a code may hold an atom too; it is part of the least-squares problem.
        support = list(dict.fromkeys(found.tolist())) if used else used
        basis = problem.decoder[support].astype(np.float64)
        best = np.linalg.lstsq(basis.T, row, rcond=None)[0] if support else np.zeros(0)
        scale = np.linalg.norm(row)
        residual = np.linalg.norm(row - code @ problem.decoder[found].astype(np.float64))
        least = np.linalg.norm(row - best @ basis) if support else scale
        assert residual <= least + 2e-6 * (scale + np.abs(code).sum())
        values = np.linalg.svd(basis, compute_uv=False) if support else np.ones(1)
        if values[-1] > 1e-3:
            assert np.allclose([code[found == atom].sum() for atom in support], best, rtol=0, atol=2e-6 * scale)


@given(problem=problems(), ridge=st.sampled_from([1e-6, 1e-3, 0.1, 10.0]))
def test_codes_are_ridge_regressions(problem: Problem, ridge: float) -> None:
    indices, codes = encode(problem, router="topk", code_ridge=ridge)

    for row, found, code in zip(problem.x.astype(np.float64), indices, codes, strict=True):
        support = winners(exact_scores(row.astype(np.float32), problem.decoder), len(found))
        basis = problem.decoder[support].astype(np.float64)
        stacked = np.concatenate([basis.T, np.sqrt(ridge) * np.eye(len(support))])
        expected = np.linalg.lstsq(stacked, np.concatenate([row, np.zeros(len(support))]), rcond=None)[0]
        # Copies of an atom have a condition number of 1 / ridge.
        assert np.allclose(code[: len(support)], expected, rtol=0, atol=1e-6 * max(np.linalg.norm(row), 1e-30))


@given(problem=problems(), router=st.sampled_from(["topk", "refine", "omp"]), threads=st.integers(1, 3))
def test_codes_of_a_row_do_not_depend_on_its_company(problem: Problem, router: str, threads: int) -> None:
    indices, codes = encode(problem, router=router)
    for i in range(len(problem.x)):
        alone = encode(problem._replace(x=problem.x[i : i + 1]), router=router, num_threads=threads)
        assert np.array_equal(alone[0][0], indices[i])
        assert alone[1][0].tobytes() == codes[i].tobytes()


@given(problem=problems())
def test_decoding_sums_in_slot_order(problem: Problem) -> None:
    indices, codes = encode(problem, router="refine")
    decoded = _core.DictionaryModel(problem.decoder, None, 0).decode(indices, codes, None)
    sums = np.zeros(problem.x.shape)
    for slot in range(indices.shape[1]):
        sums += codes[:, slot, None].astype(np.float64) * problem.decoder[indices[:, slot]].astype(np.float64)
    assert np.array_equal(decoded, sums.astype(np.float32))


@given(problem=problems(), router=st.sampled_from(["topk", "refine", "omp"]))
def test_the_score_is_the_explained_variance_of_what_is_decoded(problem: Problem, router: str) -> None:
    x = problem.x.astype(np.float64)
    tss, energy = np.sum((x - x.mean(axis=0)) ** 2), np.sum(x**2)
    hypothesis.assume(tss > 1e-12 * energy)
    indices, codes = encode(problem, router=router)
    model = _core.DictionaryModel(problem.decoder, None, 0)
    slots = codes.astype(np.float64)[:, :, None] * problem.decoder.astype(np.float64)[indices]
    rss = np.sum((x - slots.sum(axis=1)) ** 2)
    found = model.score(rows_of(problem.x), n_nonzero_coefs=problem.s, router=router)
    assert abs(found - (1 - rss / tss)) <= 1e-9 * (1 + energy / tss)


def test_top_level_names() -> None:
    for name in ("SparseDictionary", "SparseDictionaryStream", "fit_sparse_dictionary", "load_dictionary"):
        assert name in asn.__all__
    assert asn.load_dictionary is asn.dictionary.load
