"""Options: frozen, keyword-only, validated when made, honoured or refused at the call."""

from __future__ import annotations

import copy
import dataclasses
import math
import pickle
from typing import Any

import numpy as np
import pytest
import reference
import systems
from systems import HAND

import arrowschur_native as asn
from arrowschur_native import _core

CLASSES = (
    asn.SolveOptions,
    asn.EscalationOptions,
    asn.PcgOptions,
    asn.TrustRegionOptions,
    asn.MixedOptions,
    asn.ProximalOptions,
)

# Every option of section 3, just outside its range (T35).
OUTSIDE: list[tuple[type, str, Any]] = [
    (asn.SolveOptions, "mode", "fast"),
    (asn.SolveOptions, "mode", None),
    (asn.SolveOptions, "device", "gpu"),
    (asn.SolveOptions, "precision", "float16"),
    (asn.SolveOptions, "certificate", 1),
    (asn.SolveOptions, "certificate_tolerance", 0.0),
    (asn.SolveOptions, "certificate_tolerance", -1e-300),
    (asn.SolveOptions, "certificate_tolerance", math.nan),
    (asn.SolveOptions, "certificate_tolerance", "1e-12"),
    (asn.SolveOptions, "guards", "loose"),
    (asn.SolveOptions, "row_lift", "always"),
    (asn.SolveOptions, "tolerate_ill_conditioning", "yes"),
    (asn.SolveOptions, "pcg", {}),
    (asn.SolveOptions, "trust_region", 1.0),
    (asn.SolveOptions, "mixed", None),
    (asn.SolveOptions, "streaming_chunk_size", -1),
    (asn.SolveOptions, "streaming_chunk_size", 1.5),
    (asn.SolveOptions, "schur_pd_floor", 0.0),
    (asn.SolveOptions, "schur_pd_floor", 1.0),
    (asn.SolveOptions, "schur_pd_floor", math.nan),
    (asn.SolveOptions, "schur_apply", 1),
    (asn.SolveOptions, "preconditioner", "jacobi"),
    (asn.SolveOptions, "accept_truncated", 0),
    (asn.SolveOptions, "memory_limit", -1),
    (asn.SolveOptions, "memory_limit", 1e9),
    (asn.SolveOptions, "memory_limit", 2**63),
    (asn.SolveOptions, "device_memory_limit", -1),
    (asn.SolveOptions, "frame_cache_entries", -1),
    (asn.SolveOptions, "frame_cache_entries", None),
    (asn.SolveOptions, "calibrate", "always"),
    (asn.SolveOptions, "num_threads", 0),
    (asn.SolveOptions, "num_threads", True),
    (asn.SolveOptions, "expected_solves", 0),
    (asn.SolveOptions, "expected_solves", 1.0),
    (asn.SolveOptions, "policy", object()),
    (asn.PcgOptions, "max_iterations", -1),
    (asn.PcgOptions, "storage", "float16"),
    (asn.PcgOptions, "storage", None),
    (asn.PcgOptions, "relative_tolerance", 1.0),
    (asn.PcgOptions, "relative_tolerance", -1e-300),
    (asn.TrustRegionOptions, "radius", 0.0),
    (asn.TrustRegionOptions, "radius", math.nan),
    (asn.TrustRegionOptions, "relative_tolerance", 1.0),
    (asn.TrustRegionOptions, "relative_tolerance", None),
    (asn.TrustRegionOptions, "max_iterations", -1),
    (asn.MixedOptions, "max_refinement_steps", -1),
    (asn.MixedOptions, "tolerance", 0.0),
    (asn.MixedOptions, "kappa_margin", 0.0),
    (asn.MixedOptions, "kappa_margin", math.nextafter(1.0, 2.0)),
    (asn.InnerOptions, "max_iterations", 0),
    (asn.InnerOptions, "convergence_tolerance", 0.0),
    (asn.InnerOptions, "convergence_tolerance", math.nan),
    (asn.InnerOptions, "initial_ridge_t", -1e-300),
    (asn.InnerOptions, "initial_ridge_t", math.inf),
    (asn.InnerOptions, "initial_ridge_beta", -1.0),
    (asn.InnerOptions, "lm_grow", 1.0),
    (asn.InnerOptions, "lm_shrink", 0.0),
    (asn.InnerOptions, "lm_shrink", math.nextafter(1.0, 2.0)),
    (asn.InnerOptions, "max_ridge", 0.0),
    (asn.InnerOptions, "convergence", "soon"),
    (asn.InnerOptions, "shrink_rule", None),
    (asn.InnerOptions, "solve", {}),
    (asn.EscalationOptions, "initial_ridge", 0.0),
    (asn.EscalationOptions, "initial_ridge", math.inf),
    (asn.EscalationOptions, "ridge_growth", 1.0),
    (asn.EscalationOptions, "ridge_growth", math.inf),
    (asn.EscalationOptions, "max_escalations", -1),
    (asn.EscalationOptions, "max_escalations", 2.0),
    (asn.ProximalOptions, "initial_ridge", -1e-300),
    (asn.ProximalOptions, "ridge_growth", 1.0),
    (asn.ProximalOptions, "ridge_growth", math.inf),
    (asn.ProximalOptions, "max_attempts", 0),
    (asn.ProximalOptions, "armijo_c1", 0.0),
    (asn.ProximalOptions, "armijo_c1", 1.0),
    (asn.ProximalOptions, "gradient_tolerance", -1e-300),
    (asn.ProximalOptions, "convergence_objective_rel_tol", -1e-300),
]

