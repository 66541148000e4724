"""T31 and 2.2: what is accepted, what is refused, and that nothing handed over is ever changed."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
import systems
from systems import HAND, Parts, collapse, indefinite_row
from test_newton import whole

import arrowschur_native as asn

PARTS = ("h_tt", "h_tb", "h_bb", "g_t", "g_beta")


def arrays_of(parts: Parts) -> dict[str, np.ndarray]:
    h_tt, h_tb, g_t = parts.stacked()
    return {"h_tt": h_tt, "h_tb": h_tb, "h_bb": parts.h_bb.copy(), "g_t": g_t, "g_beta": parts.g_beta.copy()}


@contextlib.contextmanager
def untouched(arrays: dict[str, np.ndarray]) -> Iterator[None]:
    before = {name: array.tobytes() for name, array in arrays.items()}
    try:
        yield
    finally:
        for name, array in arrays.items():
            assert array.tobytes() == before[name], f"{name} was changed"


# ---- I4: inputs unchanged -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("symmetry", ["check", "average", "lower"])
def test_t31_no_call_changes_its_inputs(symmetry: str) -> None:
    arrays = arrays_of(systems.ls(40, 3, 17, 1))
    damping = {"damping_t": np.full((40, 3), 0.5), "damping_beta": np.full(17, 0.25)}
    rhs = {"w_t": np.ones((40, 3, 5)), "w_beta": np.ones((17, 5))}
    with untouched(arrays), untouched(damping), untouched(rhs):
        system = asn.ArrowSystem(**arrays, symmetry=symmetry)
        for options in (None, asn.SolveOptions(precision="float32"), asn.SolveOptions(guards="absolute")):
            asn.newton_step(system, ridge_t=0.5, options=options, **damping)
            asn.newton_step_escalated(system, options=options)
        factor = asn.factorize(system, **damping)
        x_t, x_beta = factor.solve(**rhs)
        factor.vjp(x_t, x_beta, rhs["w_t"], rhs["w_beta"])
        factor.log_det_vjp()
        factor.sample(3, 1)
        factor.latent_inverse_blocks()
        factor.border_inverse_block()
        factor.predict(rhs["w_beta"][:, 0], rhs["w_t"][..., 0])
        factor.update_ridges(1.0, 1.0).log_det()
        factor.log_det(set="evidence")
        system.apply(rhs["w_t"][..., 0], rhs["w_beta"][:, 0])
        system.fingerprint()
        system.to_dense()
        asn.model_reduction(system, rhs["w_t"][..., 0], rhs["w_beta"][:, 0])


@pytest.mark.parametrize("guards", ["relative", "absolute"])
def test_t31_no_failing_call_changes_its_inputs(guards: str) -> None:
    for parts in (collapse(1.0), indefinite_row()):
        arrays = arrays_of(parts)
        with untouched(arrays):
            system = asn.ArrowSystem(**arrays)
            options = asn.SolveOptions(guards=guards, row_lift="never")
            for solve in (asn.newton_step, asn.factorize):
                with pytest.raises((asn.RowFactorError, asn.SchurFactorError)):
                    solve(system, options=options)  # type: ignore[operator]
            asn.newton_step_escalated(system, options=options)
            with pytest.raises(asn.ArrowError):
                asn.newton_step(
                    system, ridge_beta=400.0, ridge_t=4.0, options=options.replace(certificate_tolerance=1e-30)
                )


def test_t31_read_only_inputs_are_solved_without_a_copy() -> None:
    arrays = arrays_of(systems.ls(40, 3, 17, 1))
    expected = asn.newton_step(asn.ArrowSystem(**arrays))
    for array in arrays.values():
        array.setflags(write=False)
    system = asn.ArrowSystem(**arrays)
    assert system.copies == ()
    assert system.h_tb is arrays["h_tb"]
    assert np.array_equal(whole(asn.newton_step(system)), whole(expected))


def test_inputs_in_c_order_are_borrowed() -> None:
    arrays = arrays_of(systems.ls(40, 3, 17, 1))
    system = asn.ArrowSystem(**arrays)
    assert asn.newton_step(system).diagnostics.copies == ()
    assert np.shares_memory(system.h_tt, arrays["h_tt"])
    assert np.shares_memory(system.h_tb, arrays["h_tb"])
    assert np.shares_memory(system.h_bb, arrays["h_bb"])


@pytest.mark.parametrize("part", PARTS)
def test_t31_fortran_order_is_converted_once_and_reported(part: str) -> None:
    arrays = arrays_of(systems.ls(40, 3, 17, 1))
    expected = asn.newton_step(asn.ArrowSystem(**arrays))
    arrays[part] = np.asfortranarray(arrays[part])
    with untouched(arrays):
        step = asn.newton_step(asn.ArrowSystem(**arrays))
    assert np.array_equal(whole(step), whole(expected))
    if arrays[part].flags.c_contiguous:
        assert step.diagnostics.copies == ()
    else:
        assert len(step.diagnostics.copies) == 1
        assert step.diagnostics.copies[0].startswith(part)


@pytest.mark.parametrize("part", PARTS)
def test_t31_strided_and_reversed_views_are_correct(part: str) -> None:
    arrays = arrays_of(systems.ls(40, 3, 17, 1))
    expected = asn.newton_step(asn.ArrowSystem(**arrays))
    values = arrays[part]
    spread = np.full((*values.shape[:-1], 2 * values.shape[-1]), np.nan)
    spread[..., ::2] = values
    flipped = np.flip(np.flip(values).copy())
    unaligned = np.frombuffer(b"x" + values.tobytes(), dtype=np.uint8)[1:].view(np.float64).reshape(values.shape)
    swapped = values.astype(values.dtype.newbyteorder())
    for view in (spread[..., ::2], flipped, unaligned, swapped):
        with untouched({"view": view}):
            system = asn.ArrowSystem(**{**arrays, part: view})
            assert np.array_equal(whole(asn.newton_step(system)), whole(expected))
        assert len(system.copies) == 1


@pytest.mark.parametrize("part", PARTS)
def test_t31_mixed_dtypes_are_promoted_and_reported(part: str) -> None:
    arrays = arrays_of(HAND)  # exact in float32
    arrays[part] = arrays[part].astype(np.float32)
    system = asn.ArrowSystem(**arrays)
    assert system.dtype == np.float64
    assert [note.split(":")[0] for note in system.copies] == [part]
    assert np.array_equal(whole(asn.newton_step(system)), whole(asn.newton_step(HAND.system())))


def test_t31_float32_systems_stay_float32_and_are_borrowed() -> None:
    arrays = {name: array.astype(np.float32) for name, array in arrays_of(HAND).items()}
    with untouched(arrays):
        system = asn.ArrowSystem(**arrays)
        step = asn.newton_step(system)
    assert system.dtype == np.float32
    assert system.copies == ()
    assert np.shares_memory(system.h_tb, arrays["h_tb"])
    # HAND is exact in float32, and the arithmetic is float64.
    assert np.array_equal(whole(step), whole(asn.newton_step(HAND.system())))


@pytest.mark.parametrize("dtype", [np.int32, np.float16, bool])
def test_other_real_dtypes_are_converted(dtype: Any) -> None:
    one, zero = np.ones((1, 1, 1), dtype), np.zeros((1, 1, 1), dtype)
    system = asn.ArrowSystem(one, zero, one[0], one[0], one[0, 0])
    assert system.dtype == np.float64
    np.testing.assert_array_equal(whole(asn.newton_step(system)), [-1, -1])


def test_lists_are_accepted() -> None:
    system = asn.ArrowSystem([[[2.0]]], [[[0.0]]], [[4.0]], [[1.0]], [1.0])
    np.testing.assert_allclose(whole(asn.newton_step(system)), [-0.5, -0.25], rtol=1e-15)


class Producer:
    """Host memory behind the DLPack protocol only."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __dlpack__(self, **keywords: Any) -> Any:
        return self.array.__dlpack__(**keywords)

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()


