"""Matching: the rows of an input with the outcomes of a journal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from batchrt.jobs.identity import Identity, differing
from batchrt.jobs.journal import Journal, RowSource
from batchrt.jobs.journal_reader import Entry

__all__ = ["Matcher", "Matches", "Row"]

_PAGE: Final = 1000
"""Rows of the journal that are read at a time."""
_UNCOMMITTED: Final = 10_000
"""Moves that may be remembered here because reading does not show them yet."""


class Row(NamedTuple):
    """A row of the input, with its digests.

    Attributes:
        position: its place, from 0.
        value: the chain's input.
        given: the same as JSON.
        keys: digests of its request and its input; `None` for a row that need not be run.
        error: why it cannot be read, or `None`.
        entry: the id of its recorded outcome that a new one takes the place of, or `None`.
        old: the id of an outcome of another chain, which a new one makes obsolete, or `None`.
        reused: whether its recorded outcome is used again.
    """

    position: int
    value: Any
    given: str
    keys: tuple[bytes, bytes] | None = None
    error: Exception | None = None
    entry: int | None = None
    old: int | None = None
    reused: bool = False


@dataclass(slots=True)
class Matches:
    """Count rows by how they were matched.

    Attributes:
        reused: rows with an output in the journal.
        failed_before: rows with an error in the journal, whether they are run again or not.
        changed: rows whose input has an outcome of another chain, which is not used.
        new: rows whose request the journal does not know.
        changed_parts: for how many of the changed rows a part of the chain is another one, by its name.
        kept: of the reused rows, those with an outcome of another chain (`reuse="any"`).
    """

    reused: int = 0
    failed_before: int = 0
    changed: int = 0
    new: int = 0
    kept: int = 0
    changed_parts: Counter[str] = field(default_factory=Counter)


class Matcher:
    """Find the recorded outcome of each row of an input, in one pass over both.

    Each recorded row serves one row of the input. Those at a place of the input up to the current one are in
    use; all others are free: those further on, and those at no place. A row is looked for at its own place
    and then by its request among the free ones; one that is found there is moved to the row's place, and one
    that is at the place but belongs to another row leaves it. So equal rows have an outcome each, nothing is
    remembered for a row, and the journal is in this state whenever the process is killed.

    Args:
        journal: the journal.
        identity: of the chain.
        reuse_any: use outcomes of other chains with the same input.
        retry_failed: run rows again that failed before.
    """

    def __init__(self, journal: Journal, identity: Identity, *, reuse_any: bool, retry_failed: bool) -> None:
        self.matches = Matches()
        self._journal = journal
        self._identity = identity
        self._reuse_any = reuse_any
        self._retry_failed = retry_failed
        self.chain: int = journal.chain(identity.parts)
        self._parts = dict(identity.parts)
        self._differences: dict[int, tuple[str, ...]] = {self.chain: ()}
        self._has_others = self.chain > 1 or journal.has_chain_after(self.chain)
        self._last = journal.last_position()
        self._has_left_rows = journal.has_left_rows()
        self._page: dict[int, Entry] = {}
        self._page_end = 0
        # Changes that reading may not show yet, by the rows' ids.
        self._taken: set[int] = set()
        self._left: set[int] = set()

    def match(self, position: int, value: Any, given: bytes, error: Exception | None = None) -> Row:
        """Match the row at the next place; `given` is its input as JSON."""
        text = given.decode()
        here = self._at(position) if position <= self._last else None
        if (
            here is not None
            and here.chain == self.chain
            and here.input == text
            and self._identity.is_fixed
            and error is None
        ):
            return self._use(here, Row(position, value, text), None)
        identity = self._identity
        keys = identity.keys(value, given) if error is None else identity.key_of_error(given, error)
        row = Row(position, value, text, keys, error)
        if here is not None and here.key == keys[0]:
            self._journal.refresh(here.id, RowSource(*keys, self.chain, text))
            return self._use(here, row, keys)
        found = (
            self._free(self._journal.with_key(keys[0]), position)
            if self._may_be_elsewhere(position)
            else None
        )
        old = None
        if found is None and self._has_others:
            old = self._old(row, here)
        if here is not None and here is not old:
            self._displace(here, position)
        if found is not None:
            if here is not None and self._is_of_another_chain(here, value):
                self._journal.replace(here.id)
            self._take(found, here, position)
            self._journal.refresh(found.id, RowSource(*keys, self.chain, text))
            return self._use(found, row, keys)
        if old is None:
            self.matches.new += 1
            return row
        return self._changed(old, here, row)

    def _at(self, position: int) -> Entry | None:
        if position >= self._page_end:
            self._page = {entry.position or 0: entry for entry in self._journal.at(position, _PAGE)}
            self._page_end = position + _PAGE
        entry = self._page.get(position)
        return None if entry is None or entry.id in self._taken else entry

    def _use(self, entry: Entry, row: Row, keys: tuple[bytes, bytes] | None) -> Row:
        if entry.status == "done":
            self.matches.reused += 1
            return row._replace(reused=True)
        self.matches.failed_before += 1
        if not self._retry_failed:
            return row._replace(reused=True)
        if keys is None:
            keys = self._identity.keys(row.value, row.given.encode())
        return row._replace(keys=keys, entry=entry.id)

    def _may_be_elsewhere(self, position: int) -> bool:
        return position < self._last or self._has_left_rows

    def _free(self, entries: Iterable[Entry], position: int) -> Entry | None:
        free = [
            entry
            for entry in entries
            if entry.id not in self._taken
            and (entry.position is None or entry.position > position or entry.id in self._left)
        ]
        return min(free, key=lambda entry: (entry.position is None, entry.position, entry.id), default=None)

    def _is_of_another_chain(self, here: Entry, value: Any) -> bool:
        """Whether an entry is the outcome of another chain for this value."""
        return here.chain != self.chain and self._identity.is_same_input(here.input, value)

    def _old(self, row: Row, here: Entry | None) -> Entry | None:
        """Return the outcome of another chain for the row's input, if there is one."""
        if here is not None and self._is_of_another_chain(here, row.value):
            return here
        assert row.keys is not None
        if not self._may_be_elsewhere(row.position):
            return None
        entries = self._journal.with_input(row.keys[1])
        return self._free((entry for entry in entries if not entry.replaced), row.position)

    def _displace(self, entry: Entry, position: int) -> None:
        self._journal.leave(entry.id, position)
        self._left.add(entry.id)
        self._has_left_rows = True
        self._forget_committed()

    def _take(self, entry: Entry, here: Entry | None, position: int) -> None:
        assert here is None or here is not entry
        self._journal.move(entry.id, position)
        self._taken.add(entry.id)
        self._left.discard(entry.id)
        self._forget_committed()

    def _forget_committed(self) -> None:
        if len(self._taken) + len(self._left) > _UNCOMMITTED:
            self._journal.flush()
            self._taken.clear()
            self._left.clear()
            self._page_end = 0

    def _changed(self, old: Entry, here: Entry | None, row: Row) -> Row:
        """Return a row whose input has an outcome of another chain."""
        if self._reuse_any and old.status == "done":
            if old is not here:
                self._take(old, here, row.position)
            self.matches.reused += 1
            self.matches.kept += 1
            return row._replace(reused=True)
        if old is here:
            self._displace(old, row.position)
        self.matches.changed += 1
        self.matches.changed_parts.update(self._difference(old.chain))
        return row._replace(old=old.id)

    def _difference(self, chain: int) -> tuple[str, ...]:
        if chain not in self._differences:
            self._differences[chain] = differing(self._journal.parts_of(chain), self._parts)
        return self._differences[chain]
