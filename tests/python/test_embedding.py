"""The three ways into the core from outside: a CMake install, the files inside an installed wheel, Cython.

Each test builds a tiny program from tests/embed outside the source tree and runs it.

The CMake install comes from a build of the `dev` preset, whose C++ tests run here too. It is kept in build/dev of the
source tree, so that only the first run compiles the core; ARROWSCHUR_BUILD_DIR names another build tree.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import arrowschur_native as asn

ROOT = Path(__file__).resolve().parents[2]
EMBED = ROOT / "tests" / "embed"

# CMake and Ninja from the environment of this interpreter come first: no system tools are needed.
ENVIRONMENT = {
    **os.environ,
    "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
}


def run(*command: str | Path, cwd: Path | None = None) -> str:
    result = subprocess.run(
        [str(c) for c in command], cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, f"{command}\n{result.stdout[-8000:]}\n{result.stderr[-8000:]}"
    return result.stdout


def facts(output: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in output.splitlines() if "=" in line)


def configure(source: Path, build: Path, *definitions: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["cmake", "-S", str(source), "-B", str(build), "-G", "Ninja", *(f"-D{d}" for d in definitions)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )


def build_and_run(source: Path, build: Path, *definitions: str) -> dict[str, str]:
    configured = configure(source, build, *definitions)
    assert configured.returncode == 0, configured.stdout + configured.stderr
    run("cmake", "--build", build)
    return facts(run(build / "embedding", cwd=build))


@pytest.fixture(scope="session")
def core_build() -> Path:
    """Build tree of the core with its C++ tests."""
    build = Path(os.environ.get("ARROWSCHUR_BUILD_DIR", ROOT / "build" / "dev"))
    if not (build / "build.ninja").exists():
        run("cmake", "--preset", "dev", "-B", build, f"-DPython_EXECUTABLE={sys.executable}", cwd=ROOT)
    run("cmake", "--build", build)
    return build


@pytest.fixture(scope="session")
def cmake_prefix(core_build: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prefix of a CMake install, moved after installation: nothing in it may depend on where it was built."""
    staged = tmp_path_factory.mktemp("stage") / "prefix"
    run("cmake", "--install", core_build, "--prefix", staged)
    prefix = tmp_path_factory.mktemp("install") / "moved"
    shutil.move(staged, prefix)
    return prefix


def test_cpp_unit_tests_pass(core_build: Path) -> None:
    run("ctest", "--test-dir", core_build, "--output-on-failure", "--no-tests=error")


@pytest.mark.parametrize("link", ["shared", "static"])
def test_find_package_from_a_cmake_install(cmake_prefix: Path, tmp_path: Path, link: str) -> None:
    info = build_and_run(
        EMBED / "program",
        tmp_path / "build",
        f"CMAKE_PREFIX_PATH={cmake_prefix}",
        f"ARROWSCHUR_LINK={link}",
    )

    assert info["version"] == asn.__version__
    if info["blas"].startswith("openblas"):
        assert Path(info["blas_library"]).resolve().is_relative_to(cmake_prefix)


def test_find_package_from_inside_the_installed_package(tmp_path: Path) -> None:
    info = build_and_run(EMBED / "program", tmp_path / "build", f"arrowschur_DIR={asn.get_cmake_dir()}")

    assert info["version"] == asn.__version__
    if info["blas"].startswith("openblas"):
        package = Path(asn.__file__).parent.resolve()
        assert Path(info["blas_library"]).resolve().is_relative_to(package)


def test_a_program_needs_no_cmake_to_embed_the_package(tmp_path: Path) -> None:
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    assert compiler is not None
    lib = Path(asn.get_include()).parent / "lib"
    run(
        compiler, "-std=c++20", EMBED / "program" / "main.cpp", "-I", asn.get_include(), f"-L{lib}", "-larrowschur",
        f"-Wl,-rpath,{lib}", "-o", tmp_path / "embedding",
    )  # fmt: skip

    assert facts(run(tmp_path / "embedding"))["version"] == asn.__version__


def test_a_version_too_high_is_refused(tmp_path: Path) -> None:
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.25)\nproject(p LANGUAGES NONE)\nfind_package(arrowschur 99 REQUIRED)\n"
    )
    result = configure(tmp_path, tmp_path / "build", f"arrowschur_DIR={asn.get_cmake_dir()}")

    assert result.returncode != 0
    assert "99" in result.stderr


def test_a_missing_component_is_named(tmp_path: Path) -> None:
    # A wheel has no static library.
    result = configure(
        EMBED / "program", tmp_path / "build", f"arrowschur_DIR={asn.get_cmake_dir()}", "ARROWSCHUR_LINK=static"
    )

    assert result.returncode != 0
    assert "component 'static' is missing" in result.stderr


