"""Sparse dictionaries as users meet them: estimator, streams, files, errors, edge cases, command line."""

from __future__ import annotations

import importlib
import io
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from planted import g1, planted

import arrowschur_native as asn
from arrowschur_native._cli import main

sparse = pytest.importorskip("scipy.sparse", reason="CSR output needs SciPy")
sklearn = pytest.importorskip("sklearn", reason="these tests use scikit-learn's tools")
from sklearn.base import clone  # noqa: E402
from sklearn.exceptions import ConvergenceWarning, NotFittedError  # noqa: E402
from sklearn.model_selection import GridSearchCV  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402

G1 = g1()
X = G1.x
OPTIONS: dict[str, Any] = {"n_components": 64, "n_nonzero_coefs": 3}
# Exactly five refreshes.
FIVE: dict[str, Any] = {**OPTIONS, "max_iter": 5, "tol": 0.0, "patience": 0, "keep": "last"}


@pytest.fixture(autouse=True)
def _fits_may_end_early() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


def model(**options: Any) -> asn.SparseDictionary:
    return asn.SparseDictionary(**{**OPTIONS, "max_iter": 3, **options})


@pytest.fixture(scope="module")
def trained() -> asn.SparseDictionary:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model(output="pair").fit(X)


def variance(x: np.ndarray) -> float:
    x = x.astype(np.float64)
    return float(np.sum((x - x.mean(axis=0)) ** 2))


def reconstruction(fit: asn.SparseDictionaryFit) -> np.ndarray:
    assert fit.indices is not None
    assert fit.codes is not None
    slots = fit.codes.astype(np.float64)[:, :, None] * fit.decoder.astype(np.float64)[fit.indices]
    return slots.sum(axis=1) + fit.mean.astype(np.float64)


def bits(*arrays: Any) -> list[bytes]:
    return [np.asarray(array).tobytes() for array in arrays]


# ---- T10: codes are fresh -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"center": True},
        {"router": "refine"},
        {"router": "omp"},
        {"refreshes_per_epoch": 4},
        {"keep": "last"},
        {"init": "euclidean"},
        {"n_nonzero_coefs": 1},
        {"decoder_ridge_relative": True},
    ],
    ids=str,
)
def test_t10_the_stored_codes_are_those_of_the_returned_decoder(options: dict[str, Any]) -> None:
    fit = asn.fit_sparse_dictionary(X, **{**OPTIONS, "max_iter": 4, **options})
    estimator = asn.SparseDictionary.from_fit(fit, output="pair")

    assert bits(*estimator.transform(X)) == bits(fit.indices, fit.codes)
    assert estimator.score(X) == pytest.approx(fit.explained_variance, abs=1e-12)
    rss = np.sum((X.astype(np.float64) - reconstruction(fit)) ** 2)
    assert fit.explained_variance == pytest.approx(1 - rss / variance(X), abs=1e-9)
    assert fit.fvu == pytest.approx(1 - fit.explained_variance, abs=1e-15)
    assert fit.l0 == pytest.approx(np.count_nonzero(fit.codes) / len(X), abs=1e-12)
    assert np.array_equal(fit.atom_fires, np.bincount(fit.indices[fit.codes != 0], minlength=64))


def test_t10_of_an_independent_code_step(trained: asn.SparseDictionary) -> None:
    fit = trained.result_
    for row, indices, codes in zip(X[:50].astype(np.float64), fit.indices[:50], fit.codes[:50], strict=True):
        atoms = fit.decoder[indices].astype(np.float64)
        expected = np.linalg.solve(atoms @ atoms.T + 1e-6 * np.eye(3), atoms @ row)
        assert np.allclose(codes, expected, rtol=1e-6, atol=1e-9)


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


def test_a_callback_ends_a_stream() -> None:
    seen: list[int] = []

    def stop(record: Any) -> bool:
        seen.append(record.epoch)
        return len(seen) < 2

    stream = asn.SparseDictionaryStream(X, **OPTIONS, callback=stop)
    stream.fit_shards(lambda: [X])
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


# ---- T16: the estimator ---------------------------------------------------------------------------------------------
def test_t16_check_estimator() -> None:
    from sklearn.utils.estimator_checks import check_estimator

    with warnings.catch_warnings():
        # The class has scikit-learn's interface without its base class, which would need scikit-learn at import.
        warnings.filterwarnings("ignore", "Estimator SparseDictionary does not inherit", UserWarning)
        # Fits of a few random rows end at max_iter.
        warnings.simplefilter("ignore", ConvergenceWarning)
        results = check_estimator(asn.SparseDictionary(n_components=8), on_skip=None)
    skipped = [result["check_name"] for result in results if result["status"] == "skipped"]
    assert {result["status"] for result in results} <= {"passed", "skipped"}
    assert len(results) > 40
    print("skipped by scikit-learn:", skipped)


def test_t16_parameters_round_trip() -> None:
    estimator = model(router="omp", dict_init=G1.atoms, callback=print)
    parameters = estimator.get_params()
    assert asn.SparseDictionary(**parameters).get_params() == parameters
    copy = clone(estimator)
    assert copy is not estimator
    assert copy.get_params()["router"] == "omp"
    assert estimator.set_params(tol=0.5, n_components=7) is estimator
    assert (estimator.tol, estimator.n_components) == (0.5, 7)
    with pytest.raises(asn.InvalidArgument, match="has no parameter 'n_component'"):
        estimator.set_params(n_component=3)


def test_parameters_are_stored_as_they_are_and_checked_by_fit() -> None:
    estimator = model(n_components=-5, router="fast")
    assert estimator.n_components == -5
    with pytest.raises(asn.InvalidArgument, match="n_components must be at least 1, got -5"):
        estimator.fit(X)


def test_defaults_are_those_of_the_core() -> None:
    core = asn._core.DictionaryOptions.defaults()
    fields = asn.dictionary.FitOptions.__dataclass_fields__
    parameters = asn.SparseDictionary(n_components=1).get_params()
    for name, value in core.items():
        if name in fields and name != "n_components":
            assert fields[name].default == value, name
            assert parameters[name] == value, name
    for name, field in fields.items():
        if name != "n_components":
            assert parameters[name] == field.default, name
    assert {"router", "tol", "revive_pool", "keep"} <= set(core)


def test_t16_pipeline_and_grid_search() -> None:
    pipeline = make_pipeline(StandardScaler(), model(max_iter=2))
    codes = pipeline.fit_transform(X[:400])
    assert codes.shape == (400, 64)
    assert pipeline.score(X[400:600]) < 1
    back = pipeline.inverse_transform(codes)
    assert back.shape == (400, 32)

    search = GridSearchCV(model(max_iter=2), {"n_nonzero_coefs": np.array([1, 3])}, cv=2).fit(X[:600])
    assert search.best_params_ == {"n_nonzero_coefs": 3}
    assert search.best_estimator_.transform(X[:5]).shape == (5, 64)


