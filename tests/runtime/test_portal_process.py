"""`batch` and the process: Ctrl-C, the exit, forks."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

import anyio
import anyio.to_thread
import pytest

from batchrt.runtime.background_loop import background
from batchrt.runtime.caller import Caller
from batchrt.runtime.event_loop import LoopHandle
from batchrt.runtime.portal import call_blocking
from tests.runtime.harness import (
    GUARD_SECONDS,
    Watch,
    in_thread,
    output_of,
    pause,
    script,
)

pytestmark = pytest.mark.anyio


class Interrupted(Caller):
    """A caller that Ctrl-C hits in the very moment that its work is over."""

    def wait(self, token: object) -> None:
        super().wait(token)
        raise KeyboardInterrupt


def test_portal_interrupt_as_the_work_ends_is_not_waited_out_for_ever() -> None:
    """An interrupt as the work ends is not waited out for ever."""

    async def work() -> int:
        return 1

    def main() -> None:
        with pytest.raises(KeyboardInterrupt):
            call_blocking(work, Interrupted())

    in_thread(main)


class InterruptedTooEarly(Caller):
    """A caller that Ctrl-C hits while its work runs."""

    def __init__(self, began: threading.Event) -> None:
        super().__init__()
        self.began = began
        self.waits = 0

    def wait(self, token: object) -> None:
        self.waits += 1
        if self.waits == 1:
            assert self.began.wait(GUARD_SECONDS)
            raise KeyboardInterrupt
        super().wait(token)


def test_portal_interrupt_cancels_the_work_and_waits_for_its_end() -> None:
    """An interrupt cancels the work and waits for its end."""
    began, watch = threading.Event(), Watch()

    async def work() -> None:
        with watch:
            began.set()
            try:
                await anyio.sleep_forever()
            finally:
                with anyio.CancelScope(shield=True):
                    await pause(20)

    def main() -> None:
        with pytest.raises(KeyboardInterrupt):
            call_blocking(work, InterruptedTooEarly(began))
        assert watch.active == 0

    in_thread(main)


@pytest.mark.parametrize("when", ["before the hand-over", "after the hand-over"])
def test_portal_interrupt_as_the_work_is_handed_over_leaves_none_of_it(
    monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """The loop's thread may be faster than the one that hands it work."""
    began, watch = threading.Event(), Watch()
    hand_over, hits = LoopHandle.soon, [0]

    async def work() -> None:
        with watch:
            began.set()
            try:
                await anyio.sleep_forever()
            finally:
                with anyio.CancelScope(shield=True):
                    await pause(20)

    def soon(loop: LoopHandle, function: Callable[[], object]) -> bool:
        hits[0] += 1
        if hits[0] > 1:
            return hand_over(loop, function)
        if when == "after the hand-over":
            assert hand_over(loop, function)
            assert began.wait(GUARD_SECONDS)
        raise KeyboardInterrupt

    def main() -> None:
        with background.loop():
            pass
        monkeypatch.setattr(LoopHandle, "soon", soon)
        with pytest.raises(KeyboardInterrupt):
            call_blocking(work)
        assert watch.active == 0
        assert began.is_set() == (when == "after the hand-over")

    in_thread(main)


@pytest.mark.parametrize("how", ["batch", "batch_iter", "invoke"])
def test_portal_ctrl_c_ends_everything_and_is_raised(how: str) -> None:
    """Ctrl c ends everything and is raised."""
    process = script(
        f"""
        import sys, threading, anyio
        from batchrt import RunnableLambda

        running, lock = [0], threading.Lock()

        async def leaf(value):
            running[0] += 1
            if running[0] == {1 if how == "invoke" else 3}:
                print("running", flush=True)
            try:
                await anyio.sleep_forever()
            finally:
                running[0] -= 1

        chain = RunnableLambda(leaf)
        try:
            if {how!r} == "batch":
                chain.batch(range(100), {{"max_concurrency": 3}}, return_exceptions=True)
            elif {how!r} == "invoke":
                chain.invoke(1)
            else:
                list(chain.batch_iter(range(100), {{"max_concurrency": 3}}))
        except KeyboardInterrupt:
            print("interrupted with", running[0], "running")
        """
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=GUARD_SECONDS)
    assert (output, errors) == ("interrupted with 0 running\n", "")
    assert process.returncode == 0


# The end of the process


