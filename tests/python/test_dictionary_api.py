"""Sparse dictionaries as users meet them: the estimator."""

from __future__ import annotations

import io
import os
import pickle
import signal
import subprocess
import sys
import threading
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dictionaries import ATOMS, FIVE, OPTIONS, X, bits, model, reconstruction, variance

import arrowschur_native as asn

sparse = pytest.importorskip("scipy.sparse", reason="CSR output needs SciPy")
pytest.importorskip("sklearn", reason="these tests use scikit-learn's tools")
from sklearn.base import clone  # noqa: E402
from sklearn.exceptions import ConvergenceWarning, NotFittedError  # noqa: E402
from sklearn.model_selection import GridSearchCV  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402

# Most fits here are short on purpose.
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture(scope="module")
def trained() -> asn.SparseDictionary:
    return model(output="pair").fit(X)


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
    estimator = model(router="omp", dict_init=ATOMS, callback=print)
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
    estimator = model(n_components=-5)
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
    x, atoms = X[:200].copy(), ATOMS.copy()
    estimator = model(dict_init=atoms, output="pair").fit(x)
    pair = estimator.transform(x)
    copies = [array.copy() for array in pair]
    estimator.inverse_transform(pair)
    assert bits(x, atoms, *pair) == bits(X[:200], ATOMS, *copies)
    with pytest.raises(ValueError, match="read-only"):
        estimator.components_[0, 0] = 1.0


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


class Number:
    """A number that is a Ctrl-C when its time has come."""

    left = -1

    def __init__(self, value: float) -> None:
        self.value = value

    def __float__(self) -> float:
        Number.left -= 1
        if Number.left == 0:
            raise KeyboardInterrupt
        return self.value


@pytest.mark.parametrize(
    "options", [{"keep": "best"}, {"keep": "last"}, {"refreshes_per_epoch": 3}], ids=["best", "last", "segments"]
)
def test_an_interrupt_inside_a_pass_mixes_no_codes(options: dict[str, Any]) -> None:
    plain = X[:300, :8]
    rows = np.array([[Number(v) for v in row] for row in plain.tolist()], dtype=object)

    def callback(record: Any) -> None:
        if record.epoch == 2:
            Number.left = 1500  # of the 2400 numbers of a pass

    estimator = asn.SparseDictionary(
        n_components=12,
        n_nonzero_coefs=2,
        max_iter=9,
        tol=0.0,
        patience=0,
        batch_size=32,
        callback=callback,
        output="pair",
        **options,
    )
    with pytest.raises(asn.dictionary.FitInterrupted):
        estimator.fit(rows)
    fit = estimator.result_
    assert fit.n_iter == 2
    assert fit.best_epoch <= 2
    indices, codes = estimator.transform(plain)
    np.testing.assert_array_equal(indices, fit.indices)
    np.testing.assert_array_equal(codes, fit.codes)
    assert estimator.score(plain) == pytest.approx(fit.explained_variance, abs=1e-12)


@pytest.mark.parametrize(
    "fit",
    [
        lambda: model().fit(X),
        lambda: model().fit_transform(X),
        lambda: asn.fit_sparse_dictionary(X, **OPTIONS, max_iter=3),
    ],
    ids=["fit", "fit_transform", "fit_sparse_dictionary"],
)
def test_the_warning_names_what_to_change(fit: Callable[[], Any]) -> None:
    with pytest.warns(ConvergenceWarning, match="no convergence in 3 epochs") as caught:
        fit()
    assert [warning.filename for warning in caught] == [__file__]


def test_a_fit_that_converges_does_not_warn() -> None:
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