def test_t16_forms_of_codes_agree(trained: asn.SparseDictionary) -> None:
    indices, codes = trained.transform(X)
    forms = {}
    for output in ("auto", "csr", "dense", "pair"):
        forms[output] = clone(trained).set_params(output=output).fit(X).transform(X)
    csr = forms["csr"]
    assert sparse.issparse(csr)
    assert csr.format == "csr"
    assert csr.dtype == np.float32
    assert csr.has_sorted_indices
    assert np.diff(csr.indptr).max() <= 3
    assert np.all(csr.data != 0)
    assert csr.nnz == np.count_nonzero(codes)
    dense = np.zeros((len(X), 64), dtype=np.float32)
    for row, (i, c) in enumerate(zip(indices, codes, strict=True)):
        for index, code in zip(i, c, strict=True):
            if code != 0:
                dense[row, index] = code
    assert np.array_equal(csr.toarray(), dense)
    assert np.array_equal(forms["dense"], dense)
    assert np.array_equal(forms["auto"].toarray(), dense)
    assert bits(*forms["pair"]) == bits(indices, codes)

    expected = trained.inverse_transform((indices, codes))
    for form in (csr, csr.tocsc(), csr.tolil(), dense):
        assert np.allclose(trained.inverse_transform(form), expected, rtol=0, atol=1e-6)
    rss = np.sum((X.astype(np.float64) - expected) ** 2)
    assert trained.score(X) == pytest.approx(1 - rss / variance(X), abs=1e-7)  # the rounded rows
    slots = codes.astype(np.float64)[:, :, None] * trained.components_.astype(np.float64)[indices]
    rss = np.sum((X - slots.sum(axis=1)) ** 2)
    assert trained.score(X) == pytest.approx(1 - rss / variance(X), abs=1e-9)


def test_empty_rows_of_codes_decode_to_the_mean() -> None:
    estimator = model(center=True, output="pair").fit(X + np.float32(3))
    empty = sparse.csr_matrix((4, 64), dtype=np.float32)
    assert np.array_equal(estimator.inverse_transform(empty), np.tile(estimator.mean_, (4, 1)))
    assert np.array_equal(estimator.inverse_transform(np.zeros((4, 64))), np.tile(estimator.mean_, (4, 1)))


def test_t16_without_scipy_codes_are_pairs(trained: asn.SparseDictionary, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = trained.transform(X[:10])
    monkeypatch.setitem(sys.modules, "scipy.sparse", None)
    automatic = asn.SparseDictionary.from_fit(trained.result_)
    assert bits(*automatic.transform(X[:10])) == bits(*expected)
    automatic.output = "csr"
    message = "sparse_dictionary: output='csr' needs SciPy (extra 'sklearn'); use output='pair'"
    with pytest.raises(asn.UnsupportedConfiguration) as error:
        automatic.transform(X[:10])
    assert str(error.value) == message


def test_transform_and_fit_transform_agree() -> None:
    one, other = model(), model(keep_codes=False)
    assert (one.fit_transform(X) != one.transform(X)).nnz == 0
    assert (other.fit_transform(X) != one.transform(X)).nnz == 0
    assert other.result_.indices is None
    assert other.result_.codes is None


def test_transform_takes_another_sparsity_and_router(trained: asn.SparseDictionary) -> None:
    indices, _ = trained.transform(X[:20], n_nonzero_coefs=1)
    assert indices.shape == (20, 1)
    assert np.array_equal(indices[:, 0], trained.transform(X[:20])[0][:, 0])
    omp = trained.transform(X, router="omp")
    rss = np.sum((X - trained.inverse_transform(omp)) ** 2)
    assert 1 - rss / variance(X) > trained.score(X)
    assert trained.transform(X[:2], n_nonzero_coefs=99)[0].shape == (2, 64)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_pickling_keeps_everything(trained: asn.SparseDictionary, protocol: int) -> None:
    again = pickle.loads(pickle.dumps(trained, protocol))
    assert bits(*again.transform(X)) == bits(*trained.transform(X))
    assert again.get_params() == trained.get_params()
    assert again.result_.epochs == trained.result_.epochs
    assert again.result_.epochs[0].refresh.method == trained.result_.epochs[0]["refresh"]["method"]
    assert pickle.loads(pickle.dumps(model(), protocol)).get_params() == model().get_params()


def test_t16_a_saved_dictionary_is_the_same(trained: asn.SparseDictionary, tmp_path: Path) -> None:
    path = tmp_path / "dictionary.safetensors"
    trained.save(path)
    again = asn.load_dictionary(path)

    assert bits(*again.transform(X)) == bits(*trained.transform(X))
    assert again.score(X) == trained.score(X)
    assert again.get_params() == trained.get_params()
    for name in ("n_iter_", "explained_variance_", "l0_", "fvu_", "dead_fraction_", "stop_reason_", "converged_"):
        assert getattr(again, name) == getattr(trained, name)
    assert np.array_equal(again.ev_path_, trained.ev_path_)
    assert np.array_equal(again.result_.atom_fires, trained.result_.atom_fires)
    assert again.result_.n_nonzero_coefs == 3
    assert again.result_.best_epoch == trained.result_.best_epoch
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    assert header["__metadata__"]["format"] == "arrowschur.dictionary/1"
    assert header["decoder"] == {"dtype": "F32", "shape": [64, 32], "data_offsets": header["decoder"]["data_offsets"]}


@pytest.mark.parametrize("damage", ["norm", "nan", "dtype", "shape", "format", "cut", "text"])
def test_a_damaged_file_is_refused(trained: asn.SparseDictionary, tmp_path: Path, damage: str) -> None:
    from arrowschur_native.dictionary import _safetensors

    path = tmp_path / "dictionary.safetensors"
    trained.save(path)
    arrays, metadata = _safetensors.read(path)
    if damage == "norm":
        arrays["decoder"][3] *= np.float32(1.001)
    elif damage == "nan":
        arrays["decoder"][3, 4] = np.nan
    elif damage == "dtype":
        arrays["decoder"] = arrays["decoder"].astype(np.float64)
    elif damage == "shape":
        arrays["mean"] = arrays["mean"][:-1]
    elif damage == "format":
        metadata["format"] = "something.else/1"
    _safetensors.write(path, arrays, metadata)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "text":
        path.write_text("no dictionary at all")
    with pytest.raises(asn.InvalidArgument, match="holds no dictionary"):
        asn.load_dictionary(path)
    with pytest.raises(FileNotFoundError):
        asn.load_dictionary(tmp_path / "missing.safetensors")


def test_a_file_with_dormant_atoms_is_read(tmp_path: Path) -> None:
    estimator = model(n_components=20, n_nonzero_coefs=2, output="pair").fit(X[:6])
    estimator.save(tmp_path / "few.safetensors")
    assert bits(*asn.load_dictionary(tmp_path / "few.safetensors").transform(X)) == bits(*estimator.transform(X))


# ---- inputs ---------------------------------------------------------------------------------------------------------
def layouts(x: np.ndarray) -> dict[str, Any]:
    wide = np.zeros((len(x), 2 * x.shape[1]), dtype=np.float32)
    wide[:, ::2] = x
    padded = np.zeros((len(x), x.shape[1] + 5), dtype=np.float32)
    padded[:, : x.shape[1]] = x
    unaligned = np.frombuffer(b"\0" + x.tobytes(), dtype=np.uint8)[1:].view(np.float32).reshape(x.shape)

    class Producer:
        def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
            return x if dtype is None else x.astype(dtype)

    return {
        "fortran": np.asfortranarray(x),
        "float64": x.astype(np.float64),
        "float64 fortran": np.asfortranarray(x, dtype=np.float64),
        "strided": wide[:, ::2],
        "padded": padded[:, : x.shape[1]],
        "reversed": x[::-1].copy()[::-1],
        "big-endian": x.astype(">f4"),
        "unaligned": unaligned,
        "list": x.tolist(),
        "object": x.astype(object),
        "longdouble": x.astype(np.longdouble),
        "__array__": Producer(),
        "read-only": np.frombuffer(x.tobytes(), dtype=np.float32).reshape(x.shape),
    }


@pytest.mark.parametrize("layout", list(layouts(X[:2])))
def test_t16_every_layout_gives_the_same_bits(layout: str) -> None:
    part = X[:300]
    fit = asn.fit_sparse_dictionary(part, **{**OPTIONS, "max_iter": 2, "batch_size": 128})
    other = asn.fit_sparse_dictionary(layouts(part)[layout], **{**OPTIONS, "max_iter": 2, "batch_size": 128})
    assert bits(other.decoder, other.indices, other.codes, other.ev_path) == bits(
        fit.decoder, fit.indices, fit.codes, fit.ev_path
    )


@pytest.mark.parametrize("dtype", ["float16", "int8", "int16", "int32", "int64", "uint8", "uint64", "bool"])
def test_other_dtypes_are_their_float32_values(dtype: str) -> None:
    rng = np.random.default_rng(1)
    x = rng.integers(0, 2 if dtype == "bool" else 100, (200, 12)).astype(dtype)
    options: dict[str, Any] = {"n_components": 16, "n_nonzero_coefs": 3, "max_iter": 2}
    one, other = (asn.fit_sparse_dictionary(a, **options) for a in (x, x.astype(np.float32)))
    assert bits(one.decoder, one.indices, one.codes) == bits(other.decoder, other.indices, other.codes)


def test_bfloat16_where_its_package_is_installed() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="bfloat16 arrays come from ml_dtypes")
    x = X[:200].astype(ml_dtypes.bfloat16)
    options: dict[str, Any] = {"n_components": 16, "n_nonzero_coefs": 3, "max_iter": 2}
    one, other = (asn.fit_sparse_dictionary(a, **options) for a in (x, x.astype(np.float32)))
    assert bits(one.decoder, one.codes) == bits(other.decoder, other.codes)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_t16_a_memory_map_gives_the_bits_of_memory(tmp_path: Path, dtype: str) -> None:
    np.save(tmp_path / "x.npy", X.astype(dtype))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    one, other = (asn.fit_sparse_dictionary(a, **FIVE) for a in (mapped, X.astype(dtype)))
    assert bits(one.decoder, one.indices, one.codes, one.ev_path) == bits(
        other.decoder, other.indices, other.codes, other.ev_path
    )


