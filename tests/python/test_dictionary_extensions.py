"""Beyond the plain fit: a ridge by evidence, other decoder steps, certificates of supports, growth."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dictionaries import OPTIONS, X, bits, model

import arrowschur_native as asn

pytest.importorskip("sklearn", reason="the warning of short fits is scikit-learn's class")

# Most fits here are short on purpose.
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.mark.parametrize(
    "options", [{"ridge": "evidence"}, {"unit_sweep": True}, {"n_nonzero_coefs": 1, "profile_step": True}], ids=str
)
def test_the_stored_codes_are_those_of_the_returned_decoder(options: dict[str, Any], tmp_path: Path) -> None:
    estimator = model(output="pair", **options).fit(X)
    fit = estimator.result_

    assert bits(*estimator.transform(X)) == bits(fit.indices, fit.codes)
    assert estimator.score(X) == pytest.approx(fit.explained_variance, abs=1e-12)
    estimator.save(tmp_path / "dictionary.safetensors")
    for again in (asn.load_dictionary(tmp_path / "dictionary.safetensors"), pickle.loads(pickle.dumps(estimator))):
        assert bits(*again.transform(X)) == bits(fit.indices, fit.codes)
        assert again.get_params() == estimator.get_params()
        assert again.ridge_ == estimator.ridge_


def test_the_ridge_of_evidence_is_a_fixed_point() -> None:
    estimator = model(ridge="evidence", tol=1e-8, output="pair").fit(X)
    fit = estimator.result_
    rho = fit.ridge
    assert fit.ridge_steps >= 2
    assert rho != 1e-6

    # gamma: effective numbers of parameters of the rows, from the singular values of their atoms.
    gamma = 0.0
    for indices, codes in zip(fit.indices, fit.codes, strict=True):
        atoms = fit.decoder[indices[codes != 0]].astype(np.float64)
        squared = np.linalg.svd(atoms, compute_uv=False) ** 2
        gamma += float(np.sum(squared / (squared + rho)))
    update = fit.rss / (X.size - gamma) * gamma / float(np.sum(fit.codes.astype(np.float64) ** 2))
    assert abs(np.log(update / rho)) < 0.05  # the last update, under the decoder before the last fit


def test_the_unit_sweep_explains_at_least_as_much_on_these_rows() -> None:
    plain, swept = model(max_iter=6).fit(X), model(max_iter=6, unit_sweep=True).fit(X)
    assert not np.array_equal(plain.components_, swept.components_)
    assert swept.explained_variance_ > plain.explained_variance_ - 0.02


def test_the_profile_step_finds_the_leading_direction() -> None:
    estimator = asn.SparseDictionary(n_components=1, n_nonzero_coefs=1, max_iter=3, profile_step=True).fit(X)
    leading = np.linalg.svd(X.astype(np.float64), full_matrices=False)[2][0]
    assert abs(float(estimator.components_[0] @ leading)) == pytest.approx(1.0, abs=1e-6)
    assert estimator.ev_path_[1] == pytest.approx(0.084514, abs=1e-6)


def test_streams_refuse_what_needs_all_rows() -> None:
    with pytest.raises(asn.UnsupportedConfiguration, match="ridge='evidence' in a stream"):
        asn.SparseDictionaryStream(X, **OPTIONS, ridge="evidence")
    with pytest.raises(asn.UnsupportedConfiguration, match=r"profile_step.* in a stream"):
        asn.SparseDictionaryStream(X, **{**OPTIONS, "n_nonzero_coefs": 1}, profile_step=True)


def test_bad_choices_are_named() -> None:
    with pytest.raises(asn.InvalidArgument) as error:
        model(ridge="large").fit(X)
    assert str(error.value) == "sparse_dictionary: ridge must be one of fixed, evidence; got 'large'"
    with pytest.raises(asn.InvalidArgument, match="profile_step"):
        model(profile_step=True).fit(X)
    with pytest.raises(asn.InvalidArgument, match="unit_sweep"):
        model(unit_sweep="often").fit(X)


# ---- dual report ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("router", ["topk", "omp"])
def test_the_dual_report_names_the_atom_that_wants_in(router: str) -> None:
    estimator = model(router=router, output="pair").fit(X)
    found = estimator.dual_report(X)

    indices, codes = estimator.transform(X)
    decoder = estimator.components_.astype(np.float64)
    for i in range(0, len(X), 7):
        support = indices[i][codes[i] != 0]
        residual = X[i] - codes[i].astype(np.float64) @ decoder[indices[i]]
        outside = np.abs(decoder @ residual)
        outside[support] = 0.0
        assert found.ratios[i] == pytest.approx(outside.max() / np.abs(codes[i][codes[i] != 0]).min(), rel=1e-5)
        assert outside[found.atoms[i]] == pytest.approx(outside.max(), rel=1e-9)
    assert np.allclose(found.quantiles[3], found.ratios.max())
    assert found.quantiles[0] == pytest.approx(np.quantile(found.ratios, 0.5), rel=0.01)
    assert found.certified_fraction == np.mean(found.ratios <= 1 + 1e-4)


# ---- growth ---------------------------------------------------------------------------------------------------------
def test_growth_keeps_what_was_learned() -> None:
    estimator = model(router="omp", output="pair").fit(X)
    before, score = estimator.components_.copy(), estimator.score(X)

    assert estimator.grow(96, X) is estimator
    assert estimator.components_.shape == (96, 32)
    assert estimator.n_components == estimator.n_components_ == 96
    assert bits(estimator.components_[:64]) == bits(before)
    assert np.allclose(np.linalg.norm(estimator.components_, axis=1), 1.0, atol=1e-6)
    assert estimator.score(X) > score
    assert estimator.result_.explained_variance == pytest.approx(estimator.score(X), abs=1e-9)
    assert estimator.result_.atom_fires.sum() == pytest.approx(estimator.l0_ * len(X))
    assert estimator.transform(X[:3])[0].shape == (3, 3)

    grown = estimator.score(X)
    stream = asn.SparseDictionaryStream(estimator, n_nonzero_coefs=3, router="omp")
    for _ in range(4):
        stream.partial_fit(X)
        record = stream.end_epoch()
    assert record.ev > grown
    assert estimator.partial_fit(X).components_.shape == (96, 32)


def test_growth_after_partial_fit_and_by_nothing() -> None:
    estimator = model(output="pair").partial_fit(X)
    same = estimator.components_.copy()
    assert bits(estimator.grow(64, X).components_) == bits(same)
    assert estimator.grow(70, X).components_.shape == (70, 32)
    with pytest.raises(asn.InvalidArgument, match="n_components must be at least 70, got 69"):
        estimator.grow(69, X)
    with pytest.raises(asn.dictionary.NotFittedError, match="call fit before grow"):
        model().grow(70, X)


def test_a_grown_dictionary_is_saved(tmp_path: Path) -> None:
    estimator = model(output="pair").fit(X).grow(80, X)
    estimator.save(tmp_path / "grown.safetensors")
    again = asn.load_dictionary(tmp_path / "grown.safetensors")
    assert bits(*again.transform(X)) == bits(*estimator.transform(X))
    assert again.stop_reason_ == "grown"
