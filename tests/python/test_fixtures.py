"""The generators of `asn.fixtures`: published values, and systems worth solving."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import reference
import systems
from systems import Stream
from test_newton import whole

import arrowschur_native as asn

fx = asn.fixtures

SMALL = {
    0xABCD0001: (-0.5579806235950775, 31.152806515729573, 0.42430416540129645, 0.21708794960739886),
    0x5AE1017: (-0.5349983106002303, 31.196597373221934, 0.4379390831641221, 0.1879914304836487),
    0x1017F17: (-0.5948562422235808, 31.01399862653501, 0.4464168192843344, 0.20966582489274865),
    0x11: (-0.8729669986, 31.0928815, None, None),
    0x22: (-0.6690840819, 31.0668484, None, None),
    0x33: (-0.8021548983, 31.1242976, None, None),
    0x44: (-0.9000650615, 31.0413198, None, None),
    0x55: (-0.5526835683, 31.1040422, None, None),
    0x66: (-0.9703153165, 31.1784314, None, None),
}
COUPLED = {
    (8, 2, 4, 1, 0.5, "dense"): (22.566434312700, 0.6836738698063, 0.3125207146706, -0.8345564023229),
    (40, 3, 96, 2, 0.9, "dense"): (235.92956806080, 3.8422258655703, 2.9980351328343, -15.031417836836),
    (12, 16, 6, 5, 0.9, "dense"): (211.02616058903, 3.5144799181035, 1.9711041399750, -12.612401224011),
    (2000, 2, 2048, 4, 0.9, "dense"): (6431.4108503066, 19.496403781517, 14.364557401311, -423.72589384087),
    (180, 2, 5120, 3, 0.9, "tridiagonal"): (7096.4982008185, 13.260131987436, 15.781487294067, -300.56143245343),
}


def solved(system: asn.ArrowSystem) -> tuple[float, float, float, float]:
    """`(log|H|, |t*|, |beta*|, g'z*/2)` of the minimiser `H z* = g`, and the certificate checked on the way."""
    factor = asn.factorize(system)
    step = factor.step()
    assert step.diagnostics.backward_error < 1e-14
    decrease = -0.5 * system.gradient_dot(step.delta_t, step.delta_beta)
    return factor.log_det(), float(np.linalg.norm(step.delta_t)), float(np.linalg.norm(step.delta_beta)), decrease


@pytest.mark.parametrize("seed", list(SMALL), ids=hex)
def test_small_fixture_has_the_published_values(seed: int) -> None:
    phi, log_det, norm_t, norm_beta = SMALL[seed]
    digits = 1e-11 if norm_t is not None else 1e-9
    fixture = fx.small_fixture(seed)
    assert (fixture.n, fixture.d, fixture.k, fixture.basis_cols) == (8, 2, 4, 2)

    got = solved(fixture.system())

    assert got[0] == pytest.approx(log_det, rel=1e-11 if norm_t is not None else 4e-9)  # published: 9 digits
    assert -got[3] == pytest.approx(phi, rel=digits)  # the target is zero
    if norm_t is not None:
        assert got[1] == pytest.approx(norm_t, rel=1e-11)
        assert got[2] == pytest.approx(norm_beta, rel=1e-11)
    assert fixture.target is not None
    assert not fixture.target.any()
    assert (fixture.basis == 0.5).all()
    assert (fixture.gates == 1).all()


def test_small_fixture_draws_in_the_documented_order() -> None:
    stream = Stream(0x11)
    fixture = fx.small_fixture(0x11)
    for i in range(8):
        s = stream.draws(3)
        np.testing.assert_allclose(
            fixture.h_tt[i], [[5 + 0.1 * s[0], 0.05 * s[1]], [0.05 * s[1], 4 + 0.1 * s[2]]], rtol=1e-15
        )
        b = stream.draws(4, 2)
        np.testing.assert_allclose(fixture.h_tb[i], 0.01 * b.T, rtol=1e-15)
        np.testing.assert_array_equal(fixture.g_t[i], stream.draws(2))
    np.testing.assert_allclose(fixture.h_bb, np.diag(6 + 0.1 * stream.draws(4)), rtol=1e-15)
    np.testing.assert_array_equal(fixture.g_beta, stream.draws(4))


@pytest.mark.parametrize("arguments", list(COUPLED), ids=str)
def test_coupled_fixture_has_the_published_values(arguments: tuple[int, int, int, int, float, str]) -> None:
    n, d, k, seed, coupling, border = arguments
    log_det, norm_t, norm_beta, phi = COUPLED[arguments]
    fixture = fx.coupled_fixture(n, d, k, seed=seed, coupling=coupling, border=border)

    got = solved(fixture.system())

    assert got == pytest.approx((log_det, norm_t, norm_beta, -phi), rel=1e-11)


def test_coupled_fixture_has_the_published_entries() -> None:
    for arguments, spots in (
        ((8, 2, 4, 1, 0.5, "dense"), (3.066561575172281, -0.05564078294422792, 0.6956104141174644)),
        ((180, 2, 5120, 3, 0.9, "tridiagonal"), (2.6134503420571544, -0.05095713296182407, 0.9375139061009299)),
    ):
        n, d, k, seed, coupling, border = arguments
        fixture = fx.coupled_fixture(n, d, k, seed=seed, coupling=coupling, border=border)
        got = fixture.h_tt[0, 0, 0], fixture.h_tb[0, 0, 0], fixture.g_beta[0]
        assert got == pytest.approx(spots, rel=1e-14)


@pytest.mark.parametrize("border", ["dense", "tridiagonal", "diagonal"])
def test_coupled_fixture_follows_its_formulas(border: str) -> None:
    n, d, k, coupling = 5, 3, 7, 0.9
    stream, s = Stream(21), 6 * 0.9 / (np.sqrt(15) + np.sqrt(7))
    fixture = fx.coupled_fixture(n, d, k, seed=21, coupling=coupling, border=border)
    for i in range(n):
        block = np.zeros((d, d))
        for r in range(d):
            for q in range(r):
                block[r, q] = block[q, r] = 0.25 * stream.draws(1)[0] / d
            block[r, r] = 3 + 0.5 * stream.draws(1)[0]
        np.testing.assert_allclose(fixture.h_tt[i], block, rtol=1e-15)
        np.testing.assert_allclose(fixture.h_tb[i], s * stream.draws(d, k), rtol=1e-14)
        np.testing.assert_array_equal(fixture.g_t[i], stream.draws(d))
    diagonal = 4 + 0.5 * stream.draws(k)
    gap = np.abs(np.subtract.outer(np.arange(k), np.arange(k)))
    off = {
        "dense": 0.2 * np.cos(0.37 * gap) / (1 + gap) ** 2,
        "tridiagonal": np.where(gap == 1, -0.5, 0.0),
        "diagonal": np.zeros((k, k)),
    }[border]
    np.fill_diagonal(off, 0)
    np.testing.assert_allclose(fixture.system().border.to_dense(), off + np.diag(diagonal), rtol=1e-14)
    np.testing.assert_array_equal(fixture.g_beta, stream.draws(k))


def test_the_coupling_matters() -> None:
    """Without `W'W` the border step would be off by 16 to 75 percent."""
    for n, d, k, seed, coupling in ((8, 2, 4, 1, 0.5), (40, 3, 96, 2, 0.9), (12, 16, 6, 5, 0.9)):
        fixture = fx.coupled_fixture(n, d, k, seed=seed, coupling=coupling, border="dense")
        parts = systems.uniform(fixture.h_tt, fixture.h_tb, fixture.h_bb, fixture.g_t, fixture.g_beta)
        left = reference.direct(parts)
        assert 0.15 < reference.error(np.linalg.solve(parts.h_bb, left.rhs), left.delta_beta) < 0.76
        step = asn.newton_step(fixture.system())
        assert reference.error(step.delta_beta, left.delta_beta) < 1e-12


QWEN: dict[str, Any] = {
    "target": (-0.0006640531232737732, 0.018633414181764098),
    "s": (7.999082029605048, 1.8746780667665632),
    "h_tt": (3.0799908202960506, 0.0041295470209078726),
    "h_tb": (9.894913944770717e-5, 4.129547020907873e-5),
    "norm_b": 0.12021879900572492,
    "norm_g": 0.39880820923009785,
    "at_zero": 552.0801116575556,
    "solution": (7311.3149536193, 0.1299991858070117, 0.008146170922300891, 0.0259511594325183),
}
COLOR_ARM: dict[str, Any] = {
    "target": (-0.00044993710647999574, 0.017667707863831345),
    "s": (8.998717551747884, -2.2134471977786583),
    "h_tt": (3.089987175517479, -0.00542944597999972),
    "h_tb": (4.132866234331334e-5, -5.42944597999972e-5),
    "norm_b": 0.0663036763656245,
    "norm_g": 0.14724533505944581,
    "at_zero": 122.04296710583543,
    "solution": (7503.7867040787, 0.04492753407599125, 0.012237194870155729, 0.00341685143508656),
}


@pytest.mark.parametrize(
    ("make", "shape", "golden"),
    [(fx.qwen_fixture, (2000, 2, 2048, 8), QWEN), (fx.color_arm_fixture, (180, 2, 5120, 9), COLOR_ARM)],
    ids=["qwen", "color_arm"],
)
def test_reference_shapes_have_the_published_values(make: Any, shape: tuple[int, ...], golden: dict[str, Any]) -> None:
    fixture = make()
    assert (fixture.n, fixture.d, fixture.k, fixture.basis_cols) == shape
    assert (fixture.target[0, 0], fixture.target[-1, -1]) == pytest.approx(golden["target"], rel=1e-11)
    sums = (fixture.basis * fixture.gates).sum(axis=1)
    assert (sums[0], sums[-1]) == pytest.approx(golden["s"], rel=1e-11)
    assert tuple(fixture.h_tt[0, 0]) == pytest.approx(golden["h_tt"], rel=1e-11)
    assert (fixture.h_tb[0, 0, 0], fixture.h_tb[0, 1, 0]) == pytest.approx(golden["h_tb"], rel=1e-11)
    assert np.linalg.norm(fixture.h_tb) == pytest.approx(golden["norm_b"], rel=1e-11)
    assert fixture.g_beta[1] == pytest.approx(1.699918117849873e-5, rel=1e-11)
    assert 0.5 * np.linalg.norm(fixture.target) ** 2 == pytest.approx(golden["at_zero"], rel=1e-11)
    assert np.array_equal(fixture.h_tt, fixture.h_tt.swapaxes(1, 2))
    system = fixture.system()
    assert system.gradient_norm() == pytest.approx(golden["norm_g"], rel=1e-11)

    assert solved(system) == pytest.approx(golden["solution"], rel=1e-11)


def test_shape_fixture_follows_its_formulas_and_the_seed_moves_only_the_target() -> None:
    def make(seed: int, **keywords: Any) -> Any:
        return fx.shape_fixture((6, 5, 3, 2), seed, **keywords)

    one, other, bare = make(1), make(2), make(1, with_target=False)
    for name in ("h_tt", "h_tb", "h_bb", "g_t", "g_beta", "basis", "gates"):
        if getattr(bare, name) is not None:
            assert np.array_equal(getattr(one, name), getattr(other, name))
            assert np.array_equal(getattr(one, name), getattr(bare, name))
    assert not np.array_equal(one.target, other.target)
    assert bare.target is None
    i, j = np.arange(6)[:, None], np.arange(5)[None, :]
    expected = 0.02 * np.sin(0.013 * (i % 97) + 0.007 * (j % 131)) + 0.001 * Stream(1).draws(6, 5)
    np.testing.assert_allclose(one.target, expected, rtol=1e-13)
    np.testing.assert_allclose(one.basis, np.cos(0.003 * (i + 1) * (np.arange(3) + 1)), rtol=1e-14)


def test_bad_fixture_arguments_are_refused() -> None:
    for call in (
        lambda: fx.small_fixture(-1),
        lambda: fx.small_fixture(2**64),
        lambda: fx.small_fixture(1.5),
        lambda: fx.coupled_fixture(-1, 2, 3, seed=1, coupling=0.5, border="dense"),
        lambda: fx.coupled_fixture(4, 2, 3, seed=1, coupling=float("nan"), border="dense"),
        lambda: fx.coupled_fixture(4, 2, 3, seed=1, coupling=0.5, border="round"),
        lambda: fx.shape_fixture((6, 5, 3, 0), 1),
    ):
        with pytest.raises(asn.InvalidArgument):
            call()


def test_fixtures_are_the_same_every_time() -> None:
    one, other = (fx.coupled_fixture(9, 2, 30, seed=7, coupling=0.9, border="dense").system() for _ in range(2))
    assert one.fingerprint() == other.fingerprint()
    assert np.array_equal(whole(asn.newton_step(one)), whole(asn.newton_step(other)))
