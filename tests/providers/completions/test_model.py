"""OpenAI: prompts in, the texts that go on with them out, sent as lists."""

from __future__ import annotations

import inspect
import json
import math
import traceback
from typing import Any

import anyio
import httpx
import pytest

from batchrt.errors import (
    AuthenticationError,
    BadRequestError,
    BatchError,
    ContextLengthError,
    ItemTimeoutError,
    MalformedResponseError,
    ServerError,
)
from batchrt.messages import Usage
from batchrt.providers.completions.model import CompletionOptions, OpenAI
from batchrt.runnables.lambdas import RunnableLambda
from batchrt.runnables.prompts import PromptTemplate
from batchrt.testing import Fault, FaultPlan, MockProvider
from tests.providers.completions.completing import (
    Answer,
    answered_by,
    completion,
    echo,
    model_of,
    on_mock_clock,
    sizes,
)

pytestmark = pytest.mark.anyio

# One prompt


async def test_completions_the_request_is_what_the_api_documents() -> None:
    """Options under their own names, nothing that was not asked for; a single prompt is a text."""
    seen: list[Any] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append((request.method, request.url.path, json.loads(request.content)))
        return completion(["x"] * 2 if len(seen) > 1 else ["x"])

    def model(**options: Any) -> OpenAI[Any]:
        transport = httpx.MockTransport(handle)
        return OpenAI("m", base_url="http://mock/v1", api_key="k", transport=transport, **options)

    assert await model().ainvoke("hi") == "x"
    wide = model(
        n=2,
        temperature=0,
        top_p=0.5,
        max_tokens=6,
        stop=["x"],
        seed=1,
        frequency_penalty=0.1,
        presence_penalty=-0.1,
        best_of=3,
        suffix="é",
        extra_body={"top_k": 5, "seed": 2},
    )
    assert await wide.ainvoke("hi") == ["x", "x"]
    assert seen[0] == ("POST", "/v1/completions", {"model": "m", "prompt": "hi"})
    assert seen[1][2] == {
        "model": "m", "n": 2, "temperature": 0, "top_p": 0.5, "max_tokens": 6, "stop": ["x"], "seed": 2,
        "frequency_penalty": 0.1, "presence_penalty": -0.1, "best_of": 3, "suffix": "é", "top_k": 5,
        "prompt": "hi",
    }  # fmt: skip


async def test_completions_bound_options_override() -> None:
    """For their part of the chain; None takes an option out."""
    seen: list[dict[str, Any]] = []

    def handle(body: dict[str, Any]) -> httpx.Response:
        seen.append(body)
        return completion([""])

    model = answered_by(handle, temperature=1, seed=5)
    assert await model.bind(temperature=0, seed=None, stop="x", logit_bias={}).ainvoke("p") == ""
    assert seen == [{"model": "m", "temperature": 0, "stop": "x", "logit_bias": {}, "prompt": "p"}]
    cases: list[tuple[dict[str, Any], str]] = [
        ({"n": 2}, "give it to OpenAI"),
        ({"prompt": ""}, "the prompts are the input"),
        ({"stream": True}, "answers come whole"),
        ({"extra_body": {"n": 2}}, "n cannot be set"),
        ({"max_batch_size": 2}, "max_batch_size belongs to the model as a whole: give it to OpenAI"),
        ({"temperature": 5}, "temperature must be from 0 to 2"),
        ({"best_of": 0}, "best_of must be 1 or more"),
    ]
    for wrong, says in cases:
        with pytest.raises(ValueError, match=says):
            await model.bind(**wrong).ainvoke("")


async def test_completions_an_input_that_is_no_prompt_is_that_items_error() -> None:
    """Nothing is sent for it; the others of its list are answered."""
    provider = echo()
    inputs: list[Any] = ["a", 5, "\ud800", "b"]
    outputs = await model_of(provider).abatch(inputs, return_exceptions=True)
    assert (outputs[0], outputs[3]) == ("<a>", "<b>")
    assert [type(output) for output in outputs[1:3]] == [BadRequestError] * 2
    assert sizes(provider) == [2]


