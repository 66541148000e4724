"""The examples, as they are installed beside the package: their mathematics, their results, and what they report."""

from __future__ import annotations

import importlib
import itertools
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import arrowschur_native as asn

NAMES = ("sleepstudy", "bundle_adjustment", "linear_autoencoder")

# The least cost of the shipped bundle adjustment problem, found with tighter tolerances than the example's.
STREET_OPTIMUM = 1378.1265


def example(name: str) -> ModuleType:
    return importlib.import_module(f"arrowschur_native._examples.{name}")


def collect(name: str) -> dict[str, str]:
    """Run a demonstration; its single block as {row name: text}."""
    blocks: list[tuple[str, list[tuple[str, str]]]] = []
    example(name).demo(lambda title, rows: blocks.append((title, rows)))
    ((title, rows),) = blocks
    assert title
    return dict(rows)


def first_number(text: str) -> float:
    """The first word of a text that is a number."""
    for word in text.replace(",", " ").split():
        try:
            return float(word)
        except ValueError:
            continue
    raise AssertionError(f"no number in {text!r}")


def central(function: Any, x: np.ndarray, h: float) -> np.ndarray:
    """Derivatives by the last axis of x; a trailing axis is added to the function's value."""
    unit = h * np.eye(x.shape[-1])
    return np.stack([(function(x + e) - function(x - e)) / (2 * h) for e in unit], axis=-1)


# ---- crossed mixed model --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("theta", [(0.3, 0.5, 0.1), (0.0, 0.4, 0.2), (1.5, 0.0, 0.0)])
def test_crossed_model_equals_its_marginal_likelihood(theta: tuple[float, float, float]) -> None:
    model = example("mixed_model")
    rng = np.random.default_rng(3)
    codes = [rng.integers(0, size, 300) for size in (40, 15, 6)]
    for code, size in zip(codes, (40, 15, 6), strict=True):
        code[:size] = np.arange(size)
    y = 3 + rng.normal(size=300)
    at = model.Ratings(y, *codes).evaluate(np.array(theta))

    v = np.eye(300)  # covariance of all observations over s^2
    for code, t in zip(codes, theta, strict=True):
        v += t**2 * (code[:, None] == code)
    solved = np.linalg.solve(v, np.column_stack([np.ones(300), y]))
    xvx = float(np.ones(300) @ solved[:, 0])
    beta = float(np.ones(300) @ solved[:, 1]) / xvx
    r2 = float((y - beta) @ (solved[:, 1] - beta * solved[:, 0]))
    log_v = np.linalg.slogdet(v)[1]
    assert at.ml == pytest.approx(log_v + 300 * (1 + np.log(2 * np.pi * r2 / 300)), rel=1e-11)
    assert at.reml == pytest.approx(log_v + np.log(xvx) + 299 * (1 + np.log(2 * np.pi * r2 / 299)), rel=1e-11)
    assert at.beta[0] == pytest.approx(beta, rel=1e-10)


def test_crossed_model_finds_what_was_simulated() -> None:
    pytest.importorskip("scipy")
    model = example("mixed_model")
    theta, at, evaluations = model.fit(model.simulate(observations=6000), "reml", np.array([0.3, 0.3, 0.3]))
    assert evaluations < 300
    assert abs(at.sigma - 1.2) < 0.05
    np.testing.assert_allclose(theta[:2], [0.25, 0.4], atol=0.08)


# ---- sweep -----------------------------------------------------------------------------------------------------------


def test_sweep_prints_its_table_and_says_whether_it_could_plot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = example("sweep")
    small = sweep.workspaces
    monkeypatch.setattr(sweep, "workspaces", lambda: small(20, 2, 30))
    blocks: list[tuple[str, list[tuple[str, str]]]] = []
    path = tmp_path / "sweep.png"
    sweep.demo(lambda title, rows: blocks.append((title, rows)), path)
    ((title, rows),) = blocks
    assert title
    table = dict(rows)
    fits = [table[f"fit {i}"].split() for i in range(12)]
    assert all(fit[0] == "converged" and fit[-1] == "cpu" and int(fit[1]) > 1 for fit in fits)
    assert len({fit[3] for fit in fits}) == 12
    assert table["bits"] == "every run equals the sequential one"
    assert first_number(table["1 worker(s)"]) > 0
    assert path.exists() != ("pip install matplotlib" in table["plot"])


