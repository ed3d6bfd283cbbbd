"""The step that embeds lists of rows."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import anyio

from batchrt.batching.list_call import ListCall, Part, RepackError, Split, carry, pack
from batchrt.cli.abort import WithdrawnError
from batchrt.cli.budget import Budget
from batchrt.cli.counts import Counts
from batchrt.cli.job import JobState
from batchrt.cli.pipeline import Entry, Feed, PipeFeed, without_traces
from batchrt.config import RunConfig
from batchrt.errors import ContextLengthError, InputError, ItemTimeoutError, SpendingLimitError
from batchrt.files import BadRow, Row
from batchrt.files.cells import cell, listed
from batchrt.limits.adaptive_concurrency import FIRST_LIMIT
from batchrt.runnables.base import Runnable
from batchrt.runtime.step import Step
from batchrt.runtime.strand import Strand
from batchrt.runtime.stream import Stream

__all__ = [
    "ID",
    "EmbedStep",
    "ListPipeline",
    "Lists",
    "PipeLists",
    "Text",
    "TextOf",
    "column_text",
    "text_reader",
]

ID: Final = "id"
"""The name of the id column in the output, whatever it is called in the input."""


TextOf: TypeAlias = Callable[[Row | BadRow], str]
"""Returns the text of a row; raises InputError if there is none."""


class Text(NamedTuple):
    """Hold a row's text.

    Attributes:
        entry: the row; of its values only the id is left.
        text: the text to embed; empty if the entry has an error.
    """

    entry: Entry
    text: str


def text_reader(text_of: TextOf, id_column: str | None) -> Callable[[Entry], Text]:
    """Return a function that takes the text out of a row.

    A row that has none gets its error. The rest of the row is let go of: many rows wait for a list to be
    full, and then for its answer.

    Args:
        text_of: returns the text.
        id_column: where the id is; the row's number is the id if there is no such column.
    """

    def read(entry: Entry) -> Text:
        row = entry.row
        text = ""
        try:
            text = text_of(row)
        except InputError as error:
            entry.error = without_traces(error)
        kept = row.number if id_column is None else row.values.get(id_column)
        entry.row = Row(row.number, row.line, {ID: kept})
        return Text(entry, text)

    return read


def column_text(row_error: Callable[..., InputError], column: str) -> TextOf:
    """Return a function that returns a row's column as text; a value that is no string, as it is in the file.

    Args:
        row_error: makes an error with the place of a row, as `Source.row_error` does.
        column: its name.
    """

    def text_of(row: Row | BadRow) -> str:
        if isinstance(row, BadRow):
            raise row.error
        if row.faults is not None and column in row.faults:
            raise row.faults[column]
        value: Any = row.values.get(column)
        if value is not None and value != "":
            return value if isinstance(value, str) else cell(value)
        if column not in row.values:
            problem = f"the row does not have it (it has: {listed(row.values)})"
        else:
            empty = "null" if value is None else "an empty string"
            problem = f"there is no text ({empty}); leave the row out"
        raise row_error(row, problem, column=column)

    return text_of


Read: TypeAlias = "Callable[[Entry], Text]"

_UNBOUNDED: Final = 2048
"""Rows of a pipe that make a list where the server sets no bound."""
_PATIENCE: Final = 1.0
"""Seconds that rows of a pipe wait for others, of which there may be none."""


class Lists(Iterator[list[Text]]):
    """Give lists of texts, until the rows end or `stop` is called.

    Attributes:
        under_way: lists handed out and not taken back, in the order of the rows.
    """

    def __init__(self, feed: Feed, read: Read, call: ListCall) -> None:
        self.under_way: deque[list[Text]] = deque()
        self._feed = feed
        self._lists = pack(map(read, feed), _of_texts(call))
        self._stopped = False

    def __next__(self) -> list[Text]:
        # Rows read ahead at the time of `stop` are not begun either.
        if self._stopped:
            raise StopIteration
        texts = next(self._lists)
        _leave(self._feed, texts)
        self.under_way.append(texts)
        return texts

    def stop(self) -> None:
        """Give no more lists."""
        self._stopped = True


class PipeLists(AsyncIterator[list[Text]]):
    """Do what `Lists` does, for rows that may be long in coming: a list does not wait for them for ever."""

    def __init__(self, feed: PipeFeed, read: Read, call: ListCall) -> None:
        self.under_way: deque[list[Text]] = deque()
        self._feed = feed
        self._read = read
        self._call = _of_texts(call)
        self._waiting: list[Text] = []
        self._full: deque[list[Text]] = deque()
        self._stopped = False
        self._ended = False

    async def __anext__(self) -> list[Text]:
        while not self._full and not self._ended:
            await self._gather()
        if self._stopped or not self._full:
            raise StopAsyncIteration
        texts = self._full.popleft()
        _leave(self._feed, texts)
        self.under_way.append(texts)
        return texts

    async def _gather(self) -> None:
        """Wait for rows until a list is full, no more come, or one has waited long enough."""
        waiting, most = self._waiting, self._call.limits().size or _UNBOUNDED
        try:
            if not waiting:
                waiting.append(self._read(await anext(self._feed)))
            with anyio.move_on_after(_PATIENCE):
                # The last one is there to tell whether the list before it is full.
                while len(waiting) <= most:
                    waiting.append(self._read(await anext(self._feed)))
        except StopAsyncIteration:
            self._ended = True
        self._full.extend(pack(waiting, self._call))
        # If it was time that was up, all of them go.
        self._waiting = self._full.pop() if len(waiting) > most and self._full else []

    def stop(self) -> None:
        """Give no more lists; a pending `anext` ends."""
        self._stopped = True
        self._feed.stop()


def _of_texts(call: ListCall) -> ListCall:
    cost = call.cost
    return replace(call, cost=None if cost is None else lambda text: cost(text.text))


def _leave(feed: Feed | PipeFeed, texts: list[Text]) -> None:
    """Take rows off the feed's own list."""
    for _ in texts:
        feed.entries.popleft()


