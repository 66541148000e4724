"""Sparse dictionaries from shards: streams, `partial_fit`."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dictionaries import FIVE, OPTIONS, X, bits, model

import arrowschur_native as asn

sparse = pytest.importorskip("scipy.sparse", reason="CSR output needs SciPy")
pytest.importorskip("sklearn", reason="these tests use scikit-learn's tools")

# Most fits here are short on purpose.
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture(scope="module")
def trained() -> asn.SparseDictionary:
    return model(output="pair").fit(X)


# ---- T11: streams ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("rows", [1, 333, 2000])
def test_t11_streams_have_the_bits_of_a_one_shot_fit(rows: int) -> None:
    fit = asn.fit_sparse_dictionary(X, **FIVE)

    stream = asn.SparseDictionaryStream(X, **FIVE)
    path = []
    for epoch in range(6):
        if epoch == 5:
            assert bits(stream.finalize().decoder) == bits(fit.decoder)
        for first in range(0, len(X), rows):
            report = stream.partial_fit(X[first : first + rows])
            assert report.rows == len(X[first : first + rows])
        record = stream.end_epoch()
        assert record.epoch == epoch
        path.append(record.ev)
    assert bits(path) == bits(fit.ev_path)


def test_t11_signs_and_powers_of_two_change_nothing() -> None:
    fit = asn.fit_sparse_dictionary(X, **FIVE)
    opposite = asn.fit_sparse_dictionary(-X, **FIVE)
    assert bits(opposite.decoder, opposite.indices) == bits(fit.decoder, fit.indices)
    assert np.array_equal(opposite.codes, -fit.codes)
    for power in (-20, 20):
        scaled = asn.fit_sparse_dictionary(X * np.float32(2.0**power), **FIVE, decoder_ridge=1e-6 * 4.0**power)
        assert bits(scaled.ev_path, scaled.decoder, scaled.indices) == bits(fit.ev_path, fit.decoder, fit.indices)
        assert np.array_equal(scaled.codes, fit.codes * np.float32(2.0**power))


def test_fit_shards_runs_epochs_until_the_rule_is_met() -> None:
    calls = []

    def shards() -> Iterator[np.ndarray]:
        calls.append(1)
        yield from np.array_split(X, 3)

    stream = asn.SparseDictionaryStream(X, **{**OPTIONS, "n_nonzero_coefs": 1, "max_iter": 40, "tol": 1e-3})
    fit = stream.fit_shards(shards)
    assert len(calls) == stream.epochs < 40
    assert stream.converged
    assert fit.converged
    assert fit.indices is None
    assert fit.explained_variance == max(fit.ev_path)


def test_shards_that_do_not_converge_warn_once() -> None:
    stream = asn.SparseDictionaryStream(X, **{**OPTIONS, "max_iter": 2})
    with pytest.warns(asn.dictionary.ConvergenceWarning, match="no convergence in 2 epochs") as caught:
        fit = stream.fit_shards(lambda: np.array_split(X, 3))
    assert [warning.filename for warning in caught] == [__file__]
    assert (fit.stop_reason, fit.converged, fit.rows) == ("max_iter", False, len(X))


def test_a_callback_ends_a_stream() -> None:
    seen: list[int] = []

    def stop(record: Any) -> bool:
        seen.append(record.epoch)
        return len(seen) < 2

    stream = asn.SparseDictionaryStream(X, **OPTIONS, callback=stop)
    assert stream.fit_shards(lambda: [X]).stop_reason == "callback"
    assert seen == [0, 1]


def test_a_stream_goes_on_from_a_dictionary(trained: asn.SparseDictionary, tmp_path: Path) -> None:
    trained.save(tmp_path / "dictionary.safetensors")
    seeds = [trained, trained.result_, asn.load_dictionary(tmp_path / "dictionary.safetensors")]
    decoders = []
    for seed in seeds:
        stream = asn.SparseDictionaryStream(seed, n_nonzero_coefs=3)
        stream.partial_fit(X)
        record = stream.end_epoch()
        assert record.ev == pytest.approx(trained.score(X), abs=1e-12)
        decoders.append(stream.finalize().decoder.tobytes())
    assert len(set(decoders)) == 1


def test_empty_shards_do_nothing() -> None:
    stream = asn.SparseDictionaryStream(X, **OPTIONS)
    assert stream.partial_fit(X[:0]).rows == 0
    assert stream.rows_in_epoch == 0
    stream.partial_fit(X)
    stream.partial_fit(X[:0])
    assert stream.rows_in_epoch == len(X)


@pytest.mark.parametrize("options", [{}, {"center": True}, {"router": "omp"}], ids=str)
@pytest.mark.parametrize("how", ["file", "pickle"])
def test_t16_a_resumed_stream_is_the_uninterrupted_one(options: dict[str, Any], how: str, tmp_path: Path) -> None:
    def go_on(stream: asn.SparseDictionaryStream) -> Any:
        stream.partial_fit(X[900:])
        records = [stream.end_epoch()]
        stream.partial_fit(X)
        records.append(stream.end_epoch())
        fit = stream.finalize()
        return bits(fit.decoder, fit.ev_path, fit.atom_fires, [record.rss for record in records])

    stream = asn.SparseDictionaryStream(X[:300], **OPTIONS, **options)
    stream.partial_fit(X)
    stream.end_epoch()
    stream.partial_fit(X[:900])
    if how == "file":
        stream.save(tmp_path / "state.safetensors")
        again = asn.SparseDictionaryStream.load(tmp_path / "state.safetensors")
    else:
        again = pickle.loads(pickle.dumps(stream))
    assert again.options == stream.options
    assert go_on(again) == go_on(stream)


# ---- partial_fit ----------------------------------------------------------------------------------------------------
def test_partial_fit_learns() -> None:
    estimator = model(output="pair")
    first = None
    for _ in range(8):
        for shard in np.array_split(X, 4):
            estimator.partial_fit(shard)
            first = estimator.score(X) if first is None else first
    assert estimator.score(X) > max(first + 0.05, 0.75)
    assert estimator.n_iter_ == 32
    assert estimator.n_features_in_ == 32


def test_partial_fit_by_epochs_is_a_stream() -> None:
    estimator = model(refresh="epoch", output="pair")
    stream = asn.SparseDictionaryStream(X, **OPTIONS, keep="last")
    for _ in range(3):
        for shard in (X, X[:500]):
            estimator.partial_fit(shard)
            stream.partial_fit(shard)
        one, other = estimator.end_epoch(), stream.end_epoch()
        assert (one.ev, one.rss, one.alive, one.revived) == (other.ev, other.rss, other.alive, other.revived)
    assert bits(estimator.components_) == bits(stream.finalize().decoder)
    assert estimator.n_iter_ == 3


def test_results_of_partial_fit_are_told_when_asked_for() -> None:
    estimator = model(output="pair", refresh="epoch").partial_fit(X)
    assert np.isnan(estimator.explained_variance_)
    assert "nan" in repr(estimator)
    estimator.end_epoch()
    estimator.refresh = "call"
    for shard in np.array_split(X, 5):
        estimator.partial_fit(shard)
    result = estimator.result_
    assert len(result.epochs) == estimator.n_iter_ == 6
    assert (result.explained_variance, result.l0) == (estimator.explained_variance_, estimator.l0_)
    assert result.explained_variance == result.epochs[-1].ev == estimator.ev_path_[-1]
    assert bits(result.decoder) == bits(estimator.components_)
    assert result.rows == 400
    assert result.alive == result.epochs[-1].alive
    assert estimator.dead_fraction_ == result.dead / 64


def test_partial_fit_goes_on_from_a_fit() -> None:
    estimator = model(output="pair").fit(X)
    before = estimator.score(X)
    estimator.partial_fit(X)
    assert estimator.score(X) > before - 0.01
    assert not np.array_equal(estimator.components_, model(output="pair").fit(X).components_)


def test_a_partly_fitted_estimator_pickles() -> None:
    estimator = model(output="pair").partial_fit(X[:1000])
    again = pickle.loads(pickle.dumps(estimator))
    assert bits(again.partial_fit(X[1000:]).components_) == bits(estimator.partial_fit(X[1000:]).components_)


def test_fit_forgets_what_partial_fit_learned() -> None:
    estimator = model(output="pair").partial_fit(X[:500])
    estimator.fit(X)
    assert bits(estimator.components_) == bits(model().fit(X).components_)


def test_rows_that_are_refused_change_nothing() -> None:
    bad = X[:200].copy()
    bad[150, 3] = 2.0**80
    spoilt = X[:200].copy()
    spoilt[150, 3] = np.nan

    learner = asn.SparseDictionary(n_components=24, n_nonzero_coefs=2, batch_size=16).partial_fit(X[:500])
    stream = asn.SparseDictionaryStream(X[:500], n_components=24, n_nonzero_coefs=2, batch_size=16)
    stream.partial_fit(X[:100])
    before = learner._stream._core.save(), stream._core.save()
    for rows in (bad, bad.astype(np.float64), spoilt, X[:200, :5]):
        for fit in (learner.partial_fit, stream.partial_fit):
            with pytest.raises(asn.InvalidArgument):
                fit(rows)
    assert (learner._stream._core.save(), stream._core.save()) == before


@pytest.mark.parametrize("budget", [2**30, 2**20], ids=["dense", "lists"])
def test_a_damaged_state_is_refused_or_harmless(budget: int) -> None:
    atoms = 24 if budget == 2**30 else 500
    stream = asn.SparseDictionaryStream(X[:600], n_components=atoms, n_nonzero_coefs=2, refresh_memory_bytes=budget)
    stream.partial_fit(X[:400])
    stream.end_epoch()
    stream.partial_fit(X[:400])
    state = stream._core.save()
    random = np.random.default_rng(1)
    refused = 0
    for trial in range(400):
        damaged = bytearray(state)
        # Sizes, options and indices are where a wrong byte could lead astray: the head, and anywhere.
        at = int(random.integers(300 if trial % 2 else len(state)))
        damaged[at] ^= int(random.integers(1, 256))
        if trial % 10 == 0:
            del damaged[at:]
        try:
            read = asn._core.DictionaryStream.load(bytes(damaged))
        except asn.InvalidArgument:
            refused += 1
            continue
        with contextlib.suppress(asn.ArrowError, asn.InvalidArgument):
            read.end_epoch()
            read.finalize()
    assert 100 < refused < 400