# The ends of the ranges that belong to them.
INSIDE: list[tuple[type, str, Any]] = [
    (asn.SolveOptions, "certificate_tolerance", 5e-324),
    (asn.SolveOptions, "streaming_chunk_size", 0),
    (asn.SolveOptions, "streaming_chunk_size", 1),
    (asn.SolveOptions, "schur_pd_floor", math.nextafter(1.0, 0.0)),
    (asn.SolveOptions, "memory_limit", 0),
    (asn.SolveOptions, "memory_limit", np.int64(10)),
    (asn.SolveOptions, "frame_cache_entries", 0),
    (asn.SolveOptions, "num_threads", 1),
    (asn.SolveOptions, "num_threads", 2**40),
    (asn.SolveOptions, "expected_solves", 1),
    (asn.SolveOptions, "policy", asn.policy.DispatchPolicy()),
    (asn.PcgOptions, "max_iterations", 0),
    (asn.PcgOptions, "storage", "float32"),
    (asn.PcgOptions, "relative_tolerance", 0.0),
    (asn.TrustRegionOptions, "radius", math.inf),
    (asn.TrustRegionOptions, "relative_tolerance", 0.0),
    (asn.MixedOptions, "max_refinement_steps", 0),
    (asn.MixedOptions, "kappa_margin", 1.0),
    (asn.InnerOptions, "max_iterations", 2**40),
    (asn.InnerOptions, "lm_shrink", 1.0),
    (asn.InnerOptions, "solve", asn.SolveOptions(mode="direct")),
    (asn.EscalationOptions, "initial_ridge", 1),
    (asn.EscalationOptions, "max_escalations", 0),
    (asn.ProximalOptions, "initial_ridge", 0.0),
    (asn.ProximalOptions, "max_attempts", 1),
]


@pytest.mark.parametrize(("cls", "name", "value"), OUTSIDE)
def test_t35_a_value_outside_its_range_names_its_field(cls: type, name: str, value: Any) -> None:
    with pytest.raises(asn.InvalidArgument) as caught:
        cls(**{name: value})
    assert caught.value.argument == name
    assert name in str(caught.value)
    assert caught.value.expected


@pytest.mark.parametrize(("cls", "name", "value"), INSIDE)
def test_the_ends_of_the_ranges_are_accepted(cls: type, name: str, value: Any) -> None:
    assert getattr(cls(**{name: value}), name) == value


@pytest.mark.parametrize("cls", CLASSES)
def test_an_unknown_keyword_is_an_error_that_names_it(cls: type) -> None:
    with pytest.raises(TypeError, match="ridge_tt"):
        cls(ridge_tt=1.0)


@pytest.mark.parametrize("cls", CLASSES)
def test_options_take_keywords_only(cls: type) -> None:
    with pytest.raises(TypeError, match="positional"):
        cls("auto")


@pytest.mark.parametrize("cls", CLASSES)
def test_options_are_frozen(cls: type) -> None:
    options = cls()
    for name in (dataclasses.fields(cls)[0].name, "something_new"):
        with pytest.raises((dataclasses.FrozenInstanceError, AttributeError, TypeError)):
            setattr(options, name, None)