def test_dlpack_producers_are_borrowed() -> None:
    arrays = arrays_of(HAND)
    system = asn.ArrowSystem(**{name: Producer(array) for name, array in arrays.items()})  # type: ignore[arg-type]
    assert np.shares_memory(system.h_tb, arrays["h_tb"])
    assert np.array_equal(whole(asn.newton_step(system)), whole(asn.newton_step(HAND.system())))


def test_pinned_memory_is_the_hosts() -> None:
    class Pinned(Producer):
        def __dlpack_device__(self) -> Any:
            return 3, 0  # kDLCUDAHost

    arrays = arrays_of(HAND)
    system = asn.ArrowSystem(**{name: Pinned(array) for name, array in arrays.items()})  # type: ignore[arg-type]
    assert np.shares_memory(system.h_tb, arrays["h_tb"])


# ---- shapes ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("h_tt", np.zeros((2, 2))),
        ("h_tt", np.zeros((2, 2, 3))),
        ("h_tt", np.zeros(())),
        ("h_tb", np.zeros((2, 2, 4))),
        ("h_tb", np.zeros((4, 2))),
        ("h_tb", np.zeros((2, 3, 2))),
        ("h_bb", np.zeros((3, 2))),
        ("h_bb", np.eye(4)),
        ("h_bb", np.ones(2)),
        ("h_bb", np.zeros((3, 3, 1))),
        ("h_bb", asn.BandedBorder(np.ones((1, 4)))),
        ("g_t", np.zeros(3)),
        ("g_t", np.zeros((2, 3))),
        ("g_t", np.zeros((4, 1))),
        ("g_beta", np.zeros((3, 1))),
        ("g_beta", np.zeros(())),
    ],
    ids=lambda value: value if isinstance(value, str) else str(getattr(value, "shape", type(value).__name__)),
)
def test_wrong_shapes_are_named(part: str, value: Any) -> None:
    with pytest.raises(asn.InvalidArgument) as caught:
        asn.ArrowSystem(**{**arrays_of(HAND), part: value})
    assert caught.value.argument.split("[")[0] == part
    assert caught.value.got
    assert caught.value.expected