def test_t16_a_memory_map_is_paged_in_where_it_is_touched(tmp_path: Path) -> None:
    # 2 GiB on paper, of which the file system stores nothing and the trainer sees two megabytes.
    code = """
import sys, resource, numpy as np, arrowschur_native as asn
mapped = np.memmap(sys.argv[1], dtype=np.float32, mode="r", shape=(2**20, 512))
rows = mapped[1000:2000]
asn.SparseDictionary(n_components=16, n_nonzero_coefs=2).fit(np.zeros((5, 512), np.float32)).transform(rows)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
estimator = asn.SparseDictionary(n_components=16, n_nonzero_coefs=2).fit(rows)
estimator.transform(rows)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    path = tmp_path / "large.bin"
    with open(path, "wb") as file:
        file.truncate(2**31)
    run = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert int(run.stdout) < 32 * 1024  # KiB


@pytest.mark.parametrize("layout", ["fortran", "float64 fortran", "object", "strided"])
def test_a_conversion_is_never_of_the_whole(layout: str) -> None:
    x = layouts(np.tile(X, (8, 1)))[layout]
    estimator = model(output="pair", batch_size=64, keep_codes=False)
    tracemalloc.start()
    try:
        estimator.fit(x)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * X.nbytes / 4


def test_nothing_is_modified() -> None:
    x, atoms = X[:200].copy(), G1.atoms.copy()
    estimator = model(dict_init=atoms, output="pair").fit(x)
    pair = estimator.transform(x)
    copies = [array.copy() for array in pair]
    estimator.inverse_transform(pair)
    assert bits(x, atoms, *pair) == bits(X[:200], G1.atoms, *copies)
    with pytest.raises(ValueError, match="read-only"):
        estimator.components_[0, 0] = 1.0


# ---- T17: export ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("center", [False, True])
def test_t17_the_exported_encoder_chooses_the_same_atoms(center: bool, tmp_path: Path) -> None:
    x = X + np.float32(2.0) if center else X
    estimator = model(center=center, output="pair").fit(x)
    estimator.export_sae_dir(tmp_path / "sae")
    sae = asn.dictionary.TopkAutoencoder.load(tmp_path / "sae")

    assert sae.W_dec.shape == (128, 32)
    assert np.array_equal(sae.W_enc, sae.W_dec.T)
    assert not sae.b_enc.any()
    assert np.array_equal(sae.b_dec, estimator.mean_)
    activations = (x - sae.b_dec).astype(np.float64) @ sae.W_enc + sae.b_enc
    kept = np.argsort(-np.maximum(activations, 0), axis=1, kind="stable")[:, : sae.k]
    indices = estimator.result_.indices
    assert np.array_equal(np.sort(kept % 64, axis=1), np.sort(indices, axis=1))

    config = json.loads((tmp_path / "sae" / "cfg.json").read_text())
    expected = {
        "d_in": 32,
        "d_sae": 128,
        "k": 3,
        "architecture": "topk",
        "dtype": "float32",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
    }
    assert {name: config[name] for name in expected} == expected
    assert "least squares" in config["metadata"]["amplitudes"]
    weights = estimator.to_sae()
    for name in ("W_enc", "W_dec", "b_enc", "b_dec"):
        assert np.array_equal(getattr(weights, name), getattr(sae, name))


def test_t17_split_sign_needs_positive_training(trained: asn.SparseDictionary) -> None:
    with pytest.raises(asn.UnsupportedConfiguration, match="split_sign=False"):
        trained.to_sae(split_sign=False)


def test_a_folder_that_is_no_autoencoder_is_refused(trained: asn.SparseDictionary, tmp_path: Path) -> None:
    trained.export_sae_dir(tmp_path)
    config = json.loads((tmp_path / "cfg.json").read_text())
    for change in ({"architecture": "jumprelu"}, {"d_sae": 5}, {"k": None}):
        (tmp_path / "cfg.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(asn.InvalidArgument, match="holds no topk autoencoder"):
            asn.dictionary.TopkAutoencoder.load(tmp_path)


def test_names_of_an_autoencoder(trained: asn.SparseDictionary) -> None:
    assert bits(*trained.encode(X)) == bits(*trained.transform(X))
    assert np.array_equal(trained.decode(trained.encode(X)), trained.inverse_transform(trained.transform(X)))
    assert trained.W_dec is trained.components_
    assert trained.b_dec is trained.mean_


def test_metrics_are_those_of_an_independent_pass() -> None:
    estimator = model(center=True, output="pair").fit(X[:1500])
    x = X[1500:].astype(np.float64)
    found = estimator.metrics(X[1500:])

    indices, codes = estimator.transform(X[1500:])
    c = codes.astype(np.float64)
    back = (c[:, :, None] * estimator.components_.astype(np.float64)[indices]).sum(axis=1) + estimator.mean_
    error, spread = np.sum((x - back) ** 2, axis=1), np.sum((x - x.mean(axis=0)) ** 2, axis=1)
    fires = np.bincount(indices[codes != 0], minlength=64)
    expected = {
        "mse": error.sum() / x.size,
        "mse_row": error.mean(),
        "explained_variance": 1 - error.sum() / spread.sum(),
        "explained_variance_row": np.mean(1 - error / spread),
        "fvu": error.sum() / spread.sum(),
        "l0": np.count_nonzero(codes) / len(x),
        "l1": np.abs(c).sum(axis=1).mean(),
        "alive_fraction": np.mean(fires > 0),
        "dead_fraction": np.mean(fires == 0),
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-6), name
    assert np.allclose(found.firing_frequency, fires / len(x), rtol=0, atol=1e-12)
    assert 0 < found.cosine <= 1
    assert 0 < found.l2_ratio <= 1.0 + 1e-9
    assert estimator.score(X[1500:]) == pytest.approx(found.explained_variance, abs=1e-12)


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
    stream = asn.SparseDictionaryStream(X, **OPTIONS)
    for _ in range(3):
        for shard in (X, X[:500]):
            estimator.partial_fit(shard)
            stream.partial_fit(shard)
        one, other = estimator.end_epoch(), stream.end_epoch()
        assert (one.ev, one.rss, one.alive, one.revived) == (other.ev, other.rss, other.alive, other.revived)
    assert bits(estimator.components_) == bits(stream.now().decoder)
    assert estimator.n_iter_ == 3


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


# ---- callbacks, printing, interrupts --------------------------------------------------------------------------------
def test_the_callback_sees_every_epoch_and_can_end_the_fit() -> None:
    seen: list[Any] = []

    def stop(record: Any) -> Any:
        seen.append(record)
        # Nothing goes on, like True; only False ends it.
        return None if record.epoch < 2 else False

    fit = model(callback=stop, max_iter=9, tol=0.0).fit(X).result_
    assert [record.epoch for record in seen] == [1, 2]
    assert fit.stop_reason == "callback"
    assert seen == list(fit.epochs)
    assert bits([record["ev"] for record in seen]) == bits(fit.ev_path[1:])
    assert set(seen[0].seconds) == {"route", "codes", "accumulate", "refresh", "project", "revive"}
    assert {"method", "components", "relative_residual", "bump"} <= set(seen[0]["refresh"])


def test_what_a_callback_raises_passes_through() -> None:
    def fail(record: Any) -> None:
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        model(callback=fail).fit(X)


def test_verbose_prints_a_line_for_each_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    model(verbose=0).fit(X)
    assert capsys.readouterr() == ("", "")
    fit = model(verbose=1).fit(X).result_
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    for line, epoch in zip(lines, fit.epochs, strict=True):
        assert f"EV {epoch.ev:.6f}" in line
        assert "seconds" not in line
    model(verbose=2).fit(X)
    assert "refresh" in capsys.readouterr().out.splitlines()[0]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tqdm", reason="the progress bar is tqdm's (extra 'cli')")
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    model(verbose=1).fit(X)
    assert screen.getvalue().count("EV ") == 3
    assert "epochs" in capsys.readouterr().err


def test_a_terminal_without_tqdm_shows_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setitem(sys.modules, "tqdm", None)
    model(verbose=1).fit(X)
    assert screen.getvalue().count("EV ") == 3


def test_summaries_are_readable(trained: asn.SparseDictionary) -> None:
    assert repr(model(tol=0.5)) == "SparseDictionary(n_components=64, n_nonzero_coefs=3, max_iter=3, tol=0.5)"
    text = repr(trained)
    for part in ("64 atoms of 32 columns", f"{trained.explained_variance_:.6f}", "max_iter (not converged)", "refresh"):
        assert part in text
    assert repr(trained.result_).startswith("SparseDictionaryFit\n")
    stream = asn.SparseDictionaryStream(X, **OPTIONS)
    stream.partial_fit(X)
    assert "2000 rows in the open one" in repr(stream)


@pytest.mark.parametrize("moment", ["in the callback", "anywhere"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_an_interrupted_fit_keeps_its_best_state(moment: str, dtype: str) -> None:
    started = threading.Event()

    def callback(record: Any) -> None:
        if record.epoch == 3:
            started.set()
            if moment == "in the callback":
                os.kill(os.getpid(), signal.SIGINT)

    def interrupt() -> None:
        started.wait()
        os.kill(os.getpid(), signal.SIGINT)

    estimator = model(max_iter=10**6, tol=0.0, patience=0, callback=callback, output="pair")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job inherits "ignore"
    try:
        if moment == "anywhere":
            threading.Thread(target=interrupt, daemon=True).start()
        with pytest.raises(KeyboardInterrupt) as raised:
            estimator.fit(X.astype(dtype))
    finally:
        signal.signal(signal.SIGINT, before)
    assert estimator.stop_reason_ == "interrupted"
    assert estimator.n_iter_ >= 3
    assert estimator.explained_variance_ == max(estimator.ev_path_)
    assert estimator.score(X.astype(dtype)) == pytest.approx(estimator.explained_variance_, abs=1e-12)
    assert isinstance(raised.value, asn.dictionary.FitInterrupted)
    assert raised.value.fit is estimator.result_


def test_the_warning_names_what_to_change() -> None:
    with pytest.warns(ConvergenceWarning, match="no convergence in 3 epochs") as caught:
        model().fit(X)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert model(tol=0.5, max_iter=9).fit(X).converged_


def test_scikit_learn_is_not_imported_until_it_is_needed() -> None:
    code = """
