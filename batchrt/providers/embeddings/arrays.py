"""Vectors for many texts at once: as one matrix, or block by block.

What is run is lists of texts: nothing is made for a text but its row, and the bytes of its vector go from
the answer into the matrix as they are.
"""

from __future__ import annotations

import sys
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Iterable,
    Iterator,
    Mapping,
)
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

import anyio
import anyio.lowlevel

from batchrt.batching.list_call import ListCall, pack
from batchrt.config import RunConfig, cap_of, check_config
from batchrt.errors import DeadlineExceededError, SpendingLimitError
from batchrt.messages import Usage
from batchrt.providers.embeddings.array_buffer import Distinct, Lists, Rows, fill, numpy
from batchrt.runtime.batch import Job, collect
from batchrt.runtime.caller import Caller
from batchrt.runtime.portal import crossing
from batchrt.runtime.scheduler import Deliver, Scheduler
from batchrt.runtime.step import Step
from batchrt.runtime.strand import Strand
from batchrt.runtime.stream import Stream

if TYPE_CHECKING:
    from batchrt.providers.embeddings.array_buffer import Matrix

__all__ = ["EmbeddingBlock", "block_job", "iterate_blocks", "matrix_of"]

_Texts: TypeAlias = "Iterable[str] | AsyncIterable[str]"

_Chunk: TypeAlias = "tuple[int, list[str]]"
"""A list of texts, and the place of the first of them."""

_BLOCKS_AHEAD: Final = 2
"""Blocks beside those under way that may wait for a slow consumer, or for one that is late."""
_UNCAPPED: Final = 16
"""Lists under way where the configuration says that nothing bounds them."""
_STRIDE: Final = 1000
"""Texts to look at between checkpoints: less than a millisecond."""
_BUFFERED: Final = 2048
"""Texts of an async iterable that are packed together where lists have no bound."""


class EmbeddingBlock(NamedTuple):
    """Hold the vectors of texts that follow one another.

    Attributes:
        start: the place of the first of them among all texts, from 0.
        matrix: float32, a row for each; of NaN where there is an error.
        errors: why a text has no vector, by its place among all texts.
        usage: the tokens billed for them; `None` if the server did not say.
    """

    start: int
    matrix: Matrix
    errors: Mapping[int, Exception]
    usage: Usage | None


class _ListJob(Job):
    """Be a job whose items are lists."""

    __slots__ = ()

    def open(self, deliver: Deliver, **options: Any) -> Scheduler:
        return Job.open(self, deliver, unit="list", **options)


