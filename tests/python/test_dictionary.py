"""Sparse dictionaries: the acceptance tests T1 to T15 of the core, through its bindings, against NumPy in float64."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import textwrap
from typing import Any

import numpy as np
import pytest
from dictionary_fixtures import g1, g2
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

import arrowschur_native as asn
from arrowschur_native import _core

Array = NDArray[Any]
EV_TOLERANCE = 1e-6


def rows_of(x: Array) -> _core.DictionaryRows:
    return _core.DictionaryRows(x, 0, 0, "", None)


def read_rows(x: Array) -> _core.DictionaryRows:
    """The same rows through a reader."""

    def read(first: int, out: Array) -> None:
        out[...] = x[first : first + len(out)]

    return _core.DictionaryRows(None, *x.shape, str(x.dtype), read)


def fit(x: Array, init: Array | None = None, progress: Any = None, **options: Any) -> dict[str, Any]:
    return _core.dictionary_fit(rows_of(x), _core.DictionaryOptions(**options), init, progress)


def fit_g1(**options: Any) -> dict[str, Any]:
    return fit(g1()[0], **{"n_components": 64, "n_nonzero_coefs": 3, **options})


def project(atoms: Array) -> Array:
    """Unit rows whose first component beyond 1e-9 is positive, rounded once."""
    d = np.asarray(atoms, dtype=np.float64)
    norms = np.sqrt((d * d).sum(axis=1))
    out = np.zeros(d.shape, np.float32)
    for k in np.flatnonzero(norms > 1e-12 * norms.max()):
        unit = d[k] / norms[k]
        first = unit[np.flatnonzero(np.abs(unit) > 1e-9)[0]]
        out[k] = unit if first > 0 else -unit
    return out


def model_of(decoder: Array, mean: Array | None = None) -> _core.DictionaryModel:
    return _core.DictionaryModel(np.ascontiguousarray(decoder, np.float32), mean, 0)


def encode(decoder: Array, x: Array, s: int, **options: Any) -> tuple[Array, Array, dict[str, Any]]:
    return model_of(decoder).encode(rows_of(np.ascontiguousarray(x, np.float32)), n_nonzero_coefs=s, **options)


def explained(x: Array, fitted: Array) -> float:
    x = x.astype(np.float64)
    return float(1.0 - ((x - fitted) ** 2).sum() / ((x - x.mean(axis=0)) ** 2).sum())


def reconstruct(decoder: Array, indices: Array, codes: Array) -> Array:
    return np.einsum("ns,nsp->np", codes.astype(np.float64), decoder.astype(np.float64)[indices])


def fingerprint(*arrays: Any) -> str:
    digest = hashlib.sha256()
    for a in arrays:
        digest.update(np.ascontiguousarray(a).tobytes())
    return digest.hexdigest()


def matched(decoder: Array, atoms: Array, cosine: float) -> int:
    return int((np.abs(decoder.astype(np.float64) @ atoms.T).max(axis=0) > cosine).sum())


# ---- T1: seeds -------------------------------------------------------------------------------------------------------
def farthest_lines(x: Array, k: int) -> list[int]:
    """The serial rule in float64."""
    x = x.astype(np.float64)
    n = (x * x).sum(axis=1)
    m, picks = n.copy(), []
    while len(picks) < k and m.max() > 0.0:
        p = int(np.argmax(m))
        picks.append(p)
        w = x @ x[p]
        v = n - w * w / n[p]
        close = v < 1e-6 * n
        v[close] = ((x[close] - (w[close] / n[p])[:, None] * x[p]) ** 2).sum(axis=1)
        v[v <= 1e-24 * n] = 0.0
        m = np.minimum(m, v)
        m[picks] = 0.0
    return picks


def seeded_rows(x: Array, k: int, **options: Any) -> list[int]:
    """Which rows the first decoder is made of: that of a stream before any rows."""
    stream = _core.DictionaryStream(rows_of(x), _core.DictionaryOptions(n_components=k, **options), None)
    d = stream.model().decoder
    lines = project(x)
    return [int(np.flatnonzero((lines == row).all(axis=1))[0]) for row in d if row.any()]


def test_t1_seed_of_g1() -> None:
    picks = seeded_rows(g1()[0], 64)

    assert picks[:12] == [478, 1646, 1248, 203, 1819, 1771, 177, 784, 1439, 635, 1513, 743]
    assert picks[-3:] == [1399, 1481, 1872]
    assert picks == farthest_lines(g1()[0], 64)


def test_t1_opposite_rows_are_one_line() -> None:
    x = np.array([[4, 0], [-4, 0], [0, 3], [0, -3]], np.float32)

    assert seeded_rows(x, 2) == [0, 2]
    assert seeded_rows(x, 4) == [0, 2]  # the other atoms stay dormant
    assert seeded_rows(x, 4, init="euclidean") == [0, 0, 2, 2]  # x and -x are two points, but one direction


def test_t1_rows_that_span_few_lines_end_the_picking() -> None:
    rng = np.random.default_rng(3)
    basis = rng.standard_normal((40, 16))
    x = (basis[rng.integers(0, 40, 3000)] * rng.standard_normal((3000, 1))).astype(np.float32)

    assert len(seeded_rows(x.astype(np.float32), 600)) >= 40  # rounding to float32 adds lines, but few


# ---- T2: routing -----------------------------------------------------------------------------------------------------
def test_t2a_ties_go_to_the_lower_atom() -> None:
    d = np.eye(5, dtype=np.float32)
    indices, _, _ = encode(d, np.array([[0.5, -0.5, 0.25, 0.5, 0.0]]), 3)

    assert indices.tolist() == [[0, 1, 3]]


@pytest.mark.parametrize("tile", [1, 7, 8, 50])
def test_t2b_order_of_the_scores(tile: int) -> None:
    x = np.zeros((1, 50))
    x[0, [17, 4, 31]] = 9, 5, 3
    indices, codes, _ = encode(np.eye(50), x, 3, score_tile=tile, code_ridge=0.0)

    assert indices.tolist() == [[17, 4, 31]]
    assert codes.tolist() == [[9, 5, 3]]


@pytest.mark.parametrize("tile", [64, 1000, 4096])
@pytest.mark.parametrize("threads", [1, 2])
def test_t2c_equal_atoms_are_a_full_sort(tile: int, threads: int) -> None:
    x, atoms = g1()
    d = np.repeat(project(atoms), 64, axis=0)
    indices, _, report = encode(d, x, 3, score_tile=tile, num_threads=threads)

    scores = np.abs(x.astype(np.float64) @ project(atoms).astype(np.float64).T)
    best = scores.argmax(axis=1)  # with 64 equal copies the three first of the best group win
    assert_array_equal(indices, best[:, None] * 64 + np.arange(3))
    assert report["rescanned_rows"] > 0


def test_t2d_planted_decoder() -> None:
    x, atoms = g1()
    d = project(atoms)
    model = model_of(d)
    for router, ev in [("topk", 0.897007), ("refine", 0.963235), ("omp", 0.987640)]:
        score = model.score(rows_of(x), n_nonzero_coefs=3, router=router, refine_factor=4)
        assert score == pytest.approx(ev, abs=EV_TOLERANCE), router
    indices, codes, _ = encode(d, x, 3)
    assert indices[:2].tolist() == [[58, 28, 1], [52, 26, 34]]
    assert_allclose(codes[0], [-1.2517927, 0.5153012, 0.2711712], atol=1e-6)
    assert_allclose(codes[1], [0.9818667, -0.8456781, 0.1446047], atol=1e-6)


# ---- T3: codes -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("ridge", "want"), [(1e-6, [3.5713656, -1.4285097, 0.4999995]), (0.1, [1.7337031, 0.3051318, 0.4545455])]
)
def test_t3_ridge(ridge: float, want: list[float]) -> None:
    d = np.array([[0.6, 0.8, 0], [0.8, 0.6, 0], [0, 0, 1]])
    indices, codes, _ = encode(d, np.array([[1, 2, 0.5]]), 3, code_ridge=ridge)

    assert_allclose(codes[0][np.argsort(indices[0])], want, atol=1e-6)


def test_t3_equal_atoms_share() -> None:
    d = np.array([[0.6, 0.8], [0.6, 0.8]])
    _, codes, _ = encode(d, d[:1], 2, code_ridge=0.0)

    assert_allclose(codes, [[0.5, 0.5]], atol=1e-7)


def test_t3_atoms_without_a_score_are_not_selected() -> None:
    indices, codes, _ = encode(np.array([[1, 0], [1, 1e-10]]), np.array([[0, 1]]), 2, code_ridge=1e-20)

    assert indices.tolist() == [[1, 1]]  # an empty slot repeats the first index
    assert_allclose(codes, [[1e-10, 0.0]], rtol=1e-6)


# ---- T5 to T8: training ----------------------------------------------------------------------------------------------
def test_t5_training_path() -> None:
    result = fit_g1(max_iter=12)

    # fmt: off
    want = [0.657998, 0.747763, 0.792512, 0.819384, 0.836786, 0.854317, 0.869760, 0.876262, 0.885233, 0.889088,
            0.890618, 0.891429, 0.890487]
    # fmt: on
    assert_allclose(result["ev_path"], want, atol=EV_TOLERANCE)
    assert result["best_epoch"] == 11
    assert result["explained_variance"] == pytest.approx(0.891429, abs=EV_TOLERANCE)
    assert matched(result["decoder"], g1()[1], 0.99) == 59
    assert result["stop_reason"] == "max_iter"
    assert not result["converged"]
    assert all(e["refresh"]["relative_residual"] <= 1e-10 for e in result["epochs"])


def test_t5_counts_after_five_refreshes() -> None:
    result = fit_g1(max_iter=5, keep="last")

    assert (result["atom_fires"].min(), result["atom_fires"].max()) == (63, 159)
    assert result["atom_fires"].sum() == 6000
    assert result["l0"] == 3.0


@pytest.mark.parametrize(
    ("router", "want"),
    [("refine", [0.722095, 0.909046, 0.925165]), ("omp", [0.739059, 0.929835, 0.952616])],
)
def test_t6_greedy_routers(router: str, want: list[float]) -> None:
    path = fit_g1(max_iter=12, router=router)["ev_path"]

    assert_allclose(path[[0, 5, 12]], want, atol=EV_TOLERANCE)


@pytest.mark.parametrize(
    ("router", "epochs", "want"),
    [("topk", 5, 0.880317), ("refine", 5, 0.922701), ("omp", 5, 0.933364), ("omp", 12, 0.959479)],
)
def test_t6_segments(router: str, epochs: int, want: float) -> None:
    result = fit_g1(max_iter=epochs, router=router, refreshes_per_epoch=8)

    assert result["explained_variance"] == pytest.approx(want, abs=EV_TOLERANCE)
    indices, codes, _ = encode(result["decoder"], g1()[0], 3, router=router)
    assert_array_equal(indices, result["indices"])  # the closing pass: codes of the decoder that is returned
    assert_array_equal(codes, result["codes"])


def test_t7_held_out_rows() -> None:
    x = g1()[0]
    train, held_out = x[:1600], x[1600:]
    result = fit(train, n_components=64, n_nonzero_coefs=3, max_iter=10)

    assert result["explained_variance"] == pytest.approx(0.893184, abs=EV_TOLERANCE)
    score = model_of(result["decoder"]).score(rows_of(held_out), n_nonzero_coefs=3)
    assert score == pytest.approx(0.874660, abs=EV_TOLERANCE)
    mean = train.astype(np.float64).mean(axis=0)
    _, _, v = np.linalg.svd(train - mean, full_matrices=False)
    for rank, want in [(8, 0.478772), (16, 0.765134)]:
        projected = mean + (held_out - mean) @ v[:rank].T @ v[:rank]
        assert explained(held_out, projected) == pytest.approx(want, abs=1e-5)


def test_t8_one_atom_per_row() -> None:
    x, atoms = g2()
    result = fit(x, n_components=24, n_nonzero_coefs=1)

    assert_allclose(result["ev_path"], [0.996335, 0.997209, 0.997209], atol=EV_TOLERANCE)
    assert result["stop_reason"] == "tolerance"
    assert result["converged"]
    assert matched(result["decoder"], atoms, 0.9998) == 24
    assert {e["refresh"]["method"] for e in result["epochs"]} == {"division"}


def test_t8_one_atom() -> None:
    path = fit(g1()[0], n_components=1, n_nonzero_coefs=1, max_iter=3)["ev_path"]

    assert_allclose(path, [0.043493, 0.050931, 0.054801, 0.057536], atol=EV_TOLERANCE)


# ---- T9: revival -----------------------------------------------------------------------------------------------------
def test_t9_dormant_atoms_come_alive() -> None:
    init = np.zeros((64, 32))
    init[:3] = g1()[1][:3]
    result = fit(g1()[0], init, n_components=64, n_nonzero_coefs=3, max_iter=10)

    assert_allclose(result["ev_path"][[0, 1, 10]], [0.131195, 0.582731, 0.893230], atol=EV_TOLERANCE)
    assert (result["epochs"][0]["revived"], result["epochs"][0]["accepted"]) == (61, 61)
    assert result["alive"] == 64

    without = fit(g1()[0], init, n_components=64, n_nonzero_coefs=3, max_iter=10, revive=False)
    assert without["ev_path"][10] == pytest.approx(0.214825, abs=EV_TOLERANCE)
    assert (without["alive"], without["dormant"]) == (3, 61)


def test_t9_equal_atoms_come_apart() -> None:
    init = np.zeros((64, 32))
    init[:, :8] = 8**-0.5
    result = fit(g1()[0], init, n_components=64, n_nonzero_coefs=3, max_iter=10)

    assert result["ev_path"][0] == pytest.approx(0.027210, abs=EV_TOLERANCE)
    assert (result["epochs"][0]["revived"], result["epochs"][0]["accepted"]) == (61, 61)
    assert result["ev_path"][1] == pytest.approx(0.582, abs=0.002)
    assert result["ev_path"][10] == pytest.approx(0.873, abs=0.02)
    without = fit(g1()[0], init, n_components=64, n_nonzero_coefs=3, max_iter=10, revive=False)
    assert without["ev_path"][10] == pytest.approx(0.55, abs=0.03)


# ---- T10: the codes are those of the decoder -------------------------------------------------------------------------
@pytest.mark.parametrize("router", ["topk", "refine", "omp"])
@pytest.mark.parametrize("center", [False, True])
def test_t10_fresh_codes(router: str, center: bool) -> None:
    x = g1()[0]
    result = fit_g1(max_iter=7, router=router, center=center)
    model = model_of(result["decoder"], result["mean"])
    indices, codes, _ = model.encode(rows_of(x), n_nonzero_coefs=3, router=router)

    assert_array_equal(indices, result["indices"])
    assert_array_equal(codes, result["codes"])
    assert model.score(rows_of(x), n_nonzero_coefs=3, router=router) == pytest.approx(
        result["explained_variance"], abs=1e-12
    )
    # centred rows are rounded to float32 again: 1e-7 of their size
    fitted = result["mean"].astype(np.float64) + reconstruct(result["decoder"], indices, codes)
    assert explained(x, fitted) == pytest.approx(result["explained_variance"], abs=1e-7 if center else 1e-9)
    assert_allclose(model.decode(indices, codes, None), fitted, atol=1e-6)


# ---- T11: what changes no bit ----------------------------------------------------------------------------------------
def story(result: dict[str, Any]) -> str:
    return fingerprint(result["decoder"], result["indices"], result["codes"], result["ev_path"])


@pytest.mark.parametrize("router", ["topk", "refine", "omp"])
def test_t11_working_set_changes_no_bit(router: str) -> None:
    def run(**options: Any) -> str:
        return story(fit_g1(max_iter=5, keep="last", router=router, **options))

    want = run()
    for batch in (1, 64, 512, 2000):
        assert run(batch_size=batch) == want
    for tile in (7, 64, 4096):
        assert run(score_tile=tile) == want
    for threads in (1, 2):
        assert run(num_threads=threads) == want


def test_t11_readers_and_strides_change_no_bit() -> None:
    x = g1()[0]
    options = _core.DictionaryOptions(n_components=64, n_nonzero_coefs=3, max_iter=5, keep="last")
    wide = np.zeros((2000, 40), np.float32)
    wide[:, :32] = x
    sources = [
        rows_of(wide[:, :32]),
        rows_of(x.astype(np.float64)),
        read_rows(x),
        read_rows(x.astype(np.float64)),
    ]
    want = story(fit_g1(max_iter=5, keep="last"))
    for source in sources:
        assert story(_core.dictionary_fit(source, options, None, None)) == want


@pytest.mark.parametrize("budget", [2**30, 2**20])
@pytest.mark.parametrize("shard", [1, 333, 2000])
def test_t11_shards_change_no_bit(shard: int, budget: int) -> None:
    x = g1()[0]
    options = _core.DictionaryOptions(
        n_components=64, n_nonzero_coefs=3, max_iter=5, keep="last", refresh_memory_bytes=budget
    )
    stream = _core.DictionaryStream(rows_of(x), options, None)
    path = []
    for _ in range(5):
        for first in range(0, 2000, shard):
            stream.partial_fit(rows_of(x[first : first + shard]))
        path.append(stream.end_epoch()["ev"])

    one_shot = fit_g1(max_iter=5, keep="last")
    assert_array_equal(stream.finalize()["decoder"], one_shot["decoder"])
    assert_array_equal(path, one_shot["ev_path"][:5])


@pytest.mark.parametrize("isa", ["avx512", "avx2", "baseline"])
def test_t11_instruction_sets_agree_on_supports_and_codes(isa: str) -> None:
    in_use = asn.build_info()["instruction_set"]
    d = fit_g1(max_iter=3)["decoder"]
    want = [encode(d, g1()[0], 3, router=r)[:2] for r in ("topk", "refine", "omp")]
    try:
        _core.force_instruction_set(isa)
    except asn.InvalidArgument as error:
        pytest.skip(f"this CPU lacks {isa}: {error}")
    try:
        got = [encode(d, g1()[0], 3, router=r)[:2] for r in ("topk", "refine", "omp")]
        path = fit_g1(max_iter=5)["ev_path"]
    finally:
        _core.force_instruction_set(in_use)

    for (indices, codes), (want_indices, want_codes) in zip(got, want, strict=True):
        assert_array_equal(indices, want_indices)
        assert_array_equal(codes, want_codes)
    assert_allclose(path, fit_g1(max_iter=5)["ev_path"], atol=1e-6)


def test_t11_signs_and_scales() -> None:
    x = g1()[0]
    options = {"n_components": 64, "n_nonzero_coefs": 3, "max_iter": 5, "keep": "last"}
    want = fit(x, **options)

    negated = fit(-x, **options)
    assert fingerprint(negated["decoder"], negated["indices"]) == fingerprint(want["decoder"], want["indices"])
    assert_array_equal(negated["codes"], -want["codes"])
    assert negated["rss"] == want["rss"]
    for power in (-20, 20):
        scaled = fit(np.ldexp(x, power), decoder_ridge=1e-6 * 4.0**power, **options)
        assert_array_equal(scaled["ev_path"], want["ev_path"])
        assert_array_equal(scaled["decoder"], want["decoder"])
        assert_array_equal(scaled["codes"], np.ldexp(want["codes"], power))


def test_t11_resumed_streams_are_identical() -> None:
    x = g1()[0]
    options = _core.DictionaryOptions(n_components=64, n_nonzero_coefs=3)
    straight = _core.DictionaryStream(rows_of(x[:700]), options, None)
    broken = _core.DictionaryStream(rows_of(x[:700]), options, None)
    for _ in range(3):
        for first in (0, 900):
            straight.partial_fit(rows_of(x[first : first + 900]))
            broken.partial_fit(rows_of(x[first : first + 900]))
            broken = _core.DictionaryStream.load(broken.save())
        straight.end_epoch()
        broken.end_epoch()
        broken = _core.DictionaryStream.load(broken.save())

    assert fingerprint(straight.finalize()["decoder"]) == fingerprint(broken.finalize()["decoder"])
    with pytest.raises(asn.InvalidArgument, match="damaged"):
        _core.DictionaryStream.load(broken.save()[:-1])


# ---- T12: centring ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("center", "first", "last"), [(False, 0.457129, 0.596913), (True, 0.659063, 0.860357)])
def test_t12_centring(center: bool, first: float, last: float) -> None:
    x = g1()[0].copy()
    x[:, 5] = 3.0
    result = fit(x, n_components=64, n_nonzero_coefs=3, max_iter=5, center=center)

    assert_allclose(result["ev_path"][[0, 5]], [first, last], atol=1e-4)
    assert result["tss"] == pytest.approx(12099.529859, abs=1e-4)


# ---- T13: degenerate data --------------------------------------------------------------------------------------------
def test_t13_zeros() -> None:
    result = fit(np.zeros((10, 4), np.float32), n_components=3, n_nonzero_coefs=2)

    assert result["explained_variance"] == 1.0
    assert not result["codes"].any()


def test_t13_ones() -> None:
    result = fit(np.ones((10, 4), np.float32), n_components=2, n_nonzero_coefs=2)

    assert result["explained_variance"] == 1.0
    assert result["dormant"] == 1
    assert_array_equal(result["decoder"][0], [0.5] * 4)


def test_t13_more_atoms_than_rows() -> None:
    result = fit(g1()[0][:6], n_components=20, n_nonzero_coefs=2)

    assert result["explained_variance"] > 1 - 1e-9
    assert result["dormant"] == 14
    assert sum(e["revived"] for e in result["epochs"]) == 0
    assert fit(g1()[0], n_components=3, n_nonzero_coefs=9, max_iter=1)["codes"].shape == (2000, 3)


@pytest.mark.parametrize("scale", [1e25, 1e-25])
def test_t13_extreme_ranges(scale: float) -> None:
    x = (g1()[0].astype(np.float64) * scale).astype(np.float32)
    result = fit(x, n_components=64, n_nonzero_coefs=3, max_iter=3, keep="last")
    assert result["ev_path"][0] == pytest.approx(0.657998, abs=EV_TOLERANCE)
    assert_allclose(np.linalg.norm(result["decoder"].astype(np.float64), axis=1), 1.0, atol=1e-6)

    relative = fit(x, n_components=64, n_nonzero_coefs=3, max_iter=12, decoder_ridge_relative=True)
    assert_allclose(relative["ev_path"], fit_g1(max_iter=12)["ev_path"], atol=1e-5)
    model = _core.DictionaryModel(relative["decoder"], None, relative["exponent"])
    indices, codes, _ = model.encode(rows_of(x), n_nonzero_coefs=3)
    assert_array_equal(codes, relative["codes"])
    fitted = reconstruct(relative["decoder"], indices, codes)
    assert explained(x, fitted) == pytest.approx(relative["explained_variance"], abs=1e-6)


# ---- T14: planted lines ----------------------------------------------------------------------------------------------
def lines(n: int, p: int, k: int, share: float) -> Array:
    c, j = np.arange(p), np.arange(p)[:, None]
    q = np.sqrt((1 + (j > 0)) / p) * np.cos(np.pi * (2 * c + 1) * j / (2 * p))
    r = np.arange(n)
    scale = 0.7 + 0.01 * (r // k)
    return (scale[:, None] * (q[r % k % p] + share * q[(r + 1) % k % p])).astype(np.float32)


def test_t14_planted_lines() -> None:
    assert fit(lines(480, 12, 8, 0.2), n_components=8, n_nonzero_coefs=2)["explained_variance"] > 1 - 1e-9

    x = lines(1600, 16, 64, 0.35)
    held_out = np.arange(1600) % 5 == 0
    result = fit(np.ascontiguousarray(x[~held_out]), n_components=64, n_nonzero_coefs=2)
    assert model_of(result["decoder"]).score(rows_of(np.ascontiguousarray(x[held_out])), n_nonzero_coefs=2) > 0.999


# ---- T15: memory -----------------------------------------------------------------------------------------------------
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read from /proc")
def test_t15_memory() -> None:
    code = """
        import numpy as np
        from arrowschur_native import _core

        def peak():
            with open("/proc/self/status") as f:
                return next(int(l.split()[1]) for l in f if l.startswith("VmHWM")) / 1024

        x = np.random.default_rng(0).standard_normal((4096, 32)).astype(np.float32)
        rows = _core.DictionaryRows(x, 0, 0, "", None)
        warm = _core.DictionaryOptions(n_components=8, n_nonzero_coefs=2, max_iter=1)
        _core.dictionary_fit(_core.DictionaryRows(x[:64], 0, 0, "", None), warm, None, None)
        before = peak()
        options = _core.DictionaryOptions(n_components=65536, n_nonzero_coefs=2, max_iter=1)
        result = _core.dictionary_fit(rows, options, None, None)
        print(peak() - before, result["epochs"][0]["refresh"]["failed_columns"])
    """
    out = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True, timeout=300
    ).stdout
    mebibytes, failed = out.split()
    assert float(mebibytes) <= 128
    assert failed == "0"


# ---- extensions ------------------------------------------------------------------------------------------------------
def test_profile_step_takes_the_leading_direction() -> None:
    x = g1()[0]
    result = fit(x, n_components=1, n_nonzero_coefs=1, max_iter=3, profile_step=True)

    assert result["ev_path"][1] == pytest.approx(0.084514, abs=EV_TOLERANCE)
    _, _, v = np.linalg.svd(x.astype(np.float64), full_matrices=False)
    assert abs(float(result["decoder"][0].astype(np.float64) @ v[0])) == pytest.approx(1.0, abs=1e-6)
    # clusters of fewer rows than columns go through the other Gram matrix
    few = fit(x[:40], n_components=12, n_nonzero_coefs=1, max_iter=5, profile_step=True)
    for k in np.unique(few["indices"]):
        _, _, v = np.linalg.svd(x[:40][few["indices"][:, 0] == k].astype(np.float64), full_matrices=False)
        if few["converged"]:
            assert abs(float(few["decoder"][k].astype(np.float64) @ v[0])) == pytest.approx(1.0, abs=1e-5)
    with pytest.raises(asn.InvalidArgument, match=r"profile_step needs n_nonzero_coefs = 1, got 3"):
        fit(x, n_components=4, n_nonzero_coefs=3, profile_step=True)


@pytest.mark.parametrize("budget", [2**30, 2**20])
def test_unit_sweep_lowers_the_loss_at_fixed_codes(budget: int) -> None:
    x = g1()[0].astype(np.float64)
    first = fit_g1(max_iter=1, keep="last")
    losses = {}
    for sweep in (False, True):
        # one refresh from the same codes: those of the seed
        stream = _core.DictionaryStream(
            rows_of(g1()[0]),
            _core.DictionaryOptions(
                n_components=64, n_nonzero_coefs=3, unit_sweep=sweep, revive=False, refresh_memory_bytes=budget
            ),
            None,
        )
        seed = stream.model()
        indices, codes, _ = seed.encode(rows_of(g1()[0]), n_nonzero_coefs=3)
        stream.partial_fit(rows_of(g1()[0]))
        stream.end_epoch()
        d = stream.model().decoder.astype(np.float64)
        c = np.zeros((2000, 64))
        np.put_along_axis(c, indices.astype(np.int64), codes.astype(np.float64), axis=1)
        exact = np.linalg.solve(c.T @ c + 1e-6 * np.eye(64), c.T @ x)
        d *= np.sign((d * exact).sum(axis=1, keepdims=True))  # the codes go with the signs of the solution
        losses[sweep] = float(((x - c @ d) ** 2).sum())
        if not sweep:
            assert_array_equal(stream.model().decoder, first["decoder"])
    assert losses[True] < losses[False]


def test_evidence_ridge_is_a_fixed_point() -> None:
    x = g1()[0]
    result = fit_g1(max_iter=12, ridge="evidence")

    d = result["decoder"].astype(np.float64)
    rho, gamma = result["ridge"], 0.0
    for indices in result["indices"]:
        square = np.linalg.svd(d[indices], compute_uv=False) ** 2
        gamma += float((square / (square + rho)).sum())
    codes = result["codes"].astype(np.float64)
    again = result["rss"] / (x.size - gamma) * gamma / float((codes * codes).sum())
    assert abs(np.log(again / rho)) <= 1e-3  # sqrt(tol)
    assert result["ridge_steps"] > 1
    assert fit(np.zeros((10, 4), np.float32), n_components=2, n_nonzero_coefs=1, ridge="evidence")[
        "explained_variance"
    ] == pytest.approx(1.0)


def test_dual_report_is_the_definition() -> None:
    x = g1()[0]
    result = fit_g1(max_iter=5)
    report = model_of(result["decoder"]).dual_report(rows_of(x), n_nonzero_coefs=3)
    indices, codes, _ = encode(result["decoder"], x, 3)

    residual = x.astype(np.float64) - reconstruct(result["decoder"], indices, codes)
    scores = np.abs(residual @ result["decoder"].astype(np.float64).T)
    np.put_along_axis(scores, indices.astype(np.int64), 0.0, axis=1)
    ratios = scores.max(axis=1) / np.abs(codes.astype(np.float64)).min(axis=1)
    assert_allclose(report["ratios"], ratios, rtol=1e-9)
    assert_array_equal(report["atoms"], scores.argmax(axis=1))
    assert_allclose(report["quantiles"], np.quantile(ratios, [0.5, 0.9, 0.99, 1.0], method="higher"))
    assert report["certified_fraction"] == (ratios <= 1 + 1e-4).mean()


def test_growth_keeps_the_learned_rows() -> None:
    x = g1()[0]
    result = fit_g1(max_iter=5)
    grown = model_of(result["decoder"]).grow(rows_of(x), 80, n_nonzero_coefs=3)
    indices, codes, _ = encode(result["decoder"], x, 3)

    assert_array_equal(grown.decoder[:64], result["decoder"])
    residual = (x.astype(np.float64) - reconstruct(result["decoder"], indices, codes)).astype(np.float32)
    picks = farthest_lines(residual, 16)
    assert_allclose(grown.decoder[64:], project(residual[picks]), atol=1e-5)
    assert_array_equal(model_of(result["decoder"]).grow(read_rows(x), 80, n_nonzero_coefs=3).decoder, grown.decoder)


# ---- forgetting ------------------------------------------------------------------------------------------------------
def test_steps_forget_by_rows() -> None:
    x = g1()[0]
    options = _core.DictionaryOptions(n_components=64, n_nonzero_coefs=3)
    steps = _core.DictionaryStream(rows_of(x), options, None)
    path = [steps.step(rows_of(x[first : first + 500]), 1366)["ev"] for first in (0, 500, 1000, 1500) * 4]
    assert path[-1] > path[0] + 0.1

    # A window of one call forgets everything: a step is then an epoch of its own.
    one = _core.DictionaryStream(rows_of(x), options, None)
    whole = _core.DictionaryStream(rows_of(x), options, None)
    for _ in range(3):
        record = one.step(rows_of(x), 2000)
        whole.partial_fit(rows_of(x))
        assert record["ev"] == whole.end_epoch()["ev"]
    assert_array_equal(one.model().decoder, whole.model().decoder)


# ---- errors ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"n_components": 0}, "n_components must be at least 1, got 0"),
        ({"n_nonzero_coefs": -2}, "n_nonzero_coefs must be at least 1, got -2"),
        ({"code_ridge": -1.0}, "code_ridge must be finite and non-negative, got -1"),
        ({"decoder_ridge": float("nan")}, "decoder_ridge must be finite and non-negative, got nan"),
        ({"tol": float("inf")}, "tol must be finite and non-negative, got inf"),
        ({"max_iter": 0}, "max_iter must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"score_tile": 0}, "score_tile must be at least 1, got 0"),
        ({"router": "best"}, "router must be one of topk, refine, omp; got 'best'"),
        ({"keep": "all"}, "keep must be one of best, last; got 'all'"),
    ],
)
def test_option_errors(options: dict[str, Any], text: str) -> None:
    with pytest.raises(asn.InvalidArgument) as error:
        _core.DictionaryOptions(**{"n_components": 4, **options})
    assert str(error.value) == f"sparse_dictionary: {text}"


def test_data_errors() -> None:
    x = g1()[0][:10].copy()
    x[3, 7] = np.nan
    x[4, 0] = np.inf
    cases = [
        (x, {}, "X at row 3, column 7 is NaN or infinity (inf)"),
        (x[:0], {}, "X has 0 sample(s) (shape=(0, 32)) while a minimum of 1 is required."),
        (x[:3, :0], {}, "X has 0 feature(s) (shape=(3, 0)) while a minimum of 1 is required."),
    ]
    for data, options, text in cases:
        with pytest.raises(asn.InvalidArgument) as error:
            fit(data, n_components=4, n_nonzero_coefs=2, **options)
        assert str(error.value) == f"sparse_dictionary: {text}"
    with pytest.raises(asn.InvalidArgument) as error:
        fit(x[:3], np.zeros((4, 31)), n_components=4)
    assert str(error.value) == "sparse_dictionary: dict_init must have shape (4, 32), got (4, 31)"
    with pytest.raises(asn.DeviceUnavailableError, match=r"^sparse_dictionary: device 'required' but no usable CUDA"):
        fit(x[:3], n_components=4, device="required")
    model = model_of(np.eye(32))
    with pytest.raises(asn.InvalidArgument, match="X has 5 features, but SparseDictionary is expecting 32 features"):
        model.encode(rows_of(np.ones((2, 5), np.float32)))
    with pytest.raises(asn.InvalidArgument, match="atom index 32 at row 1 is not below 32"):
        model.decode(np.array([[0], [32]], np.uint32), np.ones((2, 1), np.float32), None)


def test_stream_errors() -> None:
    x = g1()[0]
    options = _core.DictionaryOptions(n_components=8)
    stream = _core.DictionaryStream(rows_of(x), options, None)
    with pytest.raises(asn.InvalidArgument, match=r"^sparse_dictionary: end_epoch called before any rows were given$"):
        stream.end_epoch()
    far = np.full((3, 32), 2.0, np.float64)
    far[2, 1] = 2.0**61
    with pytest.raises(asn.InvalidArgument, match=r"at row 2 exceeds the range fixed by the seed sample$"):
        stream.partial_fit(rows_of(far))
    assert stream.rows_in_epoch == 0
    with pytest.raises(asn.InvalidArgument, match="refreshes_per_epoch must be 1 for streams, got 2"):
        _core.DictionaryStream(rows_of(x), _core.DictionaryOptions(n_components=8, refreshes_per_epoch=2), None)
    with pytest.raises(asn.InvalidArgument, match="seed has 32 atoms, n_components is 8"):
        _core.DictionaryStream(model_of(np.eye(32)), options, None)


def test_progress_sees_every_epoch_and_can_stop() -> None:
    seen = []

    def progress(record: dict[str, Any]) -> bool:
        seen.append(record["epoch"])
        return len(seen) < 3

    result = fit(g1()[0], None, progress, n_components=64, n_nonzero_coefs=3)
    assert seen == [1, 2, 3]
    assert result["stop_reason"] == "callback"
    assert result["n_iter"] == 3

    def raising(record: dict[str, Any]) -> bool:
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        fit(g1()[0], None, raising, n_components=64, n_nonzero_coefs=3)