def test_a_shorter_border_gradient_is_a_mismatch_of_the_border() -> None:
    with pytest.raises(asn.InvalidArgument):
        asn.ArrowSystem(**{**arrays_of(HAND), "g_beta": np.zeros(2)})


@pytest.mark.parametrize(
    "value", ["abc", None, object(), np.array(["a"]), np.zeros((2, 2, 2), complex), np.array([object()]), {}]
)
@pytest.mark.parametrize("part", PARTS)
def test_things_that_are_no_numbers_are_refused(part: str, value: Any) -> None:
    with pytest.raises(asn.InvalidArgument):
        asn.ArrowSystem(**{**arrays_of(HAND), part: value})


def test_masked_arrays_are_refused() -> None:
    masked = np.ma.masked_array(HAND.g_beta, mask=[False, True, False])
    with pytest.raises(asn.InvalidArgument):
        asn.ArrowSystem(**{**arrays_of(HAND), "g_beta": masked})


@pytest.mark.parametrize("row_dims", [[2], [2, 2, 2], [1, 3], [-2, 2], [2.0, 2.0], [[2, 2]], "22"])
def test_bad_row_dims_are_refused(row_dims: Any) -> None:
    arrays = arrays_of(HAND)
    arrays["h_tt"] = arrays["h_tt"].ravel()
    with pytest.raises(asn.InvalidArgument):
        asn.ArrowSystem(**{**arrays, "h_tb": HAND.h_tb, "g_t": HAND.g_t}, row_dims=row_dims)


