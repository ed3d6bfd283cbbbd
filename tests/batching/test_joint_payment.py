"""What runs may spend where their items share lists: each pays for its own, up to its own limit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import anyio
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrt import (
    BadRequestError,
    ChatOpenAI,
    MalformedResponseError,
    OpenAIEmbeddings,
    Price,
    Quota,
    Runnable,
    RunnableLambda,
    RunnableParallel,
    SpendingLimitError,
)
from batchrt.batching.joint_payment import paid_jointly
from batchrt.batching.list_call import ListCall
from batchrt.config import RunConfig
from batchrt.runtime.item import Item
from batchrt.runtime.run import Run
from batchrt.runtime.slots import Slots
from batchrt.runtime.spending import Payer, Spending
from batchrt.runtime.strand import Strand, current_strand
from tests.limits.quotas import BACKENDS, virtually
from tests.providers.http.replies import chat_body

on_both = pytest.mark.parametrize("backend", BACKENDS)
shared_or_not = pytest.mark.parametrize("share", [False, True])


def config(**keys: Any) -> Any:
    return keys


class Server:
    """Embed texts after a second, and bill a token for four bytes of the body, as is expected.

    Attributes:
        lists: the texts of each request that was answered.
        billed: the tokens of each.
    """

    def __init__(self, seconds: float = 1.0) -> None:
        self.lists: list[list[str]] = []
        self.billed: list[int] = []
        self.seconds = seconds

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        await anyio.sleep(self.seconds)
        texts = json.loads(request.content)["input"]
        texts = texts if isinstance(texts, list) else [texts]
        if any("bad" in text for text in texts):
            return httpx.Response(400, json={"error": {"message": "no", "param": "input"}})
        self.lists.append(texts)
        self.billed.append(round(len(request.content) / 4))
        usage = {"prompt_tokens": self.billed[-1], "total_tokens": self.billed[-1]}
        data = [{"index": index, "embedding": self.vector(text)} for index, text in enumerate(texts)]
        return httpx.Response(200, json={"data": data, "usage": usage})

    def vector(self, text: str) -> Any:
        return [float(len(text)), 1.0]

    def sent(self, name: str) -> int:
        """Return how many texts were sent that begin with `name`."""
        return sum(text.startswith(name) for texts in self.lists for text in texts)

    def model(self, **options: Any) -> OpenAIEmbeddings:
        given = {"base_url": "http://mock/v1", "api_key": "k", "encoding_format": "float", **options}
        return OpenAIEmbeddings("m", transport=httpx.MockTransport(self), **given)


def text(name: str, index: int = 0, *, tokens: int = 100) -> str:
    """Return a text of about so many tokens."""
    return f"{name}{index}-".ljust(4 * tokens, "x")


@contextmanager
def budgets() -> Iterator[dict[str, Spending]]:
    """Record what runs spend, by the `run_name` of those that have a limit."""
    found: dict[str, Spending] = {}
    original = Spending.of

    def of(config: RunConfig, above: Payer | None) -> Payer | None:
        spending = original(config, above)
        if isinstance(spending, Spending) and spending is not above:
            found[config.get("run_name", "")] = spending
        return spending

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Spending, "of", of)
        yield found


async def outcome(model: OpenAIEmbeddings, texts: list[str], **keys: Any) -> str:
    """Run `texts` and say how that ended."""
    try:
        await model.abatch(texts, config(**keys))
    except Exception as error:
        return type(error).__name__
    return "finished"


@dataclass(eq=False)
class Paid:
    """A value and its budget."""

    value: str
    spending: Payer | None
    cost: float = 1.0


async def ended_budget() -> Spending:
    spending = Spending(10, None, None)
    strand = strand_of(Slots(None))
    with pytest.raises(SpendingLimitError):
        await spending.reserve("m", lambda: (20, 0, True), strand)
    return spending


def strand_of(slots: Slots) -> Strand:
    return Strand(Run(slots), Item(0), {}, slots)


@pytest.mark.parametrize("kind", ["budget", "other"])
def test_joint_payment_only_an_error_of_a_budget_is_that_of_its_values(kind: str) -> None:
    """The others are sent again without them; any other failure is that of the list."""
    lists: list[list[str]] = []

    async def main() -> None:
        broke, rich = await ended_budget(), Spending(1000, None, None)
        assert broke.ended is not None
        error: Exception = broke.ended.again() if kind == "budget" else ValueError()

        async def call(values: list[str], strand: Strand) -> list[str]:
            lists.append(values)
            if "a" in values:
                raise error
            return [value.upper() for value in values]

        joined = paid_jointly(ListCall(name="call", call=call))
        values = [Paid("b", rich), Paid("a", broke), Paid("c", None)]
        if kind == "other":
            with pytest.raises(ValueError):
                await joined.call(values, strand_of(Slots(1)))
        else:
            results = await joined.call(values, strand_of(Slots(1)))
            assert [results[0], results[2]] == ["B", "C"]
            assert isinstance(results[1], SpendingLimitError)

    virtually("trio", main)
    assert lists == [["b", "a", "c"], ["b", "c"]][: 2 if kind == "budget" else 1]


@shared_or_not
@on_both
def test_joint_payment_a_limit_holds_for_shared_lists(backend: str, share: bool) -> None:
    """Whether lists of others could join or not."""
    server = Server()

    async def main() -> None:
        model = server.model(share_lists=share, max_batch_size=1)
        texts = [text("t", index) for index in range(20)]
        assert await outcome(model, texts, max_tokens_total=590, max_concurrency=1) == "SpendingLimitError"
        assert len(server.lists) == 5

    virtually(backend, main)


@shared_or_not
@pytest.mark.parametrize("size", [1, 4, 100])
@on_both
def test_joint_payment_limits_of_runs_that_meet_at_a_step_are_their_own(
    backend: str, size: int, share: bool
) -> None:
    """Neither the first comer's nor the last comer's holds for the other, and each is charged for its own."""
    for limited in (0, 1):
        server = Server()
        model = server.model(share_lists=share, max_batch_size=size)

        async def nested(k: int) -> str:
            await anyio.sleep(0.001 * k)
            keys = {"max_tokens_total": 500, "run_name": "limited"} if k == limited else {}  # noqa: B023
            return await outcome(model, [text(f"{k}-", index) for index in range(10)], **keys)  # noqa: B023

        async def main() -> None:
            with budgets() as spent:
                ends = await RunnableLambda(nested).abatch([0, 1], config(max_concurrency=3))
            assert ends[limited] == "SpendingLimitError"  # noqa: B023
            assert ends[1 - limited] == "finished"  # noqa: B023
            own = server.sent(f"{limited}-")  # noqa: B023
            assert own <= 5
            assert spent["limited"].tokens == pytest.approx(110 * own, rel=0.1)

        virtually(backend, main)


@on_both
def test_joint_payment_runs_of_a_service_share_a_list_and_its_cost(backend: str) -> None:
    """One request for all of them; each is charged by its items, and the limit of one is not another's."""
    server = Server()

    async def main() -> None:
        model = server.model(share_lists=True)
        ends: dict[str, str] = {}

        async def request(name: str, tokens: int, **keys: Any) -> None:
            ends[name] = await outcome(model, [text(name, tokens=tokens)], run_name=name, **keys)

        with budgets() as spent:
            async with anyio.create_task_group() as group:
                group.start_soon(lambda: request("large", 300, max_tokens_total=1000))
                group.start_soon(lambda: request("small", 100, max_cost=1000, prices=Price(1e6)))
                group.start_soon(lambda: request("free", 200))
        assert set(ends.values()) == {"finished"}
        assert len(server.lists) == 1
        assert spent["large"].tokens == pytest.approx(server.billed[0] * 3 / 6, rel=0.02)
        assert spent["small"].cost == pytest.approx(server.billed[0] / 6, rel=0.02)
        with budgets():
            async with anyio.create_task_group() as group:
                group.start_soon(lambda: request("poor", 300, max_tokens_total=50))
                group.start_soon(lambda: request("priceless", 300, max_cost=50, prices={"other": Price(1)}))
                group.start_soon(lambda: request("rich", 200, max_tokens_total=1000))
        assert ends["poor"] == "SpendingLimitError"
        assert ends["priceless"] == "ValueError"
        assert ends["rich"] == "finished"
        assert (server.sent("poor"), server.sent("priceless"), server.sent("rich")) == (0, 0, 1)

    virtually(backend, main)


