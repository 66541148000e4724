"""What this machine can do: dense products, rank updates and Cholesky factorizations at their best rate, and memory.

The best rate is that of the fastest BLAS at hand, of two: SciPy's own OpenBLAS, with the kernels that it chose for this
CPU, and a second, threaded instance of the OpenBLAS that this package bundles, with AVX-512 kernels where they must be
asked for. The library itself holds its instance to one thread and brings its own threads, so that the figures here are
not the library's own code measured against itself. NumPy's BLAS stands in where neither is there.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .. import build_info
from .timing import Contender, race

__all__ = ["Blas", "bandwidth", "blas_libraries", "cpu_flags", "cpu_name", "gemm_rate", "last_level_cache", "reading"]

Array = NDArray[np.float64]


class Blas(Protocol):
    """The three routines, on C-ordered arrays; `S` is written in one triangle only."""

    name: str
    kernels: str

    def gemm(self, a: Array, b: Array, c: Array) -> None:
        """Set `c = a b`, all square."""

    def syrk(self, w: Array, s: Array) -> None:
        """Set the lower triangle of `s` to that of `w' w`."""

    def potrf(self, s: Array) -> None:
        """Factor in place."""


# ---- a threaded instance of the bundled OpenBLAS --------------------------------------------------------------------
@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _int(value: int) -> Any:
    return ctypes.byref(ctypes.c_int(value))


def _double(value: float) -> Any:
    return ctypes.byref(ctypes.c_double(value))


def _pointer(array: Array) -> Any:
    return ctypes.c_void_p(array.ctypes.data)


class BundledBlas:
    """The bundled OpenBLAS, opened once more under another name: a second instance with threads of its own."""

    def __init__(self, path: pathlib.Path, threads: int) -> None:
        # As the library chooses its kernels: OPENBLAS_CORETYPE of the environment is for the BLAS of NumPy and SciPy.
        kernels = os.environ.get("ARROWSCHUR_BLAS_KERNELS", "SKYLAKEX" if _avx512_must_be_asked_for() else "")
        settings = {"OPENBLAS_NUM_THREADS": str(threads), "OPENBLAS_CORETYPE": kernels}
        with tempfile.TemporaryDirectory() as folder, _environment(**settings):
            # The loader knows a library by its file: a copy is another library. (Its name hides it from threadpoolctl.)
            self._library = ctypes.CDLL(str(shutil.copy(path, pathlib.Path(folder) / "libbench_blas.so")))
        core = self._library.scipy_openblas_get_corename
        core.restype = ctypes.c_char_p
        self._library.scipy_openblas_set_num_threads(threads)
        self.name = "openblas (bundled)"
        self.kernels = str(core().decode())

    def gemm(self, a: Array, b: Array, c: Array) -> None:
        """Set `c = a b`."""
        m = _int(a.shape[0])  # C order: the transposed product of the transposes
        self._library.scipy_dgemm_(
            b"N", b"N", m, m, m, _double(1.0), _pointer(b), m, _pointer(a), m, _double(0.0), _pointer(c), m
        )

    def syrk(self, w: Array, s: Array) -> None:
        """Set the lower triangle of `s` to that of `w' w`."""
        rows, k = w.shape
        self._library.scipy_dsyrk_(
            b"U", b"N", _int(k), _int(rows), _double(1.0), _pointer(w), _int(k), _double(0.0), _pointer(s), _int(k)
        )

    def potrf(self, s: Array) -> None:
        """Factor in place."""
        info = ctypes.c_int(0)
        self._library.scipy_dpotrf_(b"U", _int(s.shape[0]), _pointer(s), _int(s.shape[0]), ctypes.byref(info))
        if info.value != 0:
            raise np.linalg.LinAlgError(f"dpotrf: info = {info.value}")


def _bundled_path() -> pathlib.Path | None:
    info = build_info()
    path = pathlib.Path(info.get("blas_library", ""))
    return path if "bundled" in info.get("blas", "") and path.is_file() else None


def _avx512_must_be_asked_for() -> bool:
    # The library's own rule: OpenBLAS goes by CPU family, and may take AVX2 kernels for families newer than itself. On
    # Intel's CPUs it looks at the features.
    flags = cpu_flags()
    return "intel" not in flags and flags.issuperset({"avx512f", "avx512dq", "avx512bw", "avx512vl", "avx512cd"})


# ---- SciPy and NumPy ------------------------------------------------------------------------------------------------
class SciPyBlas:
    """SciPy's BLAS and LAPACK."""

    def __init__(self) -> None:
        self._blas: Any = importlib.import_module("scipy.linalg.blas")
        self._lapack: Any = importlib.import_module("scipy.linalg.lapack")
        self.name = "scipy"
        self.kernels = _kernels_of("scipy.libs", "scipy_openblas") or "unknown"

    def gemm(self, a: Array, b: Array, c: Array) -> None:
        """Set `c = a b`."""
        self._blas.dgemm(1.0, b.T, a.T, 0.0, c.T, overwrite_c=1)

    def syrk(self, w: Array, s: Array) -> None:
        """Set the lower triangle of `s` to that of `w' w`."""
        self._blas.dsyrk(1.0, w.T, 0.0, s.T, overwrite_c=1)

    def potrf(self, s: Array) -> None:
        """Factor in place."""
        _, info = self._lapack.dpotrf(s.T, lower=0, clean=0, overwrite_a=1)
        if info != 0:
            raise np.linalg.LinAlgError(f"dpotrf: info = {info}")


