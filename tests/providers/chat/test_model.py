"""ChatOpenAI: a runnable that asks, asks again where that helps, and keeps the books."""

from __future__ import annotations

import gc
import json
import traceback
import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import CodeType, CoroutineType, GeneratorType
from typing import Any

import anyio
import httpx
import pytest
import respx

import batchrt
from batchrt.errors import (
    AuthenticationError,
    BadRequestError,
    ConnectionFailedError,
    ContextLengthError,
    ItemTimeoutError,
    MalformedResponseError,
    ProviderError,
    QuotaExhaustedError,
    RateLimitError,
    RequestTimeoutError,
    ServerError,
)
from batchrt.messages import AIMessage, HumanMessage, SystemMessage, Usage
from batchrt.providers.chat.model import ChatOpenAI
from batchrt.runnables.base import Runnable
from batchrt.runnables.chat_prompts import ChatPromptTemplate
from batchrt.runnables.parsers import StrOutputParser
from batchrt.runtime.step import Step
from batchrt.testing import Fault, FaultPlan, MockProvider
from tests import virtual
from tests.providers.http.raw import Connection, HangUp, raw_server
from tests.providers.http.replies import chat_body

pytestmark = pytest.mark.anyio

Answers = Callable[[httpx.Request], httpx.Response]


def chat(answers: Answers | httpx.AsyncBaseTransport, **options: Any) -> ChatOpenAI:
    """Return a model behind `answers`."""
    transport = httpx.MockTransport(answers) if callable(answers) else answers
    return ChatOpenAI("m", base_url="http://mock/v1", api_key="k", transport=transport, **options)