@shared_or_not
@on_both
def test_joint_payment_a_list_that_is_halved_is_still_paid_by_its_items(backend: str, share: bool) -> None:
    """The guilty item's run pays nothing for what was refused, and the others for what was answered."""
    server = Server()

    async def main() -> None:
        model = server.model(share_lists=share)

        async def nested(name: str) -> list[Any]:
            texts = [text(name, index) for index in range(5)]
            keys = config(max_tokens_total=1000, run_name=name)
            return await model.abatch([*texts, f"{name} bad"], keys, return_exceptions=True)

        with budgets() as spent:
            results = await RunnableLambda(nested).abatch(["a", "b"])
        for result in results:
            assert isinstance(result.pop(), BadRequestError)
            assert not any(isinstance(output, Exception) for output in result)
        assert spent["a"].tokens + spent["b"].tokens == pytest.approx(sum(server.billed))
        assert spent["a"].tokens == pytest.approx(spent["b"].tokens, rel=0.1)

    virtually(backend, main)


@on_both
def test_joint_payment_a_request_that_is_sent_again_is_paid_by_the_item_that_was_broken(backend: str) -> None:
    """A vector that is broken is asked for once more, and its run pays; if it may not, no more is lost."""

    class Broken(Server):
        def vector(self, text: str) -> Any:
            return ["x"] if text.startswith("b") and len(self.lists) % 2 else super().vector(text)

    server = Broken()

    async def main() -> None:
        model = server.model()

        async def nested(name: str) -> list[Any]:
            keys = config(max_tokens_total=250 if name in {"b", "a"} else 150, run_name=name)
            return await model.abatch([text(name)], keys, return_exceptions=True)

        with budgets() as spent:
            assert await RunnableLambda(nested).abatch(["a", "b"]) == [[[400.0, 1.0]], [[400.0, 1.0]]]
            assert spent["a"].tokens == pytest.approx(server.billed[0] / 2)
            assert spent["b"].tokens == pytest.approx(server.billed[0] / 2 + server.billed[1])
            (good,), (broken,) = await RunnableLambda(nested).abatch(["a", "bb"])
        assert good == [400.0, 1.0]
        assert isinstance(broken, MalformedResponseError)
        assert len(server.lists) == 3

    virtually(backend, main)