_LEAST_AHEAD: Final = 2
"""Lists, beside the lists in flight, that may wait for one before them."""
_AHEAD_PER_SLOT: Final = 20
_ROWS_AHEAD: Final = 8192
"""Rows to which that may add up where lists are short: 50 MB of vectors of 1,536 numbers."""

_ROWS_ALTOGETHER: Final = 32_768
"""Rows in flight and ahead without a cap on lists in flight: 200 MB of such vectors if all
of them wait for one. That is 16 of the longest lists that are usual, which hold so much work that more of
them at once bring nothing, and a thousand of the shortest."""

_LEFT_OUT: Final = (WithdrawnError, SpendingLimitError)

Groups: TypeAlias = "dict[str, list[Entry]]"


class EmbedStep(Runnable[list[Text], None]):
    """Embed lists of texts; each entry has its outcome once its part of the list has ended.

    Equal texts of a list are sent once.

    Args:
        call: embeds lists, and gives vectors as bytes.
        state: the objects shared with the job.
        timeout: seconds for a list with all its attempts; `None` for no end.
    """

    def __init__(
        self,
        call: ListCall,
        state: JobState,
        *,
        timeout: float | None = None,
    ) -> None:
        self._call = replace(call, split=partial(_split, call))
        self._ask = call.call
        self._counts = state.counts
        self._abort_policy = state.abort_policy
        self._withdrawals = state.withdrawals
        self._budget = state.budget
        self._timeout = timeout

    async def _counted(self, groups: Groups, texts: list[str], strand: Strand) -> Any:
        self._counts.lists += 1
        self._counts.sent += len(texts)
        try:
            with self._withdrawals.guard(strand, sum(len(groups[text]) for text in texts)):
                return await self._ask(texts, strand)
        except (RepackError, *_LEFT_OUT) as error:
            if error.__cause__ is None:  # it was known to be too long, or given up: it was not sent
                self._counts.lists -= 1
            self._counts.sent -= len(texts)
            raise

    def _build(self, kwargs: Mapping[str, Any]) -> Step:  # noqa: ARG002  the call is made already
        async def embed(texts: list[Text], strand: Strand) -> None:
            self._counts.started += len(texts)
            self._budget.watch(strand)
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
            self._counts.left_out += sum(not entry.ended for entry, _ in texts)

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
        """Return the rows of each text; rows with an error of their own have ended."""
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
        counts = self._counts
        counts.retries += part.book.retries
        if part.error is not None:
            if isinstance(part.error, _LEFT_OUT) or not self._abort_policy.record_failure(part.error):
                return
        else:
            self._abort_policy.record_success()
            if part.book.usage is None and self._call.cost is not None:
                counts.estimated_tokens += round(sum(map(self._call.cost, texts)))
        if part.book.usage is not None:
            counts.add_usage(part.book.usage)
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
            self._counts.done += 1
            self._counts.answered += 1

    def _fail(self, entry: Entry, error: Exception) -> None:
        if isinstance(error, ContextLengthError):  # the library names its parameter
            error.message = error.message.replace("truncate=True", "--truncate auto")
        entry.fail(error)
        self._counts.add_failure(entry.row.number, error)


def _split(call: ListCall, error: Exception) -> Split:
    return Split.NEVER if isinstance(error, _LEFT_OUT) else call.split(error)


class ListPipeline:
    """Carry rows in lists.

    Args:
        model: the step that takes lists.
        lists: the rows.
        cap: the most lists in flight, or auto.
        size: the most rows in a list.
        counts: where rows are counted.
        budget: the limits of spending.
    """

    def __init__(
        self,
        model: EmbedStep,
        lists: Lists | PipeLists,
        *,
        cap: int | Literal["auto"],
        size: int,
        counts: Counts,
        budget: Budget,
    ) -> None:
        self._model = model
        self._lists = lists
        self._cap = cap
        self._window = _window(cap, size)
        self._counts = counts
        self._budget = budget

    def start(self) -> Stream[Any]:
        """Return the run; it has an outcome for each list."""
        config = RunConfig(max_concurrency=self._cap, window=self._window)
        return self._model.abatch_iter(self._lists, self._budget.limit(config), return_exceptions=True)

    async def take(self, outcomes: Stream[Any]) -> list[Entry]:
        """Wait for the rows of a list that is done with."""
        outcome = await anext(outcomes)
        entries = [text.entry for text in self._lists.under_way.popleft()]
        if isinstance(outcome, Exception):  # such as a stray cancellation; parts of the list may be done
            for entry in entries:
                if not entry.ended:
                    entry.fail(outcome)
                    self._counts.add_failure(entry.row.number, outcome)
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
