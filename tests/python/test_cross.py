"""Forms of the cross block: what they mean, what they refuse, that every use of a system agrees with the dense form."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
import systems
from systems import Parts
from test_newton import whole

import arrowschur_native as asn

DIRECT = asn.SolveOptions(mode="direct")
OFFSETS = np.array([0, 2, 3, 4, 6, 7])
DIMS = (2, 0, 3, 1, 2)


def block_sparse(dims: tuple[int, ...], seed: int, *, repeat: bool = False, dtype: Any = float) -> asn.BlockSparseCross:
    """Random blocks; with `repeat` unsorted and repeated ones too."""
    rng = np.random.default_rng(seed)
    indptr, index, values = [0], [], []
    for d in dims:
        chosen = rng.permutation(5)[: rng.integers(1, 4)].tolist()
        chosen = [*chosen, chosen[0]] if repeat else sorted(chosen)
        index += chosen
        values += [rng.uniform(-0.3, 0.3, d * int(OFFSETS[b + 1] - OFFSETS[b])) for b in chosen]
        indptr.append(len(index))
    flat = np.concatenate(values).astype(dtype)
    return asn.BlockSparseCross(indptr, index, flat, OFFSETS, row_dims=dims)


def dense_of_blocks(cross: asn.BlockSparseCross, dims: tuple[int, ...]) -> np.ndarray:
    """To the letter of the definition."""
    out = np.zeros((sum(dims), int(cross.block_offsets[-1])))
    row = value = 0
    for i, d in enumerate(dims):
        for e in range(cross.indptr[i], cross.indptr[i + 1]):
            a, b = cross.block_offsets[cross.block_index[e] :][:2]
            size = d * (b - a)
            out[row : row + d, a:b] += cross.values[value : value + size].reshape(d, b - a)
            value += size
        row += d
    return out


def kronecker(dims: tuple[int, ...], seed: int, *, several: bool = False) -> tuple[asn.KroneckerCross, np.ndarray]:
    """A cross block of five groups of `p = 2` columns (k = 11), and its dense form."""
    rng = np.random.default_rng(seed)
    p, k, counts = 2, 11, [int(rng.integers(1, 3)) if several else 1 for _ in dims]
    matrices = [[rng.uniform(-0.3, 0.3, (d, p)) for _ in range(count)] for d, count in zip(dims, counts, strict=True)]
    base, phi, choice, ptr = [], [], [], [0]
    dense = np.zeros((sum(dims), k))
    row = 0
    for d, own in zip(dims, matrices, strict=True):
        for start in (1 + p * rng.permutation(5)[:3]).tolist():
            base.append(start)
            phi.append(rng.uniform(0.5, 1))
            choice.append(int(rng.integers(len(own))))
            dense[row : row + d, start : start + p] += phi[-1] * own[choice[-1]]
        ptr.append(len(base))
        row += d
    j = np.concatenate([m for own in matrices for m in own])
    extra = {"j_ptr": np.cumsum([0, *counts]), "support_j": choice} if several else {}
    return asn.KroneckerCross(j, base, phi, ptr, p, k=k, row_dims=dims, **extra), dense


def operator(dense: np.ndarray, dims: tuple[int, ...], **keywords: Any) -> asn.OperatorCross:
    return asn.OperatorCross(lambda x: dense @ x, lambda y: dense.T @ y, k=dense.shape[1], row_dims=dims, **keywords)


def make(form: str, dims: tuple[int, ...], seed: int = 3) -> tuple[Any, np.ndarray]:
    """A cross object and its dense form."""
    if form.startswith("block sparse"):
        cross = block_sparse(dims, seed, repeat="repeated" in form)
        return cross, dense_of_blocks(cross, dims)
    if form.startswith("Kronecker"):
        return kronecker(dims, seed, several="several" in form)
    blocks = block_sparse(dims, seed)
    base = dense_of_blocks(blocks, dims)
    dense = np.random.default_rng(seed).uniform(-0.2, 0.2, base.shape)
    if "blocks" in form:
        return operator(dense, dims, supplement=blocks), dense + base
    if "slab" in form:
        return operator(dense, dims, supplement=base), dense + base
    return operator(dense, dims), dense


FORMS = (
    "block sparse",
    "block sparse, repeated",
    "Kronecker",
    "Kronecker, several J",
    "operator",
    "operator + slab",
    "operator + blocks",
)


def system_of(cross: Any, dense: np.ndarray, dims: tuple[int, ...], **keywords: Any) -> tuple[asn.ArrowSystem, Parts]:
    parts = systems.random_parts(dims, dense.shape[1], "dense", 5, coupling=0.5).replace(h_tb=dense)
    system = asn.ArrowSystem(parts.flat_blocks(), cross, parts.h_bb, parts.g_t, parts.g_beta, row_dims=dims, **keywords)
    return system, parts


# ---- meaning --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dims", [DIMS, (2, 2, 2), (1,), (0, 0)], ids=str)
def test_the_dense_form_is_that_of_the_definition(form: str, dims: tuple[int, ...]) -> None:
    cross, dense = make(form, dims)
    np.testing.assert_allclose(cross.to_dense(), dense, atol=1e-15)
    assert (cross.n, cross.k) == (len(dims), dense.shape[1])
    assert np.asarray(cross.row_dims).tolist() == list(dims)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dims", [DIMS, (2, 2, 2)], ids=str)
def test_a_system_is_that_of_the_dense_cross_block(form: str, dims: tuple[int, ...]) -> None:
    cross, dense = make(form, dims)
    system, parts = system_of(cross, dense, dims)

    h, g = system.to_dense()
    step = asn.newton_step(system, ridge_t=0.25, ridge_beta=0.5, options=DIRECT)

    np.testing.assert_allclose(h, reference.dense(parts)[0], atol=1e-14)
    np.testing.assert_array_equal(g, reference.dense(parts)[1])
    y_t, y_beta = system.apply(np.ones(system.total_dim), np.ones(system.k))
    np.testing.assert_allclose(np.r_[y_t, y_beta], h.sum(axis=1), atol=1e-13)
    assert reference.error(whole(step), reference.step(parts, ridge_t=0.25, ridge_beta=0.5)) <= 1e-11
    assert step.route == "direct"
    assert step.diagnostics.backward_error <= 1e-14
    assert system.cross is cross
    assert system.h_tb is cross
    assert type(cross).__name__ in repr(system)


@pytest.mark.parametrize("form", FORMS)
def test_factor_primitives_agree_with_the_dense_form(form: str) -> None:
    cross, dense = make(form, DIMS)
    system, parts = system_of(cross, dense, DIMS)
    factor = asn.factorize(system, options=DIRECT)
    inverse = reference.inverse(reference.dense(parts)[0])
    t = parts.total
    assert factor.log_det() == pytest.approx(-reference.log_det(inverse), rel=1e-10)
    assert reference.error(factor.latent_inverse_diagonal(), np.diagonal(inverse)[:t]) <= 1e-11
    assert reference.error(factor.cross_inverse_block(2), inverse[2:5, t:]) <= 1e-11
    x_t, x_beta = factor.solve(np.ones((t, 2)), np.ones((parts.k, 2)))
    assert reference.error(np.r_[x_t, x_beta][:, 0], inverse.sum(axis=1)) <= 1e-11


@pytest.mark.parametrize("repeat", [False, True])
def test_the_gradient_of_a_block_sparse_cross_has_its_pattern(repeat: bool) -> None:
    cross = block_sparse(DIMS, 3, repeat=repeat)
    dense = dense_of_blocks(cross, DIMS)
    system, parts = system_of(cross, dense, DIMS)
    inverse = reference.inverse(reference.dense(parts)[0])
    gradient = asn.factorize(system, options=DIRECT).log_det_vjp().h_tb
    assert isinstance(gradient, asn.BlockSparseCross)
    assert np.array_equal(gradient.indptr, cross.indptr)
    assert np.array_equal(gradient.block_index, cross.block_index)
    # df = sum(gradient * d_values) for every change of the values.
    change = np.random.default_rng(0).normal(size=cross.values.size)
    moved = dense_of_blocks(asn.BlockSparseCross(cross.indptr, cross.block_index, change, OFFSETS, row_dims=DIMS), DIMS)
    t = parts.total
    assert gradient.values @ change == pytest.approx((2 * inverse[:t, t:] * moved).sum(), rel=1e-10)


@pytest.mark.parametrize("form", ["Kronecker", "operator"])
def test_the_gradient_of_the_other_forms_is_refused(form: str) -> None:
    cross, dense = make(form, DIMS)
    factor = asn.factorize(system_of(cross, dense, DIMS)[0], options=DIRECT)
    with pytest.raises(asn.UnsupportedConfiguration):
        factor.log_det_vjp()


def test_from_dense_keeps_the_blocks_above_the_tolerance() -> None:
    cross = block_sparse((2, 2, 2), 3)
    dense = dense_of_blocks(cross, (2, 2, 2)).reshape(3, 2, 7)
    again = asn.BlockSparseCross.from_dense(dense, OFFSETS)
    np.testing.assert_array_equal(again.to_dense(), dense.reshape(6, 7))
    assert again.block_index.tolist() == cross.block_index.tolist()
    assert asn.BlockSparseCross.from_dense(dense, OFFSETS, tol=1.0).block_index.size == 0
    flat = asn.BlockSparseCross.from_dense(dense.reshape(6, 7), OFFSETS, row_dims=[1, 3, 2])
    np.testing.assert_array_equal(flat.to_dense(), dense.reshape(6, 7))
    single = asn.BlockSparseCross.from_dense(dense.astype(np.float32), OFFSETS)
    assert single.dtype == np.float32


def test_row_sizes_come_from_the_cross_block() -> None:
    cross, dense = make("operator", DIMS)
    parts = systems.random_parts(DIMS, 7, "dense", 5)
    system = asn.ArrowSystem(parts.flat_blocks(), cross, parts.h_bb, parts.g_t, parts.g_beta)
    assert system.row_dims.tolist() == list(DIMS)
    # Sizes that the values alone do not tell are those of the system.
    ragged = block_sparse(DIMS, 3)
    bare = asn.BlockSparseCross(ragged.indptr, ragged.block_index, ragged.values, OFFSETS)
    np.testing.assert_allclose(
        system_of(bare, dense, DIMS)[0].to_dense()[0][: parts.total, parts.total :], ragged.to_dense(), atol=0
    )


# ---- data ------------------------------------------------------------------------------------------------------------
def test_arrays_are_borrowed_and_conversions_told() -> None:
    indptr, index = np.array([0, 1]), np.array([0])
    values = np.ones((1, 1, 2))
    cross = asn.BlockSparseCross(indptr, index, values, [0, 2])
    assert np.shares_memory(cross.values, values)
    assert cross.indptr is indptr
    assert cross.copies == ()
    converted = asn.BlockSparseCross(indptr.astype(np.int32), index, np.ones(2, dtype=np.float16), [0, 2])
    assert len(converted.copies) == 2
    assert converted.dtype == np.float64


@pytest.mark.parametrize("form", ["block sparse", "Kronecker", "operator + slab"])
def test_single_precision_stays_unless_parts_are_mixed(form: str) -> None:
    dims = (2, 2, 2)
    cross, dense = make(form, dims)
    single = cross._as_dtype(np.dtype(np.float32), [])
    parts = systems.random_parts(dims, dense.shape[1], "dense", 5)
    arrays = [array.astype(np.float32) for array in (np.stack(parts.blocks), parts.h_bb, parts.g_t, parts.g_beta)]
    system = asn.ArrowSystem(arrays[0], single, *arrays[1:])
    assert system.dtype == np.float32
    mixed = asn.ArrowSystem(np.stack(parts.blocks), single, parts.h_bb, parts.g_t, parts.g_beta)
    assert mixed.dtype == np.float64
    assert mixed.cross.dtype == np.float64
    assert any(note == "h_tb: float32 -> float64" for note in mixed.copies)
    assert reference.error(whole(asn.newton_step(mixed)), whole(asn.newton_step(system))) < 1e-5


def test_a_bare_operator_leaves_the_dtype_to_the_other_parts() -> None:
    cross, _ = make("operator", (2, 2, 2))
    parts = systems.random_parts((2, 2, 2), 7, "dense", 5)
    arrays = [array.astype(np.float32) for array in (np.stack(parts.blocks), parts.h_bb, parts.g_t, parts.g_beta)]
    assert asn.ArrowSystem(arrays[0], cross, *arrays[1:]).dtype == np.float32


def test_non_finite_values_are_found_unless_told_otherwise() -> None:
    for form, part in (("block sparse", "values"), ("Kronecker", "j"), ("Kronecker", "support_phi")):
        cross, dense = make(form, (2, 2, 2))
        getattr(cross, part).reshape(-1)[1] = np.nan
        with pytest.raises(asn.InvalidArgument, match=f"h_tb|{part}"):
            system_of(cross, dense, (2, 2, 2))
        system_of(cross, dense, (2, 2, 2), check_finite=False)


@pytest.mark.parametrize("form", [form for form in FORMS if not form.startswith("operator")])
@pytest.mark.parametrize("dims", [DIMS, (2, 2, 2)], ids=str)
def test_forms_pickle_and_are_saved(form: str, dims: tuple[int, ...], tmp_path: Path) -> None:
    cross, dense = make(form, dims)
    again = pickle.loads(pickle.dumps(cross))
    np.testing.assert_array_equal(again.to_dense(), cross.to_dense())
    assert repr(again) == repr(cross)
    assert again.nbytes == cross.nbytes > 0

    system, _ = system_of(cross, dense, dims)
    system.save(tmp_path / "system.npz")
    for twin in (asn.ArrowSystem.load(tmp_path / "system.npz"), pickle.loads(pickle.dumps(system))):
        assert type(twin.cross) is type(cross)
        assert twin.fingerprint() == system.fingerprint()
        assert np.array_equal(whole(asn.newton_step(twin)), whole(asn.newton_step(system)))


def test_a_factor_with_copies_survives_changes_of_the_original() -> None:
    for form in FORMS[:4]:
        cross, dense = make(form, DIMS)
        system, _ = system_of(cross, dense, DIMS)
        expected = whole(asn.newton_step(system, options=DIRECT))
        factor = asn.factorize(system, options=DIRECT, copy=True)
        for name in ("values", "j", "support_phi"):
            if hasattr(cross, name):
                getattr(cross, name)[...] = 7.0
        assert np.array_equal(whole(factor.step()), expected)


# ---- refusals --------------------------------------------------------------------------------------------------------
def _blocks(**changes: Any) -> Callable[[], Any]:
    good: dict[str, Any] = {
        "indptr": [0, 1, 3],
        "block_index": [0, 0, 1],
        "values": np.ones(5),
        "block_offsets": [0, 2, 3],
    }
    return lambda: asn.BlockSparseCross(**{**good, **changes})


def _kronecker(**changes: Any) -> Callable[[], Any]:
    good: dict[str, Any] = {
        "j": np.ones((2, 2)),
        "support_base": [0, 2],
        "support_phi": [1.0, 1.0],
        "support_ptr": [0, 1, 2],
        "p": 2,
    }
    return lambda: asn.KroneckerCross(**{**good, **changes})


def _operator(**changes: Any) -> Callable[[], Any]:
    good: dict[str, Any] = {"forward": print, "transpose": print, "k": 2, "row_dims": [1, 1]}
    return lambda: asn.OperatorCross(**{**good, **changes})


@pytest.mark.parametrize(
    ("build", "argument"),
    [
        (_blocks(indptr=[0, 1, 2]), "indptr"),
        (_blocks(indptr=[0, 4, 3]), "indptr"),
        (_blocks(indptr=[1, 2, 3]), "indptr"),
        (_blocks(indptr=[]), "indptr"),
        (_blocks(block_index=[0, 0, 2]), "block_index"),
        (_blocks(block_index=[0, -1, 1]), "block_index"),
        (_blocks(block_index=[0.0, 0.0, 1.0]), "block_index"),
        (_blocks(block_offsets=[0, 2, 1]), "block_offsets"),
        (_blocks(block_offsets=[1, 2, 3]), "block_offsets"),
        (_blocks(block_offsets=[0, 0, 3]), "block_offsets"),
        (_blocks(block_offsets=[]), "block_offsets"),
        (_blocks(row_dims=[1, 2]), "values"),
        (_blocks(row_dims=[1, -1]), "row_dims"),
        (_blocks(row_dims=[1]), "row_dims"),
        (_blocks(values="x"), "values"),
        (_kronecker(p=0), "p"),
        (_kronecker(p=3), "j"),
        (_kronecker(k=3), "support_base"),
        (_kronecker(support_base=[0, -1]), "support_base"),
        (_kronecker(support_phi=[1.0]), "support_phi"),
        (_kronecker(support_ptr=[0, 1]), "support_ptr"),
        (_kronecker(support_ptr=[0, 2, 1]), "support_ptr"),
        (_kronecker(j_ptr=[0, 1, 2]), "support_j"),
        (_kronecker(j_ptr=[0, 1, 2], support_j=[0, 1]), "support_j"),
        (_kronecker(j_ptr=[0, 1], support_j=[0, 0]), "j_ptr"),
        (_kronecker(row_dims=[1, 2]), "j"),
        (_operator(forward=1), "forward"),
        (_operator(transpose=None), "transpose"),
        (_operator(k=-1), "k"),
        (_operator(row_dims=[1.5]), "row_dims"),
        (_operator(tag=-1), "tag"),
        (_operator(thread_safe=1), "thread_safe"),
        (_operator(supplement=np.ones((2, 3))), "supplement"),
        (_operator(supplement=asn.KroneckerCross([[1.0]], [0], [1.0], [0, 1], 1)), "supplement"),
        (lambda: asn.BlockSparseCross.from_dense(np.ones((2, 3)), [0, 3]), "h_tb"),
        (lambda: asn.BlockSparseCross.from_dense(np.ones((2, 1, 3)), [0, 2]), "block_offsets"),
        (lambda: asn.BlockSparseCross.from_dense(np.ones((2, 1, 3)), [0, 3], tol=-1.0), "tol"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(build: Callable[[], Any], argument: str) -> None:
    with pytest.raises(asn.InvalidArgument) as caught:
        build()
    assert caught.value.argument == argument


def test_a_cross_block_must_fit_its_system() -> None:
    parts = systems.random_parts((2, 2), 3, "dense", 1)
    arrays = np.stack(parts.blocks), parts.h_bb, parts.g_t, parts.g_beta

    def build(cross: Any) -> asn.ArrowSystem:
        return asn.ArrowSystem(arrays[0], cross, *arrays[1:])

    good = asn.BlockSparseCross([0, 1, 2], [0, 1], np.ones(6), [0, 1, 3])
    build(good)
    for cross in (
        asn.BlockSparseCross([0, 1], [0], np.ones(2), [0, 1, 3]),
        asn.BlockSparseCross([0, 1, 2], [0, 1], np.ones(6), [0, 1, 3, 4]),
        asn.BlockSparseCross([0, 1, 2], [0, 1], np.ones(3), [0, 1, 3]),
        asn.BlockSparseCross([0, 1, 2], [0, 0], np.ones(3), [0, 1, 3], row_dims=[1, 2]),
        asn.KroneckerCross(np.ones((4, 2)), [0, 2], [1.0, 1.0], [0, 1, 2], 2),
        asn.KroneckerCross(np.ones((4, 2)), [0, 0], [1.0, 1.0], [0, 1, 2], 2, k=2),
        operator(np.ones((4, 3)), (1, 3)),
        operator(np.ones((4, 4)), (2, 2)),
    ):
        with pytest.raises(asn.InvalidArgument):
            build(cross)


def test_partly_overlapping_pairs_of_a_row_are_refused() -> None:
    cross = asn.KroneckerCross(np.ones((1, 2)), [0, 1], [1.0, 1.0], [0, 2], 2)
    with pytest.raises(asn.InvalidArgument):
        asn.ArrowSystem(np.ones((1, 1, 1)), cross, np.eye(3), np.ones((1, 1)), np.ones(3))
    equal = asn.KroneckerCross(np.ones((1, 2)), [0, 0], [1.0, 0.5], [0, 2], 2)
    system = asn.ArrowSystem(np.ones((1, 1, 1)), equal, 9 * np.eye(2), np.ones((1, 1)), np.ones(2))
    np.testing.assert_allclose(system.to_dense()[0][0], [1, 1.5, 1.5])


# ---- callbacks -------------------------------------------------------------------------------------------------------
class BrokenError(Exception):
    """What a caller's function may raise."""


