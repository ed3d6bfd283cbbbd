"""Random chains of a simulation: trees of runnables, each with its sequential oracle.

A value is a text `key:number`. The key names the item and the part of it (`a3`, `a3.1`), so that each leaf's
seconds, and whether it fails, follow from the value alone.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, Final

import anyio

from batchrt import (
    ChatOpenAI,
    OpenAIEmbeddings,
    RouterRunnable,
    Runnable,
    RunnableBranch,
    RunnableLambda,
    RunnableParallel,
    RunnablePassthrough,
    StrOutputParser,
    chain,
)
from tests.reliability.dice import Dice, pick
from tests.reliability.histories import History

__all__ = ["CLEANUP", "Boom", "Expected", "Node", "World", "number_of", "random_chain"]

CLEANUP: Final = 2.0
"""The most seconds for which a leaf cleans up behind a shield."""

_SECONDS: Final = (0.0, 0.0, 0.001, 0.01, 0.1, 0.1, 0.5, 1.0, 3.0)
_MOST_OUTPUTS: Final = 10_000
"""More outcomes that are right for one item mean that the oracle says nothing."""


class Boom(Exception):
    """The error of a failing leaf."""


@dataclass(frozen=True)
class Expected:
    """The outcomes that are right for one item.

    Attributes:
        outputs: the numbers of which one may come.
        errors: the names of the errors of which one may come.
        work: the seconds of its leaves; `None` if waits of another kind are part of it.
        span: the seconds of its longest line of leaves.
    """

    outputs: frozenset[int]
    errors: frozenset[str] = frozenset()
    work: float | None = 0.0
    span: float = 0.0


Expect = Callable[[str, int], Expected]


@dataclass
class World:
    """What the leaves of a simulation share.

    Attributes:
        seed: of the leaves' seconds.
        history: what they record.
        model: a chat model; `None` for chains without a provider.
        embeddings: likewise.
        may_fail: whether a request may fail for good.
        may_end: whether a limit of spending may refuse a request.
    """

    seed: object
    history: History = field(default_factory=History)
    model: ChatOpenAI | None = None
    embeddings: OpenAIEmbeddings | None = None
    may_fail: bool = False
    may_end: bool = False

    def seconds(self, leaf: str, key: str) -> float:
        return pick(_SECONDS, self.seed, leaf, key)


@dataclass(frozen=True)
class Node:
    """A runnable, its oracle, and its form as text."""

    runnable: Runnable[Any, Any]
    expect: Expect
    text: str

    @property
    def makes_requests(self) -> bool:
        return "request" in self.text or "vector" in self.text


def number_of(value: str) -> tuple[str, int]:
    """Return the key and the number of a value."""
    key, _, number = value.rpartition(":")
    return key, int(number)


def inline(function: Callable[[Any], Any]) -> Runnable[Any, Any]:
    return RunnableLambda(function, inline=True)


def _increased(value: str, by: int = 1) -> str:
    key, number = number_of(value)
    return f"{key}:{number + by}"


class _Growth:
    """Grow a tree until its leaves are used up."""

    def __init__(self, world: World, dice: Dice, leaves: int) -> None:
        self.world = world
        self.dice = dice
        self.left = leaves
        self._names = itertools.count()

    def grow(self) -> Node:
        if self.left <= 1 or self.dice.chance(0.25):
            return self._leaf()
        return self.dice.one_of(
            [
                *(self._sequence, self._sequence, self._sequence, self._parallel, self._assigned),
                *(self._branch, self._each, self._each, self._fallback, self._nested, self._bound),
                *(self._retried, self._router, self._returned),
            ]
        )()

    def _leaf(self) -> Node:
        self.left -= 1
        kinds = [*(self._work, self._work, self._failing, self._careful, self._flaky, self._inline)]
        kinds += [*(self._generator, self._list, self._list, self._list_of_errors)]
        if self.world.model is not None:
            kinds += [self._request] * 5
        if self.world.embeddings is not None:
            kinds += [self._vector] * 3
        return self.dice.one_of(kinds)()

    def _name(self, kind: str) -> str:
        return f"{kind}{next(self._names)}"

    # Leaves

    def _work(self, fails_on: int = 0) -> Node:
        world, name = self.world, self._name("failing" if fails_on else "work")

        async def leaf(value: str) -> str:
            key, number = number_of(value)
            with world.history.at_work(name, key):
                await anyio.sleep(world.seconds(name, key))
                if fails_on and number % fails_on == 0:
                    raise Boom(name)
            return _increased(value)

        def expect(key: str, number: int) -> Expected:
            seconds = world.seconds(name, key)
            if fails_on and number % fails_on == 0:
                return Expected(frozenset(), frozenset([name]), None)
            return Expected(frozenset([number + 1]), work=seconds, span=seconds)

        return Node(RunnableLambda(leaf), expect, f"{name}(%{fails_on})" if fails_on else name)

    def _failing(self) -> Node:
        return self._work(self.dice.one_of([2, 3, 5, 11]))

    def _careful(self) -> Node:
        """A leaf that cleans up behind a shield when it is cancelled."""
        world, name, cleanup = self.world, self._name("careful"), self.dice.one_of([0.0, 0.1, CLEANUP])

        async def leaf(value: str) -> str:
            key, _ = number_of(value)
            with world.history.at_work(name, key):
                try:
                    await anyio.sleep(world.seconds(name, key))
                finally:
                    with anyio.CancelScope(shield=True):
                        await anyio.sleep(cleanup)
            return _increased(value)

        def expect(key: str, number: int) -> Expected:
            seconds = world.seconds(name, key) + cleanup
            return Expected(frozenset([number + 1]), work=seconds, span=seconds)

        return Node(RunnableLambda(leaf), expect, f"{name}({cleanup:g})")

    def _flaky(self) -> Node:
        """A leaf that fails some times with each value, under a retry."""
        world, name = self.world, self._name("flaky")
        failures, attempts = self.dice.number(0, 3), self.dice.number(1, 4)

        async def leaf(value: str) -> str:
            key, _ = number_of(value)
            with world.history.at_work(name, key):
                world.history.attempts[name, value] += 1
                attempt = world.history.attempts[name, value]
                await anyio.sleep(world.seconds(name, key))
                # Each attempt of an outer retry meets as many failures again.
                if (attempt - 1) % (failures + 1) < failures:
                    raise Boom(name)
            return _increased(value)

        def expect(_: str, number: int) -> Expected:
            if failures < attempts:
                return Expected(frozenset([number + 1]), work=None)
            # Attempts that an outer retry makes go on counting, and so one of them may succeed.
            return Expected(frozenset([number + 1]), frozenset([name]), None)

        retried = RunnableLambda(leaf).with_retry(
            stop_after_attempt=attempts, wait_exponential_jitter=self.dice.chance(0.5)
        )
        return Node(retried, expect, f"{name}({failures} of {attempts})")

    def _inline(self) -> Node:
        return Node(inline(_increased), lambda _, number: Expected(frozenset([number + 1])), "inline")

    def _generator(self) -> Node:
        world, name = self.world, self._name("generator")

        @chain
        async def leaf(value: str) -> AsyncIterator[str]:
            key, number = number_of(value)
            for place, piece in enumerate([key, ":", str(number + 1)]):
                with world.history.at_work(name, key):
                    await anyio.sleep(world.seconds(f"{name}/{place}", key))
                yield piece

        def expect(key: str, number: int) -> Expected:
            seconds = sum(world.seconds(f"{name}/{place}", key) for place in range(3))
            return Expected(frozenset([number + 1]), work=seconds, span=seconds)

        return Node(leaf, expect, name)

    def _list(self, *, in_place: bool = False) -> Node:
        """A step that takes lists; a bad item spoils its list, or stands as an error in its place."""
        world, name, dice = self.world, self._name("list"), self.dice
        size, fails_on = dice.one_of([1, 2, 3, 8, None]), dice.one_of([0, 0, 3, 7])

        class Lists(Runnable[str, str]):
            max_batch_size = size
            linger = dice.one_of([None, 0.0, 0.2])

            async def abatch_native(self, values: list[str]) -> list[Any]:
                keys = [number_of(value)[0] for value in values]
                assert 1 <= len(values) <= (size or len(values))
                with world.history.at_work(f"{name}[{len(values)}]", keys[0]):
                    await anyio.sleep(world.seconds(name, keys[0]))
                    bad = [bool(fails_on) and number_of(value)[1] % fails_on == 0 for value in values]
                    if any(bad) and not in_place:
                        raise Boom(name)
                return [
                    Boom(name) if is_bad else _increased(value)
                    for value, is_bad in zip(values, bad, strict=True)
                ]

        def expect(_: str, number: int) -> Expected:
            if fails_on and number % fails_on == 0:
                return Expected(frozenset(), frozenset([name]), None)
            return Expected(frozenset([number + 1]), work=None)

        return Node(Lists(), expect, f"{name}({size}, %{fails_on})")

    def _list_of_errors(self) -> Node:
        return self._list(in_place=True)

    def _request(self) -> Node:
        world = self.world
        assert world.model is not None

        def expect(_: str, number: int) -> Expected:
            errors = frozenset(["ProviderError"] if world.may_fail else ())
            return Expected(frozenset([number + 7]), errors, None)

        return Node(world.model | StrOutputParser(), expect, "request")

    def _vector(self) -> Node:
        world = self.world
        assert world.embeddings is not None

        def expect(_: str, number: int) -> Expected:
            errors = frozenset(["ProviderError"] if world.may_fail else ())
            return Expected(frozenset([number + 2]), errors, None)

        def checked(both: dict[str, Any]) -> str:
            assert len(both["vector"]) == 8
            return _increased(both["value"], 2)

        both: Runnable[Any, Any] = RunnableParallel(value=RunnablePassthrough(), vector=world.embeddings)
        return Node(both | inline(checked), expect, "vector")

    # Compositions

    def _sequence(self) -> Node:
        first, second = self.grow(), self.grow()

        def expect(key: str, number: int) -> Expected:
            return _followed(first.expect(key, number), lambda middle: second.expect(key, middle))

        return Node(first.runnable | second.runnable, expect, f"({first.text} | {second.text})")

    def _parallel(self) -> Node:
        nodes = [self.grow() for _ in range(self.dice.number(2, 3))]
        branches = {f"p{place}": node.runnable for place, node in enumerate(nodes)}

        def add_up(outputs: dict[str, str]) -> str:
            key, _ = number_of(outputs["p0"])
            return f"{key}:{sum(number_of(output)[1] for output in outputs.values())}"

        def expect(key: str, number: int) -> Expected:
            return _side_by_side([node.expect(key, number) for node in nodes])

        text = ", ".join(node.text for node in nodes)
        return Node(RunnableParallel(branches) | inline(add_up), expect, f"parallel({text})")

    def _assigned(self) -> Node:
        first, second = self.grow(), self.grow()

        def add_up(outputs: dict[str, str]) -> str:
            return _increased(outputs["a"], number_of(outputs["b"])[1])

        def expect(key: str, number: int) -> Expected:
            def then(middle: int) -> Expected:
                found = second.expect(key, middle)
                outputs = frozenset(middle + output for output in found.outputs)
                return Expected(outputs, found.errors, found.work, found.span)

            return _followed(first.expect(key, number), then)

        assign = RunnablePassthrough.assign(b=inline(lambda outputs: outputs["a"]) | second.runnable)
        runnable: Runnable[Any, Any] = RunnableParallel(a=first.runnable) | assign | inline(add_up)
        return Node(runnable, expect, f"assign({first.text}, {second.text})")

    def _branch(self) -> Node:
        yes, no = self.grow(), self.grow()
        runnable = RunnableBranch((inline(lambda value: number_of(value)[1] % 2), yes.runnable), no.runnable)

        def expect(key: str, number: int) -> Expected:
            return (yes if number % 2 else no).expect(key, number)

        return Node(runnable, expect, f"branch({yes.text}, {no.text})")

    def _router(self) -> Node:
        nodes = {"even": self.grow(), "odd": self.grow()}
        routes = RouterRunnable({name: node.runnable for name, node in nodes.items()})

        def name(number: int) -> str:
            return "odd" if number % 2 else "even"

        runnable = inline(lambda value: {"key": name(number_of(value)[1]), "input": value}) | routes
        return Node(
            runnable,
            lambda key, number: nodes[name(number)].expect(key, number),
            f"router({nodes['even'].text}, {nodes['odd'].text})",
        )

    def _each(self) -> Node:
        node, count = self.grow(), self.dice.number(0, 4)

        def spread(value: str) -> list[str]:
            key, number = number_of(value)
            return [f"{key}.{place}:{number + place}" for place in range(count)]

        def gather(both: dict[str, Any]) -> str:
            key, _ = number_of(both["value"])
            return f"{key}:{sum(number_of(output)[1] for output in both['parts'])}"

        def expect(key: str, number: int) -> Expected:
            parts = [number_of(value) for value in spread(f"{key}:{number}")]
            return _side_by_side([node.expect(*part) for part in parts])

        parts = inline(spread) | node.runnable.map()
        both: Runnable[Any, Any] = RunnableParallel(value=RunnablePassthrough(), parts=parts)
        runnable = both | inline(gather)
        return Node(runnable, expect, f"each({count} {node.text})")

    def _fallback(self) -> Node:
        first, second = self.grow(), self.grow()

        def expect(key: str, number: int) -> Expected:
            one = first.expect(key, number)
            if not one.errors and not (self.world.may_end and first.makes_requests):
                return one
            other = second.expect(key, number)
            # If all fail, the first error is raised.
            errors = one.errors if other.errors or self.world.may_end else frozenset()
            return Expected(_bounded(one.outputs | other.outputs), errors, None)

        runnable = first.runnable.with_fallbacks([second.runnable])
        return Node(runnable, expect, f"fallback({first.text}, {second.text})")

    def _retried(self) -> Node:
        node, attempts = self.grow(), self.dice.number(1, 3)

        def expect(key: str, number: int) -> Expected:
            found = node.expect(key, number)
            return Expected(found.outputs, found.errors, None if found.errors else found.work, found.span)

        runnable = node.runnable.with_retry(stop_after_attempt=attempts)
        return Node(runnable, expect, f"retry({attempts} {node.text})")

    def _nested(self) -> Node:
        """A function that batches by itself, on the run's slots or on fewer of its own."""
        world, name, node = self.world, self._name("nested"), self.grow()
        count, cap = self.dice.number(0, 3), self.dice.one_of([None, None, 1, 2])
        alone = self.dice.chance(0.3)

        async def leaf(value: str) -> str:
            key, number = number_of(value)
            with world.history.at_work(name, key):
                await anyio.sleep(world.seconds(name, key))
            if alone:
                return str(await node.runnable.ainvoke(value))
            values = [f"{key}.{place}:{number + place}" for place in range(count)]
            outputs = await node.runnable.abatch(values, {} if cap is None else {"max_concurrency": cap})
            with world.history.at_work(name, key):
                await anyio.sleep(0.001)
            return f"{key}:{sum(number_of(output)[1] for output in outputs)}"

        def expect(key: str, number: int) -> Expected:
            keys = [(f"{key}.{place}", number + place) for place in range(count)]
            parts = [node.expect(key, number)] if alone else [node.expect(*part) for part in keys]
            found = _side_by_side(parts)
            return Expected(found.outputs, found.errors, None)

        text = f"{name}({'ainvoke' if alone else f'{count}, cap {cap}'} {node.text})"
        return Node(RunnableLambda(leaf), expect, text)

    def _bound(self) -> Node:
        """A part under limits of its own."""
        node, cap = self.grow(), self.dice.one_of([None, 1, 2])
        timeout = self.dice.one_of([None, 0.3, 1000.0])
        config: Any = {"tags": ["t"]}
        config |= {} if cap is None else {"max_concurrency": cap}
        config |= {} if timeout is None else {"timeout": timeout}

        def expect(key: str, number: int) -> Expected:
            found = node.expect(key, number)
            late = frozenset(["ItemTimeoutError"] if timeout == 0.3 else ())
            free = cap is None and timeout is None
            return Expected(found.outputs, found.errors | late, found.work if free else None, found.span)

        return Node(node.runnable.with_config(**config), expect, f"bound({cap}, {timeout} {node.text})")

    def _returned(self) -> Node:
        """A function that returns a runnable, which is run in its place."""
        world, name, node = self.world, self._name("returned"), self.grow()

        async def leaf(value: str) -> Any:
            with world.history.at_work(name, number_of(value)[0]):
                await anyio.sleep(0.001)
            return node.runnable

        def expect(key: str, number: int) -> Expected:
            found = node.expect(key, number)
            return Expected(found.outputs, found.errors, None)

        return Node(RunnableLambda(leaf), expect, f"returned({node.text})")


