"""Event loops that stand still for a sync call, and what is told that waits for them."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import Context
from typing import Any

import anyio
import httpx
import pytest
from anyio.lowlevel import EventLoopToken

from batchrt import (
    BlockedEventLoopError,
    ChatOpenAI,
    OpenAIEmbeddings,
    OutageError,
    Quota,
    RateLimitError,
    RetryBudget,
    RunnableLambda,
    ServerError,
)
from batchrt.runtime import blocked_loops as blocking
from batchrt.runtime.blocked_loops import Blockade, all_blocked, current_blockades, is_blocking
from batchrt.runtime.event_loop import LoopHandle
from batchrt.runtime.item import Item
from batchrt.runtime.run import Run
from batchrt.runtime.slots import Slots
from batchrt.runtime.spending import Spending
from batchrt.runtime.strand import Strand
from tests.limits.quotas import BACKENDS, Counter, is_idle, usage_of, virtually
from tests.providers.http.replies import chat_body
from tests.runtime.harness import in_thread, pause, until

on_both = pytest.mark.parametrize("backend", BACKENDS)


def loop() -> LoopHandle:
    """Return a handle on a loop that exists in name only."""
    backend: Any = object
    return LoopHandle(EventLoopToken(backend, object()))


def test_blockade_blocks_its_loop_only_while_the_call_is_waited_for() -> None:
    """A sync iterator's loop runs between the items."""
    here, worker, other = loop(), loop(), loop()
    blockade = Blockade(here, worker)
    assert not all_blocked([here], [(blockade,)])
    for _ in range(2):
        with blockade.blocking():
            assert is_blocking((blockade,))
            assert all_blocked([here, here], [(), (blockade,)])
            assert not all_blocked([here, other], [(blockade,)])
            assert not all_blocked([worker], [(blockade,)])
            assert not all_blocked([None], [(blockade,)])
            assert not all_blocked([], [(blockade,)]), "there is nothing to wait for"
            assert not all_blocked([here], []), "it is no waiter's doing"
        assert not is_blocking((blockade,))
        assert not all_blocked([here], [(blockade,)])
    assert not blocking._active


def test_blockade_blocks_loops_that_wait_for_a_blocked_one() -> None:
    """However long the chain is."""
    first, second, third, free = loop(), loop(), loop(), loop()
    with (
        Blockade(third, second).blocking(),
        Blockade(second, first).blocking(),
        Blockade(free, loop()).blocking(),
        (own := Blockade(first, loop())).blocking(),
    ):
        assert all_blocked([first, second, third], [(own,)])
        assert not all_blocked([third, free], [(own,)])


def test_blockade_tells_watchers_when_it_begins() -> None:
    """For as long as they watch."""
    blockade = Blockade(loop(), loop())
    seen: list[bool] = []

    def watcher() -> None:
        seen.append(blockade.active)

    blockade.watch(watcher)
    with blockade.blocking():
        assert seen == [True]
    with blockade.blocking():
        assert seen == [True, True]
    blockade.unwatch(watcher)
    with blockade.blocking():
        assert seen == [True, True]


def test_blockade_is_known_in_its_context_and_in_no_other() -> None:
    """And those around it with it."""
    outer, inner = Blockade(loop(), loop()), Blockade(loop(), loop())
    context = Context()
    outer.enter(context)
    assert context.run(current_blockades) == (outer,)
    nested = context.copy()
    inner.enter(nested)
    assert nested.run(current_blockades) == (outer, inner)
    assert context.run(current_blockades) == (outer,)
    assert current_blockades() == ()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")
def test_blockade_is_none_of_a_forked_processs() -> None:
    """The thread that waits is not in it."""
    with Blockade(loop(), loop()).blocking():
        child = os.fork()
        if not child:
            os._exit(len(blocking._active))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# Quotas


@contextmanager
def called_from(blockade: Blockade) -> Iterator[None]:
    """Have the runs that are made here be those of a sync call."""
    token = blocking._current.set((blockade,))
    try:
        yield
    finally:
        blocking._current.reset(token)


