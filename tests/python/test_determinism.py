"""T28 and section 20: the same bits for every number of threads, and from many threads at once."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import systems
from systems import Parts
from test_newton import whole

import arrowschur_native as asn

# T28's own system; above the work limit where row stages go parallel, thin and wide; ragged; long and narrow.
SYSTEMS: dict[str, Callable[[], Parts]] = {
    "t28": lambda: systems.random_parts([6] * 320, 96, "dense", 1),
    "thin": lambda: systems.random_parts([6] * 1000, 96, "dense", 2),
    "wide": lambda: systems.random_parts([3] * 400, 700, "dense", 3),
    "ragged": lambda: systems.random_parts([1, 5, 2, 0, 17, 3] * 150, 96, "dense", 4),
    "narrow": lambda: systems.random_parts([1] * 9000, 33, "banded", 5),
}


@pytest.fixture(scope="module", params=list(SYSTEMS))
def system(request: pytest.FixtureRequest) -> asn.ArrowSystem:
    return SYSTEMS[request.param]().system()


def everything(system: asn.ArrowSystem, options: asn.SolveOptions) -> list[np.ndarray]:
    """Bits of every stage: step, certificate, S x, H x, expansion, solves, determinants, marginals, adjoints."""
    t, k = system.total_dim, system.k
    rng = np.random.default_rng(0)
    x_t, x_beta = rng.normal(size=t), rng.normal(size=k)
    step = asn.newton_step(system, ridge_t=0.25, options=options)
    factor = asn.factorize(system, ridge_t=0.25, options=options)
    results: list[Any] = [
        step.delta_t, step.delta_beta, step.diagnostics.backward_error, step.diagnostics.kappa_schur,
        factor.schur_apply(x_beta), *system.apply(x_t, x_beta), factor.predict(x_beta, x_t),
        *factor.solve(x_t, x_beta), *factor.solve(rng.normal(size=(t, 5)), rng.normal(size=(k, 5))),
        factor.log_det(), *factor.log_det_parts(set="evidence"), factor.latent_inverse_diagonal(),
        factor.border_inverse_diagonal(), factor.log_det_vjp().ridge_t, *factor.sample(2, 5),
        system.gradient_norm(), system.fingerprint() % 2**53,
    ]  # fmt: skip
    return [np.asarray(result, dtype=float) for result in results]


def differences(one: list[np.ndarray], other: list[np.ndarray]) -> list[int]:
    return [i for i, (a, b) in enumerate(zip(one, other, strict=True)) if not np.array_equal(a, b)]


def test_t28_any_number_of_threads_gives_the_same_bits(system: asn.ArrowSystem) -> None:
    results = {}
    for threads in (1, 2, 3, 4):
        asn.set_num_threads(threads)
        results[threads] = everything(system, asn.SolveOptions())
    for threads in (2, 3, 4):
        assert differences(results[1], results[threads]) == []


def test_the_option_has_the_bits_of_the_setting(system: asn.ArrowSystem) -> None:
    one = whole(asn.newton_step(system, options=asn.SolveOptions(num_threads=1)))
    two = whole(asn.newton_step(system, options=asn.SolveOptions(num_threads=2)))
    assert np.array_equal(one, two)


def test_t28_solves_inside_other_threads_have_the_same_bits(system: asn.ArrowSystem) -> None:
    alone = everything(system, asn.SolveOptions())
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: everything(system, asn.SolveOptions()), range(6)))
    for result in results:
        assert differences(alone, result) == []


def test_many_threads_solve_many_systems() -> None:
    parts = [systems.random_parts([1 + i % 4] * (3 + i), 1 + i % 9, systems.FORMS[i % 7], i) for i in range(40)]
    made = [p.system() for p in parts]
    expected = [whole(asn.newton_step(s)) for s in made]

    def work(i: int) -> np.ndarray:
        return whole(asn.newton_step(made[i % 40]))

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for i, got in enumerate(pool.map(work, range(400))):
            assert np.array_equal(got, expected[i % 40])


def test_one_factor_serves_many_threads() -> None:
    parts = systems.ls(64, 4, 200, 4)
    factor = asn.factorize(parts.system(), ridge_t=0.5)
    rng = np.random.default_rng(0)
    rhs = [(rng.normal(size=(256, m)), rng.normal(size=(200, m))) for m in (1, 2, 5, 33) for _ in range(5)]
    fresh = asn.factorize(parts.system(), ridge_t=0.5)
    expected = [fresh.solve(*w) for w in rhs]

    def work(i: int) -> tuple[Any, ...]:
        # The evidence set is built by whoever comes first.
        return (*factor.solve(*rhs[i % 20]), factor.log_det(set="evidence"), factor.fingerprint)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for i, (x_t, x_beta, log_det, fingerprint) in enumerate(pool.map(work, range(100))):
            assert np.array_equal(x_t, expected[i % 20][0])
            assert np.array_equal(x_beta, expected[i % 20][1])
            assert log_det == fresh.log_det(set="evidence")
            assert fingerprint == fresh.fingerprint


def test_errors_in_many_threads_reach_their_own_caller() -> None:
    bad, good = systems.collapse(1.0).system(), systems.collapse(1000.0).system()

    def work(i: int) -> str:
        try:
            asn.newton_step(bad if i % 2 else good)
        except asn.SchurFactorError as error:
            return error.kind
        return "solved"

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for i, outcome in enumerate(pool.map(work, range(200))):
            assert outcome == ("non_pd" if i % 2 else "solved")


def test_the_gil_is_released_while_a_solve_runs() -> None:
    fixture = asn.fixtures.coupled_fixture(600, 8, 1000, seed=1, coupling=0.5, border="dense")
    system = fixture.system()
    ticks = 0
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        future = pool.submit(lambda: [asn.newton_step(system) for _ in range(3)])
        while not future.done():
            ticks += 1
    assert len(future.result()) == 3
    # With the GIL held for the whole of a call this loop would run between calls only.
    assert ticks > 100
