"""Matching: the rows of an input with the outcomes of a journal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from batchrt.jobs.identity import Identity, differing
from batchrt.jobs.journal import Journal, RowSource
from batchrt.jobs.journal_reader import Entry

__all__ = ["Matcher", "Matches", "Row"]

_PAGE: Final = 1000
"""Rows of the journal that are read at a time."""
_MOST_PUT_OFF: Final = 10_000
"""Rows without an outcome at their place that may be put off until it is known whether one is elsewhere."""
_UNCOMMITTED: Final = 10_000
"""Moves that may be remembered here because reading does not show them yet."""


class Row(NamedTuple):
    """A row of the input, with its digests.

    Attributes:
        position: its place, from 0.
        value: the chain's input.
        given: the same as JSON.
        keys: digests of its request and its input.
        error: why it cannot be read, or `None`.
        entry: the id of its recorded outcome that a new one takes the place of, or `None`.
        old: the id of an outcome of another chain, which a new one makes obsolete, or `None`.
    """

    position: int
    value: Any
    given: str
    keys: tuple[bytes, bytes]
    error: Exception | None = None
    entry: int | None = None
    old: int | None = None


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
    use, unless they were found to be another row's; all others are free. A row is looked for at its own
    place first. One that is not there is put off, until all recorded places have been passed or too many
    rows are put off: only if a recorded row turned out to be at the wrong place by then are the free ones
    searched, for which the journal needs an index. A row that is found is moved to its new place, and one
    that is at the place of another row leaves it. So equal rows have an outcome each, no memory grows with
    the input, and the journal is in this state whenever the process is killed.

    Args:
        journal: the journal.
        identity: of the chain.
        reuse_any: use outcomes of other chains with the same input.
        retry_failed: run rows again that failed before.
        on_use: called with the place of each row whose outcome is used.

    Attributes:
        matches: the counts so far.
        chain: the chain's number in the journal.
        position: how many rows of the input there were so far.
    """

    def __init__(
        self,
        journal: Journal,
        identity: Identity,
        *,
        reuse_any: bool,
        retry_failed: bool,
        on_use: Callable[[int], object] | None = None,
    ) -> None:
        self.matches: Matches = Matches()
        self.chain: int = journal.chain(identity.parts)
        self.position: int = 0
        self._journal = journal
        self._identity = identity
        self._reuse_any = reuse_any
        self._retry_failed = retry_failed
        self._on_use = on_use
        self._parts = dict(identity.parts)
        self._differences: dict[int, tuple[str, ...]] = {self.chain: ()}
        self._has_others = self.chain > 1 or journal.has_chain_after(self.chain)
        self._last = journal.last_position()
        self._has_strays = journal.has_left_rows()
        self._searches = False
        self._put_off: list[tuple[Row, Entry | None]] = []
        self._page: dict[int, Entry] = {}
        self._page_end = 0
        # Changes that reading may not show yet, by the rows' ids.
        self._taken: set[int] = set()
        self._left: set[int] = set()

    @property
    def is_first(self) -> bool:
        """Whether the journal had no row, so that each row is to be run."""
        return self._last < 0 and not self._has_strays

    def match(self, value: Any, given: bytes, error: Exception | None = None) -> Sequence[Row]:
        """Match the next row, and return rows that are to be run: this one, or some that were put off.

        Args:
            value: the chain's input.
            given: the same as JSON.
            error: why it cannot be read, or `None`.
        """
        position = self.position
        self.position = position + 1
        text = given.decode()
        here = self._at(position) if position <= self._last else None
        identity = self._identity
        if (
            here is not None
            and here.chain == self.chain
            and here.input == text
            and identity.is_fixed
            and error is None
            and (here.status == "done" or not self._retry_failed)
        ):
            self._count_use(here, position)
            return ()
        keys = identity.keys(value, given) if error is None else identity.key_of_error(given, error)
        row = Row(position, value, text, keys, error)
        if here is not None and here.key == keys[0]:
            return self._use(here, row)
        if position > self._last and not self._has_strays and not self._put_off:  # as in all of a first run
            self.matches.new += 1
            return (row,)
        return self._match_elsewhere(row, here)

    def finish(self) -> Sequence[Row]:
        """Return rows to run that were put off, once the input has ended."""
        put_off, self._put_off = self._put_off, []
        return [each for row, old in put_off for each in self._search(row, old)]

    def _match_elsewhere(self, row: Row, here: Entry | None) -> Sequence[Row]:
        """Match a row whose own place has no outcome of its request."""
        old = None
        if here is not None:
            if self._is_of_another_chain(here, row.value):
                if self._keeps(here, row.position):
                    return ()
                old = here
            self._displace(here, row.position)
            self._has_strays |= old is None
        is_settled = old is not None and not self._has_strays
        if row.position < self._last and not self._searches and not is_settled:
            self._put_off.append((row, old))
            self._searches = len(self._put_off) >= _MOST_PUT_OFF
            return self.finish() if self._searches else ()
        return [*self.finish(), *self._search(row, old)]

    def _search(self, row: Row, old: Entry | None) -> Sequence[Row]:
        """Match a row with the free ones; `old` is the outcome of another chain at its place."""
        if self._has_strays or (self._searches and self.position <= self._last):
            found = self._free(self._journal.with_key(row.keys[0]))
            if found is not None:
                if old is not None:
                    self._journal.replace(old.id)
                self._take(found, row.position)
                return self._use(found, row)
            if old is None and self._has_others:
                entries = self._journal.with_input(row.keys[1])
                old = self._free(entry for entry in entries if not entry.replaced)
                if old is not None and self._reuse_any and old.status == "done":
                    self._take(old, row.position)
                    self._keeps(old, row.position)
                    return ()
        if old is None:
            self.matches.new += 1
            return (row,)
        self.matches.changed += 1
        self.matches.changed_parts.update(self._difference(old.chain))
        return (row._replace(old=old.id),)

    def _at(self, position: int) -> Entry | None:
        if position >= self._page_end:
            self._page = {entry.position or 0: entry for entry in self._journal.at(position, _PAGE)}
            self._page_end = position + _PAGE
        entry = self._page.get(position)
        return None if entry is None or entry.id in self._taken else entry

    def _use(self, entry: Entry, row: Row) -> Sequence[Row]:
        """Use a recorded outcome of the row's request, or run the row again if it failed."""
        if entry.chain != self.chain or entry.input != row.given:
            self._journal.refresh(entry.id, RowSource(*row.keys, self.chain, row.given))
        self._count_use(entry, row.position)
        if entry.status == "done" or not self._retry_failed:
            return ()
        return (row._replace(entry=entry.id),)

    def _count_use(self, entry: Entry, position: int) -> None:
        if entry.status == "done":
            self.matches.reused += 1
        else:
            self.matches.failed_before += 1
        if self._on_use is not None and (entry.status == "done" or not self._retry_failed):
            self._on_use(position)

    def _keeps(self, old: Entry, position: int) -> bool:
        """Whether an outcome of another chain is used."""
        if not self._reuse_any or old.status != "done":
            return False
        self.matches.kept += 1
        self._count_use(old, position)
        return True

    def _is_of_another_chain(self, here: Entry, value: Any) -> bool:
        return here.chain != self.chain and self._identity.is_same_input(here.input, value)

    def _free(self, entries: Iterable[Entry]) -> Entry | None:
        """Return the first free one of `entries`."""
        free = [
            entry
            for entry in entries
            if entry.id not in self._taken
            and (entry.position is None or entry.position >= self.position or entry.id in self._left)
        ]
        return min(free, key=lambda entry: (entry.position is None, entry.position, entry.id), default=None)

    def _displace(self, entry: Entry, position: int) -> None:
        self._journal.leave(entry.id, position)
        self._left.add(entry.id)
        self._forget_committed()

    def _take(self, entry: Entry, position: int) -> None:
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

    def _difference(self, chain: int) -> tuple[str, ...]:
        if chain not in self._differences:
            self._differences[chain] = differing(self._journal.parts_of(chain), self._parts)
        return self._differences[chain]