@pytest.mark.parametrize("blocks", [[0, 2], [0, 4], [1, 3], [0, 2, 1, 3], [], [0.0, 3.0], [(0, 1), (2, 3)]])
def test_bad_border_blocks_are_refused(blocks: Any) -> None:
    with pytest.raises(asn.InvalidArgument, match="border_blocks"):
        HAND.system(border_blocks=blocks)


def test_border_blocks_are_kept_and_change_nothing() -> None:
    system = HAND.system(border_blocks=[0, 1, 3])
    assert np.array_equal(whole(asn.newton_step(system)), whole(asn.newton_step(HAND.system())))
    assert np.asarray(system.border_blocks).tolist() == [0, 1, 3]


def test_vectors_of_calls_are_checked() -> None:
    system = HAND.system()
    factor = asn.factorize(system)
    good_t, good_beta = np.zeros((2, 2)), np.zeros(3)
    for bad_t, bad_beta in (
        (np.zeros(3), good_beta),
        (good_t, np.zeros(4)),
        (np.zeros((2, 3)), good_beta),
        ("x", good_beta),
    ):
        calls: list[Any] = [
            lambda t=bad_t, b=bad_beta: system.apply(t, b),
            lambda t=bad_t, b=bad_beta: system.with_gradient(t, b),
            lambda t=bad_t, b=bad_beta: system.gradient_dot(t, b),
            lambda t=bad_t, b=bad_beta: asn.model_reduction(system, t, b),
            lambda t=bad_t, b=bad_beta: factor.solve(t, b),
            lambda t=bad_t, b=bad_beta: factor.step(t, b),
            lambda t=bad_t, b=bad_beta: factor.predict(b, t),
            lambda t=bad_t, b=bad_beta: asn.newton_step(system, damping_t=t, damping_beta=b),
            lambda t=bad_t, b=bad_beta: factor.vjp(good_t, good_beta, t, b),
        ]
        for call in calls:
            with pytest.raises(asn.InvalidArgument):
                call()


@pytest.mark.parametrize("system", [None, 1, "system", HAND])
def test_what_is_no_system_is_refused(system: Any) -> None:
    for solve in (asn.newton_step, asn.newton_step_escalated, asn.factorize):
        with pytest.raises(asn.InvalidArgument, match="system"):
            solve(system)


# ---- symmetry -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("part", ["h_tt", "h_bb"])
def test_asymmetry_beyond_the_tolerance_is_refused(part: str) -> None:
    arrays = arrays_of(systems.ls(40, 3, 17, 1))
    where = (13, 0, 2) if part == "h_tt" else (4, 9)
    scale = np.abs(arrays[part][13] if part == "h_tt" else arrays[part]).max()
    arrays[part][where] += 2e-10 * scale
    with pytest.raises(asn.InvalidArgument, match=part) as caught:
        asn.ArrowSystem(**arrays)
    assert "symmetr" in str(caught.value)
    arrays[part][where] -= 1.5e-10 * scale
    asn.ArrowSystem(**arrays)


@pytest.mark.parametrize("symmetry", ["check", "lower"])
@pytest.mark.parametrize("part", ["h_tt", "h_bb"])
def test_the_lower_triangle_is_the_matrix(part: str, symmetry: str) -> None:
    """Decision 9: in the step, the product and the certificate alike."""
    arrays = arrays_of(systems.ls(40, 3, 17, 1))
    expected = asn.newton_step(asn.ArrowSystem(**arrays))
    dense = asn.ArrowSystem(**arrays).to_dense()[0]
    noise = 1e-3 if symmetry == "lower" else 1e-12
    upper = np.triu(np.ones(arrays[part].shape[-2:]), 1)
    arrays[part] = arrays[part] + noise * upper
    system = asn.ArrowSystem(**arrays, symmetry=symmetry)

    step = asn.newton_step(system)

    assert np.array_equal(whole(step), whole(expected))
    assert step.diagnostics.backward_error == expected.diagnostics.backward_error
    assert np.array_equal(system.to_dense()[0], dense)
    y = system.apply(step.delta_t, step.delta_beta)
    np.testing.assert_allclose(np.concatenate((y[0].ravel(), y[1])), dense @ whole(step), atol=1e-12)