def test_sweep_without_matplotlib_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = example("sweep")
    small = sweep.workspaces
    monkeypatch.setattr(sweep, "workspaces", lambda: small(5, 2, 6))
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    rows: list[tuple[str, str]] = []
    sweep.demo(lambda title, found: rows.extend(found), tmp_path / "sweep.png")
    assert "pip install matplotlib" in dict(rows)["plot"]
    assert not list(tmp_path.iterdir())


# ---- sparse dictionary ----------------------------------------------------------------------------------------------
def test_the_dictionary_explains_more_than_components_of_its_width(tmp_path: Path) -> None:
    sparse_dictionary = example("sparse_dictionary")
    rows: list[tuple[str, str]] = []
    pytest.importorskip("sklearn", reason="the comparison in the example needs scikit-learn")
    sparse_dictionary.demo(lambda title, found: rows.extend(found), tmp_path / "dictionary.png", tmp_path / "sae")
    told = dict(rows)
    held_out = {name: first_number(told[name]) for name in told if told[name].startswith("EV ")}
    assert held_out["dictionary, omp"] > held_out["dictionary, topk"] > held_out["principal components"]
    assert held_out["dictionary, omp"] > held_out["scikit-learn"] - 0.01
    assert "the same atoms in 300 of 300 rows" in told["autoencoder"]
    assert (tmp_path / "dictionary.png").stat().st_size > 10_000
    assert (tmp_path / "sae" / "cfg.json").is_file()


# ---- every demonstration ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_demo_reports_shape_route_times_and_accuracy(name: str) -> None:
    rows = collect(name)

    assert rows["shape"].startswith("n = ")
    assert rows["route"] == "direct"
    assert {"factor_rows", "reduce", "factor_border", "expand"} <= set(rows["seconds per stage"].split())
    assert first_number(rows["backward error"]) < 1e-13
    assert first_number(rows["dense solve"]) < 1e-8


@pytest.mark.parametrize("name", NAMES)
def test_script_runs_by_itself(name: str, tmp_path: Path) -> None:
    script = Path(str(example(name).__file__))

    run = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, timeout=120)

    assert run.returncode == 0, run.stderr
    assert "backward error" in run.stdout
    assert not run.stderr


def test_data_stays_small() -> None:
    folder = Path(str(example("sleepstudy").__file__)).parent

    total = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file() and "__pycache__" not in f.parts)

    assert total <= 4 * 2**20


# ---- mixed model -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mixed() -> Any:
    return example("sleepstudy").load()


@pytest.fixture(scope="module")
def reml(mixed: Any) -> Any:
    return mixed.fit()


def test_reml_reaches_the_published_estimates(reml: Any) -> None:
    theta, fit, evaluations = reml
    sd = np.sqrt(np.diagonal(fit.covariance))

    assert fit.criterion == pytest.approx(1743.628, abs=5e-4)
    # lme4 stops 1e-5 from the optimum in theta, where the criterion is flat to 1e-9: hence the wider interval.
    assert sd[0] == pytest.approx(24.741, abs=1e-3)
    assert sd[1] == pytest.approx(5.922, abs=5e-4)
    assert fit.covariance[0, 1] / (sd[0] * sd[1]) == pytest.approx(0.066, abs=5e-4)
    assert fit.sigma == pytest.approx(25.592, abs=5e-4)
    assert fit.beta == pytest.approx([251.405, 10.467], abs=5e-4)
    assert fit.beta_sd == pytest.approx([6.825, 1.546], abs=5e-4)
    assert np.linalg.norm(fit.gradient) < 1e-4
    assert evaluations < 60
    assert theta == pytest.approx([0.96673, 0.01517, 0.23091], abs=2e-5)


@pytest.mark.parametrize(
    "theta", [(1.0, 0.0, 1.0), (0.5, 0.3, 0.2), (0.0, 0.0, 0.4), (0.7, -0.2, 0.0), (0.0, 0.0, 0.0)]
)
def test_criterion_equals_that_of_the_marginal_model(mixed: Any, theta: tuple[float, ...]) -> None:
    at = mixed.evaluate(np.array(theta))

    criterion, beta = mixed.dense_criterion(np.array(theta))

    assert at.criterion == pytest.approx(criterion, rel=1e-12)
    assert at.beta == pytest.approx(beta, rel=1e-10)


@pytest.mark.parametrize("theta", [(1.0, 0.0, 1.0), (0.5, 0.3, 0.2), (0.967, 0.015, 0.231), (1.5, -0.4, 0.1)])
def test_gradient_of_the_criterion(mixed: Any, theta: tuple[float, ...]) -> None:
    at = np.array(theta)

    numeric = central(lambda t: np.float64(mixed.evaluate(t).criterion), at, 1e-5)

    np.testing.assert_allclose(mixed.evaluate(at).gradient, numeric, rtol=1e-6, atol=1e-6)