def test_private_headers_are_not_installed() -> None:
    include = Path(asn.get_include())
    installed = sorted(p.relative_to(include).as_posix() for p in include.rglob("*") if p.is_file())
    source = ROOT / "cpp" / "include"
    assert installed == sorted(p.relative_to(source).as_posix() for p in source.rglob("*") if p.is_file())


def test_cython_module_solves_through_the_pxd(tmp_path: Path) -> None:
    build = tmp_path / "build"
    configured = configure(
        EMBED / "cython", build, f"arrowschur_DIR={asn.get_cmake_dir()}", f"Python_EXECUTABLE={sys.executable}"
    )
    assert configured.returncode == 0, configured.stdout + configured.stderr
    run("cmake", "--build", build)
    script = tmp_path / "use_it.py"
    script.write_text(
        "import sys\n"
        f"sys.path.insert(0, {str(build)!r})\n"
        "import numpy as np, arrow_cython\n"
        "a = np.array([[[2.0]], [[3.0]]]); b = np.ones((2, 1, 1)); m = np.array([[4.0]])\n"
        "t, beta, error, log_det = arrow_cython.solve(a, b, m, np.array([-1.0, -2.0]), np.array([2.0]))\n"
        "print(arrow_cython.core_version(), *t, *beta, error, log_det)\n"
    )

    version, *numbers = run(sys.executable, script).split()

    assert version == asn.__version__
    t0, t1, beta, error, log_det = map(float, numbers)
    assert np.allclose([t0, t1, beta], [1.0, 1.0, -1.0], rtol=1e-14)
    assert error < 1e-15
    assert np.isclose(log_det, np.log(19.0), rtol=1e-14)  # det [[2, 0, 1], [0, 3, 1], [1, 1, 4]] = 19


def test_the_environment_is_the_same_after_blas_was_loaded() -> None:
    script = (
        "import ctypes, os\n"
        "libc = ctypes.CDLL(None)\n"
        "def environment():\n"
        "    entries = ctypes.POINTER(ctypes.c_char_p).in_dll(libc, 'environ')\n"
        "    out, i = [], 0\n"
        "    while entries[i] is not None:\n"
        "        out.append(entries[i]); i += 1\n"
        "    return out\n"
        "import arrowschur_native as asn\n"
        "before = environment()\n"
        "info = asn.build_info()\n"
        "assert info['blas'], info\n"
        "assert environment() == before\n"
        "print('blas_kernels=' + info['blas_kernels'])\n"
    )
    for extra in ({}, {"OPENBLAS_CORETYPE": "Haswell", "OPENBLAS_NUM_THREADS": "3"}):
        environment = {k: v for k, v in ENVIRONMENT.items() if not k.startswith("OPENBLAS_")} | extra
        subprocess.run([sys.executable, "-c", script], env=environment, check=True)


def has_avx512() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return all(f" {flag}" in flags for flag in ("avx512f", "avx512dq", "avx512bw", "avx512vl", "avx512cd"))


def kernels_in_use(**settings: str) -> tuple[str, str]:
    environment = {k: v for k, v in ENVIRONMENT.items() if not k.startswith(("OPENBLAS_", "ARROWSCHUR_"))} | settings
    script = "import arrowschur_native as asn; i = asn.build_info(); print(i['blas']); print(i['blas_kernels'])"
    out = subprocess.run([sys.executable, "-c", script], env=environment, check=True, capture_output=True, text=True)
    blas, kernels = out.stdout.splitlines()
    return blas, kernels.lower()


AVX512_KERNELS = {"skylakex", "cooperlake", "sapphirerapids"}


@pytest.mark.parametrize("coretype_of_others", [None, "Haswell"])
def test_blas_uses_avx512_kernels_where_the_cpu_has_them(coretype_of_others: str | None) -> None:
    settings = {} if coretype_of_others is None else {"OPENBLAS_CORETYPE": coretype_of_others}
    blas, kernels = kernels_in_use(**settings)

    if blas == "openblas (bundled)" and platform.machine() == "x86_64":
        assert (kernels in AVX512_KERNELS) == has_avx512()
    else:
        assert kernels  # a system BLAS or Eigen: what it uses is its own affair


def test_blas_kernels_can_be_chosen() -> None:
    blas, kernels = kernels_in_use(ARROWSCHUR_BLAS_KERNELS="Nehalem")

    assert kernels == "nehalem" or blas != "openblas (bundled)" or platform.machine() != "x86_64"


def test_threadpoolctl_sees_one_knob_and_no_private_blas() -> None:
    script = (
        "import numpy, threadpoolctl, arrowschur_native as asn\n"
        "before = {m['filepath'] for m in threadpoolctl.threadpool_info()}\n"
        "asn.build_info()\n"
        "after = {m['filepath'] for m in threadpoolctl.threadpool_info()}\n"
        "assert after == before, after - before\n"
        "assert not any('arrowschur_openblas' in p for p in after), after\n"
    )
    subprocess.run([sys.executable, "-c", script], env=ENVIRONMENT, check=True)
