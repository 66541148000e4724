"""Sweeps: the bits of the sequential run, failures, progress, throughput.

`test_td_NN` is test T-D-NN of the specification, as far as it concerns the CPU.
"""

from __future__ import annotations

import pickle
import threading
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from test_loops import caught, indefinite, same_bits, small

import arrowschur_native as asn
from arrowschur_native import fixtures

SEEDS = (0x11, 0x22, 0x33, 0x44, 0x55, 0x66)
PHI = (-0.8729669986, -0.6690840819, -0.8021548983, -0.9000650615, -0.5526835683, -0.9703153165)
SMALL_SHAPE = asn.ResidentShape(n=10, p=6, basis_cols=2, d=2)
# Gives up on the workspace of `indefinite` after three attempts.
IMPATIENT = asn.InnerOptions(max_ridge=1e-5)


def agree(one: Iterable[Any], other: Iterable[Any]) -> bool:
    return all(same_bits(a, b) for a, b in zip(one, other, strict=True))


# ---- T-D-2: the plumbing --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("workers", [None, 1, 2, 8])
@pytest.mark.parametrize("runner", ["cpu_reference", "fit"])
def test_td_02_multiplexed_equals_sequential(runner: str, workers: int | None) -> None:
    sequential = asn.run_fits_sequential(map(small, SEEDS), runner=runner)
    multiplexed = asn.run_fits_multiplexed(map(small, SEEDS), runner=runner, max_concurrent=workers)
    assert agree(multiplexed, sequential)
    alone = [small(seed).cpu_reference_fit() if runner == "cpu_reference" else small(seed).fit() for seed in SEEDS]
    assert agree(multiplexed, alone)
    assert [fit.objective for fit in multiplexed] == pytest.approx(PHI, abs=6e-11)
    for sweep in (sequential, multiplexed):
        t = sweep.throughput
        assert (t.fits, t.succeeded) == (6, 6)
        assert t.wall_seconds > 0
        assert t.fits_per_second == 6 / t.wall_seconds
        assert sweep.build_seconds is None


@pytest.mark.parametrize("workers", [1, 2, 8])
@pytest.mark.parametrize("runner", ["cpu_reference", "fit"])
def test_td_02_one_failure_disturbs_no_other(runner: str, workers: int) -> None:
    workspaces = [small(seed) for seed in SEEDS]
    workspaces.insert(3, indefinite())
    sweep = asn.run_fits_multiplexed(workspaces, IMPATIENT, runner, workers)
    error = sweep[3]
    assert type(error) is asn.InnerLoopError
    assert error.status == "ridge_exhausted"
    assert agree([sweep[i] for i in (0, 1, 2, 4, 5, 6)], asn.run_fits_sequential(map(small, SEEDS), IMPATIENT, runner))
    assert (sweep.throughput.fits, sweep.throughput.succeeded) == (7, 6)
    with pytest.raises(asn.InnerLoopError, match="ridge"):
        raise error


def test_td_02_larger_fits_in_any_number_of_workers() -> None:
    systems = [fixtures.coupled_fixture(300, 2, 150 + 10 * i, seed=i).system() for i in range(7)]
    runs = [
        asn.run_fits_multiplexed([asn.ResidentWorkspace.from_system(s) for s in systems], max_concurrent=workers)
        for workers in (1, 2, 3, None)
    ]
    assert all(agree(run, runs[0]) for run in runs[1:])


def test_an_empty_sweep_is_empty() -> None:
    for run in (asn.run_fits_multiplexed, asn.run_fits_sequential, asn.run_variant_sweep, asn.run_workspace_sweep):
        sweep = run([])
        assert len(sweep) == 0
        assert (sweep.throughput.fits, sweep.throughput.fits_per_second) == (0, 0.0)


@pytest.mark.usefixtures("no_device")
def test_without_a_device_every_fit_says_so() -> None:
    sweep = asn.run_fits_multiplexed(map(small, SEEDS), runner="device")
    assert [type(result) for result in sweep] == [asn.DeviceUnavailableError] * 6
    assert sweep.throughput.succeeded == 0


# ---- T-D-8: parity --------------------------------------------------------------------------------------------------
def test_td_08_battery_parity() -> None:
    variants = fixtures.color_arm_variant_matrix()
    sweep = asn.run_variant_sweep(variants)
    assert all(isinstance(result, asn.InnerFit) and result.converged for result in sweep)
    throughput = asn.check_sweep_parity(variants, None, sweep)
    assert (throughput.fits, throughput.succeeded) == (12, 12)
    assert sweep.build_seconds is not None
    assert sweep.build_seconds > 0


