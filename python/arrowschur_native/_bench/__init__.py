"""The benchmark behind `python -m arrowschur_native bench`.

First this machine's limits, then the reference shapes, each next to those limits and to peers in the same run.
`shapes` says what is run, `limits` what the machine can do, `timing` how it is timed, `run` runs, `report` prints. The
peers are in `bench/peers` of the source tree; a wheel carries a copy beside this file.
"""

from __future__ import annotations

import importlib.util
import pathlib
import sys
from types import ModuleType

__all__ = ["load_peers", "main"]


def load_peers() -> ModuleType:
    """Import the peers: the installed copy, or `bench/peers` of the source tree that this file is in."""
    here = pathlib.Path(__file__).resolve().parent
    name = f"{__name__}.peers"
    if name in sys.modules:
        return sys.modules[name]
    for folder in (here / "peers", here.parents[2] / "bench" / "peers"):
        if (folder / "__init__.py").is_file():
            spec = importlib.util.spec_from_file_location(
                name, folder / "__init__.py", submodule_search_locations=[str(folder)]
            )
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[name] = module
            spec.loader.exec_module(module)
            return module
    raise FileNotFoundError(f"no peers beside {here} and none in a source tree around it")


def main(argv: list[str] | None = None) -> int:
    """Run the command line of the benchmark and return its exit status."""
    from .report import main as command

    return command(argv)
