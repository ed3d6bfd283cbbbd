from __future__ import annotations

from functools import partial

import anyio
import pytest
import trio
import trio.testing

from batchrt.cli.abort import Withdrawals, WithdrawnError
from batchrt.runtime.item import Item
from batchrt.runtime.run import Run
from batchrt.runtime.slots import Slots
from batchrt.runtime.strand import Strand


def new_strand() -> Strand:
    slots = Slots(None)
    return Strand(Run(slots), Item(0), {}, slots)


def test_withdrawals_end_waiting_requests_and_spare_those_in_flight() -> None:
    """A request that waits has no slot; one that comes to wait later is withdrawn too."""
    ended: list[str] = []
    freed = anyio.Event()

    async def work(withdrawals: Withdrawals, name: str, *, first: bool) -> None:
        strand = new_strand()
        try:
            with withdrawals.guard(strand, rows=3):
                if first:
                    await strand.take()
                    await freed.wait()
                if name != "done":
                    strand.give()
                    await anyio.sleep_forever()
            ended.append(f"{name} done")
        except WithdrawnError:
            ended.append(f"{name} left out")

    async def main() -> None:
        withdrawals = Withdrawals()
        async with anyio.create_task_group() as helpers:
            helpers.start_soon(withdrawals.keep_withdrawing)
            async with anyio.create_task_group() as group:
                for name in ("waiting", "done", "retrying"):
                    group.start_soon(partial(work, withdrawals, name, first=name != "waiting"))
                await anyio.sleep(1000)
                assert ended == []
                assert withdrawals.begin() == 3
                await anyio.sleep(1000)
                assert ended == ["waiting left out"]
                freed.set()
            assert sorted(ended) == ["done done", "retrying left out", "waiting left out"]
            helpers.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_withdrawals_error_comes_through_as_itself() -> None:
    """And there is nothing to give up any more."""

    async def main() -> None:
        withdrawals = Withdrawals()
        with pytest.raises(KeyError):
            with withdrawals.guard(new_strand()):
                raise KeyError
        assert withdrawals.begin() == 0

    trio.run(main)