def always(body: Any = None, status: int = 200, **headers: str) -> Answers:
    """Answer every request the same."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda _: httpx.Response(status, json=body or chat_body(), headers=named)


def in_turn(*responses: httpx.Response | Exception) -> Answers:
    """Answer one request after the other, then properly."""
    left: Iterator[httpx.Response | Exception] = iter(responses)

    def handle(_: httpx.Request) -> httpx.Response:
        response = next(left, None)
        if isinstance(response, Exception):
            raise response
        return response or httpx.Response(200, json=chat_body())

    return handle


def on_mock_clock(function: Callable[[], Any]) -> tuple[Any, float]:
    """Run an async function on virtual time; return its result and the seconds it took."""

    async def main() -> tuple[Any, float]:
        start = anyio.current_time()
        return await function(), anyio.current_time() - start

    return virtual.run(main)


async def test_chat_model_answer_is_a_message() -> None:
    """With everything that the provider sent about it."""
    message = await chat(always(x_request_id="req_1")).ainvoke("hi")
    assert message == AIMessage(
        "hello", finish_reason="stop", usage=Usage(9, 3, 12), model="gpt-x-2025", request_id="req_1"
    )


async def test_chat_model_request_is_as_the_api_documents() -> None:
    """Options under their own names, and no others."""
    seen: list[Any] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append((request.method, request.url.path, json.loads(request.content)))
        return httpx.Response(200, json=chat_body())

    await chat(handle).ainvoke("hi")
    model = chat(
        handle,
        temperature=0,
        top_p=0.5,
        max_completion_tokens=5,
        max_tokens=6,
        stop=["x"],
        seed=1,
        frequency_penalty=0.1,
        presence_penalty=-0.1,
        reasoning_effort="low",
        extra_body={"top_k": 5, "seed": 2},
    )
    await model.ainvoke([SystemMessage("s"), HumanMessage("hi")])
    user = {"role": "user", "content": "hi"}
    assert seen[0] == ("POST", "/v1/chat/completions", {"model": "m", "messages": [user]})
    assert seen[1][2] == {
        "model": "m", "temperature": 0, "top_p": 0.5, "max_completion_tokens": 5, "max_tokens": 6,
        "stop": ["x"], "seed": 2, "frequency_penalty": 0.1, "presence_penalty": -0.1,
        "reasoning_effort": "low", "top_k": 5,
        "messages": [{"role": "system", "content": "s"}, user],
    }  # fmt: skip


async def test_chat_model_bound_options_override() -> None:
    """For their part of the chain; None removes an option."""
    seen: list[dict[str, Any]] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(json.loads(request.content))
        return httpx.Response(200, json=chat_body())

    model = chat(handle, temperature=1, seed=5, extra_body={"a": 1})
    await model.bind(temperature=0, seed=None, stop="x", tools=[], extra_body={"b": 2}).ainvoke("")
    await model.ainvoke("")
    assert {**seen[0], "messages": None} == {
        "model": "m", "temperature": 0, "stop": "x", "tools": [], "a": 1, "b": 2, "messages": None
    }  # fmt: skip
    assert {**seen[1], "messages": None} == {
        "model": "m", "temperature": 1, "seed": 5, "a": 1, "messages": None
    }  # fmt: skip
    with pytest.raises(ValueError, match="temperature must be from 0 to 2"):
        await model.bind(temperature=5).ainvoke("")


async def test_chat_model_takes_a_prompts_value() -> None:
    """Straight from a prompt, twenty at a time."""
    chain = ChatPromptTemplate.from_messages([("system", "s"), ("human", "{x}")]) | chat(
        lambda request: httpx.Response(
            200, json=chat_body(json.loads(request.content)["messages"][1]["content"])
        )
    )
    outputs = await chain.abatch([{"x": str(i)} for i in range(20)], {"max_concurrency": 3})
    assert [message.text for message in outputs] == [str(i) for i in range(20)]


def test_chat_model_is_shared_by_sync_batches_and_several_loops() -> None:
    """Connections belong to a loop, the model does not."""
    provider = MockProvider()
    model = ChatOpenAI("m", base_url="http://mock/v1", transport=provider.transport())
    first = model.batch(["a", "b"])
    assert [m.text for m in model.batch(["a", "b"])] == [m.text for m in first]
    for backend in ("asyncio", "trio", "asyncio"):
        message = anyio.run(model.ainvoke, "a", backend=backend)
        assert message.text == first[0].text


# Again


SOFT = [
    httpx.Response(408),
    httpx.Response(409),
    httpx.Response(429, json={"error": {"message": "slow", "code": "rate_limit_exceeded"}}),
    httpx.Response(500),
    httpx.Response(503, headers={"retry-after": "0"}),
    httpx.Response(200, content=b'{"choices": [{"mess'),
    httpx.Response(200, json={"choices": []}),
    httpx.Response(200, json={"error": {"message": "busy", "code": 503}}),
    httpx.Response(400, headers={"x-should-retry": "true"}),
    httpx.ConnectError("refused"),
    httpx.ReadError("reset"),
    httpx.RemoteProtocolError("gone"),
    httpx.ReadTimeout("slow"),
    httpx.ConnectTimeout("slow"),
]


@pytest.mark.parametrize("failure", SOFT, ids=repr)
def test_chat_model_retries_transient_failures(failure: Any) -> None:
    """Two failures, then the answer; half a second, then a second, less up to a quarter."""

    async def main() -> Any:
        return await chat(in_turn(failure, failure)).arun(["hi"])

    result, seconds = on_mock_clock(main)
    assert result.outputs[0].text == "hello"
    assert result.outcomes[0].attempts == 3
    assert 1.125 <= seconds <= 1.5


HARD = [
    (401, {}, AuthenticationError),
    (400, {}, BadRequestError),
    (404, {}, BadRequestError),
    (400, {"error": {"message": "x", "code": "context_length_exceeded"}}, ContextLengthError),
    (429, {"error": {"message": "x", "code": "insufficient_quota"}}, QuotaExhaustedError),
    (307, {}, BadRequestError),
]


@pytest.mark.parametrize(("status", "body", "kind"), HARD)
async def test_chat_model_does_not_retry_lasting_failures(status: int, body: Any, kind: Any) -> None:
    """One request, and its error."""
    requests: list[int] = []

    def handle(_: httpx.Request) -> httpx.Response:
        requests.append(1)
        return httpx.Response(status, json=body, headers={"x-request-id": "r"})

    with pytest.raises(kind) as caught:
        await chat(handle).ainvoke("hi")
    assert (len(requests), caught.value.attempts, caught.value.request_id) == (1, 1, "r")


async def test_chat_model_retry_can_be_forbidden_by_the_provider() -> None:
    """x-should-retry: false."""
    with pytest.raises(ServerError) as caught:
        await chat(always({}, 500, x_should_retry="false")).ainvoke("hi")
    assert caught.value.attempts == 1


@pytest.mark.parametrize(("max_retries", "waits"), [(0, 0), (1, 0.5), (2, 1.5), (6, 23.5)])
def test_chat_model_attempts_are_capped(max_retries: int, waits: float) -> None:
    """The last error is raised, with the number of attempts."""

    async def main() -> ProviderError:
        with pytest.raises(ServerError) as caught:
            await chat(always({}, 500), max_retries=max_retries).ainvoke("hi")
        return caught.value

    error, seconds = on_mock_clock(main)
    assert error.attempts == max_retries + 1
    assert waits * 0.75 <= seconds <= waits


RETRY_AFTER: list[tuple[dict[str, str], str, float]] = [
    ({"retry-after": "7"}, "", 7),
    ({"retry-after-ms": "2500"}, "", 2.5),
    (
        {"retry-after": "Sun, 06 Nov 1994 08:49:50 GMT", "date": "Sun, 06 Nov 1994 08:49:37 GMT"},
        "",
        13,
    ),
    ({"llm_provider-retry-after": "11"}, "", 11),
    ({}, "Please retry after 9 seconds.", 9),
    ({"retry-after": "120"}, "", 120),
]


@pytest.mark.parametrize(("headers", "message", "wait"), RETRY_AFTER)
def test_chat_model_waits_as_long_as_asked(headers: dict[str, str], message: str, wait: float) -> None:
    """In each of its forms, to the second."""
    limited = httpx.Response(429, json={"error": {"message": message}}, headers=headers)

    async def main() -> AIMessage:
        return await chat(in_turn(limited)).ainvoke("hi")

    answer, seconds = on_mock_clock(main)
    assert answer.text == "hello"
    assert seconds == pytest.approx(wait)


def test_chat_model_wait_that_is_too_long_is_an_error_at_once() -> None:
    """With the time until then."""

    async def main() -> RateLimitError:
        with pytest.raises(RateLimitError, match=r"asks to wait 86400 s.*until 20") as caught:
            await chat(always({}, 429, retry_after="86400")).ainvoke("hi")
        return caught.value

    error, seconds = on_mock_clock(main)
    assert (error.attempts, error.retry_after, seconds) == (1, 86400.0, 0.0)


def test_chat_model_retry_wait_holds_no_slot() -> None:
    """At cap 1 the second item is answered while the first one sleeps."""
    order: list[str] = []

    def handle(request: httpx.Request) -> httpx.Response:
        text = json.loads(request.content)["messages"][0]["content"]
        order.append(text)
        failing = text == "first" and order.count("first") == 1
        return httpx.Response(500 if failing else 200, json=chat_body(), headers={"retry-after": "5"})

    async def main() -> Any:
        return await chat(handle).abatch(["first", "second"], {"max_concurrency": 1})

    _, seconds = on_mock_clock(main)
    assert order == ["first", "second", "first"]
    assert seconds == pytest.approx(5)


def test_chat_model_item_timeout_ends_a_retry_wait() -> None:
    """The item's deadline bounds all of its attempts."""

    async def main() -> None:
        with pytest.raises(ItemTimeoutError):
            await chat(always({}, 429, retry_after="60")).ainvoke("hi", {"timeout": 10})

    assert on_mock_clock(main)[1] == pytest.approx(10)


