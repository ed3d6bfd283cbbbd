"""Pull an async iterable from one task, whoever asks.

An async generator may hold cancel scopes and task groups open between its yields; they belong to the
task that entered them. So one task, and no other, runs the generator.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sized
from typing import Any, TypeGuard, cast

import anyio

from batchrt.errors import StrayCancelledError
from batchrt.runtime.loops import OwnTask

__all__ = ["Feeder", "is_iterable", "length_of"]


def is_iterable(inputs: object) -> TypeGuard[Iterable[Any]]:
    """Whether `iter(inputs)` works, as for `list`: a sequence need not have more than `__getitem__`."""
    return isinstance(inputs, Iterable) or (
        hasattr(type(inputs), "__getitem__") and not hasattr(type(inputs), "__aiter__")
    )


def length_of(inputs: object) -> int | None:
    """Return how long `inputs` say they are: a hint; `None` if they cannot say.

    Whatever an object raises when it is asked concerns nobody: `list` and `for` do not need its length.
    """
    try:
        return len(cast("Sized", inputs))
    except Exception:  # noqa: BLE001  it is the user's
        return None


class Feeder:
    """Hand out the values of `source` one at a time; nothing is pulled before it is asked for."""

    def __init__(self, source: AsyncIterator[Any]) -> None:
        self._source = source
        self._asked = anyio.Event()
        self._answered = anyio.Event()
        self._value: Any = None
        self._error: BaseException | None = None

    async def run(self) -> None:
        """Serve `get` until the source ends; to be started in a task of its own.

        A source that can be closed is closed here, however this ends: a generator that stands between
        two yields with a task group open can be closed in no other task.
        """
        try:
            await self._serve()
        finally:
            # Generators can be closed, and so can the package's own streams.
            if hasattr(self._source, "aclose"):
                await _close(self._source)

    async def _serve(self) -> None:
        own = OwnTask()
        while self._error is None:
            await self._asked.wait()
            self._asked = anyio.Event()
            try:
                self._value = await anext(self._source)
            except anyio.get_cancelled_exc_class() as error:
                if own.is_cancelled():
                    raise
                await own.put_right()
                self._error = StrayCancelledError.of(error)
            except BaseException as error:  # noqa: BLE001  raised by `get`
                self._error = error
            self._answered.set()

    async def get(self) -> Any:
        """Return the next value; one caller at a time.

        Raises:
            StopAsyncIteration: at the end of the source.
            Exception: what the source raised.
        """
        self._answered = anyio.Event()
        self._asked.set()
        await self._answered.wait()
        if self._error is not None:
            raise self._error
        value, self._value = self._value, None
        return value

    def stop(self) -> None:
        """Have the source end for whoever asks, also for one who waits."""
        if self._error is None:
            self._error = StopAsyncIteration()
        self._answered.set()


async def _close(source: Any) -> None:
    try:
        await source.aclose()
    except BaseExceptionGroup as group:
        # What closes a generator comes out of its task groups wrapped, and is no error.
        _, errors = group.split((GeneratorExit, anyio.get_cancelled_exc_class()))
        if errors is not None:
            raise errors from None