import sys, numpy as np
sys.modules["sklearn"] = sys.modules["scipy"] = None
import arrowschur_native as asn
x = np.random.default_rng(0).normal(size=(100, 8)).astype(np.float32)
estimator = asn.SparseDictionary(n_components=12, n_nonzero_coefs=2, max_iter=2)
try:
    estimator.transform(x)
except asn.dictionary.NotFittedError as error:
    assert type(error).__module__.startswith("arrowschur_native"), type(error)
    assert isinstance(error, (ValueError, AttributeError))
import warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    estimator.fit(x)
assert [w.category for w in caught] == [asn.dictionary.ConvergenceWarning], caught
assert issubclass(asn.dictionary.ConvergenceWarning, UserWarning)
assert asn.dictionary.ConvergenceWarning.__module__.startswith("arrowschur_native")
indices, codes = estimator.transform(x)
assert indices.shape == (100, 2)
print("ok")
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.stdout.strip() == "ok", run.stderr
    lazily = "import sys, arrowschur_native; print('sklearn' in sys.modules, 'scipy' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", lazily], capture_output=True, text=True, check=True)
    assert run.stdout.split()[0] == "False"
    assert asn.dictionary.NotFittedError is NotFittedError
    assert asn.dictionary.ConvergenceWarning is ConvergenceWarning