def test_average_symmetrises_in_a_copy() -> None:
    arrays = arrays_of(systems.ls(40, 3, 17, 1))
    rng = np.random.default_rng(0)
    for part in ("h_tt", "h_bb"):
        noise = 1e-3 * rng.normal(size=arrays[part].shape)
        arrays[part] = arrays[part] + noise
    means = {part: (arrays[part] + arrays[part].swapaxes(-1, -2)) / 2 for part in ("h_tt", "h_bb")}
    with untouched(arrays):
        step = asn.newton_step(asn.ArrowSystem(**arrays, symmetry="average"))
    assert np.array_equal(whole(step), whole(asn.newton_step(asn.ArrowSystem(**{**arrays, **means}))))


def test_asymmetric_blocks_of_a_border_are_refused() -> None:
    bad = np.array([[2.0, 0.5], [0.0, 2.0]])
    with pytest.raises(asn.InvalidArgument, match="h_bb"):
        asn.ArrowSystem(**{**arrays_of(HAND), "h_bb": asn.BlockDiagonalBorder([np.eye(1), bad])})


# ---- borders --------------------------------------------------------------------------------------------------------
def test_sums_of_borders_and_arrays() -> None:
    bands = asn.BandedBorder(np.array([[4.0, 4.0, 4.0], [-1.0, -1.0, 0.0]]))
    dense, diagonal = HAND.h_bb, np.array([1.0, 2.0, 3.0])
    for total in (
        bands + dense + diagonal,
        dense + bands + diagonal,
        diagonal + (dense + bands),
        bands + (diagonal + bands) + dense,
    ):
        extra = bands.to_dense() if isinstance(total, asn.BorderSum) and len(total.terms) == 4 else 0
        np.testing.assert_allclose(total.to_dense(), bands.to_dense() + dense + np.diag(diagonal) + extra)
    with pytest.raises(asn.InvalidArgument):
        bands + np.eye(4)


def test_bands_have_the_form_of_scipy() -> None:
    import scipy.linalg

    rng = np.random.default_rng(0)
    bands = rng.uniform(-0.4, 0.4, (3, 9))
    bands[0] += 4
    b = rng.normal(size=9)
    system = asn.ArrowSystem(np.zeros((0, 1, 1)), np.zeros((0, 1, 9)), asn.BandedBorder(bands), np.zeros((0, 1)), -b)
    np.testing.assert_allclose(asn.newton_step(system).delta_beta, scipy.linalg.solveh_banded(bands, b, lower=True))


def test_more_bands_than_columns_are_legal() -> None:
    bands = np.array([[4.0, 4.0], [1.0, 9.0], [9.0, 9.0], [9.0, 9.0]])
    np.testing.assert_array_equal(asn.BandedBorder(bands).to_dense(), [[4.0, 1.0], [1.0, 4.0]])


def test_bad_borders_are_refused() -> None:
    for make in (
        lambda: asn.BandedBorder(np.ones(3)),
        lambda: asn.BandedBorder(np.ones((0, 3))),
        lambda: asn.BlockDiagonalBorder([np.ones((2, 3))]),
        lambda: asn.BlockDiagonalBorder(np.ones((2, 3))),
        lambda: asn.BlockDiagonalBorder(3),  # type: ignore[arg-type]
        lambda: asn.DenseBorder(np.ones((2, 3))),
        lambda: asn.DiagonalBorder(np.ones((2, 2))),
        lambda: asn.BorderSum([]),
        lambda: asn.BandedBorder("x"),
    ):
        with pytest.raises(asn.InvalidArgument):
            make()