@pytest.mark.parametrize("cls", CLASSES)
def test_options_pickle_copy_and_hash(cls: type) -> None:
    options = cls()
    again = pickle.loads(pickle.dumps(options))
    assert again == options
    assert hash(again) == hash(options)
    assert copy.deepcopy(options) == options


def test_replace_validates_and_keeps_the_original() -> None:
    options = asn.SolveOptions(num_threads=1)
    changed = options.replace(certificate_tolerance=1e-9)
    assert (options.certificate_tolerance, changed.certificate_tolerance, changed.num_threads) == (None, 1e-9, 1)
    assert dataclasses.replace(options, num_threads=2).num_threads == 2
    with pytest.raises(asn.InvalidArgument):
        options.replace(num_threads=0)


def test_a_pickled_option_reaches_the_core() -> None:
    options = pickle.loads(pickle.dumps(asn.SolveOptions(mode="sqrt_ba")))
    assert asn.newton_step(HAND.system(), options=options).route == "sqrt_ba"


@pytest.mark.parametrize(
    "cls", [asn.SolveOptions, asn.EscalationOptions, asn.PcgOptions, asn.TrustRegionOptions, asn.InnerOptions]
)
def test_defaults_are_those_of_the_core(cls: type) -> None:
    python = cls()
    core = getattr(_core, cls.__name__).defaults()
    for name, value in core.items():
        assert getattr(python, name) == value, name
    nested = {"pcg", "trust_region", "solve"}  # compared by their own classes
    later = {"mixed", "streaming_chunk_size"}
    assert {f.name for f in dataclasses.fields(cls) if f.init} - nested - later == set(core)


def test_a_repr_can_be_read_back() -> None:
    options = asn.SolveOptions(mode="direct", pcg=asn.PcgOptions(max_iterations=3))
    assert eval(repr(options), vars(asn)) == options


# ---- honoured, or refused -------------------------------------------------------------------------------------------
LATER: list[tuple[dict[str, Any], str]] = [
    ({"precision": "mixed"}, ""),
    ({"streaming_chunk_size": 64}, "streaming_chunk_size"),
]


@pytest.mark.parametrize(("keywords", "feature"), LATER)
def test_what_cannot_be_honoured_is_refused_at_every_call(keywords: dict[str, Any], feature: str) -> None:
    system = HAND.system()
    options = asn.SolveOptions(**keywords)
    calls = (
        lambda: asn.newton_step(system, options=options),
        lambda: asn.newton_step_escalated(system, options=options),
        lambda: asn.factorize(system, options=options),
        lambda: asn.plan(system, options=options),
        lambda: asn.plan((4, 2, 3), options=options),
    )
    for call in calls:
        with pytest.raises(asn.UnsupportedConfiguration) as caught:
            call()
        assert caught.value.feature
        assert feature in caught.value.feature
        assert caught.value.hint


@pytest.mark.parametrize(
    "keywords",
    [
        {"trust_region": asn.TrustRegionOptions(radius=math.inf)},
        {"streaming_chunk_size": 0},
        {"pcg": asn.PcgOptions(max_iterations=1)},
        {"preconditioner": "schwarz"},
        {"schur_pd_floor": 1e-8},
        {"schur_apply": print},
        {"accept_truncated": True},
        {"expected_solves": 50},
        {"policy": asn.policy.DispatchPolicy()},
        {"device": "off"},
        {"calibrate": "off"},
        {"num_threads": 2**40},
    ],
)
def test_what_has_no_effect_on_a_direct_solve_leaves_its_bits(keywords: dict[str, Any]) -> None:
    system = HAND.system()
    direct = asn.SolveOptions(mode="direct")
    plain, other = asn.newton_step(system, options=direct), asn.newton_step(system, options=direct.replace(**keywords))
    assert np.array_equal(plain.delta_t, other.delta_t)
    assert np.array_equal(plain.delta_beta, other.delta_beta)


PCG = asn.SolveOptions(mode="inexact_pcg")