# ---- errors, word for word ------------------------------------------------------------------------------------------
def fit(x: Any = X, **options: Any) -> Callable[[], Any]:
    return lambda: model(**options).fit(x)


def bad_entry(value: float, dtype: Any = np.float32) -> np.ndarray:
    x = X[:50].astype(dtype)
    x[7, 3] = x[7, 9] = x[20, 0] = value
    return x


def a_string() -> np.ndarray:
    x = X[:50].astype(object)
    x[4, 4] = "many"
    return x


ERRORS: list[tuple[Callable[[], Any], str, type[Exception]]] = [
    (
        fit(np.zeros((0, 3))),
        "X has 0 sample(s) (shape=(0, 3)) while a minimum of 1 is required.",
        asn.InvalidArgument,
    ),
    (
        fit(np.zeros((0, 0))),
        "X has 0 sample(s) (shape=(0, 0)) while a minimum of 1 is required.",
        asn.InvalidArgument,
    ),
    (
        fit(np.zeros((12, 0))),
        "X has 0 feature(s) (shape=(12, 0)) while a minimum of 1 is required.",
        asn.InvalidArgument,
    ),
    (
        fit(X[0]),
        "X must be a 2-D array, got 1 dimension(s). Reshape your data to (rows, columns)",
        asn.InvalidArgument,
    ),
    (
        fit(X[None]),
        "X must be a 2-D array, got 3 dimension(s). Reshape your data to (rows, columns)",
        asn.InvalidArgument,
    ),
    (fit(bad_entry(np.nan)), "X at row 7, column 3 is NaN or infinity (inf)", asn.InvalidArgument),
    (fit(bad_entry(-np.inf)), "X at row 7, column 3 is NaN or infinity (inf)", asn.InvalidArgument),
    (fit(bad_entry(np.inf, np.float64)), "X at row 7, column 3 is NaN or infinity (inf)", asn.InvalidArgument),
    (fit(bad_entry(np.inf, np.float16)), "X at row 7, column 3 is NaN or infinity (inf)", asn.InvalidArgument),
    (fit(bad_entry(np.nan), center=True), "X at row 7, column 3 is NaN or infinity (inf)", asn.InvalidArgument),
    (fit(X.astype(complex)), "Complex data not supported, got dtype complex128", asn.InvalidArgument),
    (fit(sparse.csr_matrix(X)), "sparse X is not supported, pass a dense array", asn.InvalidArgument),
    (fit(sparse.csc_array(X)), "sparse X is not supported, pass a dense array", asn.InvalidArgument),
    (fit(np.array([["a", "b"]])), "X has unsupported dtype <U1", TypeError),
    (fit(np.array([["a", "b"]])), "X has unsupported dtype <U1", asn.InvalidArgument),
    (fit(np.zeros((3, 2), "M8[s]")), "X has unsupported dtype datetime64[s]", TypeError),
    (fit(n_components=0), "n_components must be at least 1, got 0", asn.InvalidArgument),
    (fit(n_components=-3), "n_components must be at least 1, got -3", asn.InvalidArgument),
    (fit(n_nonzero_coefs=0), "n_nonzero_coefs must be at least 1, got 0", asn.InvalidArgument),
    (fit(n_nonzero_coefs=-1), "n_nonzero_coefs must be at least 1, got -1", asn.InvalidArgument),
    (fit(code_ridge=-1.0), "code_ridge must be finite and non-negative, got -1", asn.InvalidArgument),
    (fit(code_ridge=np.nan), "code_ridge must be finite and non-negative, got nan", asn.InvalidArgument),
    (fit(decoder_ridge=np.inf), "decoder_ridge must be finite and non-negative, got inf", asn.InvalidArgument),
    (fit(tol=-0.5), "tol must be finite and non-negative, got -0.5", asn.InvalidArgument),
    (fit(max_iter=0), "max_iter must be at least 1, got 0", asn.InvalidArgument),
    (fit(batch_size=0), "batch_size must be at least 1, got 0", asn.InvalidArgument),
    (fit(score_tile=-7), "score_tile must be at least 1, got -7", asn.InvalidArgument),
    (fit(router="fast"), "router must be one of topk, refine, omp; got 'fast'", asn.InvalidArgument),
    (
        fit(init="random"),
        "init must be one of auto, line, euclidean, given, sample; got 'random'",
        asn.InvalidArgument,
    ),
    (fit(device="gpu"), "device must be one of auto, off, required; got 'gpu'", asn.InvalidArgument),
    (fit(keep="first"), "keep must be one of best, last; got 'first'", asn.InvalidArgument),
    (fit(verbose=3), "verbose must be one of 0, 1, 2; got 3", asn.InvalidArgument),
    (
        lambda: model(output="lil").fit(X).transform(X),
        "output must be one of auto, csr, pair, dense; got 'lil'",
        asn.InvalidArgument,
    ),
    (
        lambda: model(refresh="never").partial_fit(X),
        "refresh must be one of call, epoch; got 'never'",
        asn.InvalidArgument,
    ),
    (lambda: model(window_rows=0).partial_fit(X), "window_rows must be at least 1, got 0", asn.InvalidArgument),
    (fit(positive=True), "positive=True is not available", asn.UnsupportedConfiguration),
    (fit(dict_init=np.ones((63, 32))), "dict_init must have shape (64, 32), got (63, 32)", asn.InvalidArgument),
    (
        lambda: model().fit(X).transform(X[:, :5]),
        "X has 5 features, but SparseDictionary is expecting 32 features as input",
        asn.InvalidArgument,
    ),
    (
        lambda: model().fit(X).score(X[:, :5]),
        "X has 5 features, but SparseDictionary is expecting 32 features as input",
        asn.InvalidArgument,
    ),
    (
        lambda: model().partial_fit(X).partial_fit(X[:, :5]),
        "X has 5 features, but SparseDictionary is expecting 32 features as input",
        asn.InvalidArgument,
    ),
    (
        lambda: model().fit(X).inverse_transform((np.array([[0], [64]], np.uint32), np.ones((2, 1), np.float32))),
        "atom index 64 at row 1 is not below 64",
        asn.InvalidArgument,
    ),
    (
        lambda: model().fit(X).inverse_transform((np.array([[0, 1], [2, -1]]), np.ones((2, 2)))),
        "atom index -1 at row 1 is not below 64",
        asn.InvalidArgument,
    ),
    (lambda: model().transform(X), "call fit before transform", NotFittedError),
    (lambda: model().inverse_transform(X), "call fit before inverse_transform", NotFittedError),
    (lambda: model().score(X), "call fit before score", NotFittedError),
    (lambda: model().metrics(X), "call fit before metrics", NotFittedError),
    (lambda: model().save("nowhere"), "call fit before save", NotFittedError),
    (lambda: model().to_sae(), "call fit before to_sae", NotFittedError),
    (lambda: model().export_sae_dir("nowhere"), "call fit before export_sae_dir", NotFittedError),
    (
        lambda: asn.SparseDictionaryStream(X, **OPTIONS).end_epoch(),
        "end_epoch called before any rows were given",
        asn.InvalidArgument,
    ),
    (
        lambda: asn.SparseDictionaryStream(model().fit(X), n_components=65),
        "seed has 64 atoms, n_components is 65",
        asn.InvalidArgument,
    ),
    (
        lambda: asn.SparseDictionaryStream(X, **OPTIONS, refreshes_per_epoch=2),
        "refreshes_per_epoch must be 1 for streams, got 2",
        asn.InvalidArgument,
    ),
]