def test_td_08_coupled_parity_and_no_crosstalk() -> None:
    seeds = [variant.seed for variant in fixtures.color_arm_variant_matrix()]

    def workspaces() -> list[asn.ResidentWorkspace]:
        made = (fixtures.coupled_fixture(24, 2, 48, seed, 0.9, "dense") for seed in seeds)
        return [asn.ResidentWorkspace.from_system(fixture.system()) for fixture in made]

    sweep = asn.run_workspace_sweep(workspaces())
    assert agree(sweep, asn.run_fits_sequential(workspaces()))
    assert len({fit.beta.tobytes() for fit in sweep}) == 12
    assert sweep[0].objective == pytest.approx(-6.912568118031, abs=6e-13)
    assert sweep[11].objective == pytest.approx(-5.507429776330, abs=6e-13)


# ---- variants -------------------------------------------------------------------------------------------------------
def test_the_battery_is_the_published_one() -> None:
    variants = fixtures.color_arm_variant_matrix("battery")
    assert (len(variants), len({v.seed for v in variants})) == (12, 12)
    assert (variants[0].seed, variants[-1].seed) == (0x1017004000000104, 0x101700400000040C)
    assert [v.shape.basis_cols for v in variants] == [4, 8, 12] * 4
    assert {(v.shape.n, v.shape.p, v.shape.d) for v in variants} == {(180, 5120, 2)}
    caught(asn.UnsupportedConfiguration, lambda: fixtures.color_arm_variant_matrix("full"))
    assert caught(asn.InvalidArgument, lambda: fixtures.color_arm_variant_matrix("half")).argument == "kind"


def test_variants_of_one_width_share_a_border() -> None:
    variants = [asn.SweepVariant(SMALL_SHAPE.replace(p=p), seed) for p, seed in ((6, 1), (9, 2), (6, 3))]
    first, second, third = (w.to_system() for w in asn.build_sweep_workspaces(variants))
    assert np.shares_memory(first.h_bb, third.h_bb)
    assert second.k == 9
    fixture = fixtures.shape_fixture(variants[2].shape, 3)
    assert np.array_equal(third.h_bb, fixture.h_bb)
    at_zero = asn.build_sweep_workspaces(variants)[2].objective_at_zero
    assert at_zero == pytest.approx(0.5 * float(np.sum(fixture.target**2)), rel=1e-14)


def test_variants_are_checked_and_pickle() -> None:
    variant = asn.SweepVariant(SMALL_SHAPE, 7)
    assert pickle.loads(pickle.dumps(variant)) == variant
    assert variant.replace(seed=8) == asn.SweepVariant(SMALL_SHAPE, 8)
    assert caught(asn.InvalidArgument, lambda: variant.replace(seed=-1)).argument == "seed"
    assert caught(asn.InvalidArgument, lambda: variant.replace(shape=(1, 2, 3, 4))).argument == "shape"
    assert caught(asn.InvalidArgument, lambda: asn.run_variant_sweep([variant, 3])).argument == "variants[1]"
    assert caught(asn.InvalidArgument, lambda: asn.run_variant_sweep(variant)).argument == "variants"


def test_a_sweep_result_prints_and_pickles() -> None:
    sweep = asn.run_fits_multiplexed([small(0x11), indefinite()], IMPATIENT)
    assert "converged" in repr(sweep)
    assert "InnerLoopError" in repr(sweep)
    again = pickle.loads(pickle.dumps(sweep))
    assert repr(again) == repr(sweep)
    assert same_bits(again[0], sweep[0])
    plain = sweep.to_dict()
    assert plain["results"][1]["error"] == "InnerLoopError"
    assert plain["throughput"]["fits_per_second"] == sweep.throughput.fits_per_second


