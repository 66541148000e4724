"""Forms of the border: what they mean, what they refuse, gradients in their own form."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
import systems
from test_newton import whole

import arrowschur_native as asn


def symmetric(size: int, rng: np.random.Generator, shift: float = 0.0) -> np.ndarray:
    a = rng.uniform(-1, 1, (size, size))
    return (a + a.T) / 2 + shift * np.eye(size)


def kronecker(seed: int) -> tuple[asn.Border, np.ndarray]:
    rng = np.random.default_rng(seed)
    factors = [symmetric(size, rng, 4) for size in (2, 1, 3)]
    dense = np.zeros((12, 12))
    edge = 0
    for factor in factors:
        block = np.kron(factor, np.eye(2))
        dense[edge : edge + len(block), edge : edge + len(block)] = block
        edge += len(block)
    return asn.KroneckerBorder(factors, p=2), dense


def kronecker_product(seed: int) -> tuple[asn.Border, np.ndarray]:
    rng = np.random.default_rng(seed)
    a, b = symmetric(2, rng, 3), symmetric(3, rng, 3)
    dense = np.zeros((12, 12))
    dense[4:10, 4:10] = np.kron(a, b)
    return asn.KroneckerProductBorder(a, b, offset=4, k=12), dense


def sparse_blocks(seed: int, *, mirror: bool = True) -> tuple[asn.Border, np.ndarray]:
    rng = np.random.default_rng(seed)
    low, diagonal, far = rng.uniform(-1, 1, (2, 3)), symmetric(3, rng, 5), symmetric(2, rng, 5)
    left = np.zeros((6, 6))
    left[:3, :3] += 2 * diagonal
    left[3:5, 3:5] += far
    left[3:5, :3] += low
    left[:3, 3:5] += low.T
    left[5, 5] = 1.5
    blocks = [(0, 0, diagonal), (3, 3, far), (3, 0, low), (0, 0, diagonal), (5, 5, [[1.5]])]
    if not mirror:
        blocks.append((0, 3, low.T))
    return asn.SparseBlockKroneckerBorder(blocks, p=2, mirror=mirror), np.kron(left, np.eye(2))


def framed(seed: int, *, mirror: bool = True) -> tuple[asn.Border, np.ndarray]:
    rng = np.random.default_rng(seed)
    p, sizes, widths = 3, (2, 1, 2), (2, 3, 1)
    frames = [rng.uniform(-1, 1, (p, 2)), None, rng.uniform(-1, 1, (p, 1))]
    start = np.cumsum([0, *(m * r for m, r in zip(sizes, widths, strict=True))])
    blocks = [
        (0, 0, symmetric(2, rng, 3)),
        (1, 1, [[2.0]]),
        (2, 2, symmetric(2, rng, 3)),
        (1, 0, rng.uniform(-1, 1, (1, 2))),
    ]
    if not mirror:
        blocks.append((0, 1, np.asarray(blocks[3][2]).T))
    dense = np.zeros((9, 9))
    for a, b, g in blocks:
        u, v = (np.eye(p) if frames[i] is None else frames[i] for i in (a, b))
        block = np.kron(np.asarray(g), u.T @ v)
        dense[start[a] : start[a + 1], start[b] : start[b + 1]] += block
        if mirror and a != b:
            dense[start[b] : start[b + 1], start[a] : start[a + 1]] += block.T
    return asn.FramedKroneckerBorder(sizes, frames, blocks, p, mirror=mirror), dense


def callback(seed: int) -> tuple[asn.Border, np.ndarray]:
    dense = symmetric(12, np.random.default_rng(seed), 12)
    return asn.OperatorBorder(lambda x: dense @ x, np.diagonal(dense)), dense


FORMS: dict[str, Callable[[int], tuple[asn.Border, np.ndarray]]] = {
    "Kronecker": kronecker,
    "Kronecker product": kronecker_product,
    "sparse blocks": sparse_blocks,
    "sparse blocks, both sides": lambda seed: sparse_blocks(seed, mirror=False),
    "framed": framed,
    "framed, both sides": lambda seed: framed(seed, mirror=False),
    "operator": callback,
}
WITH_DATA = [name for name in FORMS if name != "operator"]


def with_shift(name: str, seed: int) -> tuple[asn.Border, np.ndarray]:
    """Some forms are singular alone."""
    border, dense = FORMS[name](seed)
    shift = np.full(border.k, 6.0)
    return border + shift, dense + np.diag(shift)


@pytest.mark.parametrize("name", FORMS)
def test_t24_products_diagonal_and_dense_form_are_those_of_the_definition(name: str) -> None:
    border, dense = FORMS[name](1)
    x = np.random.default_rng(2).normal(size=(border.k, 3))
    np.testing.assert_allclose(border.to_dense(), dense, atol=1e-14)
    np.testing.assert_allclose(border.diagonal(), np.diagonal(dense), atol=1e-14)
    np.testing.assert_allclose(border.matvec(x), dense @ x, atol=1e-13)
    np.testing.assert_allclose(border.matvec(x[:, 0]), dense @ x[:, 0], atol=1e-13)
    total = border + dense + 2 * np.ones(border.k)
    np.testing.assert_allclose(total.matvec(x), 2 * dense @ x + 2 * x, atol=1e-12)
    assert border.shape == dense.shape
    assert repr(border).startswith(type(border).__name__)


def test_t24_frames_of_full_rank_are_a_change_of_basis() -> None:
    rng = np.random.default_rng(3)
    sizes, p = (2, 3), 4
    blocks = [(0, 0, symmetric(2, rng, 3)), (1, 1, symmetric(3, rng, 3)), (1, 0, rng.uniform(-1, 1, (3, 2)))]
    at = (0, 2)  # of the groups in the left factor
    plain = asn.SparseBlockKroneckerBorder([(at[a], at[b], g) for a, b, g in blocks], p=p)
    frame = np.linalg.qr(rng.normal(size=(p, p)))[0]
    np.testing.assert_allclose(frame.T @ frame, np.eye(p), atol=1e-12)
    for frames in ([None, None], [np.eye(p), None], [frame, frame]):  # U'U = I: the Gram of one frame with itself
        border = asn.FramedKroneckerBorder(sizes, frames, blocks, p)
        np.testing.assert_allclose(border.to_dense(), plain.to_dense(), atol=1e-14)
    # Different frames of full rank: the plain border seen through them.
    border = asn.FramedKroneckerBorder(sizes, [frame, None], blocks, p)
    turn = np.eye(border.k)
    turn[:8, :8] = np.kron(np.eye(2), frame)
    np.testing.assert_allclose(border.to_dense(), turn.T @ plain.to_dense() @ turn, atol=1e-13)


@pytest.mark.parametrize("name", FORMS)
def test_systems_with_these_borders_are_solved(name: str) -> None:
    border, dense = with_shift(name, 1)
    parts = systems.random_parts((2, 0, 3), border.k, "dense", 4, coupling=0.3)
    parts = parts.replace(h_bb=dense, h_tb=0.3 * parts.h_tb, border=lambda: border)
    system = parts.system()
    np.testing.assert_allclose(system.to_dense()[0], reference.dense(parts)[0], atol=1e-13)
    tight = asn.PcgOptions(relative_tolerance=1e-14)
    modes = ["inexact_pcg"] if name == "operator" else ["direct", "inexact_pcg"]
    for mode in modes:
        step = asn.newton_step(system, ridge_beta=0.25, options=asn.SolveOptions(mode=mode, pcg=tight))
        assert reference.error(whole(step), reference.step(parts, ridge_beta=0.25)) <= 1e-10
        assert step.diagnostics.backward_error <= 1e-13
    if name != "operator":
        factor = asn.factorize(system, options=asn.SolveOptions(mode="direct"))
        assert factor.log_det() == pytest.approx(reference.log_det(reference.dense(parts)[0]), rel=1e-12)


def test_an_operator_has_no_entries_to_factor() -> None:
    border, _ = with_shift("operator", 1)
    system = asn.ArrowSystem(np.zeros((0, 1, 1)), np.zeros((0, 1, 12)), border, np.zeros((0, 1)), np.ones(12))
    for mode in ("direct", "sqrt_ba", "low_rank"):
        with pytest.raises(asn.UnsupportedConfiguration):
            asn.newton_step(system, options=asn.SolveOptions(mode=mode))


def arrays_of(border: asn.Border) -> list[np.ndarray]:
    """The arrays that a border is made of, in the order of its gradient."""
    if isinstance(border, asn.KroneckerBorder):
        return list(border.factors)
    if isinstance(border, asn.KroneckerProductBorder):
        return [border.a, border.b]
    if isinstance(border, asn.SparseBlockKroneckerBorder):
        return [block for _, _, block in border.blocks]
    assert isinstance(border, asn.FramedKroneckerBorder)
    return [*(block for _, _, block in border.blocks), *(frame for frame in border.frames if frame is not None)]


@pytest.mark.parametrize("name", WITH_DATA)
def test_gradients_have_the_form_of_the_border(name: str) -> None:
    """`df = sum(gradient * d_part)` for the arrays that the border is made of, by central differences."""
    border, _ = with_shift(name, 1)
    k = border.k
    parts = systems.random_parts((2, 3), k, "dense", 4, coupling=0.3)
    h_tb = 0.3 * parts.h_tb

    def log_det(total: asn.Border) -> asn.ArrowFactor:
        system = asn.ArrowSystem(
            parts.flat_blocks(), h_tb, total, parts.g_t, parts.g_beta, row_dims=parts.dims, symmetry="average"
        )
        return asn.factorize(system, options=asn.SolveOptions(mode="direct"))

    gradient = log_det(border).log_det_vjp().h_bb[0]
    if isinstance(gradient, tuple) and isinstance(gradient[0], tuple):
        blocks, frames = gradient
        gradient = (*blocks, *(frame for frame in frames if frame is not None))
    term = border.terms[0]
    assert isinstance(border, asn.BorderSum)
    assert len(gradient) == len(arrays_of(term))
    rng, h = np.random.default_rng(0), 1e-6
    for index, (array, part) in enumerate(zip(arrays_of(term), gradient, strict=True)):
        assert part.shape == array.shape
        change = rng.normal(size=array.shape)
        is_frame = name.startswith("framed") and index >= len(term.blocks)
        diagonal = not name.startswith(("sparse", "framed")) or (
            not is_frame and term.blocks[index][0] == term.blocks[index][1]
        )
        if diagonal:
            change = change + change.T
        values = []
        for sign in (1, -1):
            moved = pickle.loads(pickle.dumps(term))
            arrays_of(moved)[index][...] += sign * h * change
            if "both sides" in name and not diagonal and not is_frame:
                # The other side of the diagonal is an array of its own: alone, neither keeps the matrix symmetric.
                mirror_of(moved, index)[...] += sign * h * change.T
            values.append(log_det(moved + 6.0 * np.ones(k)).log_det())
        expected = (values[0] - values[1]) / (2 * h)
        times = 2.0 if "both sides" in name and not diagonal and not is_frame else 1.0
        assert times * float((part * change).sum()) == pytest.approx(expected, rel=1e-5, abs=1e-7), index


def mirror_of(border: Any, index: int) -> np.ndarray:
    row, col, _ = border.blocks[index]
    return next(block for a, b, block in border.blocks if (a, b) == (col, row))


# ---- data ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", WITH_DATA)
def test_borders_pickle_and_are_saved(name: str, tmp_path: Path) -> None:
    border, _ = with_shift(name, 1)
    again = pickle.loads(pickle.dumps(border))
    np.testing.assert_array_equal(again.to_dense(), border.to_dense())
    assert again.nbytes == border.nbytes > 0
    system = asn.ArrowSystem(
        np.zeros((0, 1, 1)), np.zeros((0, 1, border.k)), border, np.zeros((0, 1)), np.ones(border.k)
    )
    system.save(tmp_path / "system.npz")
    loaded = asn.ArrowSystem.load(tmp_path / "system.npz")
    assert loaded.fingerprint() == system.fingerprint() == pickle.loads(pickle.dumps(system)).fingerprint()
    np.testing.assert_array_equal(loaded.border.to_dense(), border.to_dense())


@pytest.mark.parametrize("name", WITH_DATA)
def test_single_precision_borders_and_promotion(name: str) -> None:
    border, dense = FORMS[name](1)
    single = border._as_dtype(np.dtype(np.float32), [])
    assert single.dtype == np.float32
    np.testing.assert_allclose(single.to_dense(), dense, atol=1e-5)
    k = border.k

    def system(cross: np.ndarray) -> asn.ArrowSystem:
        dtype = cross.dtype
        return asn.ArrowSystem(np.zeros((0, 1, 1), dtype), cross, single, np.zeros((0, 1), dtype), np.ones(k, dtype))

    assert system(np.zeros((0, 1, k), np.float32)).dtype == np.float32
    promoted = system(np.zeros((0, 1, k)))
    assert promoted.dtype == promoted.border.dtype == np.float64
    assert "h_bb: float32 -> float64" in promoted.copies


def test_operator_borders_are_callbacks(tmp_path: Path) -> None:
    class BrokenError(Exception):
        pass

    def fail(_: np.ndarray) -> np.ndarray:
        raise BrokenError

    with pytest.raises(BrokenError):
        asn.OperatorBorder(fail, np.ones(3)).matvec(np.ones(3))
    for wrong in (None, np.ones(2), np.ones(3, dtype=complex)):
        with pytest.raises(asn.InvalidArgument) as caught:
            asn.OperatorBorder(lambda _, w=wrong: w, np.ones(3)).matvec(np.ones(3))
        assert caught.value.argument == "matvec"
    border = asn.OperatorBorder(np.negative, -np.ones(3), tag=5)
    again = pickle.loads(pickle.dumps(border))
    np.testing.assert_array_equal(again.to_dense(), -np.eye(3))
    assert again.tag == 5
    system = asn.ArrowSystem(np.zeros((0, 1, 1)), np.zeros((0, 1, 3)), border, np.zeros((0, 1)), np.ones(3))
    with pytest.raises(asn.UnsupportedConfiguration) as refused:
        system.save(tmp_path / "system.npz")
    assert refused.value.feature == "OperatorBorder"
    # The dtype of the other parts stays: callbacks speak float64 whatever it is.
    single = np.float32
    parts = np.zeros((0, 1, 1), single), np.zeros((0, 1, 3), single), np.zeros((0, 1), single), np.ones(3, single)
    assert asn.ArrowSystem(parts[0], parts[1], border, parts[2], parts[3]).dtype == np.float32
    assert (border + np.ones(3, single)).dtype == np.float32


def test_triplets_are_blocks_of_one_entry() -> None:
    row, col, values = [0, 2, 2, 1, 2], [0, 0, 2, 1, 2], np.array([4.0, -1.0, 3.0, 5.0, 0.5])
    border = asn.SparseBlockKroneckerBorder.from_triplets(row, col, values, k=6, p=2)
    left = np.array([[4.0, 0, -1], [0, 5, 0], [-1, 0, 3.5]])
    np.testing.assert_array_equal(border.to_dense(), np.kron(left, np.eye(2)))
    assert np.shares_memory(border.blocks[0][2], values)
    many = np.arange(40_000)
    wide = asn.SparseBlockKroneckerBorder.from_triplets(many, many, np.ones(many.size), k=many.size)
    np.testing.assert_array_equal(wide.diagonal(), 1.0)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(wide)).diagonal(), 1.0)
    both = asn.SparseBlockKroneckerBorder.from_triplets(
        [0, 0, 1, 1], [0, 1, 0, 1], [2.0, 1.0, 1.0, 3.0], 2, mirror=False
    )
    np.testing.assert_array_equal(both.to_dense(), [[2, 1], [1, 3]])


@pytest.mark.parametrize(
    ("build", "argument"),
    [
        (lambda: asn.KroneckerBorder([np.eye(2)], p=0), "p"),
        (lambda: asn.KroneckerBorder([np.ones((2, 3))], p=1), "factors[0]"),
        (lambda: asn.KroneckerBorder(np.ones((2, 3)), p=1), "factors"),
        (lambda: asn.KroneckerProductBorder(np.ones((2, 3)), np.eye(2)), "a"),
        (lambda: asn.KroneckerProductBorder(np.eye(2), np.ones(2)), "b"),
        (lambda: asn.KroneckerProductBorder(np.eye(2), np.eye(2), offset=-1), "offset"),
        (lambda: asn.KroneckerProductBorder(np.eye(2), np.eye(2), k=3), "k"),
        (lambda: asn.SparseBlockKroneckerBorder([(0, 0)], 1), "blocks[0]"),
        (lambda: asn.SparseBlockKroneckerBorder([(0, -1, [[1.0]])], 1), "blocks[0]"),
        (lambda: asn.SparseBlockKroneckerBorder([(0, 0, [1.0])], 1), "blocks[0]"),
        (lambda: asn.SparseBlockKroneckerBorder([(0, 0, np.eye(2))], 1, left_dim=1), "left_dim"),
        (lambda: asn.SparseBlockKroneckerBorder([], 1, mirror=1), "mirror"),
        (lambda: asn.SparseBlockKroneckerBorder.from_triplets([0], [0, 1], [1.0], 2), "col"),
        (lambda: asn.SparseBlockKroneckerBorder.from_triplets([0, -1], [0, 1], [1.0, 1.0], 2), "row"),
        (lambda: asn.SparseBlockKroneckerBorder.from_triplets([0], [0], [1.0], 3, p=2), "k"),
        (lambda: asn.SparseBlockKroneckerBorder.from_triplets([4], [0], [1.0], 3), "left_dim"),
        (lambda: asn.FramedKroneckerBorder([1], [], [], 2), "frames"),
        (lambda: asn.FramedKroneckerBorder([1], [np.ones((3, 1))], [], 2), "frames[0]"),
        (lambda: asn.FramedKroneckerBorder([1], [None], [(0, 1, [[1.0]])], 2), "blocks[0]"),
        (lambda: asn.FramedKroneckerBorder([1], [None], [(0, 0, np.eye(2))], 2), "blocks[0]"),
        (lambda: asn.OperatorBorder(1, np.ones(2)), "matvec"),
        (lambda: asn.OperatorBorder(print, np.ones((2, 2))), "diagonal"),
        (lambda: asn.OperatorBorder(print, np.ones(2), tag=2**64), "tag"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(build: Callable[[], Any], argument: str) -> None:
    with pytest.raises(asn.InvalidArgument) as caught:
        build()
    assert caught.value.argument == argument


@pytest.mark.parametrize("name", WITH_DATA)
def test_a_number_that_is_not_finite_is_found(name: str) -> None:
    border, _ = FORMS[name](1)
    border._data[0] = np.nan
    with pytest.raises(asn.InvalidArgument, match="h_bb"):
        asn.ArrowSystem(np.zeros((0, 1, 1)), np.zeros((0, 1, border.k)), border, np.zeros((0, 1)), np.ones(border.k))
