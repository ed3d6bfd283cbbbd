"""Pull an async iterable from one task, for any number of workers.

An async generator may hold cancel scopes and task groups open between its yields; they belong to the
task that entered them. So one task, and no other, runs the generator.
"""

from __future__ import annotations

import types
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterable, Sized
from typing import Any, TypeGuard, cast

import anyio
from anyio import CancelScope

from batchrt.errors import StrayCancelledError
from batchrt.runtime.event_loop import OwnTask

__all__ = ["AsyncInput", "is_iterable", "length_of"]


def is_iterable(inputs: object) -> TypeGuard[Iterable[Any]]:
    """Whether `iter(inputs)` works, as for `list`: a sequence need not have more than `__getitem__`."""
    return isinstance(inputs, Iterable) or (
        hasattr(type(inputs), "__getitem__") and not hasattr(type(inputs), "__aiter__")
    )


def length_of(inputs: object) -> int | None:
    """Return how long `inputs` say they are: a hint; `None` if they cannot say.

    An error that an object raises when asked is ignored: `list` and `for` do not need its length.
    """
    try:
        return len(cast("Sized", inputs))
    except Exception:  # noqa: BLE001  it is the user's
        return None


class AsyncInput:
    """Hand out the values of `source` one at a time; nothing is pulled before it is asked for."""

    def __init__(self, source: AsyncIterator[Any]) -> None:
        self._source = source
        self._asked = anyio.Event()
        self._answered = anyio.Event()
        self._closed = anyio.Event()
        self._value: Any = None
        self._pulling = self._has_value = False
        self._error: BaseException | None = None
        self._cut = self._closing = self._exposed = False
        self._serving = CancelScope()
        self._cleanup = CancelScope()

    async def run(self) -> None:
        """Serve `get` until the source ends or `cut`; to be started in a task of its own.

        A source that can be closed is closed here, however this ends: a generator that stands between
        two yields with a task group open can be closed in no other task.
        """
        try:
            # Around the closing too: a generator may have scopes of its own open, which are inside of these.
            with self._serving, self._cleanup:
                await _cancelled_once(self._serve_and_close(), self._spare)
        finally:
            self._closed.set()

    async def _serve_and_close(self) -> None:
        try:
            await self._serve()
        finally:
            self._closing = True
            self._spare()
            # Generators can be closed, and so can the package's own streams.
            if hasattr(self._source, "aclose"):
                await _close(self._source)

    def cut(self) -> None:
        """End before the source does; its cleanup is not cut short."""
        self._cut = True
        if not self._closing:
            self._serving.cancel()

    def _spare(self) -> None:
        # The source was told, by one cancellation.
        self._cleanup.shield = self._cut and not self._exposed

    async def end(self) -> None:
        """`cut`, and return when the source is closed, or the caller is cancelled."""
        self.cut()
        try:
            await self._closed.wait()
        except BaseException:
            self.expose()
            raise

    def expose(self) -> None:
        """Let a cancellation from outside through to the cleanup."""
        self._exposed = True
        self._cleanup.shield = False

    async def _serve(self) -> None:
        own = OwnTask()
        while self._error is None and not self._cut:
            await self._asked.wait()
            self._asked = anyio.Event()
            try:
                self._value = await anext(self._source)
                self._has_value = True
            except anyio.get_cancelled_exc_class() as error:
                if self._cut or own.is_cancelled():
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
            Exception: the error of the source.
        """
        value = await self.peek()
        self.take()
        return value

    async def peek(self) -> Any:
        """Do `get`, but keep the value until `take`; a cancelled call loses no value."""
        if not self._pulling:
            self._pulling = True
            self._answered = anyio.Event()
            self._asked.set()
        await self._answered.wait()
        if self._error is not None:
            raise self._error
        return self._value

    def take(self) -> None:
        """Have the next value pulled when it is asked for."""
        self._pulling, self._has_value, self._value = False, False, None

    @property
    def ahead(self) -> int:
        """How many values were pulled and not taken."""
        return int(self._has_value)

    def stop(self) -> None:
        """Have the source end for every later `get`, and for one that waits."""
        if self._error is None:
            self._error = StopAsyncIteration()
        self._answered.set()


@types.coroutine
def _cancelled_once(
    coroutine: Coroutine[Any, Any, None], cancelled: Callable[[], None]
) -> Generator[Any, Any, None]:
    """Await `coroutine`, and call `cancelled` before a cancellation gets there.

    AnyIO's and Trio's cancellations come again at every later await, of a cleanup too.
    """
    try:
        trap = coroutine.send(None)
        while True:
            try:
                value: Any = yield trap
            except GeneratorExit:
                coroutine.close()
                raise
            except BaseException as error:  # noqa: BLE001  handed on to the coroutine
                if isinstance(error, anyio.get_cancelled_exc_class()):
                    cancelled()
                trap = coroutine.throw(error)
            else:
                # Trio does not throw but send, in an `outcome.Error`.
                if value is not None and isinstance(
                    getattr(value, "error", None), anyio.get_cancelled_exc_class()
                ):
                    cancelled()
                trap = coroutine.send(value)
    except StopIteration:
        return


async def _close(source: Any) -> None:
    try:
        await source.aclose()
    except BaseExceptionGroup as group:
        # The exception that closes a generator comes out of its task groups wrapped, and is no error.
        _, errors = group.split((GeneratorExit, anyio.get_cancelled_exc_class()))
        if errors is not None:
            raise errors from None
