"""Sparse dictionaries in files and on the command line."""

from __future__ import annotations

import importlib
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from dictionaries import X, bits, model
from dictionary_fixtures import g2

import arrowschur_native as asn
from arrowschur_native._cli import main

sparse = pytest.importorskip("scipy.sparse", reason="CSR output needs SciPy")
pytest.importorskip("sklearn", reason="these tests use scikit-learn's tools")

# Most fits here are short on purpose.
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture(scope="module")
def trained() -> asn.SparseDictionary:
    return model(output="pair").fit(X)


# ---- T16: dictionaries -----------------------------------------------------------------------------------------------
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
    # The score is that of the centred rows, which are rounded to float32.
    assert estimator.score(X[1500:]) == pytest.approx(found.explained_variance, abs=1e-9)


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
    assert sum(line.startswith("epoch ") for line in output.splitlines()) == 3
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
    x, atoms = g2()
    estimator = asn.SparseDictionary(n_components=24, n_nonzero_coefs=1, max_iter=20).fit(x[:500])
    assert estimator.score(x[500:]) > 0.99
    cosines = np.abs(estimator.components_ @ atoms.T)
    assert np.all(cosines.max(axis=0) > 0.999)
