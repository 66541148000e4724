"""What a fit shows while it runs: lines on stdout, and in a terminal a bar below them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from ._options import FitOptions
from ._record import Record

__all__ = ["Progress"]


class Progress:
    """The callback that the core gets: prints, moves the bar, and hands the record to the user's callback.

    The bar is tqdm's (extra `cli`); without it, and where stdout is a file, the lines stand alone.
    """

    def __init__(self, options: FitOptions) -> None:
        self._callback = options.callback
        self._verbose = options.verbose
        self._total = options.max_iter
        self._bar: Any = None

    def __enter__(self) -> Progress:
        if self._verbose and sys.stdout.isatty():
            try:
                from tqdm import tqdm
            except ImportError:
                return self
            self._bar = tqdm(total=self._total, desc="epochs", unit="", leave=False, dynamic_ncols=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, record: Mapping[str, Any]) -> object:
        """Return False to end the fit, as the user's callback does."""
        if self._verbose:
            self._print(line(record, seconds=self._verbose > 1))
        return None if self._callback is None else self._callback(Record(record))

    def _print(self, text: str) -> None:
        if self._bar is None:
            print(text, file=sys.stdout, flush=True)
        else:
            self._bar.write(text, file=sys.stdout)
            self._bar.update()


def line(record: Mapping[str, Any], *, seconds: bool) -> str:
    """Return one line about an epoch."""
    text = (
        f"epoch {record['epoch']:>4}  EV {record['ev']:.6f}  L0 {record['l0']:.3f}  alive {record['alive']}"
        f"  dead {record['dead']}  revived {record['revived']} ({record['accepted']} accepted)"
    )
    if seconds:
        text += "  seconds: " + " ".join(f"{name} {value:.3g}" for name, value in record["seconds"].items())
    return text