class Sides:
    """Two event loops at one quota, played by one: `blocked`, which makes a sync call, and the call's own."""

    def __init__(self, quota: Quota) -> None:
        self.quota = quota
        self.blocked = Counter(quota)
        self.blocked.run.loop = loop()
        self.blockade = Blockade(self.blocked.run.loop, LoopHandle.current())
        with called_from(self.blockade):
            self.call = Counter(quota)

    async def send(self, **options: Any) -> str:
        """Send a request of the call's and say what became of it."""
        try:
            await self.call.send("call", **options)
        except BlockedEventLoopError:
            return "blocked"
        return "sent"


@on_both
def test_blocked_loops_quota_turns_a_call_away_that_waits_for_its_own_loop(backend: str) -> None:
    """It names the cause and the cure; then everything goes on."""

    async def main() -> None:
        sides = Sides(Quota(max_in_flight=2))
        async with anyio.create_task_group() as group:
            for number in range(5):
                sides.blocked.start(group, number, seconds=10)
            await anyio.sleep(1)
            with sides.blockade.blocking(), pytest.raises(BlockedEventLoopError, match="ainvoke") as caught:
                await sides.call.send("call")
            assert isinstance(caught.value, RuntimeError)
            assert "quota" in str(caught.value)
        assert sorted(sides.blocked.names) == [0, 1, 2, 3, 4]
        assert await sides.send() == "sent", "nothing is blocked any more"
        assert is_idle(sides.quota)
        assert not sides.quota._blocking
        assert not sides.quota._under_way

    virtually(backend, main)


@on_both
def test_blocked_loops_quota_turns_a_call_away_when_the_last_other_request_has_ended(backend: str) -> None:
    """As long as requests of other loops are under way there is something to wait for."""

    async def main() -> None:
        sides = Sides(Quota(max_in_flight=2))
        other = Counter(sides.quota)
        async with anyio.create_task_group() as group:
            sides.blocked.start(group, seconds=100)
            other.start(group, seconds=10)
            await anyio.sleep(1)
            sides.blocked.start(group, seconds=100)  # the next in the line
            await anyio.sleep(1)
            with sides.blockade.blocking():
                began = anyio.current_time()
                assert await sides.send() == "blocked"
                assert anyio.current_time() - began == pytest.approx(8)
            group.cancel_scope.cancel()
        assert is_idle(sides.quota)

    virtually(backend, main)


@on_both
def test_blocked_loops_quota_lets_call_wait_for_requests_of_its_own_and_of_other_loops(backend: str) -> None:
    """They end whatever is blocked."""

    async def main() -> None:
        sides = Sides(Quota(max_in_flight=1))
        other, ends = Counter(sides.quota), []

        async def send() -> None:
            ends.append(await sides.send(seconds=5))

        async with anyio.create_task_group() as group:
            other.start(group, seconds=10)
            await anyio.sleep(1)
            with sides.blockade.blocking():
                async with anyio.create_task_group() as own:
                    for _ in range(3):
                        own.start_soon(send)
        assert ends == ["sent"] * 3
        assert is_idle(sides.quota)

    virtually(backend, main)


@on_both
def test_blocked_loops_quota_lets_a_call_wait_for_time_to_pass(backend: str) -> None:
    """Rates and cool-downs end by themselves."""

    async def main() -> None:
        sides = Sides(Quota(requests_per_minute=60, burst_seconds=1))
        await sides.blocked.send()
        async with anyio.create_task_group() as group:
            sides.blocked.start(group, seconds=1000)
            await anyio.sleep(2)
            with sides.blockade.blocking():
                assert await sides.send() == "sent"
                await sides.send(error=RateLimitError("slow", status=429, retry_after=5.0))
                assert await sides.send() == "sent"
            group.cancel_scope.cancel()

    virtually(backend, main)