def test_the_fields_of_the_iteration_reach_it() -> None:
    system = systems.ls(40, 3, 17, 1).system()
    account = asn.newton_step(system, options=PCG).diagnostics
    assert account.plan.route == "inexact_pcg"
    assert account.pcg is not None
    assert account.pcg.stopping_reason == "converged"
    assert account.pcg.final_relative_residual <= 1e-4
    assert 0 < account.pcg.iterations <= 200
    assert account.pcg.matvec_calls >= account.pcg.iterations

    tight = asn.newton_step(system, options=PCG.replace(pcg=asn.PcgOptions(relative_tolerance=1e-12))).diagnostics
    assert tight.pcg is not None
    assert tight.pcg.final_relative_residual <= 1e-12
    assert tight.pcg.iterations > account.pcg.iterations

    named = asn.newton_step(system, options=PCG.replace(preconditioner="diagonal")).diagnostics
    assert named.pcg is not None
    assert named.pcg.preconditioner == "diagonal"

    one = asn.PcgOptions(max_iterations=1, relative_tolerance=1e-12)
    with pytest.raises(asn.PcgError) as caught:
        asn.newton_step(system, options=PCG.replace(pcg=one))
    assert caught.value.kind == "budget"
    assert caught.value.diagnostics["iterations"] >= 1
    assert caught.value.diagnostics["relative_residual"] > 1e-12
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.kind) == (str(caught.value), "budget")
    assert list(again.diagnostics) == list(caught.value.diagnostics)
    truncated = asn.newton_step(system, options=PCG.replace(pcg=one, accept_truncated=True)).diagnostics
    assert truncated.pcg is not None
    assert truncated.pcg.stopping_reason == "max_iter"

    rounded = PCG.replace(pcg=asn.PcgOptions(storage="float32"))
    assert (
        reference.error(asn.newton_step(system, options=rounded).delta_beta, asn.newton_step(system).delta_beta) <= 1e-3
    )


def test_a_trust_region_bounds_the_border_step() -> None:
    system = systems.ls(40, 3, 17, 1).system()
    free = float(np.linalg.norm(asn.newton_step(system).delta_beta))
    for mode in ("direct", "inexact_pcg"):
        options = asn.SolveOptions(mode=mode, trust_region=asn.TrustRegionOptions(radius=free / 4))
        step = asn.newton_step(system, options=options)
        assert float(np.linalg.norm(step.delta_beta)) == pytest.approx(free / 4, rel=1e-6)
        assert step.diagnostics.pcg is not None
        assert step.diagnostics.pcg.stopping_reason == "trust_region"


def test_a_product_of_the_caller_takes_the_place_of_the_library() -> None:
    parts = systems.ls(40, 3, 17, 1)
    system = parts.system()
    schur = reference.direct(parts).schur
    calls: list[np.ndarray] = []

    def apply(x: np.ndarray) -> np.ndarray:
        calls.append(x)
        return schur @ x

    tight = asn.PcgOptions(relative_tolerance=1e-12)
    options = PCG.replace(schur_apply=apply, preconditioner="diagonal", pcg=tight)
    step = asn.newton_step(system, options=options)
    assert reference.error(step.delta_beta, asn.newton_step(system).delta_beta) <= 1e-9
    assert step.diagnostics.pcg is not None
    assert len(calls) >= step.diagnostics.pcg.iterations
    assert all(x.shape == (17,) and x.dtype == np.float64 for x in calls)

    for wrong in (np.ones(16), None):
        with pytest.raises(asn.InvalidArgument) as caught:
            asn.newton_step(system, options=options.replace(schur_apply=lambda _, w=wrong: w))
        assert caught.value.argument == "schur_apply"

    def fail(_: np.ndarray) -> np.ndarray:
        raise KeyError("no product")

    with pytest.raises(KeyError, match="no product"):
        asn.newton_step_escalated(system, options=options.replace(schur_apply=fail))


def test_a_policy_changes_the_choice_of_the_route() -> None:
    wide = asn.policy.DispatchPolicy(route_rule="width_cut")
    shape = (100, 2, 2001)
    assert asn.plan(shape, options=asn.SolveOptions(policy=wide)).route == "inexact_pcg"


@pytest.mark.parametrize("wrong", [{}, "direct", asn.EscalationOptions()])
def test_options_of_another_type_are_refused(wrong: Any) -> None:
    with pytest.raises(asn.InvalidArgument) as caught:
        asn.newton_step(HAND.system(), options=wrong)
    assert caught.value.argument == "options"
    with pytest.raises(asn.InvalidArgument) as caught:
        asn.newton_step_escalated(HAND.system(), escalation=asn.SolveOptions())  # type: ignore[arg-type]
    assert caught.value.argument == "escalation"