def test_completions_options_that_make_no_sense_are_named() -> None:
    """When the model is made."""
    cases: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"n": 0}, ValueError, "n must be 1 or more, not 0"),
        ({"n": 1.5}, TypeError, "n must be a whole number"),
        ({"max_batch_size": 0}, ValueError, "max_batch_size must be 1 or more"),
        ({"max_batch_size": True}, TypeError, "max_batch_size must be a whole number"),
        ({"linger": -1}, ValueError, "linger must be 0 seconds or more, not -1"),
        ({"max_linger": float("nan")}, ValueError, "max_linger"),
        ({"linger": "1"}, TypeError, "linger must be a number"),
        ({"suffix": 1}, TypeError, "suffix must be a string"),
        ({"extra_body": {"prompt": "x"}}, ValueError, "prompt cannot be set"),
        ({"extra_body": {"x": {1}}}, ValueError, "the option x cannot be sent as JSON"),
        ({"timeout": 0}, ValueError, "timeout must be more than 0"),
        ({"keepalive_expiry": -1}, ValueError, "keepalive_expiry must be 0 or more seconds"),
        ({"keepalive_expiry": math.nan}, ValueError, "keepalive_expiry must be 0 or more seconds"),
        ({"keepalive_expiry": 1, "transport": httpx.AsyncHTTPTransport()}, ValueError, "limits="),
    ]
    for options, kind, says in cases:
        with pytest.raises(kind, match=says):
            OpenAI("m", base_url="http://mock", **options)
    with pytest.raises(ValueError, match="model must be the name"):
        OpenAI("", base_url="http://mock")


def test_completions_a_key_is_wanted_by_openai_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """And never shown."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(AuthenticationError, match="there is no API key"):
        OpenAI("m")
    model = OpenAI("m", api_key="sk-very-secret")
    assert repr(model) == "OpenAI(model='m', base_url='https://api.openai.com')"
    assert model.model == "m"
    assert repr(OpenAI.__new__(OpenAI)) == "OpenAI()"


def test_completions_the_typed_options_are_those_it_takes() -> None:
    """The overloads promise the options that the signature shows."""
    taken = set(inspect.signature(OpenAI).parameters) - {"model", "n"}
    assert set(CompletionOptions.__annotations__) == taken


# Lists


async def test_completions_prompts_that_are_there_go_as_a_list() -> None:
    """Each gets its own text, twenty at a time unless more or fewer are asked for."""
    prompts = [f"p{i}" for i in range(50)]
    for options, expected in [({}, [20, 20, 10]), ({"max_batch_size": 7}, [7] * 7 + [1])]:
        provider = echo()
        assert await model_of(provider, **options).abatch(prompts, {"max_concurrency": 1}) == [
            f"<{prompt}>" for prompt in prompts
        ]
        assert sizes(provider) == expected


async def test_completions_each_by_itself_if_that_is_asked_for() -> None:
    """`max_batch_size=1` sends texts, no lists of one."""
    bodies: list[Any] = []

    def handle(body: dict[str, Any]) -> httpx.Response:
        bodies.append(body["prompt"])
        return completion([body["prompt"].upper()])

    assert await answered_by(handle, max_batch_size=1).abatch(["a", "b"]) == ["A", "B"]
    assert sorted(bodies) == ["a", "b"]


async def test_completions_several_texts_for_each_prompt() -> None:
    """Choice i · n + j is the j-th of prompt i, whatever order they come in."""
    provider = MockProvider(faults=FaultPlan(script=[Fault.SHUFFLED_INDEX]))
    model = model_of(provider, n=3)
    prompts = [f"p{i}" for i in range(8)]
    outputs = await model.abatch(prompts)
    single = MockProvider()
    alone = model_of(single, n=3, max_batch_size=1)
    assert outputs == await alone.abatch(prompts)
    assert {len(texts) for texts in outputs} == {3}
    assert len({text for texts in outputs for text in texts}) == 24
    assert sizes(provider) == [8]
    one = model_of(single, n=1)
    assert await one.ainvoke("p0") == outputs[0][:1]


async def test_completions_items_meet_in_the_middle_of_a_chain() -> None:
    """Behind a prompt and before a function; options that differ do not share a list."""
    provider = echo()
    model = model_of(provider)
    chain = PromptTemplate.from_template("say {x}") | model | RunnableLambda(str.upper)
    outputs = await chain.abatch([{"x": f"a{i}"} for i in range(20)])
    assert outputs == [f"<SAY A{i}>" for i in range(20)]
    assert sizes(provider) == [20]
    both = {"cold": model.bind(temperature=0), "hot": model.bind(temperature=1)}
    parallel = RunnableLambda(str) | both
    assert await parallel.abatch(["x", "y"]) == [{"cold": f"<{p}>", "hot": f"<{p}>"} for p in "xy"]
    assert sizes(provider)[1:] == [2, 2]


def test_completions_a_list_takes_one_slot() -> None:
    """No more requests at once than `max_concurrency`, and no fewer."""
    provider = echo(latency=1)

    async def main() -> None:
        model = model_of(provider, max_batch_size=4)
        outputs = await model.abatch(map(str, range(64)), {"max_concurrency": 3})
        assert outputs == [f"<{i}>" for i in range(64)]

    on_mock_clock(main)
    assert provider.log.snapshot().peak_in_flight == 3
    assert sizes(provider) == [4] * 16


def test_completions_sync_batches_and_several_loops_share_a_model() -> None:
    """Connections belong to a loop, the model does not."""
    model = model_of(echo())
    assert model.batch(["a", "b"]) == ["<a>", "<b>"]
    assert model.invoke("c") == "<c>"
    for backend in ("asyncio", "trio", "asyncio"):
        assert anyio.run(model.abatch, ["a", "b"], backend=backend) == ["<a>", "<b>"]


def test_completions_a_list_without_a_waiting_item_is_cancelled() -> None:
    """The items' timeout ends the request."""
    provider = echo(latency=60)

    async def main() -> None:
        outputs = await model_of(provider).abatch(["a", "b"], {"timeout": 5}, return_exceptions=True)
        assert [type(output) for output in outputs] == [ItemTimeoutError] * 2
        assert provider.log.snapshot().in_flight == 0

    _, seconds = on_mock_clock(main)
    assert seconds == pytest.approx(5)
    assert provider.log.snapshot().requests == 1


