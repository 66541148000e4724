"""Section 23 and T33: what holds for every system, checked on systems that hypothesis makes."""

from __future__ import annotations

from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import reference
import systems
from hypothesis import given
from systems import FORMS, HAND, Parts
from test_newton import whole

import arrowschur_native as asn

MODES = ("auto", "direct", "sqrt_ba")
RIDGES = st.sampled_from([(0.0, 0.0), (0.5, 0.0), (0.0, 0.25), (1e-3, 2.0)])


@st.composite
def random_systems(draw: st.DrawFn, min_rows: int = 0, min_k: int = 0, forms: tuple[str, ...] = FORMS) -> Parts:
    if draw(st.booleans()):
        dims = [draw(st.integers(1, 6))] * draw(st.integers(min_rows, 30))
    else:
        dims = draw(st.lists(st.integers(0, 6), min_size=min_rows, max_size=30))
    k = draw(st.integers(min_k, 20))
    seed = draw(st.integers(0, 2**32 - 1))
    return systems.random_parts(dims, k, draw(st.sampled_from(forms)), seed, draw(st.sampled_from([0.0, 0.5, 0.9])))


def gradient(parts: Parts) -> np.ndarray:
    return np.concatenate((parts.g_t, parts.g_beta))


@given(parts=random_systems(), ridges=RIDGES)
def test_t33_i1_the_step_is_a_descent_direction(parts: Parts, ridges: tuple[float, float]) -> None:
    hypothesis.assume(gradient(parts).any())
    for mode in MODES:
        step = asn.newton_step(
            parts.system(), ridge_t=ridges[0], ridge_beta=ridges[1], options=asn.SolveOptions(mode=mode)
        )
        assert gradient(parts) @ whole(step) < 0
        assert parts.system().gradient_dot(step.delta_t, step.delta_beta) < 0


@given(parts=random_systems(), ridges=RIDGES)
def test_t33_i2_row_residuals_are_at_roundoff(parts: Parts, ridges: tuple[float, float]) -> None:
    step = asn.newton_step(parts.system(), ridge_t=ridges[0], ridge_beta=ridges[1])
    delta_t = step.delta_t.ravel()
    for block, a, b in zip(parts.blocks, parts.offsets[:-1], parts.offsets[1:], strict=True):
        matrix, cross = block + ridges[0] * np.eye(b - a), parts.h_tb[a:b]
        residual = matrix @ delta_t[a:b] + cross @ step.delta_beta + parts.g_t[a:b]
        bound = (
            np.linalg.norm(matrix) * np.linalg.norm(delta_t[a:b])
            + np.linalg.norm(cross) * np.linalg.norm(step.delta_beta)
            + np.linalg.norm(parts.g_t[a:b])
        )
        assert np.linalg.norm(residual) <= 16 * max(b - a, 1) * reference.EPS * bound


@given(parts=random_systems(), ridges=RIDGES, guards=st.sampled_from(["relative", "absolute"]))
def test_t33_i3_every_route_agrees_with_dense_algebra(parts: Parts, ridges: tuple[float, float], guards: str) -> None:
    h, g = reference.dense(parts, *ridges)
    expected = reference.solve(h, -g)
    for mode in MODES:
        step = asn.newton_step(
            parts.system(),
            ridge_t=ridges[0],
            ridge_beta=ridges[1],
            options=asn.SolveOptions(mode=mode, guards=guards),
        )
        assert reference.error(whole(step), expected) <= 1e-10
        assert step.diagnostics.backward_error <= 1e-14
        assert step.diagnostics.rows_lifted == 0


@given(parts=random_systems(), ridges=RIDGES, guards=st.sampled_from(["relative", "absolute"]))
def test_t33_i3_the_iterative_route_agrees_to_its_tolerance(
    parts: Parts, ridges: tuple[float, float], guards: str
) -> None:
    h, g = reference.dense(parts, *ridges)
    options = asn.SolveOptions(
        mode="inexact_pcg", guards=guards, pcg=asn.PcgOptions(relative_tolerance=1e-13), accept_truncated=True
    )
    step = asn.newton_step(parts.system(), ridge_t=ridges[0], ridge_beta=ridges[1], options=options)
    assert step.route == "inexact_pcg"
    assert reference.error(whole(step), reference.solve(h, -g)) <= 1e-8