def _bounded(outputs: frozenset[int]) -> frozenset[int]:
    assert len(outputs) <= _MOST_OUTPUTS
    return outputs


def _followed(first: Expected, then: Callable[[int], Expected]) -> Expected:
    """Return the expected outcomes of two steps, the second of which takes the output of the first."""
    following = [then(output) for output in sorted(first.outputs)]
    outputs = frozenset().union(*(found.outputs for found in following))
    errors = first.errors.union(*(found.errors for found in following))
    work = _sum_of([first.work, *(found.work for found in following)])
    return Expected(_bounded(outputs), errors, work, first.span + sum(found.span for found in following))


def _side_by_side(parts: list[Expected]) -> Expected:
    """Return the expected outcomes of branches whose numbers are added up."""
    sums = frozenset([0])
    for part in parts:
        sums = frozenset(one + other for one in sums for other in part.outputs)
    errors = frozenset[str]().union(*(part.errors for part in parts))
    work = _sum_of([part.work for part in parts])
    return Expected(_bounded(sums), errors, work, max((part.span for part in parts), default=0.0))


def _sum_of(works: list[float | None]) -> float | None:
    return None if None in works else sum(work for work in works if work is not None)


def random_chain(world: World, dice: Dice) -> Node:
    """Draw a chain of up to eight leaves."""
    return _Growth(world, dice, dice.number(1, 8)).grow()