@on_both
def test_joint_payment_equal_texts_of_runs_that_do_not_pay_together_are_not_each_others(backend: str) -> None:
    """The limit that one of them meets leaves the other its vector."""
    server = Server()

    async def main() -> None:
        model = server.model()

        async def nested(limit: int | None) -> str:
            return await outcome(model, [text("same")], max_tokens_total=limit)

        assert await RunnableLambda(nested).abatch([50, None, None, 60, 200]) == [
            "SpendingLimitError",
            "finished",
            "finished",
            "SpendingLimitError",
            "finished",
        ]
        assert server.sent("same") == 2

    virtually(backend, main)


@on_both
def test_joint_payment_a_shared_list_does_not_hold_the_slot_that_its_budget_waits_for(backend: str) -> None:
    """What is under way needs the run's slot to be settled, and so the list gives it up: no deadlock."""
    server, asked = Server(), 0

    async def ask(request: httpx.Request) -> httpx.Response:
        nonlocal asked
        asked += 1
        await anyio.sleep(1)
        output = 3 if asked > 1 else 100
        usage = {"prompt_tokens": 9, "completion_tokens": output, "total_tokens": 9 + output}
        return httpx.Response(200, json={**chat_body(), "usage": usage})

    async def main() -> None:
        talk = ChatOpenAI(
            "c",
            base_url="http://mock/v1",
            api_key="k",
            transport=httpx.MockTransport(ask),
            quota=Quota(requests_per_minute=6, burst_seconds=1),
        )
        await talk.ainvoke("what others will cost, too")
        both: Runnable[str, Any] = RunnableParallel({"talk": talk, "vector": server.model(share_lists=True)})
        # The question waits for its quota, with tokens set aside and without the slot, which the list has.
        keys = config(max_tokens_total=115, max_concurrency=1)
        assert len(await both.abatch(["hi"], keys)) == 1
        assert server.sent("hi") == 1

    virtually(backend, main)