@pytest.mark.parametrize(("call", "text", "kind"), ERRORS, ids=[entry[1][:60] for entry in ERRORS])
def test_errors_word_for_word(call: Callable[[], Any], text: str, kind: type[Exception]) -> None:
    with pytest.raises(kind) as error:
        call()
    assert str(error.value) == "sparse_dictionary: " + text
    assert isinstance(error.value, ValueError)


def test_the_range_of_a_stream_is_that_of_its_seed() -> None:
    stream = asn.SparseDictionaryStream(X * np.float32(1e-30), **OPTIONS)
    shard = (X * np.float32(1e-30)).copy()
    stream.partial_fit(shard)
    shard[5, 2] = 1e10
    with pytest.raises(asn.InvalidArgument) as error:
        stream.partial_fit(shard)
    text = str(error.value)
    assert text.startswith("sparse_dictionary: value ")
    assert text.endswith(" at row 5 exceeds the range fixed by the seed sample")
    assert float(text.split()[2]) == pytest.approx(1e10, rel=1e-4)


def test_a_dense_result_says_how_many_bytes_it_would_need(trained: asn.SparseDictionary) -> None:
    rows = 2**27 // 64 + 1
    with pytest.raises(asn.InvalidArgument) as error:
        asn.SparseDictionary.from_fit(trained.result_, output="dense").transform(
            np.broadcast_to(X[:1], (rows, 32))  # no memory behind it
        )
    needed = rows * 64 * 4
    assert str(error.value) == f"sparse_dictionary: dense output would need {needed} bytes; use output='csr'"


def test_no_device_is_an_error_where_one_is_required() -> None:
    if asn.device_info()["available"]:
        assert model(device="required").fit(X).result_.route.device_minibatches > 0
        return
    with pytest.raises(asn.DeviceUnavailableError) as error:
        model(device="required").fit(X)
    assert str(error.value).startswith("sparse_dictionary: device 'required' but no usable CUDA device: ")
    assert error.value.reason


def test_entries_that_are_no_numbers_are_numpys_errors() -> None:
    x = X[:50].astype(object)
    x[3, 3] = {"a": 1}
    with pytest.raises(TypeError, match=r"argument must be .* string.* number"):
        model().fit(x)
    with pytest.raises(ValueError, match="could not convert string to float"):
        model().fit(a_string())


@pytest.mark.parametrize(
    "options",
    [
        {"n_components": 2.5},
        {"n_components": "many"},
        {"n_components": None},
        {"n_components": True},
        {"n_components": 2**70},
        {"n_components": 2**32},
        {"max_iter": 1.5},
        {"code_ridge": "small"},
        {"code_ridge": None},
        {"decoder_ridge": 1j},
        {"tol": True},
        {"center": "yes"},
        {"router": 3},
        {"router": None},
        {"keep": ["best"]},
        {"device": np.zeros(2)},
        {"verbose": "loud"},
        {"verbose": [1]},
        {"callback": 5},
        {"n_jobs": 0},
        {"n_jobs": -2},
        {"n_jobs": "all"},
        {"refine_factor": 1},
        {"refine_factor": 65},
        {"refreshes_per_epoch": 0},
        {"refreshes_per_epoch": 65},
        {"patience": -1},
        {"revive_min_fires": 0},
        {"revive_pool": 0},
        {"refresh_memory_bytes": 1000},
        {"init": "given"},
        {"dict_init": G1.atoms, "init": "line"},
        {"dict_init": np.full((64, 32), np.nan)},
        {"dict_init": G1.atoms.astype(complex)},
        {"dict_init": G1.atoms[0]},
        {"dict_init": "atoms"},
    ],
    ids=lambda options: ",".join(f"{name}={str(value)[:12]}" for name, value in options.items()),
)
def test_a_bad_option_is_named(options: dict[str, Any]) -> None:
    with pytest.raises(asn.InvalidArgument, match=f"sparse_dictionary: .*{next(iter(options))}|init"):
        model(**options).fit(X)
    assert issubclass(asn.InvalidArgument, ValueError)


def test_unknown_options_are_named() -> None:
    with pytest.raises(TypeError, match="n_component"):
        asn.fit_sparse_dictionary(X, n_components=3, n_component=3)
    with pytest.raises(TypeError, match="n_components"):
        asn.fit_sparse_dictionary(X)


