from __future__ import annotations

from functools import partial

import anyio
import pytest
import trio
import trio.testing

from batchrt.cli.brake import Brake, LeftOutError
from batchrt.runtime.item import Item
from batchrt.runtime.run import Run
from batchrt.runtime.slots import Slots
from batchrt.runtime.strand import Strand


def new_strand() -> Strand:
    slots = Slots(None)
    return Strand(Run(slots), Item(0), {}, slots)


def test_who_waits_is_given_up_and_who_is_under_way_is_not() -> None:
    """Who waits has no slot; also who comes to wait later."""
    ended: list[str] = []
    freed = anyio.Event()

    async def work(brake: Brake, name: str, *, first: bool) -> None:
        strand = new_strand()
        try:
            with brake.over(strand, rows=3):
                if first:
                    await strand.take()
                    await freed.wait()
                if name != "done":
                    strand.give()
                    await anyio.sleep_forever()
            ended.append(f"{name} done")
        except LeftOutError:
            ended.append(f"{name} left out")

    async def main() -> None:
        brake = Brake()
        async with anyio.create_task_group() as helpers:
            helpers.start_soon(brake.keep_pulling)
            async with anyio.create_task_group() as group:
                for name in ("waiting", "done", "retrying"):
                    group.start_soon(partial(work, brake, name, first=name != "waiting"))
                await anyio.sleep(1000)
                assert ended == []
                assert brake.pull() == 3
                await anyio.sleep(1000)
                assert ended == ["waiting left out"]
                freed.set()
            assert sorted(ended) == ["done done", "retrying left out", "waiting left out"]
            helpers.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_an_error_comes_through_as_itself() -> None:
    """And there is nothing to give up any more."""

    async def main() -> None:
        brake = Brake()
        with pytest.raises(KeyError):
            with brake.over(new_strand()):
                raise KeyError
        assert brake.pull() == 0

    trio.run(main)
