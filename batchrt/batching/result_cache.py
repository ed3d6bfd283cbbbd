"""An LRU cache of results, bounded in bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

__all__ = ["ResultCache"]


class ResultCache:
    """Keep results for values that may come again; the least recently used go first.

    Args:
        capacity: in bytes.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = self._free = capacity
        self._results: OrderedDict[Hashable, bytes] = OrderedDict()

    def __len__(self) -> int:
        return len(self._results)

    def get(self, key: Hashable) -> bytes | None:
        """Return the result of a value, if it is kept."""
        result = self._results.get(key)
        if result is not None:
            self._results.move_to_end(key)
        return result

    def put(self, key: Hashable, result: bytes) -> None:
        """Keep a result, unless it is larger than the whole cache."""
        if key in self._results or len(result) > self._capacity:
            return
        self._results[key] = result
        self._free -= len(result)
        while self._free < 0:
            self._free += len(self._results.popitem(last=False)[1])