def test_chat_model_attempt_has_the_whole_timeout() -> None:
    """A server that never answers gets three requests."""

    async def stall(_: httpx.Request) -> httpx.Response:
        await anyio.sleep_forever()
        raise AssertionError

    async def main() -> ProviderError:
        transport = httpx.MockTransport(stall)
        with pytest.raises(RequestTimeoutError, match="within 30 s") as caught:
            await chat(transport, timeout=30).ainvoke("hi")
        return caught.value

    error, seconds = on_mock_clock(main)
    assert error.attempts == 3
    assert 91.1 <= seconds <= 91.5


async def test_chat_model_items_have_their_own_errors() -> None:
    """With return_exceptions, one bad request does not spoil the others."""

    def handle(request: httpx.Request) -> httpx.Response:
        text = json.loads(request.content)["messages"][0]["content"]
        return httpx.Response(400 if text == "1" else 200, json=chat_body(text))

    outputs: list[Any] = await chat(handle).abatch(["0", "1", "2"], return_exceptions=True)
    assert [getattr(output, "text", type(output)) for output in outputs] == [
        "0",
        BadRequestError,
        "2",
    ]


async def test_chat_model_bad_input_is_its_items_error() -> None:
    """Nothing is sent for it."""
    inputs: list[Any] = ["a", 5]
    outputs: list[Any] = await chat(always()).abatch(inputs, return_exceptions=True)
    assert outputs[0].text == "hello"
    assert isinstance(outputs[1], BadRequestError)


