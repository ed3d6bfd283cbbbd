"""Sums of chunks: the output that chunks of it add up to.

- Text, bytes, lists and tuples are joined.
- Dicts are merged: values of one key add up in turn, at any depth.
- Objects of classes with an own `+`, such as message chunks, are added by it.
- Of everything else (numbers, booleans, dates, sets, objects, values of different types) the last holds.
- `None` adds nothing; no chunk at all is `None`.
- A `Snapshot` replaces what was before it: partial JSON is whole each time.

LCEL adds numbers up, and fails on dicts in dicts and on objects; here a sum always exists, and a
single chunk is its own sum.
"""

from __future__ import annotations

import numbers
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

from batchrt.runtime.side_stream import Closing

__all__ = [
    "AddableDict",
    "ChunkSum",
    "Snapshot",
    "add_chunks",
    "joined_pairs",
    "plain",
    "snapshot_of",
    "sum_of",
    "total_of",
]

_JOINED: Final = (str, bytes, list, tuple)
_REPLACED: Final = (numbers.Number, timedelta)
"""Types with a `+` that does not join chunks."""


class Snapshot:
    """Mark a chunk that replaces those before it."""

    __slots__ = ()


class SnapshotDict(dict[Any, Any], Snapshot):
    """A dict that replaces those before it."""

    __slots__ = ()


class SnapshotList(list[Any], Snapshot):
    """A list that replaces those before it."""

    __slots__ = ()


class SnapshotText(str, Snapshot):
    """Text that replaces what was before it."""

    __slots__ = ()


_SNAPSHOTS: Final[Mapping[type, Any]] = {dict: SnapshotDict, list: SnapshotList, str: SnapshotText}
_PLAIN: Final[Mapping[type, Any]] = {snapshot: kind for kind, snapshot in _SNAPSHOTS.items()}


def snapshot_of(value: Any) -> Any:
    """Return `value` as a chunk that replaces those before it; of other types than JSON's the last holds."""
    kind = _SNAPSHOTS.get(type(value))
    return value if kind is None else kind(value)


class AddableDict(dict[str, Any]):
    """A dict that is a chunk: `+` merges it with the next one, as sums of chunks do."""

    __slots__ = ()

    def __add__(self, other: Any) -> AddableDict:
        if not isinstance(other, Mapping):
            return NotImplemented
        return AddableDict(_merged(self, other))

    def __radd__(self, other: Any) -> AddableDict:
        if not isinstance(other, Mapping):
            return NotImplemented
        return AddableDict(_merged(other, self))


def add_chunks(left: Any, right: Any) -> Any:
    """Return the sum of two chunks, or of a sum and a chunk; neither is changed.

    Text, lists and tuples are joined, dicts merged key by key, messages added by their `+`. Of numbers and
    all else the last holds.
    """
    if right is None:
        return left
    if left is None or isinstance(right, Snapshot):
        return right
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return (AddableDict if isinstance(left, AddableDict) else dict)(_merged(left, right))
    if not _adds(left, right):
        return right
    try:
        return left + right
    except TypeError:
        return right


def _adds(left: Any, right: Any) -> bool:
    if isinstance(left, _JOINED):
        return isinstance(right, _JOINED)
    return hasattr(type(left), "__add__") and not isinstance(left, _REPLACED)


def _merged(left: Mapping[Any, Any], right: Mapping[Any, Any]) -> dict[Any, Any]:
    merged = dict(left)
    for key, value in right.items():
        merged[key] = add_chunks(merged[key], value) if key in merged else value
    return merged


class ChunkSum:
    """Add chunks up; text, of which there are many, in linear time.

    Attributes:
        count: how many chunks there were.
    """

    __slots__ = ("_tail", "_value", "count")

    def __init__(self) -> None:
        self.count: int = 0
        self._value: Any = None
        self._tail: list[str] = []

    def add(self, chunk: Any) -> None:
        """Add a chunk."""
        self.count += 1
        if type(chunk) is str and type(self._value) is str:
            self._tail.append(chunk)
        else:
            self._value = chunk if self._value is None else add_chunks(self._joined(), chunk)

    def _joined(self) -> Any:
        if self._tail:
            self._value = "".join((self._value, *self._tail))
            self._tail.clear()
        return self._value

    @property
    def value(self) -> Any:
        """The sum; `None` of no chunks."""
        return plain(self._joined())


def plain(value: Any) -> Any:
    """Return a sum without the marks of chunks, in dicts within it either."""
    kind = type(value)
    if kind is AddableDict:
        return {key: plain(inner) for key, inner in value.items()}
    made = _PLAIN.get(kind)
    return value if made is None else made(value)


async def total_of(chunks: AsyncIterator[Any]) -> Any:
    """Return the sum of `chunks`, and close them."""
    total = ChunkSum()
    async with Closing(chunks):
        async for chunk in chunks:
            total.add(chunk)
    return total.value


def sum_of(chunks: Sequence[Any]) -> Any:
    """Return the sum of `chunks`, of which there may be many: neighbours are added, then their sums."""
    while len(chunks) > 1:
        pairs = [chunks[start : start + 2] for start in range(0, len(chunks), 2)]
        chunks = [add_chunks(*pair) if len(pair) > 1 else pair[0] for pair in pairs]
    return plain(chunks[0]) if chunks else None


def joined_pairs(chunks: Sequence[Any]) -> Iterable[Any]:
    """Return chunks with the same sum, about half as many, where neighbours can be joined without a loss."""
    joined: list[Any] = []
    pending: list[Any] = []
    for chunk in chunks:
        if pending and _joins(pending[0], chunk):
            joined.append(add_chunks(pending.pop(), chunk))
        else:
            joined += pending
            pending = [chunk]
    return [*joined, *pending]


def _joins(left: Any, right: Any) -> bool:
    """Whether the sum holds all of both: not where the last holds."""
    if isinstance(left, Snapshot) or isinstance(right, Snapshot):
        return False
    if isinstance(left, _JOINED):
        return type(left) is type(right)
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return all(_joins(left[key], value) for key, value in right.items() if key in left)
    return type(left) is type(right) and _adds(left, right)