@on_both
def test_blocked_loops_quota_looks_again_when_a_loop_comes_to_stand_still(backend: str) -> None:
    """A sync iterator's run goes on between its items, and may wait by then."""

    async def main() -> None:
        sides = Sides(Quota(max_in_flight=1))
        ends: list[str] = []

        async def send() -> None:
            ends.append(await sides.send())

        async with anyio.create_task_group() as group:
            sides.blocked.start(group, seconds=10)
            await anyio.sleep(1)
            group.start_soon(send)
            await anyio.sleep(1)
            assert not ends
            with sides.blockade.blocking():
                await anyio.sleep(1)
                assert ends == ["blocked"]
        assert not sides.blockade._watchers
        assert is_idle(sides.quota)

    virtually(backend, main)


@on_both
def test_blocked_loops_quota_turns_one_of_two_calls_away_that_wait_for_each_other(backend: str) -> None:
    """Two threads' loops: the other can go on then."""

    async def main() -> None:
        quota = Quota(max_in_flight=2)
        sides = [Sides(quota), Sides(quota)]
        ends: list[str] = []

        async def send(side: Sides) -> None:
            with side.blockade.blocking():
                ends.append(await side.send())

        async with anyio.create_task_group() as group:
            for side in sides:
                side.blocked.start(group, seconds=10)
            await anyio.sleep(1)
            for side in sides:
                group.start_soon(send, side)
                await pause()
        assert sorted(ends) == ["blocked", "sent"]
        assert is_idle(quota)

    virtually(backend, main)


@on_both
def test_blocked_loops_quota_turns_a_call_away_whose_probe_is_on_its_loop(backend: str) -> None:
    """One request at a time looks whether it is back; if that one cannot go on, none ever will."""

    async def main() -> None:
        sides = Sides(Quota(retry_budget=None))
        down = ServerError("down", status=503)
        for _ in range(12):
            await sides.blocked.send(error=down)
        assert sides.quota.is_down()
        async with anyio.create_task_group() as group:
            sides.blocked.start(group, "looks", seconds=1000, patience=500.0)
            await anyio.sleep(10)
            with sides.blockade.blocking():
                assert await sides.send(patience=500.0) == "blocked"
            group.cancel_scope.cancel()
        assert is_idle(sides.quota)

    virtually(backend, main)


@on_both
def test_blocked_loops_quota_does_not_spin_while_probe_outlasts_patience_of_others(backend: str) -> None:
    """They are told when it has ended, and nothing is looked at before."""

    async def main() -> None:
        quota = Quota(retry_budget=None)
        counter = Counter(quota)
        down = ServerError("down", status=503)
        for _ in range(12):
            await counter.send(error=down)
        looks = 0
        original = quota._pump

        def pump(now: float) -> None:
            nonlocal looks
            looks += 1
            original(now)

        quota._pump = pump  # type: ignore[method-assign]
        async with anyio.create_task_group() as group:
            counter.start(group, "looks", seconds=100, patience=500.0, error=down)
            await anyio.sleep(10)

            async def impatient() -> None:
                with pytest.raises(OutageError):
                    await counter.send(patience=20.0)

            group.start_soon(impatient)
        assert looks < 50
        assert is_idle(quota)

    virtually(backend, main)


@on_both
def test_blocked_loops_quota_tells_a_call_that_no_answer_can_pay_for_its_retry(backend: str) -> None:
    """Those that could are on the loop that it blocks; nothing under way at all is another matter."""

    async def main() -> None:
        sides = Sides(Quota(retry_budget=RetryBudget(capacity=1)))
        with sides.blockade.blocking():
            sides.quota.check_can_wait(sides.call.run.blockades)
            async with anyio.create_task_group() as group:
                sides.blocked.start(group, seconds=10)
                await anyio.sleep(1)
                with pytest.raises(BlockedEventLoopError, match="retry budget"):
                    sides.quota.check_can_wait(sides.call.run.blockades)
                sides.call.start(group, seconds=5)
                await anyio.sleep(1)
                sides.quota.check_can_wait(sides.call.run.blockades)
        sides.quota.check_can_wait(())

    virtually(backend, main)


# Spending