def test_what_a_callback_raises_passes_through_unchanged() -> None:
    error = BrokenError("no product today")

    def fail(_: np.ndarray) -> np.ndarray:
        raise error

    dense = np.full((2, 2), 0.1)
    for name in ("forward", "transpose"):
        callbacks = {"forward": lambda x: dense @ x, "transpose": lambda y: dense.T @ y, name: fail}
        cross = asn.OperatorCross(**callbacks, k=2, row_dims=[1, 1])
        system = asn.ArrowSystem(np.ones((2, 1, 1)), cross, np.eye(2), np.ones((2, 1)), np.ones(2))
        with pytest.raises(BrokenError) as caught:
            system.apply(np.ones((2, 1)), np.ones(2))
        assert caught.value is error
    with pytest.raises(BrokenError) as caught:
        asn.newton_step_escalated(system)
    assert caught.value is error


@pytest.mark.parametrize(
    "wrong", [None, "x", np.ones(3), np.ones((2, 1)), np.ones(2, dtype=complex), [print, 1], 1.0], ids=repr
)
def test_what_a_callback_returns_is_checked(wrong: Any) -> None:
    dense = np.full((2, 2), 0.1)
    for name in ("forward", "transpose"):
        callbacks = {"forward": lambda x: dense @ x, "transpose": lambda y: dense.T @ y, name: lambda _: wrong}
        cross = asn.OperatorCross(**callbacks, k=2, row_dims=[1, 1])
        system = asn.ArrowSystem(np.ones((2, 1, 1)), cross, np.eye(2), np.ones((2, 1)), np.ones(2))
        with pytest.raises(asn.InvalidArgument) as caught:
            system.apply(np.ones((2, 1)), np.ones(2))
        assert caught.value.argument == name