# The mock provider


@pytest.mark.parametrize("fault", [f for f in Fault if f.is_retryable and f.takes != "size"])
def test_chat_model_survives_every_transient_fault_of_the_mock(fault: Fault) -> None:
    """The first request fails, the second succeeds; the answer is the one without faults."""

    async def ask(plan: FaultPlan) -> str:
        provider = MockProvider(faults=plan)
        return (await chat(provider.transport(), timeout=8).ainvoke("hi")).text

    async def main() -> tuple[str, str]:
        return await ask(FaultPlan(script=[fault])), await ask(FaultPlan())

    (faulty, proper), _ = on_mock_clock(main)
    assert faulty == proper


LASTING = {
    Fault.INSUFFICIENT_QUOTA: QuotaExhaustedError,
    Fault.CONTEXT_LENGTH: ContextLengthError,
    Fault.BAD_PARAMETER: BadRequestError,
    Fault.UNAUTHORIZED: AuthenticationError,
    Fault.OVERSIZED(size=3_000_000): MalformedResponseError,
    Fault.GZIP_BOMB(size=3_000_000): MalformedResponseError,
}


@pytest.mark.parametrize("fault", LASTING, ids=str)
async def test_chat_model_raises_every_lasting_fault_of_the_mock_once(fault: Any) -> None:
    """By its class, after one request."""
    provider = MockProvider(faults=FaultPlan(script=[fault]))
    with pytest.raises(LASTING[fault]) as caught:
        await chat(provider.transport(), max_response_bytes=1_000_000).ainvoke("hi")
    assert caught.value.attempts == 1
    assert provider.log.snapshot().requests == 1


def test_chat_model_batch_with_every_fault_gives_each_item_its_own() -> None:
    """500 items, a third of the requests faulty: the right answer, or a lasting error."""

    async def main() -> tuple[list[Any], list[Any]]:
        inputs = [f"input {i}" for i in range(500)]
        plan = FaultPlan.everything(0.3, seed=4)
        faulty = chat(MockProvider(faults=plan).transport(), timeout=5)
        proper = chat(MockProvider().transport())
        config: Any = {"max_concurrency": 50}
        outputs: list[Any] = await faulty.abatch(inputs, config, return_exceptions=True)
        return outputs, await proper.abatch(inputs, config)

    (outputs, proper), _ = on_mock_clock(main)
    wrong = [
        (got, right)
        for got, right in zip(outputs, proper, strict=True)
        if not (isinstance(got, ProviderError) or got.text == right.text)
    ]
    errors = [type(output) for output in outputs if isinstance(output, ProviderError)]
    assert wrong == []
    assert set(errors) == {
        QuotaExhaustedError,
        ContextLengthError,
        BadRequestError,
        AuthenticationError,
    }


# What users mock with


async def test_chat_model_accepts_a_respx_router() -> None:
    """As a transport, with its side effects and call log."""
    router = respx.MockRouter()
    route = router.post("http://mock/v1/chat/completions")
    route.side_effect = [
        httpx.Response(500, headers={"retry-after-ms": "1"}),
        httpx.Response(200, json=chat_body("from respx")),
    ]
    model = chat(httpx.MockTransport(router.async_handler))
    message = await model.ainvoke("hi")
    assert message.text == "from respx"
    assert route.call_count == 2


@respx.mock
async def test_chat_model_client_can_be_patched_by_respx(respx_mock: respx.MockRouter) -> None:
    """The usual decorator works with an httpx client."""
    respx_mock.post("http://mock/v1/chat/completions").respond(json=chat_body("patched"))
    async with httpx.AsyncClient() as http:
        model = ChatOpenAI("m", base_url="http://mock/v1", api_key="k", http_client=http)
        assert (await model.ainvoke("hi")).text == "patched"


# Over real sockets


async def test_chat_model_cancellation_closes_the_connection() -> None:
    """The server sees it while the run is being torn down, and the others end too."""

    async def script(connection: Connection) -> None:
        await connection.until_closed()
        raise HangUp

    async with raw_server(script) as server:
        model = ChatOpenAI("m", base_url=server.base_url, api_key="k")
        with pytest.raises(ItemTimeoutError):
            await model.ainvoke("hi", {"timeout": 0.1})
        with anyio.fail_after(5):
            await server.closed.wait()
        await model.aclose()


