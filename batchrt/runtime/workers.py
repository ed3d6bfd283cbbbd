"""The workers of a run: tasks that pull inputs, one after the other, and carry each through.

Leader protocol. A worker takes a slot, pulls an input, carries it through, and keeps the slot for the next
one. A worker that gets no slot *leads* (it waits for the next free slot, behind all strands under way) or
rests.

Invariant: at most one worker leads; and while an item may be admitted, a worker leads, is on its way to a
slot, or is about to start. So items start in input order, one waiter stands for all workers in the queue of
the slots, and a slot that a strand gives up (a retry sleeps) gets another item to work. It holds because each
admission, each delivery and each end of a hold-up calls `_recruit`, and a leader stops leading before it
admits.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from itertools import chain
from time import perf_counter
from typing import Any, Final, cast

import anyio
import anyio.lowlevel

from batchrt.config import RunConfig
from batchrt.runtime.async_input import AsyncInput
from batchrt.runtime.event_loop import Host, Signal
from batchrt.runtime.item import Item
from batchrt.runtime.run import Run
from batchrt.runtime.slots import Waiter
from batchrt.runtime.task_pool import Unbegun
from batchrt.runtime.withdrawals import Withdrawals

__all__ = ["Workers"]

UNCAPPED_HELD: Final = 100
"""Strands that may be held up, by a provider's quota, before no more items are admitted, where no cap says
how many: as with a cap, enough to fill the quota, and not so many that they wait all of their `timeout`."""

MAX_HOG_SECONDS: Final = 0.005
"""How long workers may go on without a checkpoint when no item waits for anything: a service's other
tasks share the loop. Node's and Tokio's guides ask for a yield every 10-100 ms; this is well below."""


class Workers:
    """Admit items of `source` as slots, the window and the consumer allow.

    Args:
        run: the items' run.
        source: the inputs.
        config: the items' configuration, or one for each input.
        window: the most items that are admitted and not yet delivered.
        parent: the item that the run is nested in.
        room: says whether the consumer wants more.
        expected: how many inputs there are said to be.
    """

    def __init__(
        self,
        run: Run,
        source: Iterator[Any] | AsyncIterator[Any] | AsyncInput,
        *,
        config: RunConfig | Sequence[RunConfig],
        window: int,
        parent: Item | None,
        room: Callable[[], bool] | None,
        expected: int | None,
    ) -> None:
        self._run = run
        # Not by `isinstance`: an iterator need not have `__iter__`.
        plain = hasattr(type(source), "__next__")
        self._iterator = cast("Iterator[Any]", source) if plain else None
        if plain or isinstance(source, AsyncInput):
            self._async_input = None if plain else cast("AsyncInput", source)
        else:
            self._async_input = AsyncInput(cast("AsyncIterator[Any]", source))
        self._shared_config = config if isinstance(config, dict) else None
        self._configs = cast("Sequence[RunConfig]", config)
        self._window = window
        self._parent = parent
        self._room = room
        self._expected = expected
        self._sized = expected is not None
        self._admitted = 0
        self._delivered = 0
        self._seems_over = False
        self._drained = self._ended = False
        self._failure: BaseException | None = None
        self._workers = 0
        self._starting = 0
        self._leader: Waiter | None = None
        self._leading = False
        self._resting: list[Signal] = []
        self._finished = anyio.Event()
        self._group: anyio.abc.TaskGroup | None = None
        self._yielded_at = 0.0
        self._withdrawals: Withdrawals | None = None

    # Of the scheduler

    async def _carry(self, value: Any, own: Host) -> bool:
        """Carry `value` through; return whether its slot is left."""
        raise NotImplementedError

    def _is_over(self) -> bool:
        """Whether no more items are to be begun; those under way are finished."""
        raise NotImplementedError

    def _fail(self, error: BaseException, note: str | None) -> None:
        """End the run with `error`."""
        raise NotImplementedError

    @property
    def total(self) -> int | None:
        """How many inputs there are, of those that have a length; `None` where that is not known."""
        if self._ended and self._sized:
            return self._admitted
        return self._expected if self._expected is not None and self._admitted <= self._expected else None

    @property
    def pulled(self) -> int:
        """How many inputs were pulled."""
        return self._admitted + self.ahead

    @property
    def ahead(self) -> int:
        """How many values of an async source were pulled and not admitted."""
        return 0 if self._async_input is None else self._async_input.ahead

    @property
    def outstanding(self) -> int:
        """How many admitted items the consumer has not taken."""
        return self._admitted - self._delivered

    def delivered(self, count: int = 1) -> None:
        """Record that the consumer took `count` outcomes that `deliver` had kept for it."""
        self._delivered += count
        if not self._finished.is_set():  # the run may be ending: a task group takes no tasks then
            self._recruit()

    def may_admit(self) -> bool:
        """Whether another item may be admitted as things stand."""
        if self._drained or self._seems_over or self._failure is not None:
            return False
        if self._admitted - self._delivered >= self._window:
            return False
        run = self._run
        if run.spending is not None and run.spending.ended is not None:
            return False
        if run.held and run.held >= (run.slots.limit or UNCAPPED_HELD):
            return False
        return self._room is None or self._room()

    def _is_done_with(self, *, returned: bool) -> bool:
        """Whether a worker is to end where the source seems to be over; it may have `returned` from an item.

        One that comes back from an item looks whether it is, as a `for` would, or the last one does; inputs
        that an item has appended to the inputs is not lost.
        """
        if (returned or self._workers == 1) and self._async_input is None:
            self._look_further()
        return self._is_over() or (self._seems_over and not returned and self._workers > 1)

    def resume(self) -> None:
        """Record that one strand less is held up, as by a provider's quota."""
        if self._workers and not self._drained:
            self._recruit()

    def _recruit(self) -> None:
        """Get more workers going if there is work for them."""
        for _ in range(2):  # two, so that a thousand workers are up after ten rounds
            if self._leading or not self.may_admit():
                return
            if self._resting:
                self._resting.pop().set()
                return
            if not self._may_start():
                return
            assert self._group is not None
            self._starting += 1
            self._workers += 1
            self._group.start_soon(Unbegun, self._work, name="batchrt worker")

    def _may_start(self) -> bool:
        starting = self._starting
        if starting and starting > self._run.slots.free:
            return False
        if self._expected is not None and starting >= self._expected - self._admitted:
            return False
        return self._admitted - self._delivered + starting < self._window

    async def _work(self) -> None:
        self._starting -= 1
        if self._withdrawals is None:
            await self._work_as(Host())
        else:
            with self._withdrawals.worker() as own:
                await self._work_as(own)

    async def _work_as(self, own: Host) -> None:
        slots = self._run.slots
        holding = returned = False
        try:
            while not (self._is_done_with(returned=returned) if self._seems_over else self._is_over()):
                try:
                    ready = self._seems_over or self.may_admit()
                    if holding and (self._async_input is not None or not ready):
                        slots.give()
                        holding = False
                    if not ready:
                        await self._rest()
                    elif self._async_input is not None:
                        holding = await self._admit_from_async_input(self._async_input, own)
                        returned = True
                    elif holding or slots.try_take():
                        own.waited = holding = False  # the slot goes with the item, and comes back with it
                        holding = await self._admit_from_iterator(own)
                        returned = True
                        if not own.waited and perf_counter() - self._yielded_at > MAX_HOG_SECONDS:
                            await anyio.lowlevel.checkpoint()
                            self._yielded_at = perf_counter()
                    elif self._leading:
                        await self._rest()
                    else:
                        holding = await self._lead()
                except anyio.get_cancelled_exc_class():
                    if not await own.goes_on():
                        raise
        finally:
            if holding:
                # The last slot of a nested run goes back to the leaf that lent it.
                slots.give(newcomers=self._parent is None or self._workers > 1)
            self._leave()

    def _leave(self) -> None:
        self._workers -= 1
        if self._workers == 0:
            self._finished.set()

    async def _rest(self) -> None:
        signal = Signal()
        self._resting.append(signal)
        try:
            await signal.wait()
        except BaseException:
            if signal in self._resting:
                self._resting.remove(signal)
            else:
                self._recruit()  # it was called to work
            raise

    async def _lead(self) -> bool:
        """Wait for a slot on behalf of all; `False` if there is nothing to wait for any more."""
        self._leading = True
        self._leader = Waiter()
        try:
            return await self._run.slots.take(self._leader, newcomer=self._parent is None)
        finally:
            self._leader = None
            self._leading = False

    def _admit_from_iterator(self, own: Host) -> Awaitable[bool]:
        assert self._iterator is not None
        try:
            value = next(self._iterator)
        except StopIteration:
            self._run_out()
        except BaseException as error:  # noqa: BLE001  raised by `run`
            self._fail(error, f"raised by the inputs after {self._admitted} of them")
        else:
            if self._shared_config is not None or self._has_config():
                return self._carry(value, own)
        return _slot_is_left()

    def _look_further(self) -> None:
        """See whether the source ends where its length says."""
        assert self._iterator is not None
        try:
            value = next(self._iterator)
        except StopIteration:
            self._run_out()
        except BaseException as error:  # noqa: BLE001  raised by `run`
            self._fail(error, f"raised by the inputs after {self._admitted} of them")
        else:
            self._iterator = chain((value,), self._iterator)
            self._go_on_pulling()

    def _look_at_nothing(self) -> None:
        # An empty list needs no worker to be found so.
        if self._async_input is None:
            self._look_further()
        else:
            self._expected = None

    def _go_on_pulling(self) -> None:
        # A length that was wrong once is not used again.
        self._seems_over, self._expected = False, None

    def _has_config(self) -> bool:
        if self._shared_config is not None or self._admitted < len(self._configs):
            return True
        count = len(self._configs)
        self._fail(ValueError(f"there must be one config for each input: {count} for more inputs"), None)
        return False

    async def _admit_from_async_input(self, async_input: AsyncInput, own: Host) -> bool:
        # No slot is held while a worker waits for the source: a retry that wakes up may need it.
        if self._leading:
            await self._rest()
            return False
        self._leading = True
        self._run.slots.offer()
        try:
            value = await async_input.peek()
            if self._seems_over:
                self._go_on_pulling()
            if not self._has_config():
                return False
            self._leader = Waiter()
            if not await self._run.slots.take(self._leader, newcomer=self._parent is None):
                return False
        except StopAsyncIteration:
            self._run_out()
            return False
        except anyio.get_cancelled_exc_class():
            raise
        except BaseException as error:  # noqa: BLE001  raised by `run`
            self._fail(error, f"raised by the inputs after {self._admitted} of them")
            return False
        finally:
            self._leader = None
            self._leading = False
        async_input.take()
        return await self._carry(value, own)

    def _run_out(self) -> None:
        """Record that the source has ended."""
        self._ended = True
        self._drain()

    def _drain(self) -> None:
        """Record that there are no more inputs, or none that are wanted."""
        self._drained = True
        if self._async_input is not None:
            self._async_input.stop()
        elif self._seems_over:
            return  # all have been told
        self._dismiss()

    def _dismiss(self) -> None:
        """Wake the workers that wait for an input: none will come."""
        self._run.arrivals.slowed()
        if self._leader is not None:
            self._leader.withdraw()
        while self._resting:
            self._resting.pop().set()


async def _slot_is_left() -> bool:
    return True