# Tokens


async def test_completions_tokens_are_billed_once_for_a_list() -> None:
    """And shared out, to the last one."""
    usage = {"prompt_tokens": 10, "completion_tokens": 7, "total_tokens": 17}
    model = answered_by(lambda body: completion(["x"] * len(body["prompt"]), usage))
    result = await model.arun(["a", "b", "c"])
    assert result.usage == Usage(10, 7, 17)
    shares = [outcome.usage for outcome in result.outcomes]
    assert sum((share for share in shares if share), Usage()) == Usage(10, 7, 17)
    assert None not in shares


# Errors


async def test_completions_an_error_says_what_the_provider_said() -> None:
    """Status, code, parameter, request id, attempts; and hides the key."""

    def handle(_: dict[str, Any]) -> httpx.Response:
        error = {"message": "no: sk-secret-key", "code": "c", "param": "suffix", "type": "t"}
        return httpx.Response(400, json={"error": error}, headers={"x-request-id": "r"})

    with pytest.raises(BadRequestError) as caught:
        await answered_by(handle).ainvoke("x")
    error = caught.value
    assert (error.status, error.code, error.param, error.request_id, error.attempts) == (
        400,
        "c",
        "suffix",
        "r",
        1,
    )
    assert "secret" not in "".join(traceback.format_exception(error))


def test_completions_a_list_is_sent_again_as_a_whole() -> None:
    """What may pass is waited for, and counted as each item's attempt."""
    provider = echo(faults=FaultPlan(script=[Fault.OVERLOADED, Fault.TRUNCATED_JSON]))

    async def main() -> Any:
        return await model_of(provider).arun(["a", "b"])

    result, seconds = on_mock_clock(main)
    assert result.outputs == ["<a>", "<b>"]
    assert [outcome.attempts for outcome in result.outcomes] == [3, 3]
    assert sizes(provider) == [2, 2]  # the truncated one was a 200
    assert seconds > 1


async def test_completions_a_wrong_number_of_texts_is_not_paid_for_again() -> None:
    """A server that does not know `n` does not learn it."""
    requests: list[Any] = []

    def handle(body: dict[str, Any]) -> httpx.Response:
        requests.append(body)
        return completion(["x"])

    with pytest.raises(MalformedResponseError, match="has 1 choice where 3 were asked for"):
        await answered_by(handle, n=3).ainvoke("x")
    assert len(requests) == 1


async def test_completions_a_text_that_is_broken_in_a_list_is_asked_for_again_alone() -> None:
    """The others keep theirs."""
    asked: list[Any] = []

    def handle(body: dict[str, Any]) -> httpx.Response:
        asked.append(body["prompt"])
        if body["prompt"] == "b":
            return completion(["B"])
        choices: list[dict[str, Any]] = [{"index": i, "text": p} for i, p in enumerate(body["prompt"])]
        choices[1]["text"] = None
        return httpx.Response(200, json={"choices": choices})

    assert await answered_by(handle).abatch(["a", "b", "c"]) == ["a", "B", "c"]
    assert asked == [["a", "b", "c"], "b"]


# What no attempt mends: the guilty stand alone