async def test_chat_model_works_over_a_socket() -> None:
    """Default transport, retry included; a closed model refuses."""

    async def script(connection: Connection) -> None:
        if len(server.requests) == 1:
            await connection.answer(b"", "503 Busy", b"retry-after-ms: 1")
        else:
            await connection.answer(json.dumps(chat_body("over a socket")).encode())

    async with raw_server(script) as server, ChatOpenAI("m", base_url=server.base_url) as model:
        message = await model.ainvoke("hi")
    assert message.text == "over a socket"
    assert len(server.requests) == 2
    with pytest.raises(RuntimeError, match="closed"):
        await model.ainvoke("hi")


async def test_chat_model_refused_connection_is_an_error(free_tcp_port: int) -> None:
    """The message has the address."""
    model = ChatOpenAI("m", base_url=f"http://127.0.0.1:{free_tcp_port}/v1", max_retries=0)
    with pytest.raises(ConnectionFailedError, match=str(free_tcp_port)):
        await model.ainvoke("hi")


def test_chat_model_failed_constructor_shows_no_key() -> None:
    """Neither in its frames' variables, as debuggers and error trackers print them, nor by crashing them."""
    with pytest.raises(ValueError, match="max_retries") as caught:
        ChatOpenAI("m", api_key="sk-hidden-from-view", max_retries=-1)
    frames = traceback.TracebackException(caught.type, caught.value, caught.tb, capture_locals=True)
    package = [frame for frame in frames.stack if "batchrt/providers" in frame.filename.replace("\\", "/")]
    assert package
    assert "sk-hidden-from-view" not in "".join(str(frame.locals) for frame in package)


class Gathering(httpx.AsyncBaseTransport):
    """Answer once `number` requests have come; then `meanwhile` is called, while all of them wait."""

    def __init__(self, number: int, meanwhile: Callable[[], object]) -> None:
        self.left = number
        self.meanwhile = meanwhile
        self.complete = anyio.Event()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Wait for the others."""
        self.left -= 1
        if not self.left:
            self.meanwhile()
            self.complete.set()
        await self.complete.wait()
        return httpx.Response(200, json=chat_body())


class Greeting:
    """What a prompt makes: something that turns into messages."""

    def to_messages(self) -> list[Any]:
        """Return the messages."""
        return [HumanMessage("hi")]


async def test_chat_model_frees_the_prompt_while_it_awaits_the_answer() -> None:
    """Ten thousand prompts that have been sent would only take memory."""
    made: list[weakref.ref[Greeting]] = []
    left: list[Greeting | None] = []

    class Prompt(Runnable[str, Greeting]):
        def _build(self, kwargs: Mapping[str, Any]) -> Step:
            return Step(self.make, inline=True)

        def make(self, _value: str, _strand: object) -> Greeting:
            greeting = Greeting()
            made.append(weakref.ref(greeting))
            return greeting

    def look() -> None:
        gc.collect()
        left.extend(greeting() for greeting in made)

    with anyio.fail_after(20):
        await (Prompt() | chat(Gathering(3, look)) | StrOutputParser()).abatch(["a", "b", "c"])
    assert left == [None, None, None]


async def test_chat_model_waiting_item_is_few_coroutines() -> None:
    """The garbage collector traverses all of them, again and again: with ten thousand it shows."""
    number, home = 50, str(Path(batchrt.__file__).parent)
    waiting: list[CodeType] = []
    # What other tests have left behind, in tracebacks that are kept, is none of these.
    before = [thing for thing in gc.get_objects() if isinstance(thing, CoroutineType | GeneratorType)]
    others = set(map(id, before))

    def look() -> None:
        for thing in gc.get_objects():
            if isinstance(thing, CoroutineType | GeneratorType) and id(thing) not in others:
                code = thing.cr_code if isinstance(thing, CoroutineType) else thing.gi_code
                if code.co_filename.startswith(home):
                    waiting.append(code)

    prompt = ChatPromptTemplate.from_template("{word}")
    chain = prompt | chat(Gathering(number, look)) | StrOutputParser()
    with anyio.fail_after(20):
        await chain.abatch([{"word": str(word)} for word in range(number)], {"max_concurrency": number})
    # Scheduler: 2; the context: 1; the sequence: 1; the model and its client: 3; the transport: 2.
    assert len(waiting) / number <= 9.5