@shared_or_not
@on_both
def test_joint_payment_work_nested_in_a_list_call_is_paid_by_its_items_too(backend: str, share: bool) -> None:
    """A step of the user's that takes lists and asks a model for each."""
    server = Server()

    async def main() -> None:
        model = server.model(max_batch_size=1)

        class Each(Runnable[str, Any]):
            share_lists = share

            async def abatch_native(self, inputs: list[str]) -> list[Any]:
                assert current_strand() is not None
                return await model.abatch(inputs)

        each = Each()

        async def nested(k: int) -> str:
            keys: Any = config(max_tokens_total=250) if k else {}
            try:
                await each.abatch([text(f"{k}-", index) for index in range(4)], keys)
            except SpendingLimitError:
                return "limit"
            return "finished"

        assert await RunnableLambda(nested).abatch([0, 1]) == ["finished", "limit"]
        assert server.sent("1-") <= 4  # the half of each list that its budget does not pay for is not its own

    virtually(backend, main)


@shared_or_not
@on_both
def test_joint_payment_a_run_that_has_ended_does_not_end_those_it_meets(backend: str, share: bool) -> None:
    """What it had under way comes to the list when its limit has been reached already."""
    server = Server()

    async def main() -> None:
        model = server.model(max_batch_size=1)

        class Each(Runnable[str, Any]):
            share_lists = share

            async def abatch_native(self, inputs: list[str]) -> list[Any]:
                return await model.abatch(inputs)

        async def come(value: str) -> str:
            await anyio.sleep(10 * value.startswith("late"))
            return value

        chain = RunnableLambda(come) | Each()

        async def nested(k: int) -> Any:
            inputs = [text("early"), text("late-a")] if k else [text("late-b")]
            limit = config(max_tokens_total=50 if k else None)
            return await chain.abatch(inputs, limit, return_exceptions=True)

        (free,), limited = await RunnableLambda(nested).abatch([0, 1])
        assert free == [400.0, 1.0]
        assert all(isinstance(output, SpendingLimitError) for output in limited)
        assert (server.sent("late-b"), server.sent("late-a")) == (1, 0)

    virtually(backend, main)


@on_both
def test_joint_payment_a_run_that_begins_when_the_one_around_it_has_ended_says_so(backend: str) -> None:
    """It does nothing, which is no empty list of outputs."""
    server = Server()

    async def main() -> None:
        model = server.model()
        ways: list[Any] = [
            lambda: model.abatch([text("a")]),
            lambda: model.abatch([text("a")], return_exceptions=True),
            lambda: RunnableLambda(model.ainvoke).abatch(text("a") for _ in range(3)),
            lambda: model.ainvoke(text("a")),
            lambda: anext(model.abatch_iter([text("a")])),
        ]

        async def nested(way: int) -> Any:
            await anyio.sleep(way)
            return await ways[way]()

        keys = config(max_tokens_total=50)
        outputs = await RunnableLambda(nested).abatch(range(len(ways)), keys, return_exceptions=True)
        unwrapped = [output[0] if isinstance(output, list) else output for output in outputs]
        assert [type(output) for output in unwrapped] == [SpendingLimitError] * len(ways)
        assert await RunnableLambda(lambda _: None, same).abatch([], keys) == []
        assert not server.lists

    virtually(backend, main)