def test_options_of_numpy_types_are_taken() -> None:
    options = {"n_components": np.int64(64), "n_nonzero_coefs": np.uint8(3), "tol": np.float32(0.5), "center": np.True_}
    assert model(**options, verbose=False).fit(X).result_.options.n_components == 64


# ---- edge cases -----------------------------------------------------------------------------------------------------
def test_more_atoms_than_lines_leave_dormant_atoms() -> None:
    x = np.repeat(X[:4], 5, axis=0)
    x[::2] *= -2
    fit = asn.fit_sparse_dictionary(x, n_components=10, n_nonzero_coefs=2)
    zero = ~fit.decoder.any(axis=1)
    assert (fit.dormant, fit.alive) == (6, 4)
    assert zero.sum() == 6
    assert not np.isin(fit.indices[fit.codes != 0], np.flatnonzero(zero)).any()
    assert not fit.atom_fires[zero].any()
    assert fit.explained_variance > 1 - 1e-9


def test_more_coefficients_than_atoms_are_clamped() -> None:
    estimator = model(n_components=3, n_nonzero_coefs=9, output="pair").fit(X)
    assert estimator.n_nonzero_coefs_ == 3
    assert estimator.n_nonzero_coefs == 9
    assert [a.shape for a in estimator.transform(X)] == [(2000, 3)] * 2


def test_slots_without_a_score_are_padded() -> None:
    x = np.eye(4, dtype=np.float32)
    estimator = asn.SparseDictionary(n_components=4, n_nonzero_coefs=3, dict_init=np.eye(4), output="pair").fit(x)
    indices, codes = estimator.transform(x)
    assert np.array_equal(indices, np.repeat(np.arange(4, dtype=np.uint32)[:, None], 3, axis=1))
    assert np.all(codes[:, 0] > 0.99)
    assert not codes[:, 1:].any()
    assert asn.SparseDictionary.from_fit(estimator.result_, output="csr").transform(x).nnz == 4
    dense = asn.SparseDictionary.from_fit(estimator.result_, output="dense").transform(x)
    assert np.array_equal(dense, np.diag(codes[:, 0]))


def test_copies_of_an_atom_share_its_code() -> None:
    atoms = np.stack([G1.atoms[0]] * 4 + [G1.atoms[1]] * 2)
    x = np.outer(np.linspace(1, 2, 20), G1.atoms[0]).astype(np.float32)
    options: dict[str, Any] = {"n_components": 6, "n_nonzero_coefs": 4, "dict_init": atoms, "revive": False}
    for ridge in (0.0, 1e-6):
        fit = asn.fit_sparse_dictionary(x, **options, max_iter=1, code_ridge=ridge)
        assert np.isfinite(fit.decoder).all()
        assert fit.explained_variance > 1 - 1e-6


def test_a_constant_column_is_harmless_with_center() -> None:
    x = X.copy()
    x[:, 5] = 100.0
    centred = model(center=True).fit(x)
    assert centred.mean_[5] == 100.0
    assert centred.explained_variance_ > 0.6
    assert np.allclose(centred.inverse_transform(centred.transform(x))[:, 5], 100.0, atol=1e-3)


def test_zero_rows_have_no_code() -> None:
    x = X.copy()
    x[[3, 77]] = 0.0
    fit = asn.fit_sparse_dictionary(x, **OPTIONS, max_iter=2)
    assert not fit.codes[[3, 77]].any()
    assert fit.atom_fires.sum() == np.count_nonzero(fit.codes)


@pytest.mark.parametrize("shape", [(1, 5), (5, 1), (1, 1), (2, 3)])
def test_the_smallest_inputs(shape: tuple[int, int]) -> None:
    x = np.arange(1, 1 + shape[0] * shape[1], dtype=np.float32).reshape(shape)
    estimator = asn.SparseDictionary(n_components=4, n_nonzero_coefs=2, output="pair").fit(x)
    assert estimator.explained_variance_ > 1 - 1e-9
    assert np.allclose(estimator.inverse_transform(estimator.transform(x)), x, rtol=1e-5)
    if shape[0] == 1:
        assert estimator.result_.alive == 1


def test_degenerate_data_do_not_raise() -> None:
    zeros = asn.SparseDictionary(n_components=3, output="pair").fit(np.zeros((10, 4)))
    assert zeros.explained_variance_ == 1.0
    assert not zeros.transform(np.zeros((10, 4)))[1].any()
    assert not zeros.components_.any()
    ones = asn.SparseDictionary(n_components=2, output="pair").fit(np.ones((10, 4)))
    assert ones.explained_variance_ == 1.0
    assert ones.result_.dormant == 1


@pytest.mark.parametrize("factor", [1e-25, 1e25, 1e-38])
def test_extreme_units(factor: float) -> None:
    x = (X.astype(np.float64) * factor).astype(np.float32)
    estimator = model(decoder_ridge_relative=True, output="pair").fit(x)
    expected = model(decoder_ridge_relative=True).fit(X).ev_path_
    assert np.allclose(estimator.ev_path_, expected, atol=1e-4 if factor == 1e-38 else 1e-5)
    assert estimator.score(x) == pytest.approx(estimator.explained_variance_, abs=1e-12)
    back = estimator.inverse_transform(estimator.transform(x)).astype(np.float64)
    rss = np.sum(((x - back) / factor) ** 2)
    assert 1 - rss / variance(X) == pytest.approx(estimator.explained_variance_, abs=1e-4)


def test_doubles_beyond_the_range_of_float32_train() -> None:
    fit = asn.fit_sparse_dictionary(X.astype(np.float64) * 2.0**500, **FIVE, decoder_ridge_relative=True)
    expected = asn.fit_sparse_dictionary(X, **FIVE, decoder_ridge_relative=True)
    assert np.allclose(fit.ev_path, expected.ev_path, atol=1e-6)