@given(parts=random_systems(), ridges=RIDGES)
def test_t33_i5_repetition_gives_the_same_bits(parts: Parts, ridges: tuple[float, float]) -> None:
    def once() -> np.ndarray:
        system = parts.system()
        factor = asn.factorize(system, ridge_t=ridges[0], ridge_beta=ridges[1])
        x = factor.solve(system.g_t, system.g_beta)
        return np.concatenate(
            [
                whole(asn.newton_step(system, ridge_t=ridges[0], ridge_beta=ridges[1])),
                *map(np.ravel, x),
                [factor.log_det()],
                factor.latent_inverse_diagonal(),
                factor.border_inverse_block().ravel(),
            ]
        )

    assert np.array_equal(once(), once())


@given(parts=random_systems())
def test_t33_i6_safety_options_leave_healthy_systems_alone(parts: Parts) -> None:
    system = parts.system()
    plain = whole(asn.newton_step(system))
    for options in (
        asn.SolveOptions(tolerate_ill_conditioning=True),
        asn.SolveOptions(row_lift="guard"),
        asn.SolveOptions(row_lift="never"),
        asn.SolveOptions(certificate=False),
        asn.SolveOptions(certificate_tolerance=1e-10),
    ):
        assert np.array_equal(whole(asn.newton_step(system, options=options)), plain)
    assert np.array_equal(whole(asn.newton_step_escalated(system)), plain)


@given(parts=random_systems(), ridges=RIDGES)
def test_t33_i7_log_determinants(parts: Parts, ridges: tuple[float, float]) -> None:
    factor = asn.factorize(parts.system(), ridge_t=ridges[0], ridge_beta=ridges[1])
    expected = reference.log_det(reference.dense(parts, *ridges)[0])
    assert factor.log_det() == pytest.approx(expected, rel=1e-11, abs=1e-11)
    assert sum(factor.log_det_parts()) == pytest.approx(factor.log_det(), rel=1e-13, abs=1e-13)


@given(parts=random_systems(), ridges=RIDGES, m=st.integers(1, 4), seed=st.integers(0, 99))
def test_t33_i8_solve_inverts_the_operator(parts: Parts, ridges: tuple[float, float], m: int, seed: int) -> None:
    h, _ = reference.dense(parts, *ridges)
    x = np.random.default_rng(seed).normal(size=(parts.total + parts.k, m))
    w = h @ x
    factor = asn.factorize(parts.system(), ridge_t=ridges[0], ridge_beta=ridges[1])
    got = np.concatenate(factor.solve(w[: parts.total], w[parts.total :]))
    assert reference.error(got, x) <= 1e-10


@given(parts=random_systems(min_rows=1, min_k=1), seed=st.integers(0, 99))
def test_t33_i9_permutations(parts: Parts, seed: int) -> None:
    rng = np.random.default_rng(seed)
    step = asn.newton_step(parts.system(ragged=True))

    order = rng.permutation(parts.n)
    moved = asn.newton_step(parts.rows(list(order)).system(ragged=True))
    pieces = [step.delta_t[parts.offsets[i] : parts.offsets[i + 1]] for i in order]
    assert reference.error(moved.delta_t, np.concatenate(pieces)) <= 1e-12
    assert reference.error(moved.delta_beta, step.delta_beta) <= 1e-12

    order = rng.permutation(parts.k)
    moved = asn.newton_step(parts.columns(list(order)).system(ragged=True))
    assert reference.error(moved.delta_beta, step.delta_beta[order]) <= 1e-12
    assert reference.error(moved.delta_t, step.delta_t) <= 1e-12


@given(parts=random_systems(), power=st.sampled_from([-60, -20, -2, -1, 1, 2, 20, 60]))
def test_t33_i10_scaling_by_a_power_of_four(parts: Parts, power: int) -> None:
    factor = 4.0**power
    dense = parts.replace(border=None)
    step = asn.newton_step(dense.system(), ridge_t=0.5, ridge_beta=0.25)
    scaled = asn.newton_step(dense.scaled(factor).system(), ridge_t=0.5 * factor, ridge_beta=0.25 * factor)
    assert np.array_equal(whole(step), whole(scaled))


