"""ChatOpenAI(native_batch=True): conversations that meet are sent as lists, where the server takes them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import anyio
import httpx
import pytest
from pydantic import BaseModel

from batchrt.errors import BadRequestError, BatchError, MalformedResponseError, OutputParserError
from batchrt.messages import AIMessage, HumanMessage, SystemMessage, Usage
from batchrt.providers.chat.model import ChatOpenAI
from batchrt.runnables.chat_prompts import ChatPromptTemplate
from batchrt.runnables.parsers import StrOutputParser
from batchrt.testing import Fault, FaultPlan, MockProvider
from tests.providers.completions.completing import PATIENT, on_mock_clock

pytestmark = pytest.mark.anyio

ONE = "POST /v1/chat/completions"
BATCH = "POST /v1/chat/completions/batch"
WORDS = [f"w{i}" for i in range(30)]
SAID = [f"<{word}>" for word in WORDS]


def provider_of(server: Any = "vllm", **options: Any) -> MockProvider:
    """Return a provider that says the last message back."""
    return MockProvider(server=server, answer=lambda body: f"<{body['messages'][-1]['content']}>", **options)


def chat_of(provider: MockProvider, **options: Any) -> ChatOpenAI:
    """Return a model behind `provider` that tries lists."""
    options = {"native_batch": True, **PATIENT, **options}
    return ChatOpenAI("m", base_url="http://mock/v1", transport=provider.transport(), **options)


class Server:
    """Answers conversations with their last message; lists as `answer` says."""

    def __init__(self, answer: Callable[[list[Any]], httpx.Response] | None = None) -> None:
        self.bodies: list[tuple[str, Any]] = []
        self.peak = 0
        self._answer = answer
        self._busy = 0

    async def handle(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        self.bodies.append((request.url.path, body))
        self._busy += 1
        self.peak = max(self.peak, self._busy)
        await anyio.sleep(0.1)
        self._busy -= 1
        if request.url.path.endswith("/batch"):
            return self._answer(body["messages"]) if self._answer else said(body["messages"])
        return said([body["messages"]])

    def model(self, **options: Any) -> ChatOpenAI:
        transport = httpx.MockTransport(self.handle)
        options = {"native_batch": True, **PATIENT, **options}
        return ChatOpenAI("m", base_url="http://mock/v1", api_key="", transport=transport, **options)

    @property
    def lists(self) -> list[int]:
        """How many conversations each list had."""
        return [len(body["messages"]) for path, body in self.bodies if path.endswith("/batch")]


def said(conversations: list[Any], **more: Any) -> httpx.Response:
    choices = [
        {"index": i, "message": {"role": "assistant", "content": f"<{messages[-1]['content']}>"}}
        for i, messages in enumerate(conversations)
    ]
    return httpx.Response(200, json={"choices": choices, **more})


def error(status: int, message: str = "no", **fields: Any) -> httpx.Response:
    return httpx.Response(status, json={"error": {"message": message, **fields}})


def texts(messages: list[AIMessage]) -> list[str]:
    return [message.text for message in messages]


# Lists


async def test_native_batch_request_is_as_vllm_documents() -> None:
    """A list of conversations, with the options of a single one."""
    server = Server()
    inputs: list[Any] = ["a", [SystemMessage("s"), HumanMessage("b")], [{"role": "user", "content": "d"}]]
    messages = await server.model(temperature=0).abatch(inputs)
    assert texts(messages) == ["<a>", "<b>", "<d>"]
    assert server.bodies == [
        (
            "/v1/chat/completions/batch",
            {
                "model": "m",
                "temperature": 0,
                "messages": [
                    [{"role": "user", "content": "a"}],
                    [{"role": "system", "content": "s"}, {"role": "user", "content": "b"}],
                    [{"role": "user", "content": "d"}],
                ],
            },
        )
    ]


async def test_native_batch_sends_ready_conversations_as_a_list() -> None:
    """Twenty at a time by default; a single one as without lists."""
    provider = provider_of()
    assert texts(await chat_of(provider).abatch(WORDS)) == SAID
    assert [(r.route, r.items) for r in provider.log.records()] == [(BATCH, 20), (BATCH, 10)]
    provider.log.reset()
    assert texts(await chat_of(provider, max_batch_size=12).abatch(WORDS[:25])) == SAID[:25]
    assert sorted((r.route, r.items) for r in provider.log.records()) == [(ONE, 1), (BATCH, 12), (BATCH, 12)]
    provider.log.reset()
    message = await chat_of(provider).ainvoke("x")
    assert (message.text, message.usage is None) == ("<x>", False)
    assert texts(await chat_of(provider, max_batch_size=1).abatch(["a", "b"])) == ["<a>", "<b>"]
    assert {r.route for r in provider.log.records()} == {ONE}


async def test_native_batch_is_off_by_default() -> None:
    """One request each."""
    provider = provider_of()
    model = ChatOpenAI("m", base_url="http://mock/v1", transport=provider.transport())
    assert texts(await model.abatch(WORDS)) == SAID
    assert {r.route for r in provider.log.records()} == {ONE}


def test_native_batch_options_are_checked() -> None:
    """They are an error without the switch."""
    for name in ("max_batch_size", "linger", "max_linger"):
        with pytest.raises(ValueError, match="for native_batch=True"):
            ChatOpenAI("m", base_url="http://mock", **{name: 1})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_batch_size must be 1 or more"):
        ChatOpenAI("m", base_url="http://mock", native_batch=True, max_batch_size=0)
    with pytest.raises(ValueError, match="native_batch belongs to the model as a whole"):
        ChatOpenAI("m", base_url="http://mock").bind(native_batch=True).invoke("x")


async def test_native_batch_messages_are_complete() -> None:
    """But for the tokens, which are billed together."""
    provider = provider_of()
    result = await chat_of(provider).arun(["a", "bb"])
    first, second = (outcome.output for outcome in result.outcomes)
    assert first is not None
    assert second is not None
    assert first == AIMessage(
        "<a>", finish_reason="stop", usage=None, model="m", request_id=second.request_id
    )
    assert first.request_id
    single = await chat_of(provider, max_batch_size=1).arun(["a", "bb"])
    assert result.usage == single.usage != Usage()


async def test_native_batch_works_with_structured_output() -> None:
    """Each answer is validated on its own."""

    class Place(BaseModel):
        name: str

    def answer(conversations: list[Any]) -> httpx.Response:
        names = [messages[0]["content"] for messages in conversations]
        contents = ["no" if name == "b" else json.dumps({"name": name}) for name in names]
        choices = [{"index": i, "message": {"content": c}} for i, c in enumerate(contents)]
        return httpx.Response(200, json={"choices": choices})

    server = Server(answer)
    chain = server.model().with_structured_output(Place)
    a, b, c = await chain.abatch(["a", "b", "c"], return_exceptions=True)
    assert (a, c) == (Place(name="a"), Place(name="c"))
    assert isinstance(b, OutputParserError)
    assert server.lists == [3]
    assert server.bodies[0][1]["response_format"]["json_schema"]["name"] == "Place"
    provider = MockProvider(server="vllm")
    places = await chat_of(provider).with_structured_output(Place).abatch(WORDS)
    assert all(isinstance(place, Place) for place in places)
    assert [r.route for r in provider.log.records()] == [BATCH] * 2


async def test_native_batch_collects_items_of_a_chain() -> None:
    """Behind a prompt; items with other bound options have their own lists."""
    server = Server()
    model = server.model()
    prompt = ChatPromptTemplate.from_template("{x}")
    chain = prompt | {"a": model | StrOutputParser(), "b": model.bind(seed=1) | StrOutputParser()}
    assert await chain.abatch([{"x": "1"}, {"x": "2"}]) == [{"a": f"<{x}>", "b": f"<{x}>"} for x in "12"]
    assert server.lists == [2, 2]


async def test_native_batch_bad_input_is_its_items_error() -> None:
    """The others are sent without it."""
    server = Server()
    outputs = await server.model().abatch(["a", "\ud800", [], "b"], return_exceptions=True)
    assert [type(output) for output in outputs] == [AIMessage, BadRequestError, BadRequestError, AIMessage]
    assert server.lists == [2]


async def test_native_batch_places_answers_by_index() -> None:
    """In any order of arrival."""

    def answer(conversations: list[Any]) -> httpx.Response:
        body = json.loads(said(conversations).content)
        body["choices"].reverse()
        return httpx.Response(200, json=body)

    assert texts(await Server(answer).model().abatch(WORDS)) == SAID


async def test_native_batch_retries_a_broken_message_alone() -> None:
    """The others keep theirs."""

    def answer(conversations: list[Any]) -> httpx.Response:
        body = json.loads(said(conversations).content)
        body["choices"][1]["message"] = None
        return httpx.Response(200, json=body)

    server = Server(answer)
    assert texts(await server.model().abatch(WORDS[:4])) == SAID[:4]
    assert [len(body["messages"]) for _, body in server.bodies] == [4, 1]


# Without lists


@pytest.mark.parametrize("status", [404, 405])
def test_native_batch_without_the_path_sends_single_requests(status: int) -> None:
    """From then on, for all bound options; single requests run concurrently."""
    server = Server(lambda _: error(status, "Invalid URL"))

    async def main() -> None:
        model = server.model()
        config: Any = {"max_concurrency": 10}
        start = anyio.current_time()
        assert texts(await model.abatch(WORDS, config)) == SAID
        assert anyio.current_time() - start == pytest.approx(0.1 + 0.3)
        assert server.peak == 10
        for again in (model, model.bind(seed=1), model.bind(tools=[])):
            start = anyio.current_time()
            assert texts(await again.abatch(WORDS, config)) == SAID
            assert anyio.current_time() - start == pytest.approx(0.3)
        assert len(server.lists) == 2  # those under way when it was found out
        assert server.peak == 10

    on_mock_clock(main)


def test_native_batch_list_packed_before_the_fallback_is_not_sent() -> None:
    """It was waiting for its slot."""
    server = Server(lambda _: error(404))

    async def main() -> None:
        model = server.model()
        parse = StrOutputParser()
        both = ChatPromptTemplate.from_template("{x}") | {"a": model | parse, "b": model.bind(seed=1) | parse}
        outputs = await both.abatch([{"x": word} for word in WORDS[:4]], {"max_concurrency": 1})
        assert outputs == [{"a": text, "b": text} for text in SAID[:4]]
        assert server.lists == [4]
        assert server.peak == 1

    on_mock_clock(main)


@pytest.mark.parametrize("server", ["openai", "llama-cpp-python", "llama-server", "ollama"])
async def test_native_batch_at_known_servers_without_the_path(server: Any) -> None:
    """As simulated by the mock."""
    provider = provider_of(server)
    model = chat_of(provider)
    for _ in range(2):
        assert texts(await model.abatch(WORDS, {"max_concurrency": 1})) == SAID
    counts = provider.log.snapshot().by_route
    assert (counts[ONE], counts["other"]) == ({200: 60}, {404: 1})


async def test_native_batch_unknown_model_is_not_a_missing_path() -> None:
    """Its name is wrong for this part of the chain; the others go on with lists."""
    provider = provider_of(models=["m"])
    model = chat_of(provider)
    outputs: list[Any] = await model.bind(model="typo").abatch(["a", "b"], return_exceptions=True)
    assert [type(output) for output in outputs] == [BadRequestError] * 2
    assert texts(await model.abatch(["a", "b"])) == ["<a>", "<b>"]
    assert [(r.route, r.status) for r in provider.log.records()] == [(BATCH, 404), (BATCH, 200)]


REFUSALS: dict[str, Callable[[list[Any]], httpx.Response]] = {
    "LM Studio": lambda _: error(200, "Unexpected endpoint or method."),
    "llama-server": lambda _: error(501, "not supported"),
    "a proxy": lambda _: httpx.Response(200, text="<html>"),
    "merged": lambda conversations: said(conversations[:1]),
    "refused": lambda _: error(400, "messages must be objects"),
}


@pytest.mark.parametrize("answer", REFUSALS.values(), ids=REFUSALS.keys())
def test_native_batch_learns_other_ways_to_lack_lists(answer: Callable[[list[Any]], httpx.Response]) -> None:
    """From the results of single requests, and remembers it."""
    server = Server(answer)

    async def main() -> None:
        model = server.model()
        assert texts(await model.abatch(WORDS[:20])) == SAID[:20]
        tried = len(server.lists)
        assert texts(await model.abatch(WORDS)) == SAID
        assert len(server.lists) == tried <= 3

    on_mock_clock(main)


def test_native_batch_sends_tools_alone() -> None:
    """Lists of vLLM do not support tools; the other requests go on in lists."""

    class VLLM(Server):
        async def handle(self, request: httpx.Request) -> httpx.Response:
            body = json.loads(request.content)
            if "tools" in body and request.url.path.endswith("/batch"):
                self.bodies.append((request.url.path, body))
                return error(400, "Tools are not supported in batch mode.")
            return await super().handle(request)

    server = VLLM()

    async def main() -> None:
        model = server.model()
        for _ in range(2):
            assert texts(await model.bind(tools=[{}]).abatch(WORDS[:3])) == SAID[:3]
            assert texts(await model.abatch(WORDS[:5])) == SAID[:5]
        assert server.lists == [3, 5, 5]

    on_mock_clock(main)


# Errors


async def test_native_batch_guilty_conversation_fails_alone() -> None:
    """A server such as vLLM refuses the whole list for one; lists go on."""
    provider = provider_of(reject=lambda text: text == "w7")
    model = chat_of(provider)
    for _ in range(3):
        outputs: list[Any] = await model.abatch(WORDS[:20], return_exceptions=True)
        assert isinstance(outputs[7], BadRequestError)
        assert texts(outputs[:7] + outputs[8:]) == SAID[:7] + SAID[8:20]
        assert texts(await model.abatch(WORDS[20:])) == SAID[20:]
    assert [r.items for r in provider.log.records() if r.route == BATCH].count(10) >= 3


@pytest.mark.parametrize("fault", [fault for fault in Fault if fault.of_lists], ids=lambda fault: fault.value)
@pytest.mark.parametrize("always", [True, False])
def test_native_batch_with_defects_of_lists(fault: Fault, always: bool) -> None:
    """Constant or occasional: the right text, or a clear error."""
    plan = FaultPlan({fault: 1.0 if always else 0.3}, max_consecutive=None if always else 2)
    provider = provider_of(faults=plan)

    async def main() -> list[Any]:
        outputs: list[Any] = await chat_of(provider).abatch(WORDS, return_exceptions=True)
        return outputs

    outputs, _ = on_mock_clock(main)
    for output, text in zip(outputs, SAID, strict=True):
        if isinstance(output, Exception):
            assert isinstance(output, MalformedResponseError)
        else:
            assert output.text == text
    assert not any(isinstance(output, Exception) for output in outputs)


def test_native_batch_with_all_faults_at_once() -> None:
    """Each input gets its own answer or an error."""
    provider = provider_of(
        faults=FaultPlan.everything(0.3, stall_seconds=1), reject=lambda text: text == "w7"
    )

    async def main() -> list[Any]:
        model = chat_of(provider, max_batch_size=4)
        outputs: list[Any] = await model.abatch(WORDS * 10, {"max_concurrency": 3}, return_exceptions=True)
        return outputs

    outputs, _ = on_mock_clock(main)
    for output, text in zip(outputs, SAID * 10, strict=True):
        assert isinstance(output, BatchError) or output.text == text
    assert sum(isinstance(output, AIMessage) for output in outputs) > 200


async def test_native_batch_lists_are_shared_by_runs() -> None:
    """As in a service whose requests call `ainvoke` one by one."""
    provider = provider_of()
    model = chat_of(provider, share_lists=True, linger=None, max_linger=None)
    got: dict[str, str] = {}

    async def one(text: str) -> None:
        got[text] = (await model.ainvoke(text)).text

    async with anyio.create_task_group() as group:
        for number in range(15):
            group.start_soon(one, f"text {number}")
    assert len(got) == 15
    assert provider.log.snapshot().requests < 15


def test_native_batch_is_needed_for_share_lists() -> None:
    """Sharing lists without them is an error."""
    with pytest.raises(ValueError, match="share_lists are for native_batch=True"):
        ChatOpenAI("m", base_url="http://h/v1", share_lists=True)
    with pytest.raises(ValueError, match="share_lists belongs to the model as a whole"):
        ChatOpenAI("m", base_url="http://h/v1", native_batch=True).bind(share_lists=True).invoke("x")
