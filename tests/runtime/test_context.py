"""Coroutines in contexts of their own, without tasks of their own."""

from __future__ import annotations

from contextvars import ContextVar, copy_context

import anyio
import anyio.lowlevel
import pytest

from batchrt.runtime.context import drive, drive_to_end
from tests.runtime.harness import Boom, pause

pytestmark = pytest.mark.anyio

variable: ContextVar[str] = ContextVar("variable", default="unset")


async def test_context_every_step_runs_in_the_context() -> None:
    """Every step runs in the context."""
    seen: list[str] = []

    async def work() -> str:
        seen.append(variable.get())
        variable.set("work")
        await anyio.lowlevel.checkpoint()
        seen.append(variable.get())
        return "done"

    context = copy_context()
    context.run(variable.set, "given")
    assert await drive(context, work()) == "done"
    assert seen == ["given", "work"]
    assert variable.get() == "unset"


async def test_context_errors_come_out_as_themselves() -> None:
    """Errors come out as themselves."""
    error = Boom()

    async def work() -> None:
        await pause(1)
        raise error

    with pytest.raises(Boom) as caught:
        await drive(copy_context(), work())
    assert caught.value is error


async def test_context_cancellation_goes_in_and_may_be_cleaned_up_after() -> None:
    """A cancellation goes in and may be cleaned up after."""
    seen: list[str] = []

    async def work() -> None:
        variable.set("inside")
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await pause(2)
            seen.append(variable.get())

    async def driver() -> None:
        await drive(copy_context(), work())

    async with anyio.create_task_group() as group:
        group.start_soon(driver)
        await pause()
        group.cancel_scope.cancel()
    assert seen == ["inside"]


async def test_context_coroutine_may_handle_what_is_thrown_in() -> None:
    """A coroutine may handle what is thrown in."""

    async def work() -> str:
        with anyio.move_on_after(0):
            await anyio.sleep_forever()
        await pause(1)
        return "went on"

    assert await drive(copy_context(), work()) == "went on"


async def test_context_closing_closes_the_coroutine_in_its_context() -> None:
    """Closing closes the coroutine in its context."""
    seen: list[str] = []

    class Trap:
        def __await__(self):  # type: ignore[no-untyped-def]
            yield

    async def work() -> None:
        variable.set("inside")
        try:
            await Trap()
        finally:
            seen.append(variable.get())

    async def outer() -> None:
        await drive(copy_context(), work())

    coroutine = outer()
    coroutine.send(None)
    coroutine.close()
    assert seen == ["inside"]


def test_context_driving_to_the_end_needs_no_loop() -> None:
    """Driving to the end needs no loop."""

    async def work() -> str:
        return variable.get()

    context = copy_context()
    context.run(variable.set, "given")
    assert drive_to_end(context, work()) == "given"


def test_context_driving_to_the_end_what_waits_is_an_error() -> None:
    """Driving to the end what waits is an error."""

    class Trap:
        def __await__(self):  # type: ignore[no-untyped-def]
            yield

    ended = []

    async def work() -> None:
        try:
            await Trap()
        finally:
            ended.append(True)

    with pytest.raises(RuntimeError, match="without an event loop"):
        drive_to_end(copy_context(), work())
    assert ended == [True]