def test_callbacks_may_return_any_real_vector_and_keep_their_argument() -> None:
    kept: list[np.ndarray] = []
    dense = np.array([[0.5, 0.25], [0.0, 1.0]])

    def forward(x: np.ndarray) -> Any:
        kept.append(x)
        x *= 2  # a copy: the solver's vector is not touched
        return (dense @ (x / 2)).astype(np.float32)

    cross = asn.OperatorCross(forward, lambda y: (dense.T @ y).tolist(), k=2, row_dims=[1, 1])
    system = asn.ArrowSystem(4 * np.ones((2, 1, 1)), cross, 4 * np.eye(2), np.ones((2, 1)), np.ones(2))
    x_beta = np.array([1.0, 2.0])
    y_t, y_beta = system.apply(np.zeros((2, 1)), x_beta)
    np.testing.assert_array_equal(y_t.ravel(), dense @ [1.0, 2.0])
    np.testing.assert_array_equal(y_beta, [4.0, 8.0])
    np.testing.assert_array_equal(x_beta, [1.0, 2.0])
    assert kept
    np.testing.assert_array_equal(kept[0], [2.0, 4.0])


def test_an_operator_is_called_from_one_thread_at_a_time() -> None:
    busy, overlaps = threading.Lock(), []
    dense = np.random.default_rng(0).uniform(-0.1, 0.1, (6, 5))

    def product(matrix: np.ndarray, x: np.ndarray) -> np.ndarray:
        if not busy.acquire(blocking=False):
            overlaps.append(1)
            return matrix @ x
        try:
            return matrix @ x
        finally:
            busy.release()

    cross = asn.OperatorCross(lambda x: product(dense, x), lambda y: product(dense.T, y), k=5, row_dims=[2, 2, 2])
    parts = systems.random_parts((2, 2, 2), 5, "dense", 2).replace(h_tb=dense)
    system = asn.ArrowSystem(np.stack(parts.blocks), cross, parts.h_bb, parts.g_t, parts.g_beta)
    expected = reference.step(parts)
    failures = []

    def solve() -> None:
        for _ in range(5):
            if reference.error(whole(asn.newton_step(system, options=DIRECT)), expected) > 1e-11:
                failures.append(1)

    threads = [threading.Thread(target=solve) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not overlaps
    assert not failures


def test_callbacks_cannot_be_saved_and_pickle_where_they_do(tmp_path: Path) -> None:
    cross, dense = make("operator", DIMS)
    system, _ = system_of(cross, dense, DIMS)
    with pytest.raises(asn.UnsupportedConfiguration) as caught:
        system.save(tmp_path / "system.npz")
    assert caught.value.feature == "OperatorCross"
    assert not (tmp_path / "system.npz").exists()
    negated = asn.OperatorCross(np.negative, np.negative, k=2, row_dims=[1, 1], tag=7, thread_safe=True)
    again = pickle.loads(pickle.dumps(negated))
    np.testing.assert_array_equal(again.to_dense(), -np.eye(2))
    assert (again.tag, again.thread_safe) == (7, True)


def test_a_tag_stands_for_the_content() -> None:
    dense = np.full((2, 2), 0.1)

    def build(**keywords: Any) -> asn.ArrowSystem:
        cross = operator(dense, (1, 1), **keywords)
        return asn.ArrowSystem(np.ones((2, 1, 1)), cross, np.eye(2), np.ones((2, 1)), np.ones(2))

    assert build(tag=5).fingerprint() == build(tag=5).fingerprint() != build(tag=6).fingerprint()
    assert build().fingerprint() != build().fingerprint()


# ---- border blocks and recognised structure --------------------------------------------------------------------------
def test_border_blocks_reach_the_core_as_offsets_or_ranges() -> None:
    parts = systems.random_parts((2, 2), 6, "dense", 1)
    expected = reference.step(parts)
    for blocks in ([0, 2, 6], [(0, 2), (2, 6)]):
        system = parts.system(border_blocks=blocks)
        assert np.asarray(system.border_blocks).tolist() == [0, 2, 6]
        options = asn.SolveOptions(
            mode="inexact_pcg", preconditioner="block", pcg=asn.PcgOptions(relative_tolerance=1e-13)
        )
        assert reference.error(whole(asn.newton_step(system, options=options)), expected) <= 1e-10


def test_recognised_structure_is_told_and_can_be_turned_off() -> None:
    k = 64
    h_bb = 4 * np.eye(k) - np.eye(k, k=1) - np.eye(k, k=-1)
    system = asn.ArrowSystem(np.ones((3, 1, 1)), np.full((3, 1, k), 1e-3), h_bb, np.ones((3, 1)), np.ones(k))
    assert any("h_bb" in line and "band" in line for line in system.detected)
    assert asn.newton_step(system).diagnostics.structure == system.detected
    plain = asn.ArrowSystem(
        np.ones((3, 1, 1)), np.full((3, 1, k), 1e-3), h_bb, np.ones((3, 1)), np.ones(k), detect_structure=False
    )
    assert plain.detected == ()
    assert reference.error(whole(asn.newton_step(system)), whole(asn.newton_step(plain))) <= 1e-12


def test_gradients_of_recognised_structure_are_dense() -> None:
    """An entry that is zero today has a gradient like any other, as the array was handed in dense."""
    rng = np.random.default_rng(0)
    n, k = 300, 200
    h_tb = np.zeros((n, 2, k))
    for i in range(n):
        h_tb[i, :, 10 * (i % 20) : 10 * (i % 20) + 10] = rng.uniform(-0.05, 0.05, (2, 10))
    parts = np.tile(3 * np.eye(2), (n, 1, 1)), h_tb, 4 * np.eye(k), np.ones((n, 2)), np.ones(k)
    offsets = np.arange(0, k + 1, 10)
    compact = asn.ArrowSystem(*parts, border_blocks=offsets)
    plain = asn.ArrowSystem(*parts, border_blocks=offsets, detect_structure=False)
    assert any(line.startswith("h_tb") for line in compact.detected)
    direct = asn.SolveOptions(mode="direct")
    x, c = (np.ones((n, 2)), np.ones(k)), (rng.normal(size=(n, 2)), rng.normal(size=k))
    for gradient in (
        lambda factor: factor.log_det_vjp(),
        lambda factor: factor.vjp(*x, *c),
    ):
        one, other = (gradient(asn.factorize(system, options=direct)) for system in (compact, plain))
        assert one.h_tb.shape == h_tb.shape
        assert reference.error(one.h_tb, other.h_tb) <= 1e-11
        assert reference.error(one.h_bb, other.h_bb) <= 1e-11


def test_a_block_sparse_cross_block_without_columns_couples_nothing() -> None:
    cross = asn.BlockSparseCross(np.zeros(5, int), np.zeros(0, int), np.zeros(0), np.array([0]))
    system = asn.ArrowSystem(np.tile(2.0 * np.eye(2), (4, 1, 1)), cross, np.zeros((0, 0)), np.ones((4, 2)), np.zeros(0))
    np.testing.assert_allclose(asn.newton_step(system).delta_t, np.full((4, 2), -0.5), rtol=1e-15)