def rejecting(*guilty: str) -> MockProvider:
    """Return a provider that has a 400 for every list with one of `guilty` in it."""
    return echo(reject=lambda text: text in guilty)


async def test_completions_one_guilty_prompt_fails_alone() -> None:
    """And the lists go on, whether one was answered before or not."""
    provider = rejecting("p3")
    model = model_of(provider)
    prompts = [f"p{i}" for i in range(20)]
    for _ in range(2):
        outputs = await model.abatch(prompts, return_exceptions=True)
        assert isinstance(outputs[3], BadRequestError)
        assert outputs[:3] + outputs[4:] == [f"<{prompt}>" for prompt in prompts if prompt != "p3"]
        good = [f"q{i}" for i in range(20)]
        before = len(sizes(provider))
        assert await model.abatch(good) == [f"<{prompt}>" for prompt in good]
        assert sizes(provider)[before:] == [20]


async def test_completions_a_guilty_prompt_is_found_by_halving_once_lists_are_known_to_work() -> None:
    """In as many requests as that takes, not one for each prompt."""
    provider = rejecting("p17")
    model = model_of(provider, max_batch_size=64)
    await model.abatch(["a", "b"])
    provider.log.reset()
    outputs = await model.abatch([f"p{i}" for i in range(64)], return_exceptions=True)
    assert [i for i, output in enumerate(outputs) if isinstance(output, Exception)] == [17]
    assert provider.log.snapshot().requests == 1 + 2 * 6


async def test_completions_an_error_that_concerns_all_is_not_split() -> None:
    """A wrong key, a spent quota, a model or a path that is not there: one request."""
    for answer in [
        httpx.Response(401, json={}),
        httpx.Response(429, json={"error": {"code": "insufficient_quota"}}),
        httpx.Response(404, json={"error": {"message": "no such model", "code": "model_not_found"}}),
        httpx.Response(404, json={"detail": "Not Found"}),
    ]:
        asked: list[Any] = []

        def handle(body: dict[str, Any], answer: httpx.Response = answer, asked: list[Any] = asked) -> Any:
            asked.append(body["prompt"])
            return answer

        outputs = await answered_by(handle).abatch(["a", "b", "c"], return_exceptions=True)
        assert all(isinstance(output, BatchError) for output in outputs)
        assert asked == [["a", "b", "c"]]


def test_completions_a_limit_that_lasts_is_not_answered_with_more_requests() -> None:
    """Unless the list alone was over it."""
    for message, requests in [("slow down", 3), ("Request too large for m on tokens per min", 3 + 1 + 1)]:
        asked: list[Any] = []

        def handle(body: dict[str, Any], message: str = message, asked: list[Any] = asked) -> httpx.Response:
            asked.append(body["prompt"])
            if isinstance(body["prompt"], str):
                return completion([body["prompt"]])
            return httpx.Response(429, json={"error": {"message": message}})

        async def main(handle: Answer = handle) -> Any:
            return await answered_by(handle).abatch(["a", "b"], return_exceptions=True)

        outputs, _ = on_mock_clock(main)
        assert len(asked) == requests
        assert (outputs == ["a", "b"]) is (requests == 5)


def test_completions_an_outage_ends_for_all() -> None:
    """Its lists are not split to the last item: each has the error, after a bounded number of requests."""
    provider = echo(faults=FaultPlan({Fault.OVERLOADED: 1.0}, max_consecutive=None))

    async def main() -> Any:
        return await model_of(provider, max_batch_size=64, max_retries=0).abatch(
            map(str, range(64)), return_exceptions=True
        )

    outputs, _ = on_mock_clock(main)
    assert {type(output) for output in outputs} == {ServerError}
    assert provider.log.snapshot().requests < 64


async def test_completions_an_overlong_prompt_is_no_doubt_about_lists() -> None:
    """The server says what it was: the list is halved at once."""
    asked: list[Any] = []

    def handle(body: dict[str, Any]) -> httpx.Response:
        prompts = body["prompt"] if isinstance(body["prompt"], list) else [body["prompt"]]
        asked.append(prompts)
        if "long" in prompts:
            error = {"message": "This model's maximum context length is 8 tokens.", "code": None}
            return httpx.Response(400, json={"error": error})
        return completion(prompts)

    outputs = await answered_by(handle).abatch(["a", "b", "c", "long"], return_exceptions=True)
    assert outputs[:3] == ["a", "b", "c"]
    assert isinstance(outputs[3], ContextLengthError)
    assert asked == [["a", "b", "c", "long"], ["a", "b"], ["c", "long"], ["c"], ["long"]]