async def same(value: Any) -> Any:
    return value


# Whatever runs meet


class Wrapped(Runnable[str, Any]):
    """Take lists, and hand them on to `step`."""

    def __init__(self, step: Runnable[str, Any], *, share: bool) -> None:
        self.share_lists = share
        self._wrapped = step

    async def abatch_native(self, inputs: list[str]) -> list[Any]:
        return await self._wrapped.abatch(inputs)


class Plan(NamedTuple):
    """Say what one run does.

    Attributes:
        limit: tokens that it may spend.
        sizes: the tokens of its texts; 0 for one that is refused.
        delay: seconds until it begins.
        cap: how many of its requests may be under way.
        singly: each text is a call of its own within the run.
    """

    limit: int | None
    sizes: list[int]
    delay: float
    cap: int | None
    singly: bool


PLANS = st.lists(
    st.builds(
        Plan,
        limit=st.one_of(st.none(), st.integers(1, 800)),
        sizes=st.lists(st.sampled_from([0, 20, 50, 200]), min_size=1, max_size=6),
        delay=st.sampled_from([0.0, 0.0, 0.002, 0.7]),
        cap=st.sampled_from([None, 1, 2]),
        singly=st.booleans(),
    ),
    min_size=1,
    max_size=5,
)


@given(
    PLANS,
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.sampled_from([1, 3, 100]),
    st.sampled_from([None, 1, 2]),
    st.sampled_from(BACKENDS),
)
def test_joint_payment_whatever_runs_meet_each_keeps_to_its_own_limit(
    plans: list[Plan], share: bool, nested: bool, wrapped: bool, size: int, cap: int | None, backend: str
) -> None:
    """No run spends beyond its limit, none is held to another's, what is billed is charged, and all ends."""
    server = Server()

    async def main() -> None:
        model: Runnable[str, Any] = server.model(share_lists=share, max_batch_size=size)
        if wrapped:
            model = Wrapped(model, share=share)
        results: dict[int, list[Any]] = {}

        async def single(text: str) -> Any:
            return await model.ainvoke(text)

        async def carry_out(place: int) -> None:
            plan = plans[place]
            await anyio.sleep(plan.delay)
            texts = [text(f"{place}-", index, tokens=size) for index, size in enumerate(plan.sizes)]
            texts = [
                each if tokens else f"{place} bad" for each, tokens in zip(texts, plan.sizes, strict=True)
            ]
            keys = config(run_name=str(place), max_tokens_total=plan.limit, max_concurrency=plan.cap)
            step: Runnable[str, Any] = RunnableLambda(single) if plan.singly else model
            results[place] = list(await step.abatch(texts, keys, return_exceptions=True))

        with budgets() as spent:
            if nested:
                await RunnableLambda(carry_out).abatch(range(len(plans)), config(max_concurrency=cap))
            else:
                async with anyio.create_task_group() as group:
                    for place in range(len(plans)):
                        group.start_soon(carry_out, place)
        for place, plan in enumerate(plans):
            for output, tokens in zip(results[place], plan.sizes, strict=True):
                if isinstance(output, SpendingLimitError):
                    assert plan.limit is not None, "another run's limit"
                elif not tokens:
                    assert isinstance(output, BadRequestError)
                else:
                    assert isinstance(output, list)
            if plan.limit is not None:
                own = spent[str(place)]
                assert own.tokens <= plan.limit + 2 * len(plan.sizes), "rounding apart"
                assert not own._under_way
                assert not own._waiting
        # What is cancelled beside an error in a list call of the user's is charged as it was expected.
        if all(plan.limit is not None for plan in plans) and not wrapped:
            assert sum(each.tokens for each in spent.values()) == pytest.approx(sum(server.billed))

    virtually(backend, main)
