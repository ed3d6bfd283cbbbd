"""Endurance: millions of items, thousands of runs, hundreds of threads; all comes back in the end."""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from batchrt import ChatOpenAI, RunnableLambda, RunnableParallel, StrOutputParser
from batchrt.testing import MockProvider
from tests.reliability.conftest import Figure
from tests.reliability.tiers import tiers
from tests.runtime.harness import output_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="counts by /proc")

GROWTH = 8 * 2**20
"""Bytes that a process may have grown by: pages that the allocator keeps, and not a byte for each item."""


def resident() -> int:
    """Return the bytes of memory that this process has."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def descriptors() -> int:
    """Return the number of open files and sockets of this process."""
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


async def double(value: int) -> int:
    return value * 2


@pytest.mark.parametrize("items", tiers(20_000, 10_000_000))
def test_endurance_stream_takes_no_memory_for_an_item(items: int, figure: Figure) -> None:
    """In order, through three steps; the sum is right, and memory is where it was."""
    chain: Any = RunnableLambda(double) | double | RunnableLambda(lambda value: value + 1, inline=True)

    async def numbers() -> AsyncIterator[int]:
        for number in range(items):
            yield number

    async def main() -> int:
        total = seen = before = 0
        async with chain.abatch_iter(numbers(), {"max_concurrency": 100}) as outputs:
            async for output in outputs:
                assert output == 4 * seen + 1
                seen += 1
                total += output
                if seen == items // 10:
                    before = resident()
        assert resident() - before < GROWTH
        return total

    assert anyio.run(main) == 4 * (items * (items - 1) // 2) + items
    figure(items=items)


@pytest.mark.parametrize("runs", tiers(20, 1_000))
def test_endurance_runs_give_everything_back(runs: int, figure: Figure) -> None:
    """Descriptors, threads, connections and memory are where they were, whatever the runs do."""
    provider = MockProvider()

    def measure() -> int:
        return descriptors() + threading.active_count()

    with provider.serve() as server:
        model = ChatOpenAI("m", base_url=server.base_url, api_key="k", max_retries=0)
        chain: Any = RunnableParallel(
            answer=model | StrOutputParser(),
            thread=RunnableLambda(len),
            loop=RunnableLambda(lambda text: text),
        )

        def run(number: int) -> None:
            inputs = [f"question {place}" for place in range(8)]
            outputs = chain.batch(inputs, {"max_concurrency": 4})
            assert [output["thread"] for output in outputs] == [10] * 8
            for _ in zip(chain.batch_iter(inputs, {"max_concurrency": 4}), range(number % 4), strict=False):
                pass  # closed before its end
            anyio.run(lambda: chain.abatch(inputs[:2]))

        for number in range(max(8, runs // 10)):
            run(number)
        before, memory = measure(), resident()
        for number in range(runs):
            run(number)
        gc.collect()
        # The server, which is in this process, closes connections of ended loops when it has read their end.
        for _ in range(1_000):
            if measure() <= before:
                break
            time.sleep(0.01)
        assert measure() <= before
        assert resident() - memory < GROWTH
        assert provider.log.snapshot().in_flight == 0
    figure(runs=3 * runs)


def in_threads(count: int, function: Callable[[int], None]) -> None:
    """Run `function` in so many threads that begin together, and raise the first error of one."""
    barrier = threading.Barrier(count)
    errors: list[BaseException] = []

    def target(number: int) -> None:
        try:
            barrier.wait()
            function(number)
        except BaseException as error:  # raised below
            errors.append(error)

    threads = [threading.Thread(target=target, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


@pytest.mark.parametrize("rounds", tiers(1, 50))
def test_endurance_threads_batch_on_one_chain(rounds: int, figure: Figure) -> None:
    """Two hundred at once, on the background loop and on loops of their own; each gets its own outputs."""
    chain: Any = RunnableParallel(
        twice=double, text=RunnableLambda(str), sum=RunnableLambda(double) | (lambda value: value + 1)
    )

    def batch(number: int) -> None:
        inputs = range(100 * number, 100 * number + 20)
        config: Any = {"max_concurrency": 1 + number % 5}
        way = number % 4
        if way == 0:
            found = chain.batch(inputs, config)
        elif way == 1:
            found = list(chain.batch_iter(inputs, config))
        elif way == 2:
            found = [chain.invoke(value, config) for value in inputs]
        else:
            found = anyio.run(lambda: chain.abatch(inputs, config))
        assert found == [{"twice": 2 * n, "text": str(n), "sum": 2 * n + 1} for n in inputs]

    for _ in range(rounds):
        in_threads(200, batch)
    figure(threads=200 * rounds)


AFTER_USE = """
import multiprocessing, os, sys
from batchrt import RunnableLambda

async def double(value):
    return value * 2

chain = RunnableLambda(double) | str

def child(queue):
    queue.put(chain.batch(range(5), {"max_concurrency": 2}))

if __name__ == "__main__":
    assert chain.batch(range(50)) == [str(2 * n) for n in range(50)]
    for method in ("fork", "spawn", "forkserver"):
        context = multiprocessing.get_context(method)
        queue = context.SimpleQueue()
        processes = [context.Process(target=child, args=(queue,)) for _ in range(3)]
        for process in processes:
            process.start()
        for process in processes:
            assert queue.get() == ["0", "2", "4", "6", "8"]
        for process in processes:
            process.join()
            assert process.exitcode == 0
    assert chain.batch(range(50)) == [str(2 * n) for n in range(50)]
    print("fine")
"""


def test_endurance_processes_of_every_kind_batch_after_use(tmp_path: Path) -> None:
    """Forked, spawned and from a fork server, of a process whose background loop runs."""
    script = tmp_path / "after_use.py"
    script.write_text(AFTER_USE)
    source = f"""
        import runpy, sys, warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads
        sys.argv = [{str(script)!r}]
        runpy.run_path({str(script)!r}, run_name="__main__")
        """
    assert output_of(source) == "fine"


@pytest.mark.parametrize("way", ["batch", "batch_iter", "run_iter"])
def test_endurance_interpreter_exits_in_mid_run(way: str) -> None:
    """A daemon thread's run does not keep the process alive: its call ends without a word."""
    source = f"""
        import threading
        from batchrt import RunnableLambda

        begun = threading.Event()

        async def slow(value):
            begun.set()
            import anyio
            await anyio.sleep(600)

        chain = RunnableLambda(slow) | RunnableLambda(str)

        def target():
            list(chain.{way}(range(100)))
            print("the call returned")

        threading.Thread(target=target, daemon=True).start()
        assert begun.wait(20)
        print("over")
        """
    assert output_of(source) == "over"
