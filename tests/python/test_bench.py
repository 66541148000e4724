"""The benchmark: its peers solve what we solve, its limits are of working routines, its report says what was measured.

No test looks at a time.
"""

import importlib
import json
import os

import numpy as np
import pytest

import arrowschur_native as asn
from arrowschur_native import _bench
from arrowschur_native._bench import limits, report, run, shapes, timing

PEERS = _bench.load_peers()


def parts_of(n, d, k, seed=1):
    fixture = asn.fixtures.coupled_fixture(n, d, k, seed, 0.9, "dense")
    return PEERS.Parts(fixture.h_tt, fixture.h_tb, fixture.h_bb, fixture.g_t, fixture.g_beta), fixture.system()


def dense_solution(system):
    matrix, gradient = system.to_dense()
    return np.linalg.solve(matrix, -gradient)


# ---- peers ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("n", "d", "k"), [(1, 1, 1), (40, 1, 7), (60, 2, 16), (33, 3, 24), (9, 8, 40), (5, 5, 64)])
def test_every_peer_returns_the_solution_of_the_whole_matrix(n, d, k, threads):
    parts, system = parts_of(n, d, k)
    expected = dense_solution(system)
    limit = run._limiter()
    peers = PEERS.make_peers(n, d, k, threads=threads, blas_limit=limit)
    assert {peer.name for peer in peers} >= {"plain", "stacked", "fused"}

    for peer in peers:
        delta_t, delta_beta = peer(parts)

        assert delta_t.shape == (n, d)
        np.testing.assert_allclose(np.concatenate([delta_t.ravel(), delta_beta]), expected, rtol=0, atol=1e-12)
        run._close(peer)


@pytest.mark.parametrize("ordering", ["natural", "colamd"])
def test_sparse_lu_returns_the_solution_of_the_whole_matrix(ordering):
    parts, system = parts_of(30, 2, 11)

    delta_t, delta_beta = run._sparse_peer(parts, ordering)(parts)

    found = np.concatenate([delta_t.ravel(), delta_beta])
    np.testing.assert_allclose(found, dense_solution(system), rtol=0, atol=1e-12)


def test_peers_agree_with_the_library_where_work_goes_to_threads_and_chunks():
    # Large enough for the threads of Stacked, and for several chunks of Fused with an incomplete last one.
    parts, system = parts_of(3001, 3, 130)
    step = asn.newton_step(system)
    peers = PEERS.make_peers(3001, 3, 130, threads=2, blas_limit=run._limiter())
    chunked = next(peer for peer in peers if peer.name == "fused")
    assert chunked._rows < 3001 / 2

    for peer in peers:
        assert run._difference(step, peer(parts)) < run.AGREEMENT, peer.name
        run._close(peer)


def test_peers_leave_their_input_alone_and_give_the_same_again():
    parts, _ = parts_of(50, 2, 12)
    before = [part.copy() for part in parts]

    for peer in PEERS.make_peers(50, 2, 12):
        first, second = peer(parts), peer(parts)

        for one, other in zip(first, second, strict=True):
            np.testing.assert_array_equal(one, other)
    for part, kept in zip(parts, before, strict=True):
        np.testing.assert_array_equal(part, kept)


def test_peers_refuse_an_indefinite_schur_complement():
    parts, _ = parts_of(50, 2, 12)
    indefinite = parts._replace(h_bb=parts.h_bb - 5.0 * np.eye(12))

    for peer in PEERS.make_peers(50, 2, 12):
        if peer.name == "torch":
            continue  # raises an error of its own type
        with pytest.raises(np.linalg.LinAlgError, match="dpotrf"):
            peer(indefinite)


@pytest.mark.parametrize("d", [1, 2, 3, 8])
def test_inverse_row_factors_invert_the_cholesky_factor(d):
    parts, _ = parts_of(20, d, 3)
    dense = importlib.import_module(f"{PEERS.__name__}.dense")

    inverse = dense.inverse_row_factors(parts.h_tt)

    np.testing.assert_allclose(inverse @ np.linalg.cholesky(parts.h_tt), np.broadcast_to(np.eye(d), (20, d, d)),
                               rtol=0, atol=1e-14)  # fmt: skip
    np.testing.assert_array_equal(inverse, np.tril(inverse))


def test_backward_error_sees_a_wrong_step():
    parts, system = parts_of(30, 2, 11)
    step = asn.newton_step(system)
    right = (step.delta_t, step.delta_beta)

    assert PEERS.backward_error(parts, right) < 1e-15
    assert PEERS.backward_error(parts, (step.delta_t, step.delta_beta * (1 + 1e-9))) > 1e-13


# ---- limits ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("library", limits.blas_libraries(2), ids=lambda library: library.name)
def test_routines_of_each_blas_compute_what_they_are_timed_for(library):
    rng = np.random.default_rng(3)
    w, a, b = rng.random((70, 33)), rng.random((20, 20)), rng.random((20, 20))
    c, s = np.empty((20, 20)), np.zeros((33, 33))

    library.gemm(a, b, c)
    library.syrk(w, s)

    np.testing.assert_allclose(c, a @ b, rtol=1e-13)
    np.testing.assert_allclose(np.tril(s), np.tril(w.T @ w), rtol=1e-13)
    gram = w.T @ w
    factor = gram.copy()
    library.potrf(factor)
    if library.name != "numpy":  # which factors a copy
        np.testing.assert_allclose(np.tril(factor), np.linalg.cholesky(gram), rtol=1e-10, atol=1e-12)


