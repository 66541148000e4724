"""Threads, scratch memory, and what this build is."""

from __future__ import annotations

import os
import pathlib
import sys
import threading
from typing import Any

from . import _core
from ._errors import InvalidArgument

__all__ = [
    "build_info",
    "clear_workspaces",
    "device_info",
    "get_cmake_dir",
    "get_include",
    "get_num_threads",
    "set_num_threads",
    "workspace_cache_bytes",
]


def get_num_threads() -> int:
    """Return the number of threads that solves use by default.

    Returns
    -------
    int
        `OMP_NUM_THREADS` if that is set and valid, else the number of CPUs that this process may run on; or the last
        value of `set_num_threads`.

    Examples
    --------
    >>> import arrowschur_native as asn
    >>> asn.get_num_threads() >= 1
    True
    """
    return _core.get_num_threads()


def set_num_threads(n: int) -> None:
    """Set the number of threads that solves use by default.

    Parameters
    ----------
    n : int
        >= 1. `SolveOptions.num_threads` overrides it for one call.

    Raises
    ------
    InvalidArgument
        `n` is not an integer >= 1.

    Notes
    -----
    Process-wide. Results do not depend on it, bit for bit.

    Examples
    --------
    >>> import arrowschur_native as asn
    >>> before = asn.get_num_threads()
    >>> asn.set_num_threads(1); asn.get_num_threads()
    1
    >>> asn.set_num_threads(before)
    """
    _core.set_num_threads(_size("n", n, 1, 2**31 - 1))


def clear_workspaces() -> None:
    """Free the scratch memory that the calling thread keeps between calls.

    Examples
    --------
    >>> import arrowschur_native as asn
    >>> asn.clear_workspaces()
    """
    _core.clear_workspaces()


def workspace_cache_bytes(nbytes: int | None = None) -> int:
    """Return, and optionally set, how much scratch memory a thread may keep between calls.

    Parameters
    ----------
    nbytes : int, optional
        New limit, >= 0. None only asks.

    Returns
    -------
    int
        The limit in force after the call; 512 MB by default.

    Notes
    -----
    A repeated `newton_step` of the same shape then touches no fresh memory. 0 keeps nothing.

    Examples
    --------
    >>> import arrowschur_native as asn
    >>> limit = asn.workspace_cache_bytes()
    >>> asn.workspace_cache_bytes(0)
    0
    >>> asn.workspace_cache_bytes(limit) == limit
    True
    """
    if nbytes is not None:
        _core.set_workspace_cache_bytes(_size("nbytes", nbytes, 0, 2**62))
    return _core.workspace_cache_bytes()


def _size(name: str, value: Any, lowest: int, highest: int) -> int:
    number = None if isinstance(value, bool) else getattr(value, "__index__", lambda: None)()
    if number is None or not lowest <= number <= highest:
        raise InvalidArgument(argument=name, got=f"{value!r:.80}", expected=f"an integer >= {lowest}")
    return int(number)


def build_info() -> dict[str, str]:
    """Return what was compiled and what is in use.

    Returns
    -------
    dict of str
        Version, compiler, instruction sets compiled and chosen, BLAS and its kernels, threads, CUDA.

    Examples
    --------
    >>> import arrowschur_native as asn
    >>> "blas" in asn.build_info()
    True
    """
    return {"version": _core.__version__, **_core.build_info()}


def device_info() -> dict[str, Any]:
    """Return what is known about the device; the first call in a process opens the backend and wakes the driver.

    Returns
    -------
    dict
        `available` (bool); `outcome`: `'available'`, `'absent'` (something is not there) or `'fault'` (it is there, and
        broken); `absence`: `'backend_not_compiled'`, `'version_mismatch'`, `'unsupported_platform'`,
        `'driver_unavailable'`, `'runtime_library_unavailable'`, `'no_device'` or `''`; `reason`: why there is none, in
        words; `backend` (name) and `library` (path) of what was opened; `has_solver_stages`: whether the backend can
        carry a solve, as every available one of this version can; `devices`: the facts of the device that was found,
        at most one.

    Examples
    --------
    >>> import arrowschur_native as asn
    >>> info = asn.device_info()
    >>> info["available"] == (info["reason"] == "")
    True
    """
    return _core.device_info()


# cuBLAS and cuSOLVER may come from wheels of this interpreter. The core looks around its own library, which in an
# editable install is somewhere else.
for _folder in sys.path:
    if pathlib.PurePath(_folder).name in ("site-packages", "dist-packages"):
        _core.add_device_package_root(_folder)

# Where the build installed itself: beside the extension, also in an editable install.
_PACKAGE = pathlib.Path(_core.__file__).parent


def get_include() -> str:
    """Return the folder of the C++ headers and of the Cython declarations inside the installed package.

    Raises
    ------
    FileNotFoundError
        The package was not installed by its build (a bare source checkout has no such folder).

    Examples
    --------
    >>> import os.path, arrowschur_native as asn
    >>> os.path.isfile(os.path.join(asn.get_include(), "arrowschur", "arrowschur.hpp"))
    True
    """
    return _installed("include", "arrowschur/arrowschur.hpp")


def get_cmake_dir() -> str:
    """Return the folder in which `find_package(arrowschur)` finds the package: `arrowschur_DIR`.

    Raises
    ------
    FileNotFoundError
        The package was not installed by its build.

    Examples
    --------
    >>> import os.path, arrowschur_native as asn
    >>> os.path.isfile(os.path.join(asn.get_cmake_dir(), "arrowschurConfig.cmake"))
    True
    """
    for libdir in ("lib", "lib64"):
        folder = _PACKAGE / libdir / "cmake" / "arrowschur"
        if folder.is_dir():
            return str(folder)
    raise FileNotFoundError(f"no lib/cmake/arrowschur below {_PACKAGE}: is the package installed?")


def _installed(folder: str, witness: str) -> str:
    path = _PACKAGE / folder
    if not (path / witness).is_file():
        raise FileNotFoundError(f"no {folder}/{witness} below {_PACKAGE}: is the package installed?")
    return str(path)


# ---- signals and threadpoolctl --------------------------------------------------------------------------------------
def _watch_main_thread() -> None:
    """Tell the core which thread receives Ctrl-C. After a fork it is the one that forked."""
    if threading.current_thread() is threading.main_thread():
        _core.set_main_thread()
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_core.set_main_thread)


def _register_threadpoolctl() -> None:
    """Make the library's threads visible to threadpoolctl, where that is installed (3.3 and newer)."""
    try:
        import threadpoolctl  # type: ignore[import-untyped,unused-ignore]
    except ImportError:
        return
    if not hasattr(threadpoolctl, "register"):
        return

    class ArrowSchurController(threadpoolctl.LibController):  # type: ignore[misc]
        user_api = "arrowschur"
        internal_api = "arrowschur"
        filename_prefixes = ("libarrowschur",)
        check_symbols = ("arrowschur_get_num_threads", "arrowschur_set_num_threads")

        def get_num_threads(self) -> int:
            return int(self.dynlib.arrowschur_get_num_threads())

        def set_num_threads(self, num_threads: int) -> None:
            self.dynlib.arrowschur_set_num_threads(num_threads)

        def get_version(self) -> str:
            return _core.__version__

    threadpoolctl.register(ArrowSchurController)
