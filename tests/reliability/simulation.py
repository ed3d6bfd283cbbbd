"""Simulation: a chain, its clients and all that goes wrong, drawn from one seed, in virtual time.

    python -m tests.reliability.simulation 10000 --first 0

runs so many seeds on both event loops and prints each one that breaks a promise. `--trace SEED` prints what
happens in one, `--digests` a hash of each.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import traceback
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Any, Final

import anyio
import httpx

from batchrt import ChatOpenAI, OpenAIEmbeddings, Outcome, add_chunks
from batchrt.limits.quota import Quota
from batchrt.testing import FaultPlan, LogNormal, MockProvider, Outage, Queueing, RateLimits
from tests import virtual
from tests.limits.quotas import is_idle
from tests.reliability.dice import Dice, pick
from tests.reliability.histories import History, client_of, name_of
from tests.reliability.random_chains import Node, World, number_of, random_chain
from tests.runtime.harness import all_slots_come_back

__all__ = ["BACKENDS", "Client", "Simulation", "simulate"]

BACKENDS: Final = ("trio", "asyncio")
AFTERWARDS: Final = 10_000.0
"""Seconds after the end in which nothing more may happen."""

_WAYS: Final = (
    *("abatch", "abatch", "abatch fail fast", "iter", "iter fail fast", "completed", "arun", "arun"),
    *("outcomes", "outcomes", "outcomes unordered", "outcomes unordered", "chunks", "calls"),
)


class InputsEnded(Exception):
    """The error of an input that cannot be read."""


@dataclass
class Client:
    """One call of a batch method, and what came of it.

    Attributes:
        name: the beginning of its items' keys.
        way: the method, and how it is called.
        numbers: the inputs.
        config: of the call.
        source: what the inputs come from.
        broken_at: the input that raises an error instead; `None` for none.
        begins: seconds until the call.
        cancelled_at: seconds after which the call is cancelled; `None` for never.
        stopped_at: seconds after which the run is stopped; `None` for never.
        most: outcomes after which the consumer closes the iterator; `None` for all.
        pace: seconds that a consumer takes for an outcome, one of these.
        delivered: the outcomes: an output or an error by the place of its input, in the order of delivery.
        outcomes: for a method that gives them.
        limit: the limit of spending or time that ended the run, as its result says.
        end: `returned`, `cancelled`, `closed`, or `raised`.
        error: the error that was raised.
        began: the moment of the call.
        ended: the moment of its end.
    """

    name: str
    way: str
    numbers: list[int]
    config: dict[str, Any]
    source: str = "list"
    broken_at: int | None = None
    begins: float = 0.0
    cancelled_at: float | None = None
    stopped_at: float | None = None
    most: int | None = None
    pace: tuple[float, ...] = (0.0,)
    delivered: list[tuple[int, Any]] = field(default_factory=list)
    outcomes: list[Outcome[Any]] = field(default_factory=list)
    limit: Exception | None = None
    end: str = ""
    error: Exception | None = None
    began: float = 0.0
    ended: float = 0.0

    @property
    def values(self) -> list[str]:
        return [f"{self.name}{place}:{number}" for place, number in enumerate(self.numbers)]

    def describe(self) -> str:
        given = {
            key: value
            for key, value in vars(self).items()
            if key not in ("delivered", "outcomes", "began", "ended", "end", "error", "limit")
            and value is not None
        }
        return str(given)


class Watched(httpx.AsyncBaseTransport):
    """Record the requests that reach a provider, as leaves of the client that they are of."""

    def __init__(self, inner: Any, history: History) -> None:
        self._inner = inner
        self._history = history
        self.endpoint = inner.endpoint

    def __batchrt_endpoint__(self) -> object:
        return self.endpoint

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        key = key_of(json.loads(await request.aread()))
        with self._history.at_work("request", key):
            response: httpx.Response = await self._inner.handle_async_request(request)
            # Read here, so that the request is at work until its answer is complete.
            body = await response.aread()
            self._bill(key, body)
        return httpx.Response(response.status_code, headers=response.headers, content=body, request=request)

    def _bill(self, key: str, body: bytes) -> None:
        with suppress(ValueError, TypeError, KeyError):
            self._history.billed[client_of(key)] += json.loads(body)["usage"]["total_tokens"]


def key_of(body: Any) -> str:
    """Return the key of the item that a request is of, or of the first of its list."""
    text = body["messages"][-1]["content"] if "messages" in body else body["input"]
    return number_of(text if isinstance(text, str) else text[0])[0]


class Simulation:
    """Draw all of a simulation from one seed, and run it.

    Attributes:
        world: what its leaves share.
        node: the chain with its oracle.
        clients: those that call it.
        provider: the mock provider; `None` for a chain without requests.
        left: what was still there after the end; empty if all is well.
        later: the events after the end.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        dice = Dice(seed)
        self.world = World(seed)
        self.provider = self._draw_provider(dice) if dice.chance(0.45) else None
        if self.provider is not None:
            self._draw_models(dice, self.provider)
        self.node: Node = random_chain(self.world, dice)
        count = dice.one_of([1, 1, 1, 2, 3])
        self.clients: list[Client] = [self._draw_client(dice, name) for name in "abc"[:count]]
        self.left: list[str] = []
        self.later: list[str] = []
        self._steps = 0
        self._scope: anyio.CancelScope | None = None
        self._task: asyncio.Task[Any] | None = None
        self._is_cut_natively = False

    @property
    def history(self) -> History:
        return self.world.history

    def describe(self) -> str:
        """Return all that was drawn."""
        lines = [f"seed {self.seed}: {self.node.text}"]
        if self.provider is not None:
            lines.append(f"provider: {self._drawn}")
        return "\n".join([*lines, *(client.describe() for client in self.clients)])

    # Drawing

    def _draw_provider(self, dice: Dice) -> MockProvider:
        options: dict[str, Any] = {"latency": dice.one_of([0.0, 0.1, LogNormal(0.5, 0.7)])}
        trouble = dice.one_of(["none", "none", "faults", "limits", "queue", "outage", "all"])
        faults = ""
        if trouble in ("faults", "all"):
            rate, permanent = dice.one_of([0.05, 0.3]), dice.chance(0.3)
            faults = f"{rate:g} of them{', also permanent ones' if permanent else ''}"
            options["faults"] = FaultPlan.everything(rate, seed=self.seed, permanent=permanent, lists=True)
        if trouble in ("limits", "all"):
            options["rate_limits"] = self._draw_limits(dice)
        if trouble in ("queue", "all"):
            options["queueing"] = Queueing(
                capacity=[(0, 10), (2, 1)] if dice.chance(0.5) else 2,
                max_waiting=dice.one_of([None, 3]),
                full_status=429,
            )
        if trouble in ("outage", "all"):
            start, seconds = dice.one_of([0.0, 0.5, 3.0]), dice.one_of([0.3, 5.0, 60.0])
            kind: Any = dice.one_of([500, 503, 429, "refused", "hanging"])
            options["outages"] = [Outage(start, start + seconds, kind)]
        self.world.may_fail = trouble not in ("none", "limits")
        self._drawn = {"trouble": trouble, **options, "faults": faults}
        return MockProvider(seed=self.seed, answer=self._answer, dimensions=8, **options)

    def _draw_limits(self, dice: Dice) -> RateLimits:
        per_minute = dice.one_of([60, 600, 6000, [(0, 6000), (3, 120)], [(0, 60), (5, 3000)]])
        given: dict[str, Any] = {"requests_per_minute": per_minute}
        if dice.chance(0.3):
            given = {"max_parallel_requests": dice.one_of([1, 4, [(0, 8), (2, 2)]])}
        return RateLimits(
            burst_seconds=dice.one_of([1, 10, 60]), headers=dice.one_of(["all", "none"]), **given
        )

    def _draw_models(self, dice: Dice, provider: MockProvider) -> None:
        transport = Watched(provider.transport(), self.history)
        given: dict[str, Any] = {"base_url": "http://mock/v1", "api_key": "k", "transport": transport}
        given["timeout"] = dice.one_of([4.0, 60.0, None])
        if not self.world.may_fail:
            given["timeout"] = None
        given["max_retries"] = dice.one_of([0, 2, 5])
        # A refusal that nothing is answered beside costs an attempt.
        self.world.may_fail |= self._drawn["trouble"] == "limits" and given["max_retries"] == 0
        self.world.model = ChatOpenAI("m", **given)
        self.world.embeddings = OpenAIEmbeddings(
            "e", dimensions=8, max_batch_size=dice.one_of([1, 3, 16]), **given
        )

    def _answer(self, body: Any) -> str:
        key, number = number_of(body["messages"][-1]["content"])
        return f"{key}:{number + 7}"

    def _draw_client(self, dice: Dice, name: str) -> Client:
        count = dice.one_of([0, 1, 2, 3, 5, 8, 13, 30])
        config: dict[str, Any] = {"max_concurrency": dice.one_of([1, 2, 3, 7, None, "auto"])}
        if dice.chance(0.2):
            config["timeout"] = dice.one_of([0.05, 0.5, 5.0])
        if dice.chance(0.15):
            config["deadline"] = dice.one_of([0.05, 1.0, 8.0])
        if dice.chance(0.2):
            config["window"] = dice.one_of([1, 2, 5])
        if self.provider is not None and dice.chance(0.15):
            config["max_tokens_total"] = dice.one_of([1, 60, 300])
        client = Client(name, dice.one_of(_WAYS), [dice.number(0, 50) for _ in range(count)], config)
        client.source = dice.one_of(["list", "list", "generator", "async", "slow async"])
        if count and dice.chance(0.08):
            client.source = dice.one_of(["generator", "async", "slow async"])
            client.broken_at = dice.number(0, count - 1)
        client.begins = dice.one_of([0.0, 0.0, 0.0, 0.05, 1.0])
        if dice.chance(0.2):
            client.cancelled_at = dice.one_of([0.0, 0.01, 0.1, 0.5, 2.0, 7.0])
        if client.way.startswith("outcomes") and dice.chance(0.25):
            client.stopped_at = dice.one_of([0.0, 0.05, 0.5, 2.0])
        if client.way not in ("abatch", "abatch fail fast", "arun", "calls"):
            client.pace = dice.one_of([(0.0,), (0.0,), (0.0, 0.2), (1.0,)])
            if dice.chance(0.15):
                client.most = dice.number(0, count)
        return client

    # Running

    def run(self, backend: str, *, cut_at: int | None = None, native: bool = False) -> int:
        """Run it on an event loop, and return the number of steps of tasks during the first client's call.

        Fails where it hangs.

        Args:
            backend: the event loop's.
            cut_at: the step before which the first client's call is cancelled.
            native: cancel by the task, as asyncio's own functions do, and not by the scope.
        """
        self._steps = 0

        def on_step() -> None:
            if self._scope is not None:
                if self._steps == cut_at:
                    self._cut(native=native)
                self._steps += 1

        with all_slots_come_back():
            virtual.run(self._main, backend=backend, seed=self.seed, on_step=on_step)
        return self._steps

    def _cut(self, *, native: bool) -> None:
        client = self.clients[0]
        client.cancelled_at = self.history.now() - client.began
        self.history.note(f"{client.name} is cut")
        if native:
            assert self._task is not None
            self._is_cut_natively = True
            self._task.cancel()
        else:
            assert self._scope is not None
            self._scope.cancel()

    async def _main(self) -> None:
        tasks = len(anyio.get_running_tasks())
        if _asyncio_task() is not None:
            self.history.now = asyncio.get_running_loop().time
        async with anyio.create_task_group() as group:
            for client in self.clients:
                group.start_soon(self._serve, client)
        for name, active in self.history.active.items():
            if active:
                self.left.append(f"{active} leaves of {name}")
        seen = len(self.history.events)
        await anyio.sleep(AFTERWARDS)
        self.later = self.history.events[seen:]
        if len(anyio.get_running_tasks()) != tasks:
            self.left.append(f"tasks: {anyio.get_running_tasks()}")
        if self.provider is not None and self.provider.log.snapshot().in_flight:
            self.left.append("requests at the provider")
        for model in (self.world.model, self.world.embeddings):
            if model is not None and isinstance(model.quota, Quota) and not is_idle(model.quota):
                self.left.append(f"{model.quota.statistics()}")

    async def _serve(self, client: Client) -> None:
        await anyio.sleep(client.begins)
        client.began = anyio.current_time()
        self.history.note(f"{client.name} calls")
        with anyio.CancelScope() as scope:
            if client.cancelled_at is not None:
                scope.deadline = client.began + client.cancelled_at
            if client is self.clients[0]:
                self._scope, self._task = scope, _asyncio_task()
            try:
                await self._call(client)
                client.end = client.end or "returned"
            except Exception as error:
                client.end, client.error = "raised", error
            except anyio.get_cancelled_exc_class():
                client.end = "cancelled"
                if not self._is_cut_natively or client is not self.clients[0]:
                    raise
                assert self._task is not None
                self._task.uncancel()
            finally:
                if client is self.clients[0]:
                    self._scope = None
                client.ended = anyio.current_time()
        if scope.cancelled_caught:
            client.end = "cancelled"
        said = client.end if client.error is None else name_of(client.error)
        self.history.note(f"{client.name} {said}, {len(client.delivered)} delivered")

    async def _call(self, client: Client) -> None:
        inputs, config = self._inputs(client), client.config
        chain: Any = self.node.runnable
        match client.way:
            case "abatch" | "abatch fail fast":
                together = client.way == "abatch"
                outputs = await chain.abatch(inputs, config, return_exceptions=together)
                client.delivered += enumerate(outputs)
            case "arun":
                result = await chain.arun(inputs, config)
                client.outcomes += result
                client.limit = result.ended
                client.delivered += [(one.index, one.error or one.output) for one in client.outcomes]
            case "calls":
                await self._call_singly(client)
            case "iter" | "iter fail fast":
                together = client.way == "iter"
                stream = chain.abatch_iter(inputs, config, return_exceptions=together)
                await self._consume(client, stream, lambda output: (len(client.delivered), output))
            case "completed":
                stream = chain.abatch_as_completed(inputs, config, return_exceptions=True)
                await self._consume(client, stream, lambda pair: pair)
            case "chunks":
                stream = chain.astream_batch(inputs, config, return_exceptions=True)
                try:
                    await self._consume(client, stream, lambda pair: pair)
                finally:
                    client.delivered = _added_up(client.delivered)
            case _:
                await self._iterate(client, chain.arun_iter(inputs, config, ordered=client.way == "outcomes"))

    async def _call_singly(self, client: Client) -> None:
        """Make a call for each input, as a service does for each request."""

        async def one(place: int, value: str) -> None:
            await anyio.sleep(pick([0.0, 0.0, 0.1, 1.0], self.seed, place))
            config = {key: value for key, value in client.config.items() if key != "window"}
            try:
                output: Any = await self.node.runnable.ainvoke(value, config)  # type: ignore[arg-type]
            except Exception as error:
                output = error
            client.delivered.append((place, output))

        async with anyio.create_task_group() as group:
            for place, value in enumerate(client.values):
                group.start_soon(one, place, value)

    async def _iterate(self, client: Client, iterator: Any) -> None:
        failure: Exception | None = None

        async def stop(seconds: float) -> None:
            await anyio.sleep(seconds)
            self.history.note(f"{client.name} stops")
            iterator.stop()

        def place_of(outcome: Outcome[Any]) -> tuple[int, Any]:
            client.outcomes.append(outcome)
            return outcome.index, outcome.error or outcome.output

        async with anyio.create_task_group() as group:
            if client.stopped_at is not None:
                group.start_soon(stop, client.stopped_at)
            try:
                await self._consume(client, iterator, place_of)
            except Exception as error:
                failure = error
            group.cancel_scope.cancel()
        client.limit = iterator.ended
        if failure is not None:
            raise failure

    async def _consume(self, client: Client, stream: Any, pair_of: Any) -> None:
        async with aclosing(stream):
            if client.most == 0:
                client.end = "closed"
                return
            async for given in stream:
                place, output = pair_of(given)
                client.delivered.append((place, output))
                self.history.note(f"{client.name} takes {place}")
                if len(client.delivered) == client.most:
                    client.end = "closed"
                    break
                seconds = pick(client.pace, self.seed, "pace", len(client.delivered))
                if seconds:
                    await anyio.sleep(seconds)

    def _inputs(self, client: Client) -> Any:
        def given() -> Iterator[str]:
            for place, value in enumerate(client.values):
                if place == client.broken_at:
                    raise InputsEnded(place)
                yield value

        async def given_slowly(seconds: float) -> AsyncIterator[str]:
            for value in given():
                await anyio.sleep(pick([0.0, 0.0, seconds], self.seed, "input", value))
                yield value

        if client.source == "list" or client.way == "calls":
            return client.values
        return given() if client.source == "generator" else given_slowly(0.3 * (client.source != "async"))