@given(parts=random_systems(min_rows=1), row=st.integers(0, 29))
def test_t33_i11_an_uncoupled_row_is_solved_alone(parts: Parts, row: int) -> None:
    row %= parts.n
    a, b = parts.offsets[row], parts.offsets[row + 1]
    h_tb = parts.h_tb.copy()
    h_tb[a:b] = 0.0
    parts = parts.replace(h_tb=h_tb)

    step = asn.newton_step(parts.system(ragged=True))
    others = asn.newton_step(parts.rows([i for i in range(parts.n) if i != row]).system(ragged=True))

    alone = np.linalg.solve(parts.blocks[row], -parts.g_t[a:b])
    assert reference.error(step.delta_t[a:b], alone) <= 1e-12
    assert reference.error(step.delta_beta, others.delta_beta) <= 1e-12


@given(
    dims=st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=12), seed=st.integers(0, 999)
)
def test_t33_i11_splitting_block_diagonal_rows(dims: list[tuple[int, int]], seed: int) -> None:
    split = systems.random_parts([d for pair in dims for d in pair], 7, "dense", seed)
    joined = []
    for i in range(len(dims)):
        one, other = split.blocks[2 * i], split.blocks[2 * i + 1]
        block = np.zeros((len(one) + len(other),) * 2)
        block[: len(one), : len(one)], block[len(one) :, len(one) :] = one, other
        joined.append(block)
    whole_rows = split.replace(blocks=tuple(joined))

    one, other = asn.newton_step(split.system(ragged=True)), asn.newton_step(whole_rows.system(ragged=True))

    assert reference.error(whole(one), whole(other)) <= 1e-12


@given(
    parts=random_systems(),
    ridges=RIDGES,
    mode=st.sampled_from(MODES),
    precision=st.sampled_from(["float64", "float32"]),
)
def test_t33_i12_reported_numbers_describe_what_ran(
    parts: Parts, ridges: tuple[float, float], mode: str, precision: str
) -> None:
    options = asn.SolveOptions(mode=mode, precision=precision)
    step = asn.newton_step(parts.system(), ridge_t=ridges[0], ridge_beta=ridges[1], options=options)
    d = step.diagnostics
    assert (d.ridge_t, d.ridge_beta) == ridges
    assert (d.ridge_escalations, d.rows_lifted, d.row_ridge_max) == (0, 0, 0.0)
    assert d.precision == precision
    assert d.execution_path == "cpu"
    assert (d.bytes_h2d, d.bytes_d2h, d.launches) == (0, 0, 0)
    assert (d.mixed_status, d.schur_conditioning, d.pcg, d.fallback_reason) == ("off", "none", None, None)
    assert d.plan.route == step.route == ("direct" if mode == "auto" else mode)
    assert d.backward_error == d.backward_error_effective
    h, g = reference.dense(parts, *ridges)
    measured = reference.backward_error(h, whole(step), -g)
    # Different rounding of the same residual: a few units in the last place of |H||x|.
    slack = 1e-15
    assert d.backward_error <= measured * (1 + 1e-3) + slack
    if not d.norm_is_bound:
        assert measured <= d.backward_error * (1 + 1e-3) + slack
    assert all(seconds >= 0 for seconds in d.seconds.values())
    assert d.peak_bytes >= 0


@given(parts=random_systems(), m=st.integers(0, 5))
def test_t33_marginals_against_the_dense_inverse(parts: Parts, m: int) -> None:
    inverse = reference.inverse(reference.dense(parts)[0])
    t = parts.total
    factor = asn.factorize(parts.system(ragged=True))
    assert reference.error(factor.latent_inverse_diagonal(), np.diagonal(inverse)[:t]) <= 1e-10
    assert reference.error(factor.border_inverse_diagonal(), np.diagonal(inverse)[t:]) <= 1e-10
    assert reference.error(factor.border_inverse_block(), inverse[t:, t:]) <= 1e-10
    for block, a, b in zip(factor.latent_inverse_blocks(), parts.offsets[:-1], parts.offsets[1:], strict=True):
        assert reference.error(block, inverse[a:b, a:b]) <= 1e-10
    x_t, x_beta = factor.sample(m, 3)
    assert (x_t.shape, x_beta.shape) == ((t, m), (parts.k, m))


