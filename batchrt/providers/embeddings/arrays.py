"""Vectors for many texts: as one numpy matrix, or block by block.

The items of the run are lists of texts. A text costs a row and a few numbers, and no object of its own: the
bytes of its vector go from the response into the matrix as they are.
"""

from __future__ import annotations

import sys
from collections.abc import (
    AsyncIterable,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from functools import partial
from itertools import islice
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias, cast

import anyio
import anyio.lowlevel

from batchrt.batching.distinct import (
    UNBOUNDED_LIST,
    DistinctInputs,
    Examined,
    examiner,
    read_lists,
    read_lists_async,
)
from batchrt.batching.list_call import ListCall, Part
from batchrt.config import RunConfig, cap_of, check_config
from batchrt.errors import DeadlineExceededError, SpendingLimitError
from batchrt.messages import Usage
from batchrt.providers.embeddings.response_json import FLOAT_BYTES, Store, Stored
from batchrt.runtime.batch import Job, collect
from batchrt.runtime.caller import Caller
from batchrt.runtime.exception_notes import add_note
from batchrt.runtime.portal import crossing
from batchrt.runtime.scheduler import Deliver, Scheduler
from batchrt.runtime.step import Step
from batchrt.runtime.strand import Strand
from batchrt.runtime.stream import Stream

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Matrix: TypeAlias = npt.NDArray[np.float32]

__all__ = ["EmbeddingBlock", "VectorCall", "block_job", "iterate_blocks", "matrix_of"]

_Texts: TypeAlias = "Iterable[str] | AsyncIterable[str]"

_BLOCKS_AHEAD: Final = 2
"""Blocks beside those in flight that may wait for a slow consumer, or for an earlier one that is late."""
_UNCAPPED: Final = 16
"""Lists in flight where the configuration has no bound."""
_STRIDE: Final = 1000
"""Texts to take in between checkpoints: less than a millisecond."""


class VectorCall(NamedTuple):
    """Say how lists of texts become vectors.

    Attributes:
        call: how lists are packed and split.
        embed: returns the vectors of one list; see `Store`.
    """

    call: ListCall
    embed: Callable[[Sequence[str], Strand, Store], Awaitable[Sequence[Any]]]


class EmbeddingBlock(NamedTuple):
    """Hold the vectors of consecutive texts.

    Attributes:
        start: the place of the first one among all texts, from 0.
        matrix: float32, a row for each text; of NaN where there is an error.
        errors: why a text has no vector, by its place among all texts.
        usage: the tokens billed for them; `None` if the server did not say.
    """

    start: int
    matrix: Matrix
    errors: Mapping[int, Exception]
    usage: Usage | None


def numpy() -> ModuleType:
    """Return numpy.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import numpy as np
    except ImportError as error:
        raise ImportError(
            "a matrix needs numpy: install batchrt[numpy], or use embed_documents for lists of numbers"
        ) from error
    return np


class _Landed:
    """Stand for a vector that is in the matrix already, in a row that may be another text's."""

    __slots__ = ("row", "size")

    def __init__(self, row: int, size: int) -> None:
        self.row = row
        self.size = size

    def __len__(self) -> int:
        return self.size


class _MatrixBuffer:
    """Fill a matrix row by row; its memory is allocated for the first vector, which has its width.

    Args:
        height: the number of rows.
        width: the number of columns if there is no vector at all.
    """

    def __init__(self, height: int, width: int | None) -> None:
        self._np: Any = numpy()
        self._height = height
        self._width = width or 0
        self._matrix: Any = None
        self._bytes = memoryview(bytearray())
        self._size = 0  # of a row, in bytes
        self._filled = False

    def land(self, row: int, vector: bytes) -> bytes | Stored:
        """Write a vector where it may belong, if it fits, before the response has been checked.

        `put` says whether it is used.
        """
        if self._matrix is None:
            self._allocate(len(vector))
        if len(vector) != self._size:
            return vector
        self._write(row, vector)
        return _Landed(row, len(vector))

    def put(self, rows: Sequence[int], vectors: Sequence[Any]) -> bool:
        """Fill rows with little-endian float32, or with the result of `land`; skip errors.

        All vectors that are put have one size. Return whether there was no error.
        """
        errors = 0
        # A response may have them in another order: copy those that move before their rows are overwritten.
        moving = {
            vector.row: bytes(self._row(vector.row))
            for row, vector in zip(rows, vectors, strict=True)
            if isinstance(vector, _Landed) and vector.row != row
        }
        for row, vector in zip(rows, vectors, strict=True):
            if isinstance(vector, Exception):
                errors += 1
                continue
            if len(vector) != self._size:
                self._allocate(len(vector))  # the vector that landed first had another size than the others
            if not isinstance(vector, _Landed):
                self._write(row, vector)
            elif vector.row != row:
                self._write(row, moving[vector.row])
        self._filled = self._filled or errors < len(rows)
        return not errors

    def copy(self, row: int, others: Iterable[int]) -> None:
        """Copy a row that was put to other rows."""
        vector = self._row(row)
        for other in others:
            self._write(other, vector)

    def finish(self, missing: Iterable[int]) -> Matrix:
        """Return the matrix, with NaN in the rows that are `missing`."""
        self._bytes.release()
        matrix: Any = self._matrix
        if not self._filled:
            matrix = self._np.empty((self._height, self._width), dtype="f4")
        elif sys.byteorder == "big":
            matrix.byteswap(inplace=True)
        if rows := list(missing):
            matrix[rows] = self._np.nan
        return cast("Matrix", matrix)

    def _allocate(self, size: int) -> None:
        self._size = size
        self._matrix = self._np.empty((self._height, size // FLOAT_BYTES), dtype="f4")
        self._bytes = memoryview(self._matrix).cast("B")

    def _row(self, row: int) -> memoryview:
        return self._bytes[row * self._size : (row + 1) * self._size]

    def _write(self, row: int, vector: bytes | memoryview) -> None:
        self._bytes[row * self._size : (row + 1) * self._size] = vector


class _MatrixFiller:
    """Embed texts into the rows of a matrix.

    Args:
        vectors: embeds lists.
        inputs: the texts, a row for each.
        width: the number of columns if there is no vector at all.
        fail_fast: raise the first error.
    """

    def __init__(
        self, vectors: VectorCall, inputs: DistinctInputs, width: int | None, *, fail_fast: bool
    ) -> None:
        self._embed = vectors.embed
        self._inputs = inputs
        self._fail_fast = fail_fast
        self.errors = inputs.errors
        self._raise_first()
        self._rows = _MatrixBuffer(inputs.count, width)

    async def carry(self, numbers: range, strand: Strand) -> None:
        """Embed the texts of these numbers as one list, and fill the rows of all texts that equal them."""
        item = strand.item

        def give(part: Part) -> None:
            item.add_book(part.book)
            self._give(part)

        await self._inputs.carry(numbers, strand, give, send=self._send)
        self._raise_first()

    def fail_rest(self, numbers: range, error: Exception) -> None:
        """Give `error` to the texts of these numbers that have neither a vector nor an error."""
        for number in self._inputs.unfinished(numbers):
            for row in self._inputs.places_of(number):
                self.errors.setdefault(row, error)

    def finish(self) -> tuple[Matrix, dict[int, Exception]]:
        """Return the matrix, and the errors by their rows."""
        return self._rows.finish(self.errors), dict(sorted(self.errors.items()))

    async def _send(self, numbers: list[int], strand: Strand) -> Sequence[Any]:
        values, rows, land = self._inputs.values, self._inputs.places, self._rows.land

        def store(position: int, vector: bytes) -> bytes | Stored:
            return land(rows[numbers[position]], vector) if position < len(numbers) else vector

        return await self._embed([values[number] for number in numbers], strand, store)

    def _give(self, part: Part) -> None:
        inputs, vectors = self._inputs, part.each()
        complete = self._rows.put(inputs.places[part.start : part.stop], vectors)
        if complete and not inputs.copies:
            return
        for number, vector in enumerate(vectors, part.start):
            if isinstance(vector, Exception):
                self.errors.update(dict.fromkeys(inputs.places_of(number), vector))
            elif number in inputs.copies:
                self._rows.copy(inputs.places[number], inputs.copies[number])

    def _raise_first(self) -> None:
        """Raise the error of the first text that has one, if the job is to fail fast."""
        if self.errors and self._fail_fast:
            row = min(self.errors)
            error = self.errors[row]
            add_note(error, f"batchrt: text {self._inputs.start + row} failed; the rest was cancelled")
            raise error


class _ListJob(Job):
    """A job whose items are lists."""

    __slots__ = ()

    def open(self, deliver: Deliver, **options: Any) -> Scheduler:
        return Job.open(self, deliver, unit="list", **options)


def _job(
    step: Callable[[Any, Strand], Any],
    lists: Iterable[Any] | AsyncIterable[Any],
    config: RunConfig,
    size: int,
) -> Job:
    """Return a job over lists; the configuration gives its window in texts, `size` to a list."""
    cap, window = cap_of(config), config.get("window")
    if window is not None:
        ahead = max(1, window // size)
    else:
        ahead = _UNCAPPED if cap is None else cap + _BLOCKS_AHEAD
    return _ListJob.of(Step(step), lists, {**config, "window": ahead})


async def matrix_of(
    vectors: VectorCall, texts: _Texts, config: RunConfig, *, width: int | None, return_exceptions: bool
) -> tuple[Matrix, dict[int, Exception]]:
    """Return the vectors of `texts`, equal ones sent once, and the errors by their places.

    Args:
        vectors: embeds lists.
        texts: all of them are pulled before the first list is sent.
        config: the run's configuration.
        width: the number of columns, if it is known.
        return_exceptions: do not stop at an error.

    Raises:
        DeadlineExceededError, SpendingLimitError: without `return_exceptions`; with it, the error of the
            texts that have no vector by then.
        Exception: without `return_exceptions`, the first error, as itself.
    """
    config, inputs = await _pull_all(texts, vectors.call, config)
    filler = _MatrixFiller(vectors, inputs, width, fail_fast=not return_exceptions)
    lists: dict[int, range] = {}

    async def embed(numbers: range, strand: Strand) -> None:
        lists[strand.item.index] = numbers
        await filler.carry(numbers, strand)

    try:
        outcomes = await collect(_job(embed, inputs.lists(), config, 1), return_exceptions=return_exceptions)
    except (DeadlineExceededError, SpendingLimitError) as error:
        if not return_exceptions:
            raise
        filler.fail_rest(inputs.numbers(), error)
    else:
        for index, outcome in enumerate(outcomes):
            if isinstance(outcome, Exception):  # a timeout
                filler.fail_rest(lists[index], outcome)
    return filler.finish()


async def _pull_all(texts: _Texts, call: ListCall, config: RunConfig) -> tuple[RunConfig, DistinctInputs]:
    """Pull the texts, and return them and the configuration with the rest of its deadline.

    Raises:
        DeadlineExceededError: it passed before all texts were pulled.
    """
    inputs, deadline = DistinctInputs(call), check_config(config).get("deadline")
    if deadline is None:
        await _pull(texts, examiner(call, config), inputs)
        return config, inputs
    started = anyio.current_time()
    with anyio.move_on_after(deadline) as scope:
        await _pull(texts, examiner(call, config), inputs)
    if scope.cancelled_caught:
        raise DeadlineExceededError(
            f"the run's deadline of {deadline:g} s passed while the texts were pulled; none was sent",
            seconds=deadline,
        )
    left = deadline - (anyio.current_time() - started)
    return {**config, "deadline": max(left, sys.float_info.min)}, inputs


async def _pull(texts: _Texts, examine: Callable[[Any], Examined], inputs: DistinctInputs) -> None:
    if isinstance(texts, AsyncIterable):
        waiting: list[Any] = []
        async for text in texts:
            waiting.append(text)
            if len(waiting) == _STRIDE:
                inputs.extend(map(examine, waiting))
                waiting.clear()
        inputs.extend(map(examine, waiting))
    else:
        examined = map(examine, texts)
        while inputs.extend(islice(examined, _STRIDE)):
            await anyio.lowlevel.checkpoint()
    inputs.seal()


def block_job(
    vectors: VectorCall,
    texts: _Texts,
    config: RunConfig,
    *,
    width: Callable[[], int | None],
    return_exceptions: bool,
    caller: Caller | None = None,
) -> Job:
    """Return a job that gives an `EmbeddingBlock` for each list of `texts`; equal ones in it are sent once.

    Args:
        vectors: embeds lists.
        texts: pulled as lists are sent; by `caller`, if there is one.
        config: the run's configuration.
        width: returns the number of columns, if it is known by then.
        return_exceptions: put errors into the blocks instead of stopping.
        caller: where an iterable has to be pulled.

    Raises:
        ImportError: numpy is not installed.
    """
    numpy()
    call = vectors.call

    async def embed(inputs: DistinctInputs, strand: Strand) -> EmbeddingBlock:
        filler = _MatrixFiller(vectors, inputs, width(), fail_fast=not return_exceptions)
        await filler.carry(inputs.numbers(), strand)
        matrix, errors = filler.finish()
        start = inputs.start
        return EmbeddingBlock(
            start, matrix, {start + row: error for row, error in errors.items()}, strand.item.usage
        )

    examine = examiner(call, config)
    lists: Iterable[DistinctInputs] | AsyncIterable[DistinctInputs]
    if isinstance(texts, AsyncIterable):
        lists = read_lists_async(call, examine, texts)
    else:
        lists = read_lists(call, map(examine, texts))
        if caller is not None:
            lists = caller.pull(lists)
    return _job(embed, lists, config, call.limits().size or UNBOUNDED_LIST)


def iterate_blocks(job: Job, caller: Caller) -> Iterator[EmbeddingBlock]:
    """Yield the outcomes of a job from sync code; closing the generator ends the run."""
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