def _asyncio_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None


def _added_up(chunks: list[tuple[int, Any]]) -> list[tuple[int, Any]]:
    """Return the sum of the chunks of each input, or the error that ended them."""
    sums: dict[int, Any] = {}
    for place, chunk in chunks:
        sums[place] = chunk if isinstance(chunk, Exception) else add_chunks(sums.get(place), chunk)
    return list(sums.items())


def simulate(seed: int, backend: str) -> Simulation:
    """Run one seed and check its history; an AssertionError tells what is wrong, and all that was drawn."""
    from tests.reliability.history_checks import check

    simulation = Simulation(seed)
    try:
        simulation.run(backend)
        check(simulation)
    except BaseException as error:
        error.add_note(f"on {backend}; python -m tests.reliability.simulation --trace {seed}")
        error.add_note(simulation.describe())
        raise
    return simulation


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("seeds", type=int, nargs="?", default=100)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--backend", choices=BACKENDS)
    parser.add_argument("--trace", type=int, metavar="SEED")
    parser.add_argument("--digests", action="store_true", help="print a hash of each history")
    options = parser.parse_args()
    backends = [options.backend] if options.backend else BACKENDS
    if options.trace is not None:
        simulation = Simulation(options.trace)
        sys.stdout.write(f"{simulation.describe()}\n")
        try:
            simulation.run(backends[0])
        finally:
            sys.stdout.write("\n".join(simulation.history.events) + "\n")
        return
    broken = events = 0
    for seed in range(options.first, options.first + options.seeds):
        for backend in backends:
            try:
                simulation = simulate(seed, backend)
            except Exception:
                broken += 1
                sys.stdout.write(f"{seed} {backend}\n{traceback.format_exc()}\n")
                continue
            events += len(simulation.history.events)
            if options.digests:
                sys.stdout.write(f"{seed} {backend} {simulation.history.digest()}\n")
    sys.stdout.write(f"{options.seeds * len(backends)} runs, {events} events, {broken} broken\n")
    sys.exit(broken > 0)


if __name__ == "__main__":
    main()