# ---- T80: scale invariance of every decision ------------------------------------------------------------------------
def decisions(step: asn.NewtonStep) -> tuple[Any, ...]:
    d = step.diagnostics
    return d.rows_lifted, d.ridge_escalations, d.refinement_steps, d.kappa_rows_max, d.kappa_schur, step.route


@pytest.mark.parametrize("exponent", [-40, 40])
@pytest.mark.parametrize("ridges", [(0.0, 0.0), (0.5, 0.25)])
@pytest.mark.parametrize(
    "parts",
    [HAND, systems.ls(40, 3, 17, 1), systems.ls(300, 2, 64, 3), systems.ls(64, 4, 200, 4), systems.ragged(9)],
    ids=["hand", "ls40", "ls300", "ls64", "ragged"],
)
def test_t80_the_step_does_not_depend_on_the_units(parts: Parts, ridges: tuple[float, float], exponent: int) -> None:
    c = 2.0**exponent
    one = asn.newton_step(parts.system(), ridge_t=ridges[0], ridge_beta=ridges[1])
    other = asn.newton_step(parts.scaled(c).system(), ridge_t=c * ridges[0], ridge_beta=c * ridges[1])
    assert np.array_equal(whole(one), whole(other))
    assert decisions(one) == decisions(other)
    assert one.diagnostics.backward_error == other.diagnostics.backward_error


@pytest.mark.parametrize("exponent", [-40, 40])
def test_t80_escalation_does_not_depend_on_the_units(exponent: int) -> None:
    c = 2.0**exponent
    parts = systems.collapse(1.0)
    one, other = asn.newton_step_escalated(parts.system()), asn.newton_step_escalated(parts.scaled(c).system())
    assert reference.error(whole(other), whole(one)) <= 1e-14
    assert decisions(one)[:2] == decisions(other)[:2]
    assert other.diagnostics.ridge_beta == pytest.approx(c * one.diagnostics.ridge_beta, rel=1e-14)
    assert other.diagnostics.ridge_t == c * one.diagnostics.ridge_t


@pytest.mark.parametrize("exponent", [-40, 40])
@pytest.mark.parametrize(
    "parts",
    [systems.rows_of_t89(-0.3), systems.rows_of_t89(0.0), systems.BARELY, systems.PIVOTS, systems.indefinite_row()],
    ids=["t89", "t89 flat", "barely", "pivots", "indefinite"],
)
def test_t80_lifts_do_not_depend_on_the_units(parts: Parts, exponent: int) -> None:
    c = 2.0**exponent
    options = asn.SolveOptions(row_lift="guard")
    one, other = (
        asn.newton_step(parts.system(), options=options),
        asn.newton_step(parts.scaled(c).system(), options=options),
    )
    assert one.diagnostics.rows_lifted == other.diagnostics.rows_lifted > 0
    assert other.diagnostics.row_ridge_max == pytest.approx(c * one.diagnostics.row_ridge_max, rel=1e-14)
    assert reference.error(whole(other), whole(one)) <= 1e-14


@pytest.mark.parametrize("mode", ["direct", "inexact_pcg"])
@pytest.mark.parametrize("parts", [systems.HAND, systems.ls(40, 3, 17, 1)], ids=["hand", "ls"])
def test_t80_steps_do_not_depend_on_the_scale(mode: str, parts: Parts) -> None:
    options = asn.SolveOptions(mode=mode, pcg=asn.PcgOptions(relative_tolerance=1e-10))
    expected = whole(asn.newton_step(parts.system(), options=options))
    for c in (2.0**-40, 2.0**40):
        scaled = asn.newton_step(parts.scaled(c).system(), options=options)
        assert reference.error(whole(scaled), expected) <= 1e-13


def test_t80_row_errors_suggest_ridges_in_the_units_of_the_system() -> None:
    suggested = []
    for c in (1.0, 2.0**40):
        with pytest.raises(asn.RowFactorError) as caught:
            asn.newton_step(systems.indefinite_row().scaled(c).system(), options=asn.SolveOptions(row_lift="never"))
        suggested.append(caught.value.suggested_ridge / c)
    assert suggested[0] == pytest.approx(suggested[1], rel=1e-14)


