"""The yardsticks themselves: check values of the fixtures, and the reference solver against published numbers."""

from __future__ import annotations

import numpy as np
import pytest
import reference
import systems
from systems import BARELY, EVID, HAND, MIXED, PIVOTS, Stream

# HAND: quantities at ridges (0, 0) and (0.5, 0.25), with the number of digits that are published.
GOLDEN_HAND = {
    "delta_t": (
        [-0.22232254625022281, 0.69103271693438463, -0.044488038871991142, -0.16072822860316876],
        [-0.16499271629553287, 0.51473075930699671, 0.0018136430061633355, -0.14043199730345905],
    ),
    "delta_beta": (
        [-0.13832230344238978, 0.080452832548268208, -0.23632358488306042],
        [-0.13836535846164008, 0.083051028314986483, -0.16973920050431533],
    ),
    "log_det": (7.7853591864090692, 8.8810786565430111),
    "slope": (-1.1492477677311638, -0.92533019892911042),
    "damped": (0.57462388386558191, 0.46266509946455521),
    "bare": (0.57462388386558191, 0.54749552624756711),
    "norm_inf": (8.75, 9.0),
    "r": (
        [-0.701487414187643, 0.345881006864989, -0.67837528604119],
        [-0.743572603866722, 0.38482106129165, -0.58628136569313],
    ),
    "schur_0": (
        [5.41041189931, 0.578832951945, -0.00137299771167],
        [5.73578259975, 0.569775812423, -0.0161456190868],
    ),
    "latent_diagonal": (
        [0.380114850541222, 0.620373201323831, 0.8546770757329, 0.265691862242692],
        [0.315246181270405, 0.463664624743176, 0.588996498321135, 0.23314885444602],
    ),
}
HAND_RIDGES = ((0.0, 0.0), (0.5, 0.25))


def test_stream_has_the_published_first_outputs() -> None:
    assert [hex(word) for word in Stream(0).words(2)] == ["0xe220a8397b1dcdaf", "0x6e789e6aa1b965f4"]
    assert Stream(1).draws(2).tolist() == [0.1331231503445618, 0.49156351452540226]


@pytest.mark.parametrize(
    ("seed", "words", "draw"),
    [
        (0x10170003D3A15EED, ["2b004ea85dc22cd3", "6074e57e0b376353", "ba80f91f89385cab"], -0.6640531232737732),
        (0x1017C0102A125EED, ["466875fd34ada1f8", "9b42d95b70c491f8", "38d3e9db051f1089"], -0.44993710647999574),
    ],
)
def test_stream_has_the_published_outputs_of_the_shape_fixtures(seed: int, words: list[str], draw: float) -> None:
    assert [format(word, "x") for word in Stream(seed).words(3)] == words
    assert Stream(seed).draws(1)[0] == draw


def test_stream_continues_where_it_stopped() -> None:
    whole, pieces = Stream(7).draws(12), Stream(7)
    assert np.concatenate([pieces.draws(5), pieces.draws(0), pieces.draws(7)]).tolist() == whole.tolist()


def test_ls_has_the_published_check_values() -> None:
    parts = systems.ls(40, 3, 17, 1)
    assert parts.blocks[0][0, 0] == pytest.approx(1.0535318709712849, rel=1e-15)
    assert parts.h_tb[0, 0] == pytest.approx(-0.056609565362456503, rel=1e-14)


@pytest.mark.parametrize(
    ("shape", "condition"), [((40, 3, 17, 1), 8.5e2), ((300, 2, 64, 3), 5.0e3), ((64, 4, 200, 4), 3.9e3)]
)
def test_ls_has_the_published_conditions(shape: tuple[int, int, int, int], condition: float) -> None:
    h, _ = reference.dense(systems.ls(*shape))
    assert np.linalg.cond(h) == pytest.approx(condition, rel=0.02)


def test_schur_complement_of_ls_64_4_200_has_the_published_condition() -> None:
    assert np.linalg.cond(reference.direct(systems.ls(64, 4, 200, 4)).schur) == pytest.approx(2.0e2, rel=0.05)


def test_collapse_and_mixed_have_the_published_schur_complements() -> None:
    for h_bb, schur in ((1.0, -99.0), (1000.0, 900.0)):
        parts = systems.collapse(h_bb)
        s = parts.h_bb - sum(np.outer(b, b) / a[0, 0] for a, b in zip(parts.blocks, parts.h_tb, strict=True))
        np.testing.assert_allclose(s, schur * np.eye(2), rtol=1e-14)
    s = MIXED.h_bb - sum(np.outer(b, b) / a[0, 0] for a, b in zip(MIXED.blocks, MIXED.h_tb, strict=True))
    np.testing.assert_allclose(s, np.diag([5.0, -99.0]), rtol=1e-14)