def test_threads_share_a_model(trained: asn.SparseDictionary) -> None:
    expected = bits(*trained.transform(X))
    found: list[Any] = []
    workers = [threading.Thread(target=lambda: found.append(bits(*trained.transform(X)))) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert found == [expected] * 4


@pytest.mark.parametrize("jobs", [None, 1, 2, -1])
def test_jobs_change_no_bit(jobs: int | None) -> None:
    fit = asn.fit_sparse_dictionary(X, **FIVE, n_jobs=jobs)
    assert bits(fit.decoder, fit.codes) == bits(*(lambda f: (f.decoder, f.codes))(asn.fit_sparse_dictionary(X, **FIVE)))


# ---- safetensors ----------------------------------------------------------------------------------------------------
def test_safetensors_round_trip(tmp_path: Path) -> None:
    from arrowschur_native.dictionary import _safetensors

    rng = np.random.default_rng(0)
    kinds = ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?", ">f4")
    arrays = {kind: (rng.normal(size=(3, 5)) * 50).astype(kind) for kind in kinds}
    arrays |= {
        "empty": np.zeros((0, 4), np.float32),
        "scalar": np.array(2.5),
        "fortran": np.asfortranarray(arrays["f8"]),
    }
    _safetensors.write(tmp_path / "all.safetensors", arrays, {"a": "b", "umlaut": "ä"})
    read, metadata = _safetensors.read(tmp_path / "all.safetensors")
    assert metadata == {"a": "b", "umlaut": "ä"}
    assert set(read) == set(arrays)
    for name, array in arrays.items():
        assert read[name].dtype == array.dtype.newbyteorder("=")
        assert np.array_equal(read[name], array)
    assert list(tmp_path.iterdir()) == [tmp_path / "all.safetensors"]  # no part of a file is left


def test_safetensors_reads_bfloat16(tmp_path: Path) -> None:
    from arrowschur_native.dictionary import _safetensors

    header = json.dumps({"x": {"dtype": "BF16", "shape": [3], "data_offsets": [0, 6]}}).encode()
    data = np.array([0x3F80, 0xC000, 0x7F80], dtype="<u2").tobytes()
    (tmp_path / "x").write_bytes(len(header).to_bytes(8, "little") + header + data)
    assert _safetensors.read(tmp_path / "x")[0]["x"].tolist() == [1.0, -2.0, np.inf]


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b"{",
        b'{"x": 3}',
        b'{"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}',
        b'{"x": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}',
        b'{"x": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}',
        b'{"x": {"dtype": "F4", "shape": [1], "data_offsets": [0, 4]}}',
        b'{"__metadata__": {"a": 1}}',
    ],
)
def test_safetensors_refuses_odd_headers(tmp_path: Path, header: bytes) -> None:
    from arrowschur_native.dictionary import _safetensors

    (tmp_path / "x").write_bytes(len(header).to_bytes(8, "little") + header + b"\0\0\0\0")
    with pytest.raises(ValueError, match="its "):
        _safetensors.read(tmp_path / "x")


def test_safetensors_agree_with_the_package_of_that_name(trained: asn.SparseDictionary, tmp_path: Path) -> None:
    package = pytest.importorskip("safetensors.numpy", reason="the safetensors package is not installed")
    trained.save(tmp_path / "dictionary.safetensors")
    assert np.array_equal(package.load_file(tmp_path / "dictionary.safetensors")["decoder"], trained.components_)


# ---- command line ---------------------------------------------------------------------------------------------------
@pytest.fixture
def rows_file(tmp_path: Path) -> str:
    np.save(tmp_path / "x.npy", X)
    return str(tmp_path / "x.npy")


def test_the_command_line_trains_encodes_and_reports(
    rows_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = str(tmp_path / "dictionary.safetensors")
    assert main(["fit-dictionary", rows_file, "-k", "64", "-s", "3", "-o", written, "--max-iter", "3"]) == 0
    output = capsys.readouterr().out
    assert output.count("epoch ") == 3
    assert f"written to {written}" in output
    loaded = asn.load_dictionary(written)
    expected = model().fit(X)
    assert np.array_equal(loaded.components_, expected.components_)

    assert main(["encode", written, rows_file, "-o", str(tmp_path / "codes.npz")]) == 0
    with np.load(tmp_path / "codes.npz") as codes:
        assert bits(codes["indices"], codes["codes"]) == bits(*expected.set_params(output="pair").transform(X))
    assert main(["encode", written, rows_file, "-o", str(tmp_path / "csr.npz"), "--csr", "-s", "2"]) == 0
    assert np.diff(sparse.load_npz(tmp_path / "csr.npz").indptr).max() == 2
    capsys.readouterr()

    assert main(["report", written, rows_file, "--json", "--plot", str(tmp_path / "report.png")]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["explained_variance"] == pytest.approx(expected.score(X), abs=1e-12)
    assert report["dead"] == 64 - np.count_nonzero(expected.result_.atom_fires)
    assert (tmp_path / "report.png").read_bytes()[:4] == b"\x89PNG"
    assert main(["report", written]) == 0
    text = capsys.readouterr().out
    assert f"{expected.explained_variance_:.6f}" in text
    assert "atoms by firing frequency" in text


def test_the_command_line_refuses_what_it_cannot_read(
    rows_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = str(tmp_path / "out.safetensors")
    (tmp_path / "text.npy").write_text("no array")
    np.savez(tmp_path / "two.npz", a=X, b=X)
    for bad in ("text.npy", "two.npz", "missing.npy"):
        assert main(["fit-dictionary", str(tmp_path / bad), "-k", "4", "-o", written]) == 2
    assert main(["fit-dictionary", rows_file, "-k", "0", "-o", written]) == 2
    assert "n_components must be at least 1, got 0" in capsys.readouterr().err
    assert main(["report", rows_file]) == 2
    assert not Path(written).exists()
    named = ["fit-dictionary", str(tmp_path / "two.npz"), "--array", "b", "-k", "4", "-o", written, "--json"]
    assert main(named) == 0
    assert json.loads(capsys.readouterr().out)["atoms"] == 4


def test_an_interrupted_command_writes_the_best_state(rows_file: str, tmp_path: Path) -> None:
    written = tmp_path / "dictionary.safetensors"
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from arrowschur_native.__main__ import main; sys.exit(main())"
    )
    arguments = ["fit-dictionary", rows_file, "-k", "64", "-s", "3", "-o", str(written), "--max-iter", "1000000"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments, "--tol", "0", "--patience", "0"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch    5"):
            break
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted: the best state so far" in output
    assert asn.load_dictionary(written).stop_reason_ == "interrupted"


def test_a_report_without_matplotlib_says_what_to_install(
    trained: asn.SparseDictionary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained.save(tmp_path / "dictionary.safetensors")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(["report", str(tmp_path / "dictionary.safetensors"), "--plot", str(tmp_path / "x.png")]) == 2
    assert "install matplotlib" in capsys.readouterr().err


def test_the_histogram_counts_every_atom() -> None:
    report = importlib.import_module("arrowschur_native.dictionary._report").Report
    estimator = model(n_components=20, n_nonzero_coefs=2).fit(X[:6])
    found = report.of(estimator)
    assert found.dead == 14
    assert sum(count for _, count in found.histogram()) == 20
    assert dict(found.histogram())["dead"] == 14


def test_rows_of_another_planting_are_explained_as_well() -> None:
    data = planted(600, 16, 24, 1, 0.02, 11)
    estimator = asn.SparseDictionary(n_components=24, n_nonzero_coefs=1, max_iter=20).fit(data.x[:500])
    assert estimator.score(data.x[500:]) > 0.99
    cosines = np.abs(estimator.components_ @ data.atoms.T)
    assert np.all(cosines.max(axis=0) > 0.999)