@on_both
def test_blocked_loops_spending_turns_a_call_away_that_waits_for_its_own_loop(backend: str) -> None:
    """What is under way there is never settled while the call waits; on other loops it is."""

    async def main() -> None:
        def strand() -> Strand:
            slots = Slots(None)
            return Strand(Run(slots), Item(0), {}, slots)

        blocked = strand()
        blocked.run.loop = loop()
        blockade = Blockade(blocked.run.loop, LoopHandle.current())
        with called_from(blockade):
            call = strand()
        above = Spending(100, None, None)
        inner = Spending(1000, None, None, above)
        reserve: Callable[[Strand, Spending], Any] = lambda strand, spending: spending.reserve(  # noqa: E731
            "m", lambda: (60, 0, True), strand
        )
        first = await reserve(blocked, above)
        with blockade.blocking(), pytest.raises(BlockedEventLoopError, match="spending"):
            await reserve(call, inner)
        assert inner._under_way == 0
        results: list[str] = []

        async def wait() -> None:
            try:
                (await reserve(call, inner)).settle(usage_of(10))
                results.append("sent")
            except BlockedEventLoopError:
                results.append("blocked")

        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await anyio.sleep(1)
            assert not results, "the loop runs"
            with blockade.blocking():
                await anyio.sleep(1)
            assert results == ["blocked"]
            group.start_soon(wait)
            await anyio.sleep(1)
            first.settle(usage_of(10))
        assert results == ["blocked", "sent"]
        assert (above.tokens, inner.tokens) == (20, 10)
        assert not blockade._watchers
        assert above.ended is None, "it is no end of the run"

    virtually(backend, main)


# Sync calls


class Gate:
    """Answer what is called `held` when it is let go, and everything else at once."""

    def __init__(self) -> None:
        self.held = 0
        self._open = anyio.Event()

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        if b"held" in request.content:
            self.held += 1
            await self._open.wait()
        if request.url.path.endswith("embeddings"):
            return httpx.Response(200, json={"data": [{"index": 0, "embedding": [1.0]}]})
        return httpx.Response(200, json=chat_body())

    def release(self) -> None:
        self._open.set()

    def chat(self, **options: Any) -> ChatOpenAI:
        transport = httpx.MockTransport(self)
        return ChatOpenAI("m", base_url="http://mock/v1", api_key="k", transport=transport, **options)


@pytest.mark.anyio
async def test_blocked_loops_portal_turns_a_sync_call_away_beside_other_work_of_its_loop() -> None:
    """A notebook: a batch in the background has all there is, and a cell asks synchronously."""
    gate = Gate()
    model = gate.chat(max_in_flight=3)
    outputs: list[Any] = []

    async def background() -> None:
        outputs.extend(await model.abatch(["held"] * 5))

    async with anyio.create_task_group() as group:
        group.start_soon(background)
        await until(lambda: gate.held == 3)
        for call in (
            lambda: model.invoke("hi"),
            lambda: model.batch(["hi", "hi"]),
            lambda: next(iter(model.batch_iter(["hi"]))),
        ):
            with pytest.raises(BlockedEventLoopError, match="ainvoke"):
                call()
        errors = model.batch(["hi"] * 3, return_exceptions=True)
        assert all(isinstance(error, BlockedEventLoopError) for error in errors)
        gate.release()
    assert len(outputs) == 5
    assert model.invoke("hi").content == "hello"
    assert is_idle(model.quota)


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_blocked_loops_portal_turns_a_sync_call_of_a_callback_away() -> None:
    """A timer's, say: it belongs to no task, and blocks the loop all the same."""
    gate = Gate()
    model = gate.chat(max_in_flight=1)
    results: list[Any] = []

    def callback() -> None:
        try:
            results.append(model.invoke("hi"))
        except BlockedEventLoopError as error:
            results.append(error)

    async with anyio.create_task_group() as group:
        group.start_soon(model.ainvoke, "held")
        await until(lambda: gate.held)
        asyncio.get_running_loop().call_soon(callback, context=Context())
        await until(lambda: results)
        gate.release()
    assert isinstance(results[0], BlockedEventLoopError)