def _job(
    step: Callable[[Any, Strand], Any],
    chunks: Iterable[_Chunk] | AsyncIterable[_Chunk],
    config: RunConfig,
    size: int,
) -> Job:
    """Return a job over lists. Its window, which the configuration gives in texts, is one of lists."""
    cap, window = cap_of(config), config.get("window")
    if window is not None:
        lists = max(1, window // size)
    else:
        lists = _UNCAPPED if cap is None else cap + _BLOCKS_AHEAD
    return _ListJob.of(Step(step), chunks, {**config, "window": lists})


def _numbered(lists: Iterable[list[str]]) -> Iterator[_Chunk]:
    start = 0
    for texts in lists:
        yield start, texts
        start += len(texts)


async def _numbered_async(texts: AsyncIterable[str], call: ListCall) -> AsyncIterator[_Chunk]:
    """Do what `pack` does, for an async iterable; a generator is closed here too."""
    start, waiting = 0, list[str]()
    try:
        async for text in texts:
            waiting.append(text)
            size = call.limits().size
            if len(waiting) >= (size or _BUFFERED):
                *full, waiting = pack(waiting, call)
                if len(waiting) == size:
                    full, waiting = [*full, waiting], []
                for packed in full:
                    yield start, packed
                    start += len(packed)
        for packed in pack(waiting, call):
            yield start, packed
            start += len(packed)
    finally:
        if isinstance(texts, AsyncGenerator):
            await texts.aclose()


# One matrix


async def matrix_of(
    lists: Lists, texts: _Texts, config: RunConfig, *, width: int | None, return_exceptions: bool
) -> tuple[Matrix, dict[int, Exception]]:
    """Return the vectors of `texts`, equal ones sent once, and the errors by their places.

    Args:
        lists: embeds them.
        texts: all of them are pulled before the first list is sent.
        config: the run's configuration.
        width: how many numbers a vector has, if that is known.
        return_exceptions: do not stop at an error.

    Raises:
        DeadlineExceededError, SpendingLimitError: without `return_exceptions`; with it, that stands for
            what is missing.
        Exception: without `return_exceptions`, the first error, as itself.
    """
    config, distinct = await _looked_at(texts, lists.call, config)
    if not return_exceptions:
        distinct.raise_first()
    rows = Rows(distinct.count, width)
    spans: dict[int, range] = {}

    async def embed(chunk: _Chunk, strand: Strand) -> None:
        start, stop = chunk[0], chunk[0] + len(chunk[1])
        spans[strand.item.index] = range(start, stop)
        await fill(rows, distinct, lists, strand, range(start, stop))
        if not return_exceptions:
            distinct.raise_first()

    chunks = _numbered(pack(distinct.texts, lists.call))
    job = _job(embed, chunks, config, 1)
    try:
        outcomes = await collect(job, return_exceptions=return_exceptions)
    except (DeadlineExceededError, SpendingLimitError) as error:
        if not return_exceptions:
            raise
        _excuse(distinct, rows, error, range(len(distinct.texts)))
    else:
        for index, outcome in enumerate(outcomes):
            if isinstance(outcome, Exception):  # a timeout
                _excuse(distinct, rows, outcome, spans[index])
    return distinct.end(rows), dict(sorted(distinct.errors.items()))


async def _looked_at(texts: _Texts, call: ListCall, config: RunConfig) -> tuple[RunConfig, Distinct]:
    """Return the texts, and the configuration with what is left of its deadline.

    Raises:
        DeadlineExceededError: when it passed before all texts were there.
    """
    distinct, deadline = Distinct(call), check_config(config).get("deadline")
    if deadline is None:
        await _pull(texts, distinct)
        return config, distinct
    started = anyio.current_time()
    with anyio.move_on_after(deadline) as scope:
        await _pull(texts, distinct)
    if scope.cancelled_caught:
        raise DeadlineExceededError(
            f"the run's deadline of {deadline:g} s passed while the texts were pulled; none was sent",
            seconds=deadline,
        )
    left = deadline - (anyio.current_time() - started)
    return {**config, "deadline": max(left, sys.float_info.min)}, distinct


async def _pull(texts: _Texts, distinct: Distinct) -> None:
    add = distinct.add
    if isinstance(texts, AsyncIterable):
        async for text in texts:
            add(text)
    else:
        for text in texts:
            add(text)
            if distinct.count % _STRIDE == 0:
                await anyio.lowlevel.checkpoint()
    distinct.seal()


def _excuse(distinct: Distinct, rows: Rows, error: Exception, span: range) -> None:
    """Give `error` to those of a span of texts that have neither a vector nor an error."""
    missing = set(rows.missing())
    for place in distinct.rows[span.start : span.stop]:
        if place in missing:
            distinct.errors.setdefault(place, error)


# Blocks


def block_job(
    lists: Lists,
    texts: _Texts,
    config: RunConfig,
    *,
    width: Callable[[], int | None],
    return_exceptions: bool,
    caller: Caller | None = None,
) -> Job:
    """Return a job that gives an `EmbeddingBlock` for each list of `texts`; equal ones in it are sent once.

    Args:
        lists: embeds them.
        texts: pulled as lists are sent; by `caller`, if there is one.
        config: the run's configuration.
        width: says how many numbers a vector has, as far as that is known.
        return_exceptions: put errors into the blocks instead of stopping.
        caller: where an iterable has to be pulled.

    Raises:
        ImportError: numpy is not installed.
    """
    numpy()
    call = lists.call
    cost = call.cost
    # What is no text has its error later.
    packing = replace(call, cost=cost and (lambda text: cost(text) if isinstance(text, str) else 0.0))

    async def embed(chunk: _Chunk, strand: Strand) -> EmbeddingBlock:
        start, given = chunk
        distinct = Distinct(call)
        for text in given:
            distinct.add(text)
        if not return_exceptions:
            distinct.raise_first(start)
        rows = Rows(distinct.count, width())
        await fill(rows, distinct, lists, strand, range(len(distinct.texts)))
        if not return_exceptions:
            distinct.raise_first(start)
        matrix = distinct.end(rows)
        errors = {start + row: error for row, error in sorted(distinct.errors.items())}
        return EmbeddingBlock(start, matrix, errors, strand.item.usage)

    chunks: Iterable[_Chunk] | AsyncIterable[_Chunk]
    if isinstance(texts, AsyncIterable):
        chunks = _numbered_async(texts, packing)
    else:
        chunks = _numbered(pack(texts, packing))
        if caller is not None:
            chunks = caller.pull(chunks)
    return _job(embed, chunks, config, call.limits().size or _BUFFERED)


def iterate_blocks(job: Job, caller: Caller) -> Iterator[EmbeddingBlock]:
    """Yield what a job gives from sync code; closing the generator ends the run."""
    stream: Stream[EmbeddingBlock] = Stream(job, ordered=True, return_exceptions=False)
    with crossing(caller) as call:
        try:
            while True:
                try:
                    (block,) = call(partial(stream.next_chunk, 1))
                except StopAsyncIteration:
                    return
                yield block
        finally:
            caller.retire()  # no more texts are wanted
            if not stream.over:
                call(stream.aclose)
