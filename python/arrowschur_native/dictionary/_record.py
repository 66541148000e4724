"""Records: dictionaries whose entries are attributes too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["Record"]


class Record(dict[str, Any]):
    """What an epoch, a shard or a count of routing tells: a dictionary whose entries are attributes too.

    Examples
    --------
    >>> from arrowschur_native.dictionary import Record
    >>> record = Record({"epoch": 1, "refresh": {"method": "cholesky"}})
    >>> record["epoch"], record.refresh.method
    (1, 'cholesky')
    """

    def __init__(self, entries: Mapping[str, Any]) -> None:
        super().__init__(
            {name: Record(entry) if isinstance(entry, Mapping) else entry for name, entry in entries.items()}
        )

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def __reduce__(self) -> tuple[Any, ...]:
        return Record, (dict(self),)
