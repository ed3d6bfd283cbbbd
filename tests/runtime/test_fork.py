"""Branches of one item: at the same time, apart from each other, ended together."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import Any

import anyio
import pytest

from batchrt import Runnable, RunnableLambda, RunnableParallel, StrayCancelledError
from tests.runtime.harness import (
    Boom,
    Watch,
    all_slots_come_back,
    check_over,
    config,
    output_of,
    pause,
    sync_leaf_of,
    tasks,
    until,
)

pytestmark = pytest.mark.anyio

variable: ContextVar[str] = ContextVar("variable", default="unset")


def leaf_of(watch: Watch, rounds: int = 3) -> RunnableLambda[Any, Any]:
    async def leaf(value: Any) -> Any:
        with watch:
            await pause(rounds)
        return value

    return RunnableLambda(leaf)


@pytest.mark.parametrize("cap", [1, 2, 5])
async def test_fork_cap_holds_through_branches_of_branches(cap: int) -> None:
    """Nine leaves an item, async and sync, and never more than the cap at once."""
    watch = Watch()

    def inner() -> RunnableParallel[Any]:
        return RunnableParallel(a=leaf_of(watch), b=sync_leaf_of(watch), c=leaf_of(watch, 1))

    chain: RunnableParallel[Any] = RunnableParallel(x=inner(), y=inner(), z=inner())
    with all_slots_come_back():
        outputs = await chain.abatch(range(10), config(max_concurrency=cap))
    assert outputs == [{key: dict.fromkeys("abc", n) for key in "xyz"} for n in range(10)]
    assert watch.entered == 90
    assert 1 <= watch.peak <= cap


async def test_fork_branches_run_at_the_same_time() -> None:
    """Branches run at the same time."""
    first, second = anyio.Event(), anyio.Event()

    async def one(_: object) -> None:
        first.set()
        await second.wait()

    async def two(_: object) -> None:
        second.set()
        await first.wait()

    chain: RunnableParallel[Any] = RunnableParallel(one=one, two=two)
    await chain.ainvoke(None)
    await chain.abatch([None], config(max_concurrency=2))


@pytest.mark.parametrize("batch", [False, True])
async def test_fork_first_error_ends_the_other_branches_and_comes_as_itself(batch: bool) -> None:
    """The first error ends the other branches and comes as itself."""
    before, watch, error = tasks(), Watch(), Boom()

    async def forever(_: object) -> None:
        with watch:
            await anyio.sleep_forever()

    async def fail(_: object) -> None:
        await until(lambda: watch.active == 2)
        raise error

    chain: RunnableParallel[Any] = RunnableParallel(a=forever, b=fail, c=forever)
    with all_slots_come_back(), pytest.raises(Boom) as caught:
        await (chain.abatch([None]) if batch else chain.ainvoke(None))
    assert caught.value is error
    await check_over(watch, before)


async def test_fork_branch_that_fails_while_it_waits_for_a_slot_lets_the_others_go() -> None:
    """A branch that fails while it waits for a slot lets the others go."""
    watch = Watch()

    async def fail(_: object) -> None:
        raise Boom

    chain: RunnableParallel[Any] = RunnableParallel(a=leaf_of(watch), b=fail, c=leaf_of(watch))
    with all_slots_come_back():
        outputs = await chain.abatch(range(5), config(max_concurrency=1), return_exceptions=True)
    assert all(isinstance(output, Boom) for output in outputs)
    assert watch.active == 0


async def test_fork_branches_do_not_see_each_others_context() -> None:
    """Branches do not see each others context."""

    async def mark(value: int) -> str:
        before = variable.get()
        variable.set(f"set for {value}")
        await pause(2)
        return before

    variable.set("caller")
    twice = RunnableLambda(mark) | (lambda before: before)
    chain: RunnableParallel[Any] = RunnableParallel(a=mark, b=mark, c=twice)
    outputs = await chain.abatch(range(5), config(max_concurrency=3))
    assert outputs == [dict.fromkeys("abc", "caller")] * 5
    assert await chain.ainvoke(0) == dict.fromkeys("abc", "caller")
    assert variable.get() == "caller"


async def test_fork_map_elements_do_not_see_each_others_context() -> None:
    """Map elements do not see each others context."""

    async def mark(value: int) -> str:
        before = variable.get()
        variable.set(f"set for {value}")
        await pause(1)
        return before

    variable.set("caller")
    outputs = await RunnableLambda(mark).map().abatch([range(7)] * 3, config(max_concurrency=2))
    assert outputs == [["caller"] * 7] * 3
    assert variable.get() == "caller"


@pytest.mark.parametrize("cap", [1, 3, None])
async def test_fork_map_keeps_order_and_cap(cap: int | None) -> None:
    """Map keeps order and cap."""
    watch = Watch()
    chain = leaf_of(watch).map().map()
    value = [[1, 2, 3], [], [4]]
    with all_slots_come_back():
        assert await chain.abatch([value] * 4, config(max_concurrency=cap)) == [value] * 4
    assert watch.entered == 16
    if cap is not None:
        assert watch.peak <= cap


async def test_fork_item_that_times_out_takes_its_branches_with_it() -> None:
    """An item that times out takes its branches with it."""
    watch = Watch()

    async def forever(_: object) -> None:
        with watch:
            await anyio.sleep_forever()

    chain: RunnableParallel[Any] = RunnableParallel(a=forever, b=forever, c=forever)
    with all_slots_come_back():
        outputs = await chain.abatch([1, 2], config(timeout=0.01), return_exceptions=True)
    assert [type(output).__name__ for output in outputs] == ["ItemTimeoutError"] * 2
    assert watch.active == 0


async def test_fork_item_that_times_out_ends_when_its_branches_have_ended() -> None:
    """What comes after, a fallback here, does not run beside a branch that is still unwinding."""
    watch = Watch()

    async def slow_to_end(_: object) -> None:
        with watch:
            try:
                await anyio.sleep_forever()
            finally:
                with anyio.CancelScope(shield=True):
                    await pause(20)

    async def quick(_: object) -> None:
        with watch:
            await pause(1)

    async def instead(_: object) -> int:
        return watch.active

    branches: RunnableParallel[Any] = RunnableParallel(a=quick, b=slow_to_end, c=slow_to_end)
    chain: Runnable[Any, Any] = branches.with_config(timeout=0.01)
    outputs: list[Any] = await chain.with_fallbacks([RunnableLambda(instead)]).abatch([1])
    assert outputs == [0]


def test_fork_branchs_stray_cancellation_is_the_items_error() -> None:
    """A branchs stray cancellation is the items error."""

    async def stray(_: object) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    async def main() -> None:
        watch = Watch()
        chains: tuple[RunnableParallel[Any], ...] = (
            RunnableParallel(a=stray, b=leaf_of(watch)),
            RunnableParallel(a=leaf_of(watch), b=stray),
        )
        for chain in chains:
            outputs: list[Any] = await chain.abatch([1, 2], return_exceptions=True)
            assert [type(output) for output in outputs] == [StrayCancelledError] * 2
            with pytest.raises(StrayCancelledError):
                await chain.ainvoke(1)

    asyncio.run(main())


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
async def test_fork_interrupt_in_a_branch_ends_the_run(kind: type[BaseException]) -> None:
    """An interrupt in a branch ends the run."""
    watch = Watch()

    async def interrupt(_: object) -> None:
        await pause(2)
        raise kind

    chain: RunnableParallel[Any] = RunnableParallel(a=leaf_of(watch, 10), b=interrupt)
    with pytest.raises(kind):
        await chain.abatch(range(5), return_exceptions=True)
    assert watch.active == 0


def test_fork_loop_may_be_torn_down_at_any_moment_of_a_fork() -> None:
    """asyncio.run cancels tasks before their first step; the fork must not wait for those."""
    assert (
        output_of(
            """
        import asyncio, warnings
        from batchrt import RunnableParallel

        warnings.simplefilter("ignore")  # asyncio: "never awaited", of just these tasks

        async def leaf(value):
            await asyncio.sleep(0)
            return value

        async def main(rounds):
            chain: RunnableParallel[Any] = RunnableParallel(a=leaf, b=leaf, c=leaf)
            stream = chain.abatch_as_completed(range(10**6), {"max_concurrency": 20})

            async def consume():
                async for _ in stream:
                    pass

            task = asyncio.create_task(consume())
            for _ in range(rounds):
                await asyncio.sleep(0)

        for rounds in range(60):
            asyncio.run(main(rounds))
        print("ended")
        """
        )
        == "ended"
    )


@pytest.mark.parametrize("single", [True, False])
async def test_fork_may_be_cancelled_at_any_moment(single: bool) -> None:
    """Branches that were handed to an idle task and have not begun are over too, and no slot is lost."""
    watch, before = Watch(), tasks()
    leaf = leaf_of(watch, 1)
    chain: Runnable[Any, Any] = RunnableParallel(a=leaf, b=leaf, c=leaf) | RunnableParallel(a=leaf, b=leaf)
    for rounds in range(40):
        with all_slots_come_back(), anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                if single:
                    group.start_soon(chain.ainvoke, 1)
                else:
                    group.start_soon(chain.abatch, range(12), config(max_concurrency=4))
                await pause(rounds)
                scope.cancel()
        await check_over(watch, before)


@pytest.mark.parametrize("first", [True, False])
async def test_fork_interrupt_in_a_single_call_is_raised_as_itself(first: bool) -> None:
    """Also where the fork made its own tasks: not wrapped in their group."""

    class Interrupt(BaseException):
        pass

    async def interrupted(value: int) -> int:
        await pause(2)
        raise Interrupt

    async def waiting(value: int) -> int:
        await anyio.sleep_forever()
        return value

    branches = {"a": interrupted, "b": waiting} if first else {"b": waiting, "a": interrupted}
    chain: RunnableParallel[Any] = RunnableParallel(branches)
    before = tasks()
    with pytest.raises(Interrupt):
        await chain.ainvoke(1)
    assert tasks() == before


@pytest.mark.parametrize("uvloop", [False, True])
@pytest.mark.parametrize("way", ["cancel", "later", "all"])
@pytest.mark.parametrize("batch", [False, True])
def test_fork_branch_that_cancels_its_task_gives_no_output_and_ends_no_other_branch(
    way: str, batch: bool, uvloop: bool
) -> None:
    """Neither `None` in its place, nor the end of the group that the branches are in."""

    async def disturbing(value: int) -> int:
        await pause(1)
        task = asyncio.current_task()
        assert task is not None
        if way == "later":
            asyncio.get_running_loop().call_soon(task.cancel)
        elif way == "cancel":
            task.cancel()
        else:
            for helper in asyncio.all_tasks():
                if helper.get_name() == "batchrt task_pool":
                    helper.cancel()
        await pause(3)
        return value

    async def fine(value: int) -> int:
        await pause(6)
        return value

    async def main() -> None:
        before = tasks()
        forked: Runnable[int, Any] = RunnableParallel(b=fine, a=disturbing)
        each = RunnableLambda(lambda value: disturbing(value) if value == 2 else fine(value)).map()
        if batch:
            chain = RunnableLambda(fine) | forked
            outcomes: list[Any] = await chain.abatch([1, 2, 3], return_exceptions=True)
            assert all(isinstance(outcome, StrayCancelledError) for outcome in outcomes)
            assert await RunnableLambda(fine).abatch([1, 2]) == [1, 2]
        else:
            with pytest.raises(StrayCancelledError):
                await forked.ainvoke(1)
            with pytest.raises(StrayCancelledError):
                await each.ainvoke([1, 2, 3])
        await pause()
        assert tasks() == before

    anyio.run(main, backend="asyncio", backend_options={"use_uvloop": uvloop})