def test_evid_has_the_published_log_determinant() -> None:
    assert reference.exact_log_det(reference.dense(EVID)[0]) == pytest.approx(-37.2377057534873598, rel=1e-15)


def test_pivots_has_unit_pivots_and_the_published_condition() -> None:
    (block,) = PIVOTS.blocks
    assert np.diagonal(np.linalg.cholesky(block)).tolist() == [1.0] * 16
    assert np.linalg.cond(block) == pytest.approx(4.2e10, rel=0.02)
    scale = np.sqrt(np.diagonal(block))
    equilibrated = block / np.outer(scale, scale)
    assert np.linalg.norm(equilibrated, 1) * np.linalg.norm(np.linalg.inv(equilibrated), 1) == pytest.approx(
        8.7e9, rel=0.02
    )


def test_barely_has_a_tiny_second_pivot() -> None:
    (block,) = BARELY.blocks
    assert np.linalg.cholesky(block)[1, 1] == 2.0**-23


@pytest.mark.parametrize("column", [0, 1])
def test_reference_reproduces_hand(column: int) -> None:
    ridge_t, ridge_beta = HAND_RIDGES[column]
    h, g = reference.dense(HAND, ridge_t, ridge_beta)
    bare, _ = reference.dense(HAND)
    x = reference.exact_solve(h, -g)

    np.testing.assert_allclose(x[:4], GOLDEN_HAND["delta_t"][column], rtol=1e-14)
    np.testing.assert_allclose(x[4:], GOLDEN_HAND["delta_beta"][column], rtol=1e-14)
    assert reference.exact_log_det(h) == pytest.approx(GOLDEN_HAND["log_det"][column], rel=1e-15)
    assert g @ x == pytest.approx(GOLDEN_HAND["slope"][column], rel=1e-14)
    assert -(g @ x + x @ h @ x / 2) == pytest.approx(GOLDEN_HAND["damped"][column], rel=1e-13)
    assert -(g @ x + x @ bare @ x / 2) == pytest.approx(GOLDEN_HAND["bare"][column], rel=1e-13)
    assert reference.norm_inf(h) == GOLDEN_HAND["norm_inf"][column]
    np.testing.assert_allclose(
        np.diagonal(reference.exact_inverse(h))[:4], GOLDEN_HAND["latent_diagonal"][column], rtol=1e-12
    )


@pytest.mark.parametrize("column", [0, 1])
def test_literal_direct_arithmetic_reproduces_hand(column: int) -> None:
    left = reference.direct(HAND, *HAND_RIDGES[column])

    np.testing.assert_allclose(left.rhs, GOLDEN_HAND["r"][column], rtol=1e-12)
    np.testing.assert_allclose(left.schur[0], GOLDEN_HAND["schur_0"][column], rtol=1e-10)
    np.testing.assert_allclose(left.delta_t, GOLDEN_HAND["delta_t"][column], rtol=1e-12)
    np.testing.assert_allclose(left.delta_beta, GOLDEN_HAND["delta_beta"][column], rtol=1e-13)
    assert left.log_det == pytest.approx(GOLDEN_HAND["log_det"][column], rel=1e-14)


def test_long_double_and_exact_references_agree() -> None:
    h, g = reference.dense(systems.ragged(5, dims=(1, 0, 2), k=3))
    np.testing.assert_allclose(reference.solve(h, -g), reference.exact_solve(h, -g), rtol=1e-15)
    assert reference.log_det(h) == pytest.approx(reference.exact_log_det(h), rel=1e-15)


def test_lift_formula_reproduces_the_published_row_ridges() -> None:
    for last, ridges in ((-0.3, (1.66337, 1.74372)), (0.0, (1.06337, 1.14372)), (1e-9, (1.06337, 1.14372))):
        lifted = reference.relative_row_ridges(systems.rows_of_t89(last), [5, 17])
        np.testing.assert_allclose(lifted[[5, 17]], ridges, rtol=1e-5)
    assert reference.relative_row_ridges(BARELY, [0])[0] == pytest.approx(0.9, abs=1e-12)


@pytest.mark.parametrize("form", systems.FORMS)
def test_random_systems_are_well_conditioned(form: str) -> None:
    parts = systems.random_parts([3, 0, 1, 6, 2], 9, form, 3)
    h, _ = reference.dense(parts)
    assert np.array_equal(h, h.T)
    assert np.linalg.cond(h) < 1e5