def test_portal_process_that_has_batched_exits() -> None:
    """With worker threads idle, at once and without a word."""
    assert (
        output_of(
            """
        from batchrt import RunnableLambda

        async def add_one(value):
            return value + 1

        chain = RunnableLambda(add_one) | (lambda value: value + 2)
        print(chain.batch(range(3)))
        """
        )
        == "[3, 4, 5]"
    )


def test_portal_process_whose_loop_has_an_executor_exits() -> None:
    """A call of `asyncio.to_thread` leaves one, and at exit no new thread can close it."""
    assert (
        output_of(
            """
        import asyncio
        from batchrt import RunnableLambda

        async def add_one(value):
            return await asyncio.to_thread(lambda: value + 1)

        print(RunnableLambda(add_one).batch(range(3)))
        """
        )
        == "[1, 2, 3]"
    )


def test_portal_process_exits_with_an_iterator_left_open() -> None:
    """A process exits with an iterator left open."""
    assert (
        output_of(
            """
        from batchrt import RunnableLambda

        async def add_one(value):
            return value + 1

        iterator = RunnableLambda(add_one).batch_iter(range(1000), {"max_concurrency": 2, "window": 5})
        print(next(iterator))
        """
        )
        == "1"
    )


def test_portal_batch_at_exit_still_runs() -> None:
    """Also after the package's own exit handler, which was registered later and is called before."""
    assert (
        output_of(
            """
        import atexit
        from batchrt import RunnableLambda

        async def add_one(value):
            return value + 1

        atexit.register(lambda: print(RunnableLambda(add_one).batch([5])))
        print(RunnableLambda(add_one).batch([1]))
        """
        )
        == "[2]\n[6]"
    )


EXIT_BESIDE_A_DAEMON = """
import atexit, threading

threads = []
# Registered before the package's own handler, and so called after it.
atexit.register(lambda: [thread.join() for thread in threads])

from batchrt import RunnableLambda

begun = threading.Event()

async def slow(value):
    begun.set()
    import anyio
    await anyio.sleep(600)

def nested(value):
    return RunnableLambda(slow).batch([value])

def target():
    try:
        work()
        print("the call returned")
    except Exception as error:
        print("seen", repr(error))
    finally:
        print("cleaned up")
"""


@pytest.mark.parametrize(
    "call",
    [
        "RunnableLambda(slow).batch([1])",
        "RunnableLambda(slow).invoke(1)",
        "list(RunnableLambda(slow).batch_iter([1]))",
        "list(RunnableLambda(slow).run_iter([1]))",
        "RunnableLambda(nested).batch([1, 2])",
    ],
)
def test_portal_exit_ends_daemon_threads_quietly(call: str) -> None:
    """Their calls end by SystemExit: cleanups run, exit handlers can join the threads, nothing is printed."""
    source = f"""
work = lambda: {call}
threads.append(threading.Thread(target=target, daemon=True))
threads[0].start()
begun.wait()
print("over")
"""
    assert output_of(EXIT_BESIDE_A_DAEMON + source).split("\n") == ["over", "cleaned up"]


@pytest.mark.parametrize("calls", ["chain.batch([1])", "next(outputs)"])
def test_portal_exit_ends_daemon_threads_between_calls(calls: str) -> None:
    """A call that a daemon thread begins after the loop has ended says no more than one that was cut off."""
    source = f"""
async def same(value):
    return value

chain = RunnableLambda(same)
outputs = chain.batch_iter(iter(int, 1), {{"max_concurrency": 1, "window": 1}})

def work():
    while True:
        {calls}
        begun.set()

threading.Thread(target=target, daemon=True).start()
begun.wait()
print("over")
"""
    assert output_of(EXIT_BESIDE_A_DAEMON + source) in ("over", "over\ncleaned up")


def test_portal_exit_leaves_threads_that_python_did_not_start_an_error() -> None:
    """The code that called Python there might end the process for a SystemExit: the call is cancelled."""
    source = """
import _thread
from concurrent.futures import CancelledError

seen = threading.Event()

def work():
    try:
        RunnableLambda(slow).batch([1])
    except CancelledError as error:
        print(error)
    finally:
        seen.set()

_thread.start_new_thread(work, ())
begun.wait()
print("over")
"""
    before = "import atexit, threading; atexit.register(lambda: seen.wait())"
    assert output_of(f"{before}\n{EXIT_BESIDE_A_DAEMON}{source}").split("\n") == [
        "over",
        "the event loop ended",
    ]


