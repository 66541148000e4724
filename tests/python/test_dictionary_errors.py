"""Sparse dictionaries: errors word for word, options, edge cases."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from dictionaries import ATOMS, FIVE, OPTIONS, X, bits, model, variance

import arrowschur_native as asn

sparse = pytest.importorskip("scipy.sparse", reason="CSR output needs SciPy")
pytest.importorskip("sklearn", reason="these tests use scikit-learn's tools")
from sklearn.exceptions import NotFittedError  # noqa: E402

# Most fits here are short on purpose.
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture(scope="module")
def trained() -> asn.SparseDictionary:
    return model(output="pair").fit(X)


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
        {"dict_init": ATOMS, "init": "line"},
        {"dict_init": np.full((64, 32), np.nan)},
        {"dict_init": ATOMS.astype(complex)},
        {"dict_init": ATOMS[0]},
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
    atoms = np.stack([ATOMS[0]] * 4 + [ATOMS[1]] * 2)
    x = np.outer(np.linspace(1, 2, 20), ATOMS[0]).astype(np.float32)
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
    assert np.allclose(estimator.inverse_transform(estimator.transform(x)), x, rtol=1e-4)  # the ridge
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


@pytest.mark.parametrize(("factor", "ridge"), [(2.0**-1000, 1e-6), (1.0, 1e305)], ids=["data", "ridge"])
def test_a_ridge_far_above_the_data_leaves_directions(factor: float, ridge: float) -> None:
    fit = asn.fit_sparse_dictionary(X.astype(np.float64) * factor, **FIVE, decoder_ridge=ridge)
    expected = asn.fit_sparse_dictionary(X, **FIVE, decoder_ridge=1e80)
    assert fit.dormant == 0
    assert np.allclose(np.linalg.norm(fit.decoder, axis=1), 1.0, atol=1e-6)
    assert np.allclose(fit.ev_path, expected.ev_path, atol=1e-9)


def test_atoms_are_revived_where_segments_outnumber_rows() -> None:
    start = np.eye(8, X.shape[1])
    fit = asn.fit_sparse_dictionary(
        X[:5], n_components=8, n_nonzero_coefs=1, dict_init=start, max_iter=2, refreshes_per_epoch=8
    )
    assert fit.epochs[0].revived > 0
    assert fit.explained_variance > 0.99


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