@pytest.mark.anyio
async def test_blocked_loops_portal_turns_a_sync_call_away_beside_what_auto_has_let_in() -> None:
    """However many that are."""
    gate = Gate()
    model = gate.chat()
    auto: Any = {"max_concurrency": "auto"}

    async with anyio.create_task_group() as group:
        group.start_soon(lambda: model.abatch(["held"] * 500, auto))
        await until(lambda: model.quota.statistics().waiting)
        with pytest.raises(BlockedEventLoopError):
            model.batch(["hi"], auto)
        assert model.invoke("hi").content == "hello", "it is not held to that, and overtakes the others"
        gate.release()
    assert is_idle(model.quota)


@pytest.mark.anyio
async def test_blocked_loops_portal_turns_a_nested_sync_call_away() -> None:
    """A slip that everybody makes once; the run ends with the error, and so does nothing else."""
    gate = Gate()
    model = gate.chat(max_in_flight=2)

    async def refine(value: str) -> Any:
        if value == "hi":
            await until(lambda: gate.held == 2)
            return model.invoke("hi")
        return await model.ainvoke(value)

    async with anyio.create_task_group() as group:
        results: list[Any] = []

        async def run() -> None:
            results.extend(
                await RunnableLambda(refine).abatch(["hi", "held", "held"], return_exceptions=True)
            )

        group.start_soon(run)
        await until(lambda: gate.held == 2)
        await pause(20)
        gate.release()
    assert isinstance(results[0], BlockedEventLoopError)
    assert [output.content for output in results[1:]] == ["hello", "hello"]
    assert is_idle(model.quota)


def test_blocked_loops_portal_turns_a_nested_sync_call_away_on_the_background_loop() -> None:
    """A script that batches synchronously, with an async step that does so too."""

    def main() -> None:
        gate = Gate()
        model = gate.chat(max_in_flight=1)

        async def step(value: str) -> Any:
            if value == "hi":
                await until(lambda: gate.held)
                return model.invoke("hi")
            return await model.ainvoke(value)

        with pytest.raises(BlockedEventLoopError):
            RunnableLambda(step).batch(["held", "hi"])
        assert is_idle(model.quota)

    in_thread(main)


@pytest.mark.anyio
async def test_blocked_loops_portal_turns_a_sync_call_away_that_its_runs_spending_cannot_settle() -> None:
    """Requests under way on the blocked loop have set the rest aside."""
    gate = Gate()
    model = gate.chat(max_tokens=1000)

    async def step(value: str) -> Any:
        if value == "hi":
            await until(lambda: gate.held)
            return model.invoke("hi")
        return await model.ainvoke(value)

    results: list[Any] = []

    async def run() -> None:
        keys: Any = {"max_tokens_total": 1500}
        results.extend(await RunnableLambda(step).abatch(["hi", "held"], keys, return_exceptions=True))

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        await until(lambda: gate.held)
        await pause(20)
        gate.release()
    assert isinstance(results[0], BlockedEventLoopError)
    assert results[1].content == "hello"


@pytest.mark.anyio
@pytest.mark.parametrize("share", [False, True])
async def test_blocked_loops_portal_turns_sync_calls_for_lists_away(share: bool) -> None:
    """Also where lists are shared."""
    gate = Gate()
    model = OpenAIEmbeddings(
        "m",
        base_url="http://mock/v1",
        api_key="k",
        transport=httpx.MockTransport(gate),
        encoding_format="float",
        share_lists=share,
        max_in_flight=1,
    )
    async with anyio.create_task_group() as group:
        group.start_soon(model.ainvoke, "held")
        await until(lambda: gate.held)
        with pytest.raises(BlockedEventLoopError):
            model.invoke("hi")
        with pytest.raises(BlockedEventLoopError):
            model.embed_documents(["hi"])
        gate.release()
    assert is_idle(model.quota)


