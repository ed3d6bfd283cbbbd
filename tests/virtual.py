"""Virtual time that is the same every time: on every Python, under any load, whatever the hash seed.

Sleeping takes no time, and nothing that is real reaches a run: not Trio's order of runnable tasks, nor the
jitter of retries, the wall time against which HTTP dates are read, the offset between a loop's time and the
common one, and the real seconds after which a worker that never waits lets others run. All of these are drawn
from one seed, or fixed.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import random
import selectors
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from types import SimpleNamespace
from typing import Any, Final, TypeVar

import anyio
import pytest
import trio
import trio._core._run as scheduling
from anyio._backends import _asyncio as tasks
from trio.testing import MockClock

from batchrt.runtime import clock, scheduler, workers
from batchrt.testing.faults import fault_responses

__all__ = ["LONGEST", "repeatable_order", "run", "without_reality"]

T = TypeVar("T")

LONGEST: Final = 1_000_000.0
"""Virtual seconds after which a run counts as hung."""

# As odd as those of a process that has been running for a while: times that are rounded must stay right.
_OFFSET: Final = 54_321.987_654_3
_EPOCH: Final = 1_790_000_000.25


def run(
    main: Callable[..., Awaitable[T]],
    *arguments: Any,
    backend: str = "trio",
    seed: int = 0,
    longest: float = LONGEST,
    on_step: Callable[[], None] | None = None,
) -> T:
    """Run `main` in virtual time and return what it returns; it must use no threads.

    The loop's time begins at 0. Another `seed` is another order of tasks and another jitter; the same one
    gives the same run. Fails where the run would hang, and after `longest` virtual seconds; where threads are
    waited for while nothing else is, that must be infinity, or the clock jumps there. `on_step` is called
    before each step of a task, between which nothing can happen to it.
    """
    results: list[T] = []

    async def bounded() -> None:
        clock._offset.set(_OFFSET)
        with anyio.fail_after(longest):
            results.append(await main(*arguments))

    with without_reality(seed):
        if backend == "trio":
            options: dict[str, Any] = {"clock": MockClock(autojump_threshold=0)}
            options["instruments"] = [] if on_step is None else [_Steps(on_step)]
        else:
            options = {"loop_factory": _Loop if on_step is None else partial(_SteppingLoop, on_step)}
        anyio.run(bounded, backend=backend, backend_options=options)
    return results[0]


@contextmanager
def repeatable_order(seed: int | str = 0) -> Iterator[None]:
    """Draw Trio's order of tasks and the numbers of `random` from `seed`."""
    states = scheduling._r.getstate(), random.getstate()
    with pytest.MonkeyPatch.context() as patch:
        # Tasks that become runnable together are otherwise in the order of their timeouts' addresses.
        patch.setattr(scheduling, "_ALLOW_DETERMINISTIC_SCHEDULING", True)
        scheduling._r.seed(seed)
        random.seed(seed)
        try:
            yield
        finally:
            scheduling._r.setstate(states[0])
            random.setstate(states[1])


@contextmanager
def without_reality(seed: int | str = 0) -> Iterator[None]:
    """Replace all that a run in virtual time would take from the real world."""
    numbers = itertools.count()

    def chance() -> random.Random:
        return random.Random(f"{seed}/{next(numbers)}")

    with repeatable_order(seed), pytest.MonkeyPatch.context() as patch:
        patch.setattr(clock, "random", SimpleNamespace(SystemRandom=chance))
        patch.setattr(clock, "time", SimpleNamespace(time=_wall, monotonic=_monotonic))
        patch.setattr(fault_responses, "datetime", _Datetime)
        patch.setattr(tasks, "CancelScope", _CancelScope)
        # A machine on which nothing takes any time: nobody hogs the loop.
        for module in (scheduler, workers):
            patch.setattr(module, "perf_counter", lambda: 0.0)
        yield


def _wall() -> float:
    return _EPOCH + _monotonic() - _OFFSET


def _monotonic() -> float:
    try:
        return _OFFSET + anyio.current_time()
    except anyio.NoEventLoopError:
        return _OFFSET


class _Datetime(datetime):
    @classmethod
    def now(cls, tz: Any = UTC) -> Any:
        return datetime.fromtimestamp(_wall(), tz)


class _Selector(selectors.DefaultSelector):
    """Instead of waiting, let the time pass."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if not ready:
            assert timeout is not None, "nothing is going to happen any more: this hangs"
            self.now += max(0.0, timeout)
        return ready


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now


class _SteppingLoop(_Loop):
    """Call a function before each callback, of which a task's steps are most."""

    def __init__(self, on_step: Callable[[], None]) -> None:
        self._on_step = on_step
        super().__init__()

    def close(self) -> None:
        super().close()
        # A quota remembers the latest loop, also after its end, and would keep all that was simulated.
        self._on_step = _nothing

    def call_soon(  # type: ignore[override]
        self, callback: Any, *args: Any, context: Any = None
    ) -> asyncio.Handle:
        def step(*given: Any) -> None:
            self._on_step()
            callback(*given)

        return super().call_soon(step, *args, context=context)


def _nothing() -> None:
    pass


class _Steps(trio.abc.Instrument):
    """Call a function before each step of a task of Trio's."""

    def __init__(self, on_step: Callable[[], None]) -> None:
        self._on_step = on_step

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._on_step()


class _Ordered(dict[Any, None]):
    """A set in the order in which its members came: by default that is the order of their addresses."""

    def add(self, member: Any) -> None:
        self[member] = None

    def remove(self, member: Any) -> None:
        del self[member]

    def discard(self, member: Any) -> None:
        self.pop(member, None)


class _CancelScope(tasks.CancelScope):
    """Cancel tasks in the order in which they came."""

    def __init__(self, deadline: float = math.inf, shield: bool = False) -> None:
        super().__init__(deadline, shield)
        self._tasks = _Ordered()  # type: ignore[assignment]
        self._child_scopes = _Ordered()  # type: ignore[assignment]