class NumPyBlas:
    """NumPy's BLAS: `W.T @ W` is a `dsyrk` that fills both triangles, `cholesky` a `dpotrf` on a copy."""

    def __init__(self) -> None:
        self.name = "numpy"
        self.kernels = _kernels_of("numpy.libs", "openblas") or "unknown"

    def gemm(self, a: Array, b: Array, c: Array) -> None:
        """Set `c = a b`."""
        np.matmul(a, b, out=c)

    def syrk(self, w: Array, s: Array) -> None:
        """Set `s` to `w' w`."""
        np.matmul(w.T, w, out=s)

    def potrf(self, s: Array) -> None:
        """Factor a copy."""
        np.linalg.cholesky(s)


def _kernels_of(*fragments: str) -> str | None:
    """Return the kernel set of the loaded BLAS whose path contains all fragments, as threadpoolctl knows it."""
    if importlib.util.find_spec("threadpoolctl") is None:
        return None
    threadpoolctl: Any = importlib.import_module("threadpoolctl")
    for library in threadpoolctl.threadpool_info():
        if all(fragment in library["filepath"] for fragment in fragments):
            return str(library.get("architecture", "unknown"))
    return None


def blas_libraries(threads: int) -> list[Blas]:
    """Return the BLAS libraries at hand."""
    libraries: list[Blas] = []
    path = _bundled_path()
    if path is not None:
        libraries.append(BundledBlas(path, threads))
    if importlib.util.find_spec("scipy") is not None:
        libraries.append(SciPyBlas())
    return libraries or [NumPyBlas()]


def gemm_rate(library: Blas, size: int = 2048) -> float:
    """Return the best of several GEMMs, in flops per second."""
    rng = np.random.default_rng(0)
    a, b, c = rng.random((size, size)), rng.random((size, size)), np.empty((size, size))
    times = race({"gemm": Contender(lambda: library.gemm(a, b, c))}, 0.3)
    return 2.0 * size**3 / times["gemm"].best


# ---- memory ---------------------------------------------------------------------------------------------------------
@contextmanager
def reading(threads: int) -> Iterator[tuple[int, dict[str, Contender]]]:
    """Ways to read memory with `threads` threads, and the bytes that each call of one of them reads.

    Two methods, both read only: the largest entry of an array, one piece per thread (vectorised in NumPy, which
    releases the GIL), and the dot product of two arrays by NumPy's BLAS with its own threads. The arrays are 8 times
    the last level cache, at least 256 MB together, so that what stays cached from one repetition to the next hardly
    counts.
    """
    size = max(8 * last_level_cache(), 256 << 20) // 16
    x, y = np.full(size, 0.5), np.full(size, 0.25)
    pieces = [piece for array in (x, y) for piece in np.array_split(array, threads)]
    with ThreadPoolExecutor(threads) as pool:
        yield (
            x.nbytes + y.nbytes,
            {"max": Contender(lambda: list(pool.map(np.max, pieces))), "dot": Contender(lambda: np.dot(x, y))},
        )


def bandwidth(threads: int) -> dict[str, float]:
    """Return the bytes per second at which `threads` threads read memory at best, by method of `reading`."""
    with reading(threads) as (size, methods):
        times = race(methods, 1.0, rounds=8)
    return {name: size / t.best for name, t in times.items()}


def last_level_cache() -> int:
    """Return the size of the last level cache in bytes; 32 MiB where the system does not say."""
    sizes = [0]
    for entry in pathlib.Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = entry.read_text().strip()
        scale = {"K": 1 << 10, "M": 1 << 20}.get(text[-1:], 1)
        digits = text.rstrip("KM")
        sizes.append(int(digits) * scale if digits.isdigit() else 0)
    return max(sizes) or 32 << 20


# ---- CPU ------------------------------------------------------------------------------------------------------------
def _cpuinfo() -> dict[str, str]:
    path = pathlib.Path("/proc/cpuinfo")
    if not path.is_file():
        return {}
    fields: dict[str, str] = {}
    for line in path.read_text().split("\n\n")[0].splitlines():
        name, _, value = line.partition(":")
        fields[name.strip()] = value.strip()
    return fields


def cpu_flags() -> set[str]:
    """Return the feature flags of the first CPU, and `'intel'` for Intel's."""
    fields = _cpuinfo()
    flags = set(fields.get("flags", "").split())
    return flags | {"intel"} if fields.get("vendor_id") == "GenuineIntel" else flags


def cpu_name() -> str:
    """Return the model name with family and model number, which tell more than some names do."""
    fields = _cpuinfo()
    name = fields.get("model name", "unknown CPU")
    if "cpu family" in fields:
        name += f" (family {fields['cpu family']}, model {fields.get('model', '?')})"
    return name