def test_portal_there_is_one_background_loop_however_many_threads_ask_first() -> None:
    """There is one background loop however many threads ask first."""
    assert (
        output_of(
            """
        import sys, threading
        from batchrt import RunnableLambda

        sys.setswitchinterval(1e-6)

        async def add_one(value):
            return value + 1

        meeting = threading.Barrier(20)

        def work():
            meeting.wait()
            RunnableLambda(add_one).batch([1])

        threads = [threading.Thread(target=work) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        print(sum(thread.name == "batchrt loop" for thread in threading.enumerate()))
        """
        )
        == "1"
    )


def test_portal_background_loop_that_user_code_ended_is_replaced() -> None:
    """A background loop that user code ended is replaced."""
    assert (
        output_of(
            """
        import asyncio
        from concurrent.futures import CancelledError
        from batchrt import RunnableLambda

        async def leave():
            raise SystemExit

        async def end_the_loop(value):
            task = asyncio.create_task(leave())
            task.add_done_callback(lambda task: task.exception())
            await asyncio.Event().wait()

        async def add_one(value):
            return value + 1

        try:
            RunnableLambda(end_the_loop).batch([1])
        except CancelledError:
            print("ended")
        print(RunnableLambda(add_one).batch([1]))
        """
        )
        == "ended\n[2]"
    )


# Forks


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("where", ["plain", "leaf"])
def test_portal_forked_child_has_a_loop_of_its_own(where: str) -> None:
    """Also where the fork happens inside a run: the child is no part of it."""
    assert (
        output_of(
            f"""
        import os, warnings
        from batchrt import RunnableLambda

        warnings.simplefilter("ignore")  # Python 3.12: forking beside threads

        async def add_one(value):
            return value + 1

        def fork(value):
            child = os.fork()
            if child == 0:
                print(RunnableLambda(add_one).batch([value]), flush=True)
                os._exit(0)
            return os.waitpid(child, 0)[1]

        RunnableLambda(add_one).batch([1])
        if {where!r} == "leaf":
            print(RunnableLambda(fork).batch([7], {{"max_concurrency": 1}}))
        else:
            print([fork(7)])
        """
        )
        == "[8]\n[0]"
    )


def test_background_loop_is_made_once_more_for_a_finalizer_that_needs_it_meanwhile() -> None:
    """The frame that makes it cannot wait for it: a finalizer or a signal handler runs there."""
    assert (
        output_of(
            """
        import threading
        from batchrt import RunnableLambda
        from batchrt.runtime.background_loop import _BackgroundLoop

        async def same(value):
            return value

        chain, start, inner = RunnableLambda(same), _BackgroundLoop._start, []

        def interrupted(self):
            if not inner:
                inner.append(None)
                inner.append(chain.batch([1, 2]))
            start(self)

        _BackgroundLoop._start = interrupted
        print(chain.batch([3]), inner[1], chain.batch([4]))
        """
        )
        == "[3] [1, 2] [4]"
    )


def test_portal_finalizers_may_batch_at_every_moment_of_a_batch() -> None:
    """Whatever lock is held then: the collector may run wherever something is allocated."""
    assert (
        output_of(
            """
        import asyncio, gc
        from batchrt import Runnable, RunnableLambda, RunnableParallel

        class Lists(Runnable):
            share_lists = True

            async def abatch_native(self, values):
                return values

        async def same(value):
            await asyncio.sleep(0)
            return value

        async def nested(value):
            return await plain.ainvoke(value)

        plain = RunnableLambda(same)
        chain = RunnableLambda(nested) | RunnableParallel(a=same, b=Lists(), c=lambda value: value)
        left = 300

        class Client:
            def __init__(self):
                self.me = self

            def __del__(self):
                global left
                if left:
                    left -= 1
                    Client()
                    assert plain.batch([1]) == [1]

        Client()
        gc.collect()
        gc.freeze()
        gc.set_threshold(1, 1, 1)
        outputs = asyncio.run(chain.abatch(range(5), {"max_concurrency": 2}))
        assert chain.batch(range(5), {"max_concurrency": 2}) == outputs
        left = 0
        gc.set_threshold(700, 10, 10)
        print(len(outputs))
        """
        )
        == "5"
    )


def test_portal_finalizers_that_batch_at_exit_do_not_hang() -> None:
    """Of a module's globals, when no other thread runs any more: an error, which Python writes somewhere."""
    assert (
        output_of(
            """
        from batchrt import RunnableLambda

        async def same(value):
            return value

        class Client:
            def __del__(self, chain=RunnableLambda(same)):
                try:
                    chain.batch([1])
                except RuntimeError:
                    pass

        client = Client()
        print(RunnableLambda(same).batch([1]))
        """
        )
        == "[1]"
    )