def test_opening_the_bundled_blas_leaves_the_environment_as_it_was():
    before = dict(os.environ)
    limits.blas_libraries(2)
    assert dict(os.environ) == before


# ---- timing ---------------------------------------------------------------------------------------------------------
def test_a_race_calls_every_contender_in_every_round_and_prepares_each_call():
    calls = {"a": 0, "b": 0, "prepared": 0}

    def count(name):
        calls[name] += 1

    times = timing.race(
        {
            "a": timing.Contender(lambda: count("a")),
            "b": timing.Contender(lambda: count("b"), prepare=lambda: count("prepared")),
        },
        0.0,
        rounds=2,
    )

    assert calls["b"] == calls["prepared"]
    # One call to warm up, then per round one uncounted and a turn of counted ones.
    assert len(times["a"].seconds) == calls["a"] - 3
    assert len(times["b"].seconds) == calls["b"] - 3
    assert times["a"].best <= times["a"].median


# ---- shapes and report ----------------------------------------------------------------------------------------------
def test_shapes_are_the_reference_shapes():
    sizes = {shape.name: (shape.n, shape.d, shape.k) for shape in shapes.SHAPES}
    assert sizes == {
        "qwen": (2000, 2, 2048),
        "color_arm": (180, 2, 5120),
        "llm": (2000, 8, 2048),
        "thin64": (24576, 1, 64),
        "thin256": (40456, 1, 256),
        "ba16": (22106, 3, 144),
        "group": (2972, 1, 1200),
        "small": (200, 2, 64),
    }


def test_a_target_is_met_on_its_own_side_of_the_bound():
    assert run.Target("limit", 1.2, 1.33, at_most=True).met
    assert not run.Target("limit", 1.4, 1.33, at_most=True).met
    assert run.Target("peer", 2.5, 2.2, at_most=False).met
    assert not run.Target("peer", 1.9, 2.2, at_most=False).met


@pytest.fixture
def quick(monkeypatch):
    """Limits without a measurement of the memory, and no waiting: the report is under test, not the machine."""
    monkeypatch.setattr(run, "bandwidth", lambda threads: {"max": 1e10})
    monkeypatch.setattr(run, "gemm_rate", lambda library: 1e11)
    monkeypatch.setattr(timing, "SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(timing, "TURN_SECONDS", 0.0)


def test_command_reports_what_was_measured(quick, capsys):
    arguments = ["--shape", "small", "--shape", "overhead", "--seconds", "0.001", "--json"]
    assert _bench.main(arguments) == 0

    results = json.loads(capsys.readouterr().out)
    [small] = results["shapes"]
    assert (small["n"], small["d"], small["k"]) == (200, 2, 64)
    assert small["backward_error"] < 1e-14
    assert set(small["seconds"]) >= {"ours", "syrk", "potrf", "scipy syrk", "scipy potrf", "plain"}
    assert {"stacked", "splu-natural", "splu-colamd"} <= set(small["agreement"])
    assert set(small["stages"]) >= {"factor_rows", "reduce", "factor_border", "solve_border", "expand", "certificate"}
    ratio = small["seconds"][small["fastest_peer"]]["median"] / small["seconds"]["ours"]["median"]
    assert [target["value"] for target in small["targets"]] == [ratio]
    assert results["overhead"]["targets"][0]["target"] == 15.0
    assert results["command"].endswith(" ".join(arguments))
    assert results["machine"]["threads"] == asn.get_num_threads()


def test_saved_page_and_record_tell_the_same(quick, capsys, tmp_path, monkeypatch):
    (tmp_path / "bench" / "results").mkdir(parents=True)
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.chdir(tmp_path)

    assert _bench.main(["--shape", "small", "--seconds", "0.001", "--save"]) == 0

    [record] = (tmp_path / "bench" / "results").glob("*.json")
    page = record.with_suffix(".md").read_text()
    results = json.loads(record.read_text())
    assert page == report.markdown(results)
    assert record.name.startswith(results["date"])
    printed = capsys.readouterr().out
    for title, (header, rows) in report.tables(results):
        assert title in printed
        assert [len(row) for row in rows] == [len(header)] * len(rows)
    assert f"numpy {np.__version__}" in page


def test_command_refuses_what_it_does_not_know(capsys):
    with pytest.raises(SystemExit) as end:
        _bench.main(["--shape", "huge"])
    assert end.value.code == 2
    assert "huge" in capsys.readouterr().err


def test_a_miss_is_listed_with_its_promise(quick, capsys, monkeypatch):
    impossible = shapes.Shape("small", 20, 2, 8, "flops", 0.0, 1e9)
    monkeypatch.setattr(report, "SHAPES", (impossible,))

    assert _bench.main(["--shape", "small", "--seconds", "0.001"]) == 0

    printed = capsys.readouterr().out
    assert "MISS" in printed
    assert "promised at most 0" in printed
    assert "promised at least 1e+09" in printed


def test_a_peer_with_another_answer_stops_the_run(monkeypatch, quick):
    machine = run.measure_machine(1)
    wrong = PEERS.make_peers(20, 2, 8)[0]
    wrong_step = type(
        "Wrong", (), {"name": "wrong", "__call__": lambda self, parts: (wrong(parts)[0] * 2, wrong(parts)[1])}
    )
    monkeypatch.setattr(PEERS, "make_peers", lambda *sizes, **settings: [wrong_step()])

    with pytest.raises(ArithmeticError, match="wrong"):
        run.run_shape(shapes.Shape("tiny", 20, 2, 8, "flops", None, 1.0), machine, 0.001)
