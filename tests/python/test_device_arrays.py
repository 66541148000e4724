"""Arrays that are on a device already: in and out by DLPack and the CUDA array interface, on the fake device."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import pytest
from test_frames import run as run_frames

import arrowschur_native as asn

PRELUDE = f"""
    import gc, sys
    sys.path.insert(0, {str(Path(__file__).parent)!r})
    from stand_in_arrays import Backend, DlpackArray, InterfaceArray, consumed
    asn.device_info()
    backend = Backend()
    def there(f, make=DlpackArray, **more):
        return asn.DeviceSystem(*(make(backend, part, **more) for part in (f.h_tt, f.h_tb, f.h_bb, f.g_t, f.g_beta)))
    def bits(step):
        arrays = (step.delta_t, step.delta_beta)
        return tuple((a if isinstance(a, np.ndarray) else a.copy_to_host()).tobytes() for a in arrays)
"""


def run(fake: Path, program: str) -> str:
    return run_frames(fake, textwrap.dedent(PRELUDE) + textwrap.dedent(program))


def test_a_system_that_is_there_is_read_in_place(fake: Path) -> None:
    run(
        fake,
        """
        host = asn.ArrowFrame.build(system, 0.5, 0.25)
        for make, more in ((DlpackArray, {}), (DlpackArray, {"versioned": True}), (InterfaceArray, {}),
                           (DlpackArray, {"offset": 8}), (InterfaceArray, {"offset": 24, "stream": 2})):
            before = backend.calls(b"copy_to_device"), backend.calls(b"copy_on_device")
            data = there(f, make, **more)
            assert (data.n, data.d, data.k) == (8, 2, 4)
            sent = backend.calls(b"copy_to_device") - before[0]
            assert sent == 5  # by the producers
            frame = asn.ArrowFrame.build(data, 0.5, 0.25)
            assert backend.calls(b"copy_to_device") - before[0] == 5  # nothing was uploaded
            assert frame.telemetry.h2d_bytes == 0
            # Three blocks that are not aligned are copied once, on the device; one copy is the record's.
            assert backend.calls(b"copy_on_device") - before[1] == (4 if "offset" in more else 1)
            assert frame.log_det_hessian == host.log_det_hessian and frame.system is data
            step = frame.step(certificate=True)
            assert isinstance(step.delta_t, asn.DeviceArray) and step.delta_t.shape == (8, 2)
            assert step.delta_beta.shape == (4,)
            assert bits(step) == bits(host.step())
            assert step.certificate == host.step(certificate=True).certificate
            assert step.telemetry.h2d_bytes == 0 and step.telemetry.d2h_bytes < 160
            assert bits(frame.step()) == bits(frame.step()) == bits(step)
            copied = frame.step(output="host")
            assert isinstance(copied.delta_t, np.ndarray) and bits(copied) == bits(step)
        """,
    )


def test_the_callers_arrays_are_never_written(fake: Path) -> None:
    run(
        fake,
        """
        arrays = [DlpackArray(backend, part) for part in (f.h_tt, f.h_tb, f.h_bb, f.g_t, f.g_beta)]
        base = asn.BaseArrowFrame(asn.DeviceSystem(*arrays))
        for ridge in (0.0, 0.5, 0.0):
            base.refactor_and_solve(ridge, ridge, certificate=True)
        for array in arrays:
            assert backend.receive(array.address, array.values.shape).tobytes() == array.values.tobytes()
        """,
    )


def test_borders_by_bands_and_the_dual_route(fake: Path) -> None:
    run(
        fake,
        """
        for border in ("tridiagonal", "diagonal"):
            f = fixtures.coupled_fixture(10, 2, 400, seed=3, coupling=0.9, border=border)
            bands = np.asarray(getattr(f.h_bb, "bands", f.h_bb))
            data = asn.DeviceSystem(
                *(DlpackArray(backend, part) for part in (f.h_tt, f.h_tb, bands, f.g_t, f.g_beta)),
                bandwidth=None if bands.ndim == 1 else bands.shape[0] - 1,
            )
            for route in ("dual", "direct"):
                frame = asn.ArrowFrame.build(data, 0.5, 0.25, route=route)
                assert frame.route == route
                assert bits(frame.step()) == bits(asn.ArrowFrame.build(f.system(), 0.5, 0.25, route=route).step())
        how = {"route": "inexact_pcg", "pcg": asn.PcgOptions(relative_tolerance=1e-12)}
        step = asn.ArrowFrame.build(data, **how).step()
        host = asn.ArrowFrame.build(f.system(), **how).step()
        assert bits(step) == bits(host) and step.pcg == host.pcg
        """,
    )


def test_gradients_and_results_on_the_device(fake: Path) -> None:
    run(
        fake,
        """
        g_t, g_beta = np.random.default_rng(1).normal(size=(8, 2)), np.random.default_rng(2).normal(size=4)
        for frame in (asn.ArrowFrame.build(system, 0.5, 0.25), asn.ArrowFrame.build(there(f), 0.5, 0.25)):
            want = frame.step(g_t, g_beta)  # a gradient of the host: a step on the host
            assert isinstance(want.delta_t, np.ndarray)
            for make in (DlpackArray, InterfaceArray):
                t, beta = make(backend, g_t), make(backend, g_beta)
                got = frame.step(t, beta)
                assert isinstance(got.delta_t, asn.DeviceArray) and bits(got) == bits(want)
                flat = frame.step(make(backend, g_t.ravel()), beta)
                assert flat.delta_t.shape == (16,) and bits(flat) == bits(want)
                x_t, x_beta = frame.solve(t, beta)
                assert np.allclose(x_t.copy_to_host(), -want.delta_t, rtol=1e-13)
                y_t, y_beta = frame.solve(t, beta, output="host")
                assert isinstance(y_t, np.ndarray) and y_beta.tobytes() == x_beta.copy_to_host().tobytes()
        base = asn.BaseArrowFrame(there(f))
        factors = base.factor_at(0.5, 0.25)
        t, beta = DlpackArray(backend, g_t), DlpackArray(backend, g_beta)
        assert bits(base.solve_with(factors, t, beta)) == bits(want)
        assert bits(base.refactor_and_solve(0.5, 0.25, t, beta)) == bits(want)
        assert bits(base.solve_with(factors)) == bits(frame.step())
        # A result is an input.
        step = base.solve_with(factors, t, beta)
        again = base.solve_with(factors, step.delta_t, step.delta_beta)
        assert bits(again) == bits(base.solve_with(factors, want.delta_t, want.delta_beta))
        """,
    )


def test_results_are_exported_and_own_their_memory(fake: Path) -> None:
    run(
        fake,
        """
        frame = asn.ArrowFrame.build(there(f), 0.5, 0.25)
        step = frame.step()
        values = step.delta_t.copy_to_host()
        assert step.delta_t.__dlpack_device__() == (2, 0)
        interface = step.delta_t.__cuda_array_interface__
        assert (interface["shape"], interface["typestr"], interface["version"]) == ((8, 2), "<f8", 3)
        assert interface["stream"] is None and interface["strides"] is None
        assert backend.receive(interface["data"][0], (8, 2)).tobytes() == values.tobytes()
        held = []
        for versioned in (False, True):
            tensor, give_back = consumed(step.delta_t, versioned=versioned)
            assert (tensor.kind, tensor.ordinal, tensor.dimensions, tensor.type, tensor.bits) == (2, 0, 2, 2, 64)
            assert tuple(tensor.shape[:2]) == (8, 2) and tensor.data == interface["data"][0]
            held.append((tensor, give_back))
        step.delta_t.__dlpack__()  # one that nobody takes
        for stream in (0, -2, "x"):
            with pytest.raises(asn.InvalidArgument, match="stream"):
                step.delta_t.__dlpack__(stream=stream)
        for refused in ({"copy": True}, {"dl_device": (1, 0)}):
            with pytest.raises(BufferError):
                step.delta_t.__dlpack__(**refused)
        # Everything of this library goes; what was handed out stays until it is given back.
        del frame, step
        gc.collect()
        for tensor, give_back in held:
            assert backend.receive(tensor.data, (8, 2)).tobytes() == values.tobytes()
            give_back()
        with pytest.raises(AssertionError):
            backend.receive(interface["data"][0], (8, 2))
        """,
    )


def test_results_are_dropped_from_any_thread(fake: Path) -> None:
    run(
        fake,
        """
        import queue, threading
        frame = asn.ArrowFrame.build(there(f), 0.5, 0.25)
        want = bits(frame.step())
        handed, wrong = queue.Queue(), []
        def drop():
            while (step := handed.get()) is not None:
                if bits(step) != want:
                    wrong.append(step)
                del step
        threads = [threading.Thread(target=drop) for _ in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(60):
            handed.put(frame.step())
        for _ in threads:
            handed.put(None)
        for thread in threads:
            thread.join()
        assert not wrong
        # What was dropped went back: a frame with one step alive holds as much as before.
        held = backend.calls(b"allocate") - backend.calls(b"release")
        for _ in range(5):
            frame.step()
        assert backend.calls(b"allocate") - backend.calls(b"release") <= held + 1
        """,
    )


def test_inputs_are_held_for_as_long_as_a_frame_reads_them(fake: Path) -> None:
    run(
        fake,
        """
        for versioned in (False, True):
            parts = (f.h_tt, f.h_tb, f.h_bb, f.g_t, f.g_beta)
            arrays = [DlpackArray(backend, part, versioned=versioned) for part in parts]
            frame = asn.BaseArrowFrame(asn.DeviceSystem(*arrays))
            assert [array.streams for array in arrays] == [[1]] * 5  # the producer orders its work before this stream
            assert backend.calls(b"stream_wait_external") > 0
            gc.collect()
            assert [array.deleted for array in arrays] == [0] * 5
            frame.refresh(there(f))
            gc.collect()
            assert [array.deleted for array in arrays] == [1] * 5
        """,
    )


def test_inputs_are_given_back_when_nothing_reads_them(fake: Path) -> None:
    run(
        fake,
        """
        import ctypes, os
        fail = ctypes.CDLL(os.environ["ARROWSCHUR_CUDA_BACKEND"]).arrowschur_fake_fail
        syncs = []
        class Watched(DlpackArray):
            def _delete(self, managed):
                syncs.append(backend.calls(b"stream_synchronize"))
                super()._delete(managed)
        base = asn.BaseArrowFrame(there(f, Watched))
        fail(b"factor_border", 1, 1, 1)
        with pytest.raises(asn.DeviceError):
            base.factor_at(0.5, 0.25)  # whose rows are queued by then
        before = backend.calls(b"stream_synchronize")
        del base
        gc.collect()
        assert len(syncs) == 5 and min(syncs) > before
        """,
    )


def test_the_callers_streams_are_waited_for_once(fake: Path) -> None:
    run(
        fake,
        """
        base = asn.BaseArrowFrame(there(f, InterfaceArray, stream=7))
        for again in range(2):
            waits = backend.calls(b"stream_wait_external")
            for ridge in (0.5, 0.5, 1.0):
                base.refactor_and_solve(ridge, ridge, output="host")
            # Two for the results of the calls before; none for a stream that may be gone.
            assert backend.calls(b"stream_wait_external") == waits + 2
            base.refresh(there(f, InterfaceArray, stream=8))
            assert backend.calls(b"stream_wait_external") > waits
        """,
    )


def test_an_array_that_must_not_be_exported_says_so(fake: Path) -> None:
    run(
        fake,
        """
        class Tracked(DlpackArray):  # as tensors that require a gradient
            @property
            def __cuda_array_interface__(self):
                raise RuntimeError("requires grad")
            def __dlpack__(self, **more):
                raise BufferError("requires grad")
        frame = asn.ArrowFrame.build(system, 0.5, 0.25)
        with pytest.raises(asn.InvalidArgument, match="requires grad") as caught:
            frame.step(Tracked(backend, f.g_t), Tracked(backend, f.g_beta))
        assert caught.value.argument == "g_t"
        with pytest.raises(asn.UnsupportedConfiguration, match="device memory"):
            asn.ArrowSystem(Tracked(backend, f.h_tt), f.h_tb, f.h_bb, f.g_t, f.g_beta)
        """,
    )


def test_a_refresh_reads_other_arrays(fake: Path) -> None:
    run(
        fake,
        """
        other = fixtures.coupled_fixture(8, 2, 4, seed=2, coupling=0.5)
        base = asn.BaseArrowFrame(there(f))
        factors = base.factor_at(0.0, 0.0)
        base.refresh(there(other))
        with pytest.raises(asn.InvalidArgument, match="refresh"):
            base.solve_with(factors)
        assert bits(base.refactor_and_solve(0.5, 0.5)) == bits(asn.ArrowFrame.build(other.system(), 0.5, 0.5).step())
        with pytest.raises(asn.InvalidArgument, match="arrays of the host"):
            base.refresh(system)
        with pytest.raises(asn.InvalidArgument, match="arrays of the device"):
            asn.BaseArrowFrame(system).refresh(there(f))
        with pytest.raises(asn.InvalidArgument, match="the shape of the frame"):
            base.refresh(there(fixtures.coupled_fixture(8, 2, 5, seed=2)))
        """,
    )


def test_what_is_wrong_with_an_array_is_said(fake: Path) -> None:
    run(
        fake,
        """
        parts = {"h_tt": f.h_tt, "h_tb": f.h_tb, "h_bb": f.h_bb, "g_t": f.g_t, "g_beta": f.g_beta}
        def refused(name, array, match, error=asn.InvalidArgument, **more):
            arrays = {key: DlpackArray(backend, value) for key, value in parts.items()}
            with pytest.raises(error, match=match) as caught:
                asn.DeviceSystem(**{**arrays, name: array}, **more)
            if error is asn.InvalidArgument:
                assert caught.value.argument == name
        for name, values in parts.items():
            refused(name, values, "an array of a device" if not hasattr(values, "__dlpack__") else "memory of the host")
            refused(name, 3.0, "an array of a device")
            refused(name, DlpackArray(backend, np.float32(values)), "32 bits.*float64")
            refused(name, InterfaceArray(backend, np.float32(values)), "'<f4'.*float64")
            refused(name, DlpackArray(backend, values, kind=1), "memory of the host")
            refused(name, DlpackArray(backend, values, kind=10), "device type 10")
            other = values[0] if name == "h_tt" else values[:, None] if name == "g_beta" else values[:-1]
            refused(name, DlpackArray(backend, other), "shape")
        refused("h_tb", DlpackArray(backend, f.h_tb, strides=(8, 1, 2)), "C order.*C-contiguous")
        refused("h_tb", InterfaceArray(backend, f.h_tb, strides=(64, 8, 16)), "C order")
        refused("g_beta", InterfaceArray(backend, f.g_beta, strides=(12,)), "C order")  # a field of packed records
        refused("g_t", InterfaceArray(backend, f.g_t, mask=3), "mask")
        refused("g_t", DlpackArray(backend, f.g_t, kind=3), "memory of the host")
        for name, values in parts.items():
            refused(name, DlpackArray(backend, values, offset=4), "not a multiple of 8")
        later = DlpackArray(backend, f.g_t, versioned=True, major=2)
        refused("g_t", later, "DLPack version 2")
        assert later.deleted == 1
        refused("g_t", InterfaceArray(backend, f.g_t, stream=0), "stream 0")
        outside = InterfaceArray(backend, f.g_t)
        outside.address = f.g_t.ctypes.data
        refused("g_t", outside, "memory of the host.*memory of device 0")
        with pytest.raises(asn.InvalidArgument, match="bandwidth"):
            asn.DeviceSystem(*(DlpackArray(backend, part) for part in parts.values()), bandwidth=-1)
        frame = asn.ArrowFrame.build(there(f))
        t, beta = DlpackArray(backend, f.g_t), DlpackArray(backend, f.g_beta)
        for call, name in (
            (lambda: frame.step(t, f.g_beta), "g_beta"),
            (lambda: frame.step(f.g_t, beta), "g_t"),
            (lambda: frame.step(t), "g_beta"),
            (lambda: frame.step(DlpackArray(backend, f.g_t[1:]), beta), "g_t"),
            (lambda: frame.step(t, DlpackArray(backend, np.full(4, np.nan))), "g_beta"),
            (lambda: frame.step(DlpackArray(backend, np.full((8, 2), np.inf)), beta), "g_t"),
            (lambda: frame.solve(t, DlpackArray(backend, np.full(4, np.nan))), "w_beta"),
            (lambda: frame.step(output="device"), "output"),
        ):
            with pytest.raises(asn.InvalidArgument) as caught:
                call()
            assert caught.value.argument == name, (caught.value.argument, name)
        # Elsewhere arrays of a device are refused as before, and frames of them are no systems.
        with pytest.raises(asn.UnsupportedConfiguration, match="device memory"):
            asn.ArrowSystem(t, f.h_tb, f.h_bb, f.g_t, f.g_beta)
        with pytest.raises(asn.InvalidArgument):
            asn.newton_step(there(f))
        # Entries are not looked at: they end as numbers do.
        broken = f.h_bb.copy()
        broken[0, 0] = np.nan
        data = asn.DeviceSystem(*(DlpackArray(backend, part) for part in (f.h_tt, f.h_tb, broken, f.g_t, f.g_beta)))
        with pytest.raises(asn.SchurFactorError):
            asn.ArrowFrame.build(data)
        """,
    )


@pytest.mark.usefixtures("no_device")
def test_without_a_device_there_is_no_system_on_it() -> None:
    class Somewhere:
        def __init__(self, *shape: int) -> None:
            self.__cuda_array_interface__ = {"shape": shape, "typestr": "<f8", "data": (4096, True), "version": 3}

    with pytest.raises(asn.DeviceUnavailableError):
        asn.DeviceSystem(*(Somewhere(*shape) for shape in ((1, 1, 1), (1, 1), (1,), (1,), (1,))))
    with pytest.raises(TypeError):
        asn.DeviceArray()


if sys.platform != "linux":
    pytestmark = pytest.mark.skip(reason="the fake device is for Linux")
