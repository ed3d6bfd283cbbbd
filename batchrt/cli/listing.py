"""Rows carried to an embedding model in lists."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Final, Literal, TypeAlias

import anyio

from batchrt.batching.list_call import ListCall, Part, RepackError, Split, carry
from batchrt.cli.booking import Gatekeeper
from batchrt.cli.brake import Brake, LeftOutError
from batchrt.cli.entries import Entry
from batchrt.cli.packing import Lists, PipeLists
from batchrt.cli.purse import Purse
from batchrt.cli.tally import Tally
from batchrt.cli.texts import Text
from batchrt.config import RunConfig
from batchrt.errors import ContextLengthError, ItemTimeoutError, SpendingLimitError
from batchrt.limits.adaptive_concurrency import FIRST_LIMIT
from batchrt.runnables.base import Runnable
from batchrt.runtime.step import Step
from batchrt.runtime.strand import Strand
from batchrt.runtime.stream import Stream

__all__ = ["Embedded", "ListCargo"]

_LEAST_AHEAD: Final = 2
"""Lists beside those under way that may wait for one before them."""
_AHEAD_PER_SLOT: Final = 20
_ROWS_AHEAD: Final = 8192
"""Rows to which that may add up where lists are short: 50 MB of vectors of 1,536 numbers."""

_ROWS_ALTOGETHER: Final = 32_768
"""Rows in flight and ahead where nobody says how many lists may be in flight: 200 MB of such vectors if all
of them wait for one. That is 16 of the longest lists that are usual, which hold so much work that more of
them at once bring nothing, and a thousand of the shortest."""

_LEFT_OUT: Final = (LeftOutError, SpendingLimitError)

Groups: TypeAlias = "dict[str, list[Entry]]"


class Embedded(Runnable[list[Text], None]):
    """Embed lists of texts; the entries have what became of each when its part of the list is done with.

    Equal texts of a list are sent once.

    Args:
        call: embeds lists, and gives vectors as bytes.
        tally: where rows are counted.
        gate: is told of each part's end.
        brake: gives lists up that wait when the job is stopped.
        purse: what may be spent.
        timeout: seconds for a list with all its attempts; `None` for no end.
    """

    def __init__(
        self,
        call: ListCall,
        tally: Tally,
        gate: Gatekeeper,
        brake: Brake,
        purse: Purse,
        *,
        timeout: float | None = None,
    ) -> None:
        self._call = replace(call, split=partial(_split, call))
        self._ask = call.call
        self._tally = tally
        self._gate = gate
        self._brake = brake
        self._purse = purse
        self._timeout = timeout

    async def _counted(self, groups: Groups, texts: list[str], strand: Strand) -> Any:
        self._tally.lists += 1
        self._tally.sent += len(texts)
        try:
            with self._brake.over(strand, sum(len(groups[text]) for text in texts)):
                return await self._ask(texts, strand)
        except (RepackError, *_LEFT_OUT) as error:
            if error.__cause__ is None:  # it was known to be too long, or given up: it was not sent
                self._tally.lists -= 1
            self._tally.sent -= len(texts)
            raise

    def _build(self, kwargs: Mapping[str, Any]) -> Step:  # noqa: ARG002  the call is made already
        async def embed(texts: list[Text], strand: Strand) -> None:
            self._tally.started += len(texts)
            self._purse.watch(strand)
            groups = self._grouped(texts)
            item, distinct = strand.item, list(groups)
            list_call = replace(self._call, call=partial(self._counted, groups))

            def give(part: Part) -> None:
                self._give(distinct[part.start : part.stop], part, groups)

            try:
                with anyio.move_on_after(self._timeout) as scope:
                    await carry(list_call, distinct, strand, give)
            finally:
                strand.item = item
            if scope.cancelled_caught:
                self._fail_rest(texts, self._late())
            self._tally.left_out += sum(not entry.ended for entry, _ in texts)

        return Step(embed)

    def _late(self) -> ItemTimeoutError:
        assert self._timeout is not None
        seconds = self._timeout
        return ItemTimeoutError(f"the list took longer than its timeout of {seconds:g} s", seconds=seconds)

    def _fail_rest(self, texts: list[Text], error: Exception) -> None:
        """Give `error` to the rows that have not ended."""
        for entry, _ in texts:
            if not entry.ended:
                self._fail(entry, error)

    def _grouped(self, texts: list[Text]) -> Groups:
        """Return the rows of each text; those that have an error by themselves have ended."""
        groups: Groups = {}
        prepare = self._call.prepare
        for entry, text in texts:
            if entry.error is not None:
                self._fail(entry, entry.error)
                continue
            try:
                prepared = text if prepare is None else prepare(text)
            except Exception as error:  # noqa: BLE001  this row's outcome
                self._fail(entry, error)
            else:
                groups.setdefault(prepared, []).append(entry)
        return groups

    def _give(self, texts: list[str], part: Part, groups: Groups) -> None:
        """Book a part of a list."""
        tally = self._tally
        tally.retries += part.book.retries
        if part.error is not None:
            if isinstance(part.error, _LEFT_OUT) or not self._gate.refused(part.error):
                return
        else:
            self._gate.passed()
            if part.book.usage is None and self._call.cost is not None:
                tally.estimated_tokens += round(sum(map(self._call.cost, texts)))
        if part.book.usage is not None:
            tally.add_usage(part.book.usage)
        results = part.results if part.error is None else [part.error] * len(texts)
        for text, result in zip(texts, results, strict=True):
            for entry in groups[text]:
                self._end(entry, result)

    def _end(self, entry: Entry, result: Any) -> None:
        if isinstance(result, Exception):
            self._fail(entry, result)
        else:
            entry.output = result
            entry.ended = True
            self._tally.done += 1
            self._tally.answered += 1

    def _fail(self, entry: Entry, error: Exception) -> None:
        if isinstance(error, ContextLengthError):  # the library says what to do in its own terms
            error.message = error.message.replace("truncate=True", "--truncate auto")
        entry.fail(error)
        self._tally.add_failure(entry, error)


def _split(call: ListCall, error: Exception) -> Split:
    return Split.NEVER if isinstance(error, _LEFT_OUT) else call.split(error)


class ListCargo:
    """Carry rows in lists.

    Args:
        model: what takes lists.
        lists: the rows.
        cap: the most lists in flight, or auto.
        size: the most rows in a list.
        tally: where rows are counted.
        purse: what may be spent.
    """

    def __init__(
        self,
        model: Embedded,
        lists: Lists | PipeLists,
        *,
        cap: int | Literal["auto"],
        size: int,
        tally: Tally,
        purse: Purse,
    ) -> None:
        self._model = model
        self._lists = lists
        self._cap = cap
        self._window = _window(cap, size)
        self._tally = tally
        self._purse = purse

    def start(self) -> Stream[Any]:
        """Return the run; it has an outcome for each list."""
        config = RunConfig(max_concurrency=self._cap, window=self._window)
        return self._model.abatch_iter(self._lists, self._purse.limit(config), return_exceptions=True)

    async def take(self, outcomes: Stream[Any]) -> list[Entry]:
        """Wait for the rows of a list that is done with."""
        outcome = await anext(outcomes)
        entries = [text.entry for text in self._lists.under_way.popleft()]
        if isinstance(outcome, Exception):  # such as a stray cancellation; parts of the list may be done
            for entry in entries:
                if not entry.ended:
                    entry.fail(outcome)
                    self._tally.add_failure(entry, outcome)
        return [entry for entry in entries if entry.ended]  # the others were left out

    def rest(self) -> list[Entry]:
        """Return the rows that ended while others before them had not."""
        return [text.entry for texts in self._lists.under_way for text in texts if text.entry.ended]

    def stop(self) -> None:
        """Begin no more lists."""
        self._lists.stop()


def _window(cap: int | Literal["auto"], size: int) -> int:
    """Return how many lists may be under way or wait for one before them."""
    if cap == "auto":
        return max(FIRST_LIMIT + _LEAST_AHEAD, _ROWS_ALTOGETHER // size)
    return cap + max(_LEAST_AHEAD, min(_ROWS_AHEAD // size, _AHEAD_PER_SLOT * cap))