def test_subject_effects_are_the_conditional_means(mixed: Any) -> None:
    theta = np.array([0.967, 0.015, 0.231])
    at = mixed.evaluate(theta)

    # b_i = G Z_i' V_i^-1 (y_i - X_i beta), G = L L' (both covariances over the residual variance).
    root = np.array([[theta[0], 0.0], [theta[1], theta[2]]])
    for z, y, effect in zip(mixed.z, mixed.y, at.effects, strict=True):
        v = np.eye(len(y)) + z @ root @ root.T @ z.T
        expected = root @ root.T @ z.T @ np.linalg.solve(v, y - z @ at.beta)
        np.testing.assert_allclose(effect, expected, rtol=1e-9, atol=1e-9)


def test_mixed_model_without_scipy_is_evaluated_at_the_published_optimum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)

    rows = collect("sleepstudy")

    assert "pip install scipy" in rows["optimiser"]
    assert first_number(rows["REML criterion"]) == pytest.approx(1743.628, abs=1e-3)


# ---- bundle adjustment -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ba() -> Any:
    return example("bundle_adjustment")


@pytest.fixture(scope="module")
def street(ba: Any) -> Any:
    return ba.read_bal(ba.DATA)


@pytest.fixture(scope="module")
def adjusted(ba: Any, street: Any) -> Any:
    return ba.levenberg_marquardt(street)


def some_views(angle: float, m: int = 25) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    axis = rng.standard_normal((m, 3))
    w = angle * axis / np.linalg.norm(axis, axis=1, keepdims=True)
    lens = np.stack([rng.uniform(300, 900, m), rng.uniform(-0.1, 0.1, m), rng.uniform(-0.02, 0.02, m)], axis=1)
    depth = rng.uniform(3, 9, m) * rng.choice([-1, 1], m)  # some points lie behind their camera
    p = np.concatenate([rng.uniform(-2, 2, (m, 2)), depth[:, None]], axis=1)
    t = rng.standard_normal((m, 3))
    return np.concatenate([w, t, lens], axis=1), rotation(w).transpose(0, 2, 1) @ (p - t)[:, :, None]


def rotation(w: np.ndarray) -> np.ndarray:
    """exp of the cross-product matrices by squaring: independent of Rodrigues' formula."""
    a = np.zeros((len(w), 3, 3))
    a[:, 0, 1], a[:, 0, 2], a[:, 1, 2] = -w[:, 2], w[:, 1], -w[:, 0]
    a = (a - a.transpose(0, 2, 1)) / 2**8
    r = term = np.broadcast_to(np.eye(3), a.shape)
    for j in range(1, 8):
        term = term @ a / j
        r = r + term
    for _ in range(8):
        r = r @ r
    return r


# Both branches of the rotation's derivative, their border |w|^2 = 1/4, and the origin.
ANGLES = [0.0, 1e-12, 1e-5, 0.03, 0.4999, 0.5001, 1.3, 3.1, 6.5]


@pytest.mark.parametrize("angle", ANGLES)
def test_projection_follows_the_camera_model(ba: Any, angle: float) -> None:
    camera, point = some_views(angle)

    (pixel,) = ba.project(camera, point[:, :, 0])

    x, y, z = (rotation(camera[:, :3]) @ point)[:, :, 0].T + camera[:, 3:6].T
    u, v = -x / z, -y / z
    f, k1, k2 = camera[:, 6:].T
    factor = f * (1 + k1 * (u**2 + v**2) + k2 * (u**2 + v**2) ** 2)
    np.testing.assert_allclose(pixel, np.stack([factor * u, factor * v], axis=1), rtol=1e-11, atol=1e-10)


@pytest.mark.parametrize("angle", ANGLES)
def test_jacobians_equal_central_differences(ba: Any, angle: float) -> None:
    camera, point = some_views(angle)
    point = point[:, :, 0]
    pixel, by_camera, by_point = ba.project(camera, point, jacobian=True)

    np.testing.assert_array_equal(pixel, ba.project(camera, point)[0])
    numeric = central(lambda c: ba.project(c, point)[0], camera, 1e-5)
    np.testing.assert_allclose(by_camera, numeric, rtol=1e-6, atol=1e-6 * np.abs(numeric).max())
    numeric = central(lambda x: ba.project(camera, x)[0], point, 1e-5)
    np.testing.assert_allclose(by_point, numeric, rtol=1e-6, atol=1e-6 * np.abs(numeric).max())