@pytest.mark.anyio
async def test_blocked_loops_portal_turns_a_sync_call_away_whose_inputs_come_from_its_loop() -> None:
    """A stream that was begun there; one that was not is begun where it is used."""
    ended = False

    async def same(value: int) -> int:
        nonlocal ended
        try:
            if value:
                await anyio.sleep_forever()
        finally:
            ended = value > 0
        return value

    step = RunnableLambda(same)
    stream = step.abatch_iter(range(2))
    assert await anext(stream) == 0
    with pytest.raises(BlockedEventLoopError, match="stream"):
        step.batch(stream)
    await until(lambda: ended)
    assert step.batch(step.abatch_iter([0, 0])) == [0, 0]


@pytest.mark.anyio
@pytest.mark.parametrize("here", [True, False])
async def test_blocked_loops_portal_turns_away_what_the_end_of_an_iterator_waits_for(here: bool) -> None:
    """A cleanup that needs a request, say; not where the iterator is closed in a thread without a loop."""
    gate = Gate()
    model = gate.chat(max_in_flight=1)
    outputs: list[Any] = []

    async def step(value: int) -> int:
        try:
            if value:
                await anyio.sleep_forever()
        finally:
            if value:
                with anyio.CancelScope(shield=True):
                    try:
                        outputs.append((await model.ainvoke("hi")).content)
                    except BlockedEventLoopError:
                        outputs.append("turned away")
        return value

    async with anyio.create_task_group() as group:
        group.start_soon(model.ainvoke, "held")
        await until(lambda: gate.held)
        results: Any = RunnableLambda(step).batch_as_completed(range(2))
        assert next(results) == (0, 0)
        if here:
            results.close()
            gate.release()
        else:
            group.start_soon(anyio.to_thread.run_sync, results.close)
            await until(lambda: model.quota.statistics().waiting)
            gate.release()
    assert outputs == ["turned away" if here else "hello"]
    assert is_idle(model.quota)


@pytest.mark.anyio
@pytest.mark.parametrize("through", ["client", "transport"])
async def test_blocked_loops_portal_turns_a_call_away_whose_connections_are_on_its_loop(through: str) -> None:
    """Httpx's own belong to the loop that they were made on; what keeps none serves all loops."""

    class Pool(httpx.AsyncHTTPTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            del request
            return httpx.Response(200, json=chat_body())

    def model(transport: httpx.AsyncBaseTransport) -> ChatOpenAI:
        client = httpx.AsyncClient(transport=transport)
        given: dict[str, Any] = {"http_client": client} if through == "client" else {"transport": transport}
        return ChatOpenAI("m", base_url="http://mock/v1", api_key="k", **given)

    pooled = model(Pool())
    assert pooled.invoke("hi").content == "hello", "it is bound to nothing yet"
    await pooled.ainvoke("hi")
    with pytest.raises(BlockedEventLoopError, match="httpx"):
        pooled.invoke("hi")
    assert (await pooled.ainvoke("hi")).content == "hello"
    assert await anyio.to_thread.run_sync(pooled.invoke, "hi"), "this loop runs meanwhile"
    free = model(httpx.MockTransport(lambda _: httpx.Response(200, json=chat_body())))
    await free.ainvoke("hi")
    assert free.invoke("hi").content == "hello"


@pytest.mark.anyio
async def test_blocked_loops_portal_lets_sync_calls_of_other_threads_wait() -> None:
    """They block no loop, and are served when this one goes on."""
    gate = Gate()
    model = gate.chat(max_in_flight=1)
    outputs: list[Any] = []
    thread = threading.Thread(target=lambda: outputs.append(model.invoke("hi")))
    async with anyio.create_task_group() as group:
        group.start_soon(model.ainvoke, "held")
        await until(lambda: gate.held)
        thread.start()
        await until(lambda: model.quota.statistics().waiting)
        with pytest.raises(BlockedEventLoopError):
            model.invoke("hi")
        gate.release()
        await until(lambda: outputs)
    await anyio.to_thread.run_sync(thread.join)
    assert is_idle(model.quota)
