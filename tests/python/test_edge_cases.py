"""T30: the table of edge cases, one test per line, and hostile inputs."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

import numpy as np
import pytest
import reference
import systems
from systems import HAND, Parts, collapse
from test_newton import whole

import arrowschur_native as asn

GUARDS = pytest.mark.parametrize("guards", ["relative", "absolute"])
K3 = np.array([[6.0, 0.5, 0.0], [0.5, 5.0, -0.5], [0.0, -0.5, 4.0]])
NO_ROWS = {"h_tt": np.zeros((0, 2, 2)), "h_tb": np.zeros((0, 2, 3)), "g_t": np.zeros((0, 2))}


def everything_finite(system: asn.ArrowSystem, **ridges: float) -> None:
    """Call every primitive: results must be finite and of the promised shapes."""
    n, k, t = system.n, system.k, system.total_dim
    factor = asn.factorize(system, **ridges)
    w_t, w_beta = np.ones((t, 2)), np.ones((k, 2))
    x_t, x_beta = factor.solve(w_t, w_beta)
    assert (x_t.shape, x_beta.shape) == ((t, 2), (k, 2))
    s_t, s_beta = factor.sample(3, 1)
    assert s_t.shape[-1] == s_beta.shape[-1] == 3
    blocks = factor.latent_inverse_blocks()
    assert len(blocks) == n
    gradients = factor.log_det_vjp(), factor.vjp(x_t, x_beta, w_t, w_beta)
    results: list[Any] = [
        x_t, x_beta, s_t, s_beta, factor.log_det(), *factor.log_det_parts(), factor.latent_inverse_diagonal(),
        factor.border_inverse_block(), factor.border_inverse_diagonal(), factor.border_inverse_apply(w_beta),
        factor.schur_apply(w_beta), factor.predict(np.ones(k)), *blocks,
        *(factor.cross_inverse_block(i) for i in range(min(n, 3))),
        *(part for g in gradients for part in (g.h_tt, g.h_tb, g.h_bb, g.w_t, g.w_beta, g.ridge_t, g.ridge_beta)),
        system.fingerprint(), system.gradient_norm(), factor.nbytes,
    ]  # fmt: skip
    for result in results:
        assert np.isfinite(np.asarray(result, dtype=float)).all()
    assert factor.latent_inverse_diagonal().shape == (t,)
    assert factor.border_inverse_block().shape == (k, k)
    assert np.isfinite(factor.update_ridges(0.5, 0.5).log_det())


# ---- n = 0 ----------------------------------------------------------------------------------------------------------
@GUARDS
def test_no_rows_is_a_border_only_solve(guards: str) -> None:
    g_beta = np.array([1.0, -0.5, 0.25])
    system = asn.ArrowSystem(NO_ROWS["h_tt"], NO_ROWS["h_tb"], K3, NO_ROWS["g_t"], g_beta)
    step = asn.newton_step(system, ridge_beta=0.25, options=asn.SolveOptions(guards=guards))
    assert step.delta_t.shape == (0, 2)
    np.testing.assert_allclose(step.delta_beta, -np.linalg.solve(K3 + 0.25 * np.eye(3), g_beta), rtol=1e-14)
    assert step.diagnostics.backward_error < 1e-15
    factor = asn.factorize(system)
    assert factor.log_det() == pytest.approx(np.linalg.slogdet(K3)[1], rel=1e-14)
    assert factor.log_det_parts().rows == 0.0
    assert np.isnan(factor.min_pivot().rows)
    everything_finite(system, ridge_t=0.5)


@pytest.mark.parametrize(
    "h_bb", [np.arange(1.0, 4.0), asn.BandedBorder([[4.0] * 3, [1.0, 1.0, 0.0]])], ids=["diagonal", "banded"]
)
def test_no_rows_with_a_structured_border(h_bb: Any) -> None:
    system = asn.ArrowSystem(NO_ROWS["h_tt"], NO_ROWS["h_tb"], h_bb, NO_ROWS["g_t"], np.ones(3))
    h, g = system.to_dense()
    np.testing.assert_allclose(asn.newton_step(system).delta_beta, np.linalg.solve(h, -g), rtol=1e-14)


# ---- k = 0 ----------------------------------------------------------------------------------------------------------
@GUARDS
@pytest.mark.parametrize("parts", [HAND, systems.ragged(9), systems.ls(3000, 2, 1, 4)], ids=["hand", "ragged", "many"])
def test_no_border_is_independent_row_solves(parts: Parts, guards: str) -> None:
    alone = parts.replace(h_tb=np.zeros((parts.total, 0)), h_bb=np.zeros((0, 0)), g_beta=np.zeros(0))
    system = alone.system()
    step = asn.newton_step(system, ridge_t=0.5, options=asn.SolveOptions(guards=guards))
    expected = np.concatenate(
        [
            np.linalg.solve(block + 0.5 * np.eye(len(block)), -parts.g_t[a:b])
            for block, a, b in zip(parts.blocks, parts.offsets[:-1], parts.offsets[1:], strict=True)
        ]
    )
    assert step.delta_beta.shape == (0,)
    assert reference.error(step.delta_t, expected) < 1e-13
    assert step.diagnostics.kappa_schur == 0.0
    factor = asn.factorize(system)
    rows = sum(float(np.linalg.slogdet(block)[1]) for block in parts.blocks)
    assert factor.log_det() == pytest.approx(rows, rel=1e-12)
    assert factor.log_det_parts().border == 0.0
    assert np.isnan(factor.min_pivot().border)
    everything_finite(system)


# ---- n = k = 0 ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("d", [0, 3])
def test_nothing_at_all(d: int) -> None:
    system = asn.ArrowSystem(np.zeros((0, d, d)), np.zeros((0, d, 0)), np.zeros((0, 0)), np.zeros((0, d)), np.zeros(0))
    step = asn.newton_step(system)
    assert (step.delta_t.shape, step.delta_beta.shape) == ((0, d), (0,))
    assert asn.factorize(system).log_det() == 0.0
    assert step.diagnostics.backward_error == 0.0
    assert asn.newton_step_escalated(system).diagnostics.ridge_escalations == 0
    everything_finite(system)


def test_rows_without_coordinates_and_nothing_else() -> None:
    system = asn.ArrowSystem(np.zeros((5, 0, 0)), np.zeros((5, 0, 2)), np.eye(2), np.zeros((5, 0)), np.ones(2))
    step = asn.newton_step(system)
    assert step.delta_t.shape == (5, 0)
    np.testing.assert_allclose(step.delta_beta, [-1, -1])
    everything_finite(system)


# ---- d_i = 0 --------------------------------------------------------------------------------------------------------
def test_empty_rows_among_others_are_skipped() -> None:
    parts = systems.ragged(9, dims=(0, 2, 0, 0, 3, 1, 0), k=4)
    full = systems.ragged(9, dims=(2, 3, 1), k=4)
    # An empty row still draws its C and e, so take the very parts of the other rows.
    kept = parts.rows([1, 4, 5])
    assert kept.total == full.total
    system = parts.system()
    assert system.row_offsets.tolist() == [0, 0, 2, 2, 2, 5, 6, 6]
    assert np.array_equal(whole(asn.newton_step(system)), whole(asn.newton_step(kept.system())))
    assert asn.factorize(system).log_det() == asn.factorize(kept.system()).log_det()
    everything_finite(system)


# ---- zeros ----------------------------------------------------------------------------------------------------------
@GUARDS
@pytest.mark.parametrize("parts", [HAND, systems.ragged(9)], ids=["hand", "ragged"])
def test_zero_gradient_gives_a_zero_step(parts: Parts, guards: str) -> None:
    still = parts.replace(g_t=np.zeros(parts.total), g_beta=np.zeros(parts.k))
    step = asn.newton_step(still.system(), options=asn.SolveOptions(guards=guards, certificate_tolerance=1e-300))
    assert not whole(step).any()
    assert step.diagnostics.backward_error == 0.0
    assert step.diagnostics.refinement_steps == 0


@GUARDS
def test_zero_cross_block_is_a_block_diagonal_solve(guards: str) -> None:
    parts = HAND.replace(h_tb=np.zeros((4, 3)))
    options = asn.SolveOptions(guards=guards)
    step = asn.newton_step(parts.system(), options=options)
    assert reference.error(whole(step), reference.exact_solve(*_negated(parts))) < 1e-14
    factor = asn.factorize(parts.system(), options=options)
    np.testing.assert_allclose(factor.schur_apply(np.eye(3)), parts.h_bb, rtol=1e-15)


def _negated(parts: Parts) -> tuple[np.ndarray, np.ndarray]:
    h, g = reference.dense(parts)
    return h, -g


@GUARDS
def test_zero_border_block_under_a_full_cross_block(guards: str) -> None:
    parts = systems.ls(10, 2, 3, 4)
    parts = parts.replace(h_bb=np.zeros((3, 3)))
    options = asn.SolveOptions(guards=guards)
    with pytest.raises(asn.SchurFactorError) as caught:
        asn.newton_step(parts.system(), options=options)
    assert caught.value.kind == "non_pd"

    step = asn.newton_step_escalated(parts.system(), options=options)

    assert step.diagnostics.ridge_escalations >= 1
    assert parts.system().gradient_dot(step.delta_t, step.delta_beta) < 0
    assert step.diagnostics.backward_error_effective < 1e-14


# ---- NaN and infinity -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("part", ["h_tt", "h_tb", "h_bb", "g_t", "g_beta"])
def test_not_finite_is_named_with_its_first_index(part: str, bad: float) -> None:
    arrays = _hand_arrays()
    index = {"h_tt": (1, 1, 0), "h_tb": (1, 0, 2), "h_bb": (2, 1), "g_t": (1, 0), "g_beta": (2,)}[part]
    arrays[part][index] = bad
    with pytest.raises(asn.InvalidArgument) as caught:
        asn.ArrowSystem(**arrays)
    error = caught.value
    assert error.argument.startswith(part)
    text = f"{error.argument} {error.got}"
    assert all(str(i) in text for i in index) or str(np.ravel_multi_index(index, arrays[part].shape)) in text
    assert "finite" in error.expected


def test_t13_escalation_never_sees_a_system_with_nan() -> None:
    arrays = _hand_arrays()
    arrays["h_tt"][0, 0, 0] = np.nan
    with pytest.raises(asn.InvalidArgument):
        asn.newton_step_escalated(asn.ArrowSystem(**arrays))


@GUARDS
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("part", ["h_tt", "h_tb", "h_bb"])
def test_unchecked_nan_in_the_operator_is_an_error_of_the_factorization(part: str, bad: float, guards: str) -> None:
    arrays = _hand_arrays()
    arrays[part][(0,) * arrays[part].ndim] = bad
    system = asn.ArrowSystem(**arrays, check_finite=False, symmetry="lower")
    options = asn.SolveOptions(guards=guards)
    for solve in (asn.newton_step, asn.newton_step_escalated, asn.factorize):
        with pytest.raises((asn.RowFactorError, asn.SchurFactorError)):
            solve(system, options=options)  # type: ignore[operator]


@pytest.mark.parametrize("part", ["g_t", "g_beta"])
def test_unchecked_nan_in_the_gradient_is_an_error_too(part: str) -> None:
    arrays = _hand_arrays()
    arrays[part][(0,) * arrays[part].ndim] = np.nan
    system = asn.ArrowSystem(**arrays, check_finite=False)
    with pytest.raises(asn.ArrowError):
        asn.newton_step(system)


def test_unchecked_nan_is_an_error_in_every_entry_of_the_operator() -> None:
    for part in ("h_tt", "h_tb", "h_bb"):
        shape = _hand_arrays()[part].shape
        for index in np.ndindex(*shape):
            if part != "h_tb" and index[-2] < index[-1]:
                continue  # the upper triangle is not read
            arrays = _hand_arrays()
            arrays[part][index] = np.nan
            system = asn.ArrowSystem(**arrays, check_finite=False, symmetry="lower")
            with pytest.raises((asn.RowFactorError, asn.SchurFactorError)):
                asn.newton_step(system)


@pytest.mark.parametrize("where", [0, 40_000, 249_999])
def test_nan_far_inside_a_large_part_is_found(where: int) -> None:
    h_tb = np.zeros((500, 1, 500))
    h_tb.flat[where] = np.nan
    with pytest.raises(asn.InvalidArgument, match="h_tb"):
        asn.ArrowSystem(np.ones((500, 1, 1)), h_tb, np.ones(500), np.zeros((500, 1)), np.zeros(500))


def test_with_gradient_checks_finiteness() -> None:
    system = HAND.system()
    with pytest.raises(asn.InvalidArgument, match="g_beta"):
        system.with_gradient(np.zeros((2, 2)), [0.0, np.inf, 0.0])


def test_not_finite_structured_borders_are_named() -> None:
    bands = np.array([[4.0, 4.0, 4.0], [1.0, np.nan, 0.0]])
    blocks = [np.eye(2), np.array([[np.inf]])]
    for border in (asn.BandedBorder(bands), asn.BlockDiagonalBorder(blocks), np.array([1.0, np.nan, 1.0])):
        with pytest.raises(asn.InvalidArgument, match="h_bb"):
            asn.ArrowSystem(**{**_hand_arrays(), "h_bb": border})


# ---- ridges ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("bad", [-1e-300, -1.0, np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["ridge_t", "ridge_beta"])
def test_bad_ridges_are_refused_everywhere(name: str, bad: float) -> None:
    system = HAND.system()
    zeros = np.zeros((2, 2)), np.zeros(3)
    factor = asn.factorize(system)
    both = {"ridge_t": 0.0, "ridge_beta": 0.0, name: bad}
    calls: list[Any] = [
        lambda: asn.newton_step(system, **{name: bad}),
        lambda: asn.newton_step_escalated(system, **{name: bad}),
        lambda: asn.factorize(system, **{name: bad}),
        lambda: asn.model_reduction(system, *zeros, **{name: bad}),
        lambda: system.apply(*zeros, **{name: bad}),
        lambda: factor.update_ridges(**both),
    ]
    for call in calls:
        with pytest.raises(asn.InvalidArgument) as caught:
            call()
        assert caught.value.argument == name


@pytest.mark.parametrize("bad", [-1e-300, np.nan, np.inf])
@pytest.mark.parametrize("name", ["damping_t", "damping_beta"])
def test_bad_dampings_are_refused_everywhere(name: str, bad: float) -> None:
    system = HAND.system()
    zeros = np.zeros((2, 2)), np.zeros(3)
    damping = np.zeros((2, 2)) if name == "damping_t" else np.zeros(3)
    damping[-1] = bad
    calls: list[Any] = [
        lambda: asn.newton_step(system, **{name: damping}),
        lambda: asn.newton_step_escalated(system, **{name: damping}),
        lambda: asn.factorize(system, **{name: damping}),
        lambda: asn.model_reduction(system, *zeros, **{name: damping}),
        lambda: system.apply(*zeros, **{name: damping}),
        lambda: asn.factorize(system).update_ridges(0.0, 0.0, **{name: damping}),
    ]
    for call in calls:
        with pytest.raises(asn.InvalidArgument) as caught:
            call()
        assert caught.value.argument.startswith(name)


@pytest.mark.parametrize("bad", ["1", None, [1.0], 1j])
def test_ridges_that_are_no_numbers_are_refused(bad: Any) -> None:
    with pytest.raises((asn.InvalidArgument, TypeError)):
        asn.newton_step(HAND.system(), ridge_t=bad)


def test_huge_and_tiny_ridges_work() -> None:
    for ridge in (1e-300, 5e-324, 1e300):
        step = asn.newton_step(HAND.system(), ridge_t=ridge, ridge_beta=ridge)
        assert np.isfinite(whole(step)).all()
        assert step.diagnostics.backward_error_effective < 1e-14


# ---- options of later versions --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "options",
    [
        {"precision": "mixed"},
        {"mode": "inexact_pcg", "precision": "mixed"},
        {"streaming_chunk_size": 1},
        {"streaming_chunk_size": 1000},
    ],
    ids=lambda options: "+".join(options),
)
def test_options_of_later_versions_are_unsupported(options: dict[str, Any]) -> None:
    system = HAND.system()
    chosen = asn.SolveOptions(**options)
    for solve in (asn.newton_step, asn.newton_step_escalated, asn.factorize):
        with pytest.raises(asn.UnsupportedConfiguration) as caught:
            solve(system, options=chosen)  # type: ignore[operator]
        assert caught.value.feature
        assert caught.value.hint
        assert not caught.value.cured_by_ridge


def test_no_iteration_at_all_is_a_used_up_budget_or_a_zero_step() -> None:
    none = asn.PcgOptions(max_iterations=0)
    options = asn.SolveOptions(mode="inexact_pcg", pcg=none, preconditioner="diagonal")
    with pytest.raises(asn.PcgError) as caught:
        asn.newton_step(HAND.system(), options=options)
    assert caught.value.kind == "budget"
    step = asn.newton_step(HAND.system(), options=options.replace(accept_truncated=True))
    assert not step.delta_beta.any()
    assert step.diagnostics.pcg is not None
    assert step.diagnostics.pcg.stopping_reason == "max_iter"
    assert step.diagnostics.pcg.final_relative_residual == 1.0


@pytest.mark.parametrize("radius", [0.0, -1.0, np.nan])
def test_bad_radius_is_refused(radius: float) -> None:
    with pytest.raises(asn.InvalidArgument, match="radius"):
        asn.TrustRegionOptions(radius=radius)


@pytest.mark.parametrize("radius", [None, np.inf])
def test_no_radius_is_off(radius: float | None) -> None:
    options = asn.SolveOptions(trust_region=asn.TrustRegionOptions(radius=radius))
    assert np.array_equal(whole(asn.newton_step(HAND.system(), options=options)), whole(asn.newton_step(HAND.system())))


def test_streaming_chunk_size_zero_is_off() -> None:
    options = asn.SolveOptions(streaming_chunk_size=0)
    assert np.array_equal(whole(asn.newton_step(HAND.system(), options=options)), whole(asn.newton_step(HAND.system())))


def test_a_required_device_is_an_error_where_no_seam_has_one() -> None:
    for solve in (asn.newton_step, asn.factorize):
        with pytest.raises(asn.DeviceUnavailableError) as caught:
            solve(HAND.system(), options=asn.SolveOptions(device="required"))  # type: ignore[operator]
        assert caught.value.reason
    for device in ("auto", "off"):
        step = asn.newton_step(HAND.system(), options=asn.SolveOptions(device=device))
        assert step.diagnostics.execution_path == "cpu"


# ---- memory ---------------------------------------------------------------------------------------------------------
def test_a_memory_limit_is_kept_before_anything_is_allocated() -> None:
    k = 3000
    system = asn.ArrowSystem(np.ones((1, 1, 1)), np.full((1, 1, k), 1e-3), np.ones(k), np.zeros((1, 1)), np.ones(k))
    direct = asn.SolveOptions(mode="direct", memory_limit=10**6)
    for solve in (asn.newton_step, asn.newton_step_escalated, asn.factorize):
        with pytest.raises(asn.MemoryBudgetExceeded) as caught:
            solve(system, options=direct)  # type: ignore[operator]
        assert caught.value.budget == 10**6
        assert caught.value.bytes_needed >= 8 * k * k
        assert isinstance(caught.value, MemoryError)
    assert asn.newton_step(system, options=asn.SolveOptions(memory_limit=10**9)).diagnostics.peak_bytes <= 10**9


def test_sizes_that_overflow_are_refused() -> None:
    for shape in ((2**40, 1, 2**40), (2**62, 2, 1), (1, 2**32, 1), (0, 0, 2**32)):
        with pytest.raises((asn.InvalidArgument, asn.MemoryBudgetExceeded)):
            asn.plan(shape)
    with pytest.raises((asn.InvalidArgument, asn.MemoryBudgetExceeded)):
        asn.ArrowSystem(np.zeros(0), np.zeros((0, 2)), np.eye(2), np.zeros(0), np.zeros(2), row_dims=[2**62, 2**62])


# ---- interrupts -----------------------------------------------------------------------------------------------------
def solve_again(system: asn.ArrowSystem) -> None:
    for _ in range(50):  # one is enough, unless the timer thread is late
        asn.newton_step(system)


@pytest.mark.skipif(
    threading.current_thread() is not threading.main_thread(), reason="only the main thread receives Ctrl-C"
)
def test_interrupt_of_a_long_call_leaves_the_objects_valid() -> None:
    fixture = asn.fixtures.coupled_fixture(1500, 8, 1200, seed=1, coupling=0.5, border="dense")
    system = fixture.system()
    start = time.perf_counter()
    expected = asn.newton_step(system)
    seconds = time.perf_counter() - start

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job inherits "ignore"
    timer = threading.Timer(0.25 * seconds, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        solve_again(system)
    timer.join()
    signal.signal(signal.SIGINT, before)

    assert np.array_equal(whole(asn.newton_step(system)), whole(expected))


# ---- not contiguous, other dtypes: see test_inputs ------------------------------------------------------------------
def _hand_arrays() -> dict[str, np.ndarray]:
    h_tt, h_tb, g_t = HAND.stacked()
    return {"h_tt": h_tt, "h_tb": h_tb, "h_bb": HAND.h_bb.copy(), "g_t": g_t, "g_beta": HAND.g_beta.copy()}


# ---- extreme numbers ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("scale", [2.0**-500, 2.0**-300, 2.0**300, 2.0**500])
def test_extreme_scales_do_not_overflow(scale: float) -> None:
    parts = systems.ls(40, 3, 17, 1)
    step = asn.newton_step(parts.scaled(scale).system())
    assert reference.error(whole(step), reference.step(parts)) <= 1e-11
    assert step.diagnostics.backward_error < 1e-14


@pytest.mark.parametrize("scale", [5e-324, 1e-310, 1e308])
def test_numbers_at_the_end_of_the_range_never_become_nan(scale: float) -> None:
    parts = systems.uniform([[[1.0]], [[1.0]]], np.full((2, 1, 2), 0.25), np.eye(2), [[0.5], [0.5]], [0.5, 0.25])
    system = parts.scaled(scale).system()
    try:
        step = asn.newton_step(system)
    except asn.ArrowError:
        return
    assert np.isfinite(whole(step)).all()


def test_a_cross_block_that_overflows_is_an_error() -> None:
    parts = HAND.replace(h_tb=HAND.h_tb * 1e300)
    with pytest.raises(asn.SchurFactorError):
        asn.newton_step(parts.system())


def test_a_step_that_overflows_is_an_error() -> None:
    parts = systems.uniform([[[1e-300]]], [[[0.0]]], [[1e-300]], [[1e300]], [1e300])
    with pytest.raises(asn.ArrowError):
        asn.newton_step(parts.system())


# ---- escalation recovers --------------------------------------------------------------------------------------------
@GUARDS
def test_escalated_collapse_recovers(guards: str) -> None:
    step = asn.newton_step_escalated(collapse(1.0).system(), options=asn.SolveOptions(guards=guards))
    assert np.isfinite(whole(step)).all()
    assert step.diagnostics.ridge_escalations > 0