# ---- systems that are not positive definite -------------------------------------------------------------------------
@st.composite
def wild_systems(draw: st.DrawFn) -> Parts:
    """Symmetric, otherwise anything: indefinite rows and borders, strong coupling, scales over many decades."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    dims = draw(st.lists(st.integers(0, 5), max_size=12))
    k = draw(st.integers(0, 8))
    spread = draw(st.sampled_from([0.0, 3.0, 8.0]))
    coupling = draw(st.sampled_from([0.0, 1e-3, 1.0, 1e3]))
    rank_deficient = draw(st.booleans())

    def symmetric(d: int) -> np.ndarray:
        q = np.linalg.qr(rng.normal(size=(d, d)))[0] if d else np.zeros((0, 0))
        spectrum = rng.choice([-1.0, 1.0, 1.0], d) * 10 ** (spread * rng.uniform(-1, 1, d))
        if rank_deficient and d:
            spectrum[0] = 0.0
        matrix = q @ np.diag(spectrum) @ q.T
        return (matrix + matrix.T) / 2

    total = sum(dims)
    return Parts(
        tuple(symmetric(d) for d in dims),
        coupling * rng.normal(size=(total, k)),
        symmetric(k),
        rng.normal(size=total),
        rng.normal(size=k),
    )


@given(
    parts=wild_systems(),
    guards=st.sampled_from(["relative", "absolute"]),
    row_lift=st.sampled_from(["indefinite", "guard", "never"]),
)
def test_every_outcome_is_a_finite_descent_step_or_a_typed_error(parts: Parts, guards: str, row_lift: str) -> None:
    options = asn.SolveOptions(guards=guards, row_lift=row_lift)
    system = parts.system(ragged=True)
    before = [part.copy() for part in (system.h_tt, system.h_tb, system.h_bb, system.g_t, system.g_beta)]
    for solve in (asn.newton_step, asn.newton_step_escalated):
        try:
            step = solve(system, options=options)  # type: ignore[operator]
        except (asn.RowFactorError, asn.SchurFactorError, asn.CertificateError):
            continue
        x, d = whole(step), step.diagnostics
        assert np.isfinite(x).all()
        assert d.backward_error_effective <= 1e-12
        if gradient(parts).any() and guards == "relative":
            assert gradient(parts) @ x < 0
        assert (d.rows_lifted > 0) == (d.row_ridge_max > d.ridge_t)
        assert d.rows_lifted == 0 or row_lift != "never"
    for part, copy in zip((system.h_tt, system.h_tb, system.h_bb, system.g_t, system.g_beta), before, strict=True):
        assert np.array_equal(part, copy)


@given(parts=wild_systems())
def test_escalation_cures_every_failure_but_that_of_a_zero_matrix(parts: Parts) -> None:
    hypothesis.assume(any(block.any() for block in parts.blocks) or parts.h_tb.any() or parts.h_bb.any())
    step = asn.newton_step_escalated(parts.system(ragged=True))
    assert np.isfinite(whole(step)).all()
    assert step.diagnostics.backward_error_effective <= 1e-12
    assert step.diagnostics.ridge_escalations <= 22


@given(parts=wild_systems())
def test_evidence_gives_the_determinant_or_an_error(parts: Parts) -> None:
    h, _ = reference.dense(parts)
    spectrum = np.linalg.eigvalsh(h) if h.size else np.ones(1)
    scale = np.abs(spectrum).max()
    hypothesis.assume(np.abs(spectrum).min() > 1e-9 * scale)  # else the sign is a matter of rounding
    options = asn.SolveOptions(tolerate_ill_conditioning=True)
    if spectrum.min() > 0:
        log_det = asn.factorize(parts.system(ragged=True), options=options).log_det()
        assert log_det == pytest.approx(np.linalg.slogdet(h)[1], rel=1e-6, abs=1e-6)
    else:
        with pytest.raises((asn.RowFactorError, asn.SchurFactorError)):
            asn.factorize(parts.system(ragged=True), options=options)