# ---- diagonal damping -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("parts", [HAND, systems.ragged(9), systems.ls(64, 4, 200, 4)], ids=["hand", "ragged", "ls"])
def test_damping_adds_to_the_diagonals(parts: Parts) -> None:
    rng = np.random.default_rng(6)
    damping_t, damping_beta = rng.uniform(size=parts.total), rng.uniform(size=parts.k)
    ridges = {"ridge_t": 0.25, "ridge_beta": 0.5, "damping_t": damping_t, "damping_beta": damping_beta}
    h, g = reference.dense(parts, **ridges)
    system = parts.system()

    step = asn.newton_step(system, **ridges)
    factor = asn.factorize(system, **ridges)

    assert reference.error(whole(step), reference.solve(h, -g)) <= 1e-11
    assert step.diagnostics.backward_error < 1e-14
    assert factor.log_det() == pytest.approx(reference.log_det(h), rel=1e-12)
    assert np.array_equal(whole(factor.step()), whole(step))
    inverse = reference.inverse(h)
    assert reference.error(factor.latent_inverse_diagonal(), np.diagonal(inverse)[: parts.total]) <= 1e-11
    assert factor.log_det(set="evidence") == pytest.approx(reference.log_det(reference.dense(parts)[0]), rel=1e-12)
    if parts.d is not None:
        shaped = {**ridges, "damping_t": ridges["damping_t"].reshape(parts.n, parts.d)}
        assert np.array_equal(whole(asn.newton_step(system, **shaped)), whole(step))


def test_a_constant_damping_equals_a_ridge() -> None:
    system = systems.ls(40, 3, 17, 1).system()
    one = asn.newton_step(system, ridge_t=0.5, ridge_beta=0.25)
    other = asn.newton_step(system, damping_t=np.full((40, 3), 0.5), damping_beta=np.full(17, 0.25))
    assert reference.error(whole(other), whole(one)) <= 1e-13


# ---- storage --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("form", systems.FORMS)
@pytest.mark.parametrize("dims", [(2, 2, 2), (3, 0, 1)])
def test_saved_systems_come_back(tmp_path: Path, form: str, dims: tuple[int, ...]) -> None:
    system = systems.random_parts(dims, 6, form, 3).system()
    path = tmp_path / "system.npz"

    system.save(path)
    again = asn.ArrowSystem.load(path)

    assert again.fingerprint() == system.fingerprint()
    assert again.dtype == system.dtype
    assert again.g_t.shape == system.g_t.shape
    assert np.array_equal(whole(asn.newton_step(again)), whole(asn.newton_step(system)))
    assert not any(member.dtype == object for member in np.load(path, allow_pickle=False).values())


@pytest.mark.parametrize("form", systems.FORMS)
def test_systems_pickle(form: str) -> None:
    system = systems.random_parts([3, 0, 1], 6, form, 3).system()
    again = pickle.loads(pickle.dumps(system))
    assert again.fingerprint() == system.fingerprint()
    assert np.array_equal(whole(asn.newton_step(again)), whole(asn.newton_step(system)))


def test_what_is_no_saved_system_is_refused(tmp_path: Path) -> None:
    text, foreign, damaged = tmp_path / "a.npz", tmp_path / "b.npz", tmp_path / "c.npz"
    text.write_text("not an archive")
    np.savez(foreign, x=np.ones(3))
    HAND.system().save(damaged)
    damaged.write_bytes(damaged.read_bytes()[:-200])
    for path in (text, foreign, damaged):
        with pytest.raises(asn.InvalidArgument, match="path"):
            asn.ArrowSystem.load(path)
    with pytest.raises(OSError, match="missing"):
        asn.ArrowSystem.load(tmp_path / "missing.npz")


def test_a_system_is_immutable() -> None:
    system = HAND.system()
    with pytest.raises(AttributeError):
        system.n = 3
    with pytest.raises(AttributeError):
        del system.k
    with pytest.raises(ValueError, match="read-only"):
        system.row_offsets[0] = 1