# ---- check_sweep_parity ---------------------------------------------------------------------------------------------
def test_parity_finds_what_differs() -> None:
    variants = [asn.SweepVariant(SMALL_SHAPE, seed) for seed in range(3)]
    sweep = asn.run_variant_sweep(variants)
    error = caught(asn.InvalidArgument, lambda: asn.check_sweep_parity(variants[:2], None, sweep))
    assert error.argument == "multiplexed"

    tampered = list(sweep)
    tampered[1] = pickle.loads(pickle.dumps(sweep[1]))
    tampered[1].beta[2] = np.nextafter(tampered[1].beta[2], 1.0)
    error = caught(asn.ArrowError, lambda: asn.check_sweep_parity(variants, None, tampered))
    assert "fit 1" in str(error)

    failed = [*list(sweep)[:2], RuntimeError("lost")]
    error = caught(asn.ArrowError, lambda: asn.check_sweep_parity(variants, None, failed))
    assert "fit 2" in str(error)
    assert "lost" in str(error)


@pytest.mark.usefixtures("no_device")
def test_two_errors_agree() -> None:
    variants = [asn.SweepVariant(SMALL_SHAPE, seed) for seed in range(2)]
    sweep = asn.run_variant_sweep(variants, runner="device")
    assert asn.check_sweep_parity(variants, None, sweep, runner="device").succeeded == 0


# ---- arguments, progress --------------------------------------------------------------------------------------------
def test_bad_arguments_of_a_sweep_are_named() -> None:
    workspace = small(0x11)
    for call, argument in (
        (lambda: asn.run_fits_multiplexed([workspace, workspace]), "workspaces"),
        (lambda: asn.run_fits_sequential([workspace, workspace]), "workspaces"),
        (lambda: asn.run_fits_multiplexed([workspace, 3]), "workspaces[1]"),
        (lambda: asn.run_fits_multiplexed(workspace), "workspaces"),
        (lambda: asn.run_fits_multiplexed([workspace], asn.SolveOptions()), "options"),
        (lambda: asn.run_fits_multiplexed([workspace], runner="cpu"), "runner"),
        (lambda: asn.run_fits_multiplexed([workspace], max_concurrent=0), "max_concurrent"),
        (lambda: asn.run_fits_multiplexed([workspace], max_concurrent=1.5), "max_concurrent"),
        (lambda: asn.run_fits_multiplexed([workspace], progress=3), "progress"),
    ):
        assert caught(asn.InvalidArgument, call).argument.startswith(argument)


@pytest.mark.parametrize("run", [asn.run_fits_multiplexed, asn.run_fits_sequential])
def test_progress_is_called_on_the_calling_thread(run: Any) -> None:
    calls: list[tuple[int, int, int]] = []
    workspaces = [*map(small, SEEDS), indefinite()]
    run(workspaces, IMPATIENT, progress=lambda done, total: calls.append((done, total, threading.get_ident())))
    assert [call[0] for call in calls] == list(range(1, 8))
    assert {call[1:] for call in calls} == {(7, threading.get_ident())}


@pytest.mark.parametrize("run", [asn.run_fits_multiplexed, asn.run_fits_sequential])
def test_what_progress_raises_ends_the_sweep(run: Any) -> None:
    class StopError(Exception):
        pass

    calls: list[int] = []

    def progress(finished: int, total: int) -> None:
        calls.append(finished)
        if finished == 2:
            raise StopError("enough")

    workspaces = [small(seed) for seed in range(40)]
    with pytest.raises(StopError, match="enough"):
        run(workspaces, progress=progress)
    assert calls == [1, 2]
    assert agree(run(workspaces), [small(seed).fit() for seed in range(40)])


def test_a_progress_that_asks_for_results_elsewhere_does_not_block() -> None:
    """The callback may use the library, other workspaces included."""
    seen: list[float] = []
    sweep = asn.run_fits_multiplexed(map(small, SEEDS), progress=lambda *_: seen.append(small(0x77).fit().objective))
    assert len(seen) == len(sweep) == 6
    assert len(set(seen)) == 1


def test_telemetry_of_a_sweep() -> None:
    before = asn.process_telemetry().factorizations
    sweep = asn.run_fits_multiplexed(map(small, SEEDS))
    assert [fit.factorizations for fit in sweep] == [1] * 6
    assert asn.process_telemetry().factorizations - before == 6


def test_sweeps_of_several_threads() -> None:
    expected = asn.run_fits_sequential(map(small, SEEDS))
    sweeps: list[Any] = []
    threads = [
        threading.Thread(target=lambda: sweeps.append(asn.run_fits_multiplexed(map(small, SEEDS)))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(sweeps) == 4
    assert all(agree(sweep, expected) for sweep in sweeps)