@pytest.mark.parametrize("suffix", [".txt", ".txt.bz2"])
def test_bal_files_round_trip_exactly(ba: Any, street: Any, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"copy{suffix}"

    ba.write_bal(path, street)
    again = ba.read_bal(path)

    for part in ("camera", "point", "pixel", "cameras", "points"):
        np.testing.assert_array_equal(getattr(again, part), getattr(street, part), err_msg=part)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 1 1\n0 0 1.5 2.5\n" + "0\n" * 11, "15 numbers|need 19"),
        ("1 1 1\n0 1 1.5 2.5\n" + "0\n" * 12, "point indices"),
        ("1 1 1\n-1 0 1.5 2.5\n" + "0\n" * 12, "camera indices"),
    ],
)
def test_malformed_bal_files_are_refused(ba: Any, tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.txt"
    path.write_text(text)

    with pytest.raises(ValueError, match=message):
        ba.read_bal(path)


def test_linearization_is_the_normal_matrix_of_the_jacobian(ba: Any, street: Any) -> None:
    keep = street.point < 12
    keep[np.flatnonzero(keep)[0]] = False
    camera, point, pixel = street.camera[keep], street.point[keep], street.pixel[keep]
    # A camera that sees a point twice: both observations share a block.
    part = replace(
        street,
        camera=np.append(camera, camera[3]),
        point=np.append(point, point[3]),
        pixel=np.concatenate([pixel, pixel[3:4] + 0.25]),
        points=street.points[:12],
    )

    h, g = ba.Linearizer(part).at(part).system.to_dense()

    value, by_camera, by_point = ba.project(part.cameras[part.camera], part.points[part.point], jacobian=True)
    jacobian = np.zeros((len(part.pixel), 2, len(g)))
    for i, (c, j) in enumerate(zip(part.camera, part.point, strict=True)):
        jacobian[i, :, 3 * j : 3 * j + 3] = by_point[i]
        jacobian[i, :, 36 + 9 * c : 45 + 9 * c] = by_camera[i]
    jacobian = jacobian.reshape(-1, len(g))
    np.testing.assert_allclose(h, jacobian.T @ jacobian, rtol=1e-12, atol=1e-12 * np.abs(h).max())
    expected = jacobian.T @ (value - part.pixel).ravel()
    np.testing.assert_allclose(g, expected, rtol=1e-12, atol=1e-12 * np.abs(g).max())


def test_street_reaches_its_optimum(ba: Any, street: Any, adjusted: Any) -> None:
    end, history = adjusted
    costs = [ba.cost(street)] + [iteration.cost for iteration in history]

    assert all(after <= before for before, after in itertools.pairwise(costs))
    assert ba.cost(end) == costs[-1] == pytest.approx(STREET_OPTIMUM, rel=1e-6)
    assert len(history) <= 12
    assert all(0.9 < iteration.gain < 1.1 for iteration in history)
    linear = ba.Linearizer(end).at(end)
    scaled = linear.system.g_t / np.sqrt(linear.scale_t)
    assert np.abs(scaled).max() < 1e-3


def test_street_residuals_have_the_noise_they_were_made_with(ba: Any, street: Any, adjusted: Any) -> None:
    freedom = 2 * len(street.pixel) - (3 * len(street.points) + 9 * len(street.cameras) - 7)

    sigma = np.sqrt(2 * adjusted[1][-1].cost / freedom)

    assert abs(sigma - 0.5) < 4 * 0.5 / np.sqrt(2 * freedom)


def test_street_lens_distortion_is_found_from_zero(street: Any, adjusted: Any) -> None:
    assert np.all(street.cameras[:, 7:] == 0.0)
    np.testing.assert_allclose(np.median(adjusted[0].cameras[:, 7:], axis=0), [-0.06, 0.008], atol=2e-3)


def test_bad_starts_are_rejected_and_damped(ba: Any, street: Any) -> None:
    """A step that increases the cost is not taken, and the damping rises until one decreases it."""
    shaken = replace(street, points=street.points + 2.0 * np.random.default_rng(3).standard_normal(street.points.shape))

    end, history = ba.levenberg_marquardt(shaken, damping=1e-8, max_iterations=25)

    costs = [ba.cost(shaken)] + [iteration.cost for iteration in history]
    assert any(not iteration.accepted for iteration in history)
    assert all(after <= before for before, after in itertools.pairwise(costs))
    assert ba.cost(end) < 0.1 * costs[0]
    for before, after in itertools.pairwise(history):
        if not before.accepted:
            assert after.damping >= 2 * before.damping


def test_a_step_that_cannot_be_solved_raises_the_damping(ba: Any, street: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    solve, failures = asn.newton_step, iter([True, True])

    def fails_twice(*args: Any, **kwargs: Any) -> asn.NewtonStep:
        if next(failures, False):
            raise np.linalg.LinAlgError("not positive definite")
        return solve(*args, **kwargs)

    monkeypatch.setattr(asn, "newton_step", fails_twice)
    _, history = ba.levenberg_marquardt(street, max_iterations=3)

    assert [(i.accepted, i.damping, i.step is None) for i in history] == [
        (False, 1e-4, True),
        (False, 2e-4, True),
        (True, 8e-4, False),
    ]
    assert history[0].cost == history[1].cost == ba.cost(street) > history[2].cost


def test_generator_reproduces_the_shipped_problem(ba: Any, street: Any, tmp_path: Path) -> None:
    script = Path(str(ba.__file__)).parent / "data" / "make_ba_synthetic.py"
    path = tmp_path / "again.txt.bz2"

    subprocess.run([sys.executable, script, path], check=True, capture_output=True, timeout=120)

    again = ba.read_bal(path)
    np.testing.assert_array_equal(again.camera, street.camera)
    np.testing.assert_array_equal(again.point, street.point)
    np.testing.assert_allclose(again.pixel, street.pixel, atol=0.011)
    np.testing.assert_allclose(again.cameras, street.cameras, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(again.points, street.points, rtol=1e-6, atol=1e-6)


# ---- linear autoencoder ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def autoencoder() -> Any:
    return example("linear_autoencoder")


def test_activations_are_real_and_centred(autoencoder: Any) -> None:
    x = autoencoder.load()

    assert x.shape == (1500, 384)
    assert np.abs(x.mean(axis=0)).max() < 1e-12
    # Past a LayerNorm the centred rows obey one linear constraint, up to the rounding of float16.
    singular = np.linalg.svd(x, compute_uv=False)
    assert singular[-1] < 0.05 * singular[-2]


def test_autoencoder_system_is_that_of_its_residual(autoencoder: Any) -> None:
    rng = np.random.default_rng(11)
    n, p = 4, 5
    x = rng.standard_normal((n, p))
    model = autoencoder.Model(rng.standard_normal((n, 2)), rng.standard_normal((p, 2)))

    h, g = autoencoder.system_at(x, model).to_dense()

    def residual(unknowns: np.ndarray) -> np.ndarray:
        codes, decoder = unknowns[: 2 * n].reshape(n, 2), unknowns[2 * n :].reshape(p, 2)
        return autoencoder.Model(codes, decoder).residual(x).ravel()

    at = np.concatenate([model.codes.ravel(), model.decoder.ravel()])
    jacobian = central(residual, at, 1e-4)  # the residual is quadratic: central differences are exact to rounding
    np.testing.assert_allclose(h, jacobian.T @ jacobian, atol=1e-10)
    np.testing.assert_allclose(g, jacobian.T @ residual(at), atol=1e-10)


def test_autoencoder_true_decrease_is_the_predicted_less_the_bilinear_term(autoencoder: Any) -> None:
    x = autoencoder.load()
    model = autoencoder.start(x)
    system, ridges = autoencoder.system_at(x, model), autoencoder.ridges(model)
    step = asn.newton_step(system, **ridges)
    predicted = asn.model_reduction(system, step.delta_t, step.delta_beta, **ridges)

    true = model.objective(x) - model.moved(step).objective(x)

    # D t - x moves by  l = dD t + D dt  in the model, and by  l + c,  c = dD dt, in truth.
    d_decoder = step.delta_beta.reshape(model.decoder.shape)
    linear = model.residual(x) + model.codes @ d_decoder.T + step.delta_t @ model.decoder.T
    bilinear = step.delta_t @ d_decoder.T
    left_out = float(np.sum(linear * bilinear) + 0.5 * np.sum(bilinear**2))
    assert true == pytest.approx(predicted - left_out, rel=1e-9)
    assert 0.25 * predicted < true < predicted


def test_autoencoder_never_beats_the_singular_values(autoencoder: Any) -> None:
    x = autoencoder.load()
    model = autoencoder.start(x)
    best = 0.5 * float(np.sum(np.linalg.svd(x, compute_uv=False)[2:] ** 2))
    values = [model.objective(x)]

    for _ in range(12):
        model = model.moved(asn.newton_step(autoencoder.system_at(x, model), **autoencoder.ridges(model)))
        values.append(model.objective(x))

    assert min(values) >= best
    assert values[-1] < best + 0.1 * (values[0] - best)
