from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import anyio
import httpx
import pytest
import trio

from batchrt.testing import Fault, FaultLike, FaultPlan, LogNormal, MockProvider
from tests import virtual

pytestmark = pytest.mark.anyio


def client_of(provider: MockProvider, **options: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        transport=provider.transport(), base_url="http://mock/v1", **{"timeout": None, **options}
    )


def body_of(text: str = "hi") -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": text}]}


async def meet(fault: FaultLike, **options: Any) -> httpx.Response:
    """Send one request that meets `fault`."""
    provider = MockProvider(faults=FaultPlan(script=[fault]))
    async with client_of(provider, **options) as client:
        return await client.post("/chat/completions", json=body_of())


async def test_mock_transport_answers_in_process() -> None:
    """For any host, as predicted; each response has a request id."""
    provider = MockProvider()
    async with client_of(provider) as client:
        response = await client.post("/chat/completions", json=body_of())
        models = await client.get("/models")
    assert response.json()["choices"][0]["message"]["content"] == provider.answer_to("hi")
    assert response.headers["x-request-id"].startswith("req_")
    assert models.json()["data"][0]["id"] == "mock"
    assert models.headers["x-request-id"] != response.headers["x-request-id"]


async def test_mock_transport_unknown_routes_are_not_found() -> None:
    """404 in OpenAI's shape for every other path and method."""
    provider = MockProvider()
    async with client_of(provider) as client:
        responses = [
            await client.get("/chat/completions"),
            await client.post("/unknown"),
            await client.get("http://mock/_mock/unknown"),
        ]
    for response in responses:
        assert response.status_code == 404
        assert response.json()["error"]["type"] == "invalid_request_error"
        assert "x-request-id" in response.headers
    assert provider.log.snapshot().by_route == {"other": {404: 2}}


async def test_mock_transport_requires_the_key_under_v1() -> None:
    """Control routes need no key."""
    provider = MockProvider(api_key="k")
    async with client_of(provider) as client:
        assert (await client.get("/models")).status_code == 401
        bearer = {"authorization": "Bearer k"}
        assert (await client.get("/models", headers=bearer)).status_code == 200
        assert (await client.get("http://mock/_mock/log")).status_code == 200


async def test_mock_transport_serves_the_log() -> None:
    """The endpoint returns the snapshot; control requests are not logged."""
    provider = MockProvider(faults=FaultPlan(script=[Fault.CONFLICT]))
    async with client_of(provider) as client:
        for _ in range(2):
            await client.post("/chat/completions", json=body_of())
        seen = (await client.get("http://mock/_mock/log")).json()
        assert seen == provider.log.snapshot().to_dict()
        assert (seen["requests"], seen["by_fault"]) == (2, {"conflict": 1})
        full = (await client.get("http://mock/_mock/log?records=5")).json()
        assert [record["status"] for record in full["records"]] == [409, 200]
        assert [record["attempt"] for record in full["records"]] == [1, 2]
        await client.post("http://mock/_mock/reset")
        assert (await client.get("http://mock/_mock/log")).json()["requests"] == 0
        # The script starts again as well.
        assert (await client.post("/chat/completions", json=body_of())).status_code == 409


@pytest.mark.parametrize(
    ("fault", "header", "value"),
    [
        (Fault.RATE_LIMIT_SECONDS(seconds=1.2), "retry-after", "2"),
        (Fault.RATE_LIMIT_FLOAT(seconds=1.2), "retry-after", "1.200"),
        (Fault.RATE_LIMIT_MS(seconds=1.2), "retry-after-ms", "1200"),
        (Fault.RATE_LIMIT_LITELLM(seconds=3), "llm_provider-retry-after", "3"),
    ],
)
async def test_fault_rate_limit_has_its_header(fault: FaultLike, header: str, value: str) -> None:
    """Each form in its own header, and in no other."""
    response = await meet(fault)
    assert response.status_code == 429
    found = {name: text for name, text in response.headers.items() if "retry" in name}
    assert found == {header: value}


async def test_fault_rate_limit_may_give_a_date() -> None:
    """An HTTP date, not before the seconds are over."""
    before = datetime.now(UTC)
    response = await meet(Fault.RATE_LIMIT_DATE(seconds=7))
    wait = parsedate_to_datetime(response.headers["retry-after"]) - before
    assert 7 <= wait.total_seconds() < 60


async def test_fault_rate_limit_of_azure_is_in_the_message() -> None:
    """No header; the words PROVIDERS.md quotes."""
    response = await meet(Fault.RATE_LIMIT_AZURE(seconds=7))
    assert "Please retry after 7 seconds" in response.json()["error"]["message"]
    assert not [name for name in response.headers if "retry" in name]


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        (Fault.RATE_LIMIT_BARE, 429, "rate_limit_exceeded"),
        (Fault.SLOW_DOWN, 429, "slow_down"),
        (Fault.INSUFFICIENT_QUOTA, 429, "insufficient_quota"),
        (Fault.CONTEXT_LENGTH, 400, "context_length_exceeded"),
        (Fault.BAD_PARAMETER, 400, "unsupported_value"),
        (Fault.UNAUTHORIZED, 401, "invalid_api_key"),
        (Fault.REQUEST_TIMEOUT, 408, None),
        (Fault.CONFLICT, 409, None),
        (Fault.SERVER_ERROR, 500, "internal_error"),
        (Fault.OVERLOADED, 503, "server_is_overloaded"),
        (Fault.GATEWAY_TIMEOUT, 504, None),
        (Fault.ERROR_IN_200, 200, "upstream_error"),
    ],
)
async def test_fault_errors_have_status_and_code(fault: Fault, status: int, code: str | None) -> None:
    """In OpenAI's shape, without a wait."""
    response = await meet(fault)
    assert response.status_code == status
    assert response.json()["error"].keys() == {"message", "type", "param", "code"}
    assert response.json()["error"]["code"] == code
    assert not [name for name in response.headers if "retry" in name]


async def test_fault_bad_parameter_names_it() -> None:
    """In `param`."""
    assert (await meet(Fault.BAD_PARAMETER)).json()["error"]["param"] == "temperature"


@pytest.mark.parametrize("fault", [Fault.BAD_GATEWAY, Fault.WRONG_CONTENT_TYPE])
async def test_fault_answers_may_be_html(fault: Fault) -> None:
    """A proxy's page in place of JSON."""
    response = await meet(fault)
    assert response.status_code == (502 if fault is Fault.BAD_GATEWAY else 200)
    assert response.headers["content-type"] == "text/html"
    assert response.text.startswith("<html>")


@pytest.mark.parametrize("fault", [Fault.MALFORMED_JSON, Fault.TRUNCATED_JSON])
async def test_fault_answers_may_be_invalid_json(fault: Fault) -> None:
    """200 and complete by its content-length, yet unreadable."""
    response = await meet(fault)
    assert response.status_code == 200
    assert int(response.headers["content-length"]) == len(response.content)
    with pytest.raises(json.JSONDecodeError):
        response.json()


async def test_fault_answer_may_have_no_choices() -> None:
    """Well formed, and empty."""
    assert (await meet(Fault.EMPTY_CHOICES)).json()["choices"] == []


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault.DROP_BEFORE_RESPONSE, httpx.RemoteProtocolError),
        (Fault.SHORT_BODY, httpx.RemoteProtocolError),
        (Fault.DROP_MID_BODY, httpx.ReadError),
        (Fault.STALL(seconds=0), httpx.RemoteProtocolError),
    ],
)
async def test_mock_transport_raises_httpx_errors_for_dropped_connections(
    fault: FaultLike, error: type[Exception]
) -> None:
    """As on a socket."""
    with pytest.raises(error):
        await meet(fault)


async def test_mock_transport_short_body_gives_its_first_half() -> None:
    """The bytes that arrived can be read before the connection breaks."""
    provider = MockProvider(faults=FaultPlan(script=[Fault.SHORT_BODY]))
    request = httpx.Request("POST", "http://mock/v1/chat/completions", json=body_of())
    response = await provider.transport().handle_async_request(request)
    parts = response.aiter_raw()
    half = await anext(parts)
    with pytest.raises(httpx.RemoteProtocolError):
        await anext(parts)
    assert half.startswith(b'{"id":"chatcmpl-')
    assert len(half) == int(response.headers["content-length"]) // 2


async def test_fault_oversized_answer_is_json_of_that_size() -> None:
    """Of the requested size, without a content-length."""
    response = await meet(Fault.OVERSIZED(size=1_000_000))
    assert len(response.content) == 1_000_000
    assert "content-length" not in response.headers
    assert response.json()["choices"]


async def test_fault_gzip_bomb_has_its_decompressed_size() -> None:
    """The size is that of the decompressed body."""
    provider = MockProvider(faults=FaultPlan(script=[Fault.GZIP_BOMB(size=10_000_000)]))
    async with (
        client_of(provider) as client,
        client.stream("POST", "/chat/completions", json=body_of()) as response,
    ):
        assert response.headers["content-encoding"] == "gzip"
        raw = b"".join([part async for part in response.aiter_raw()])
    assert len(raw) < 20_000
    whole = gzip.decompress(raw)
    assert len(whole) == 10_000_000
    assert json.loads(whole)["choices"]


async def test_mock_transport_counts_an_unread_body_as_a_disconnect() -> None:
    """A large body is generated in parts, and no further than it is read."""
    provider = MockProvider(faults=FaultPlan(script=[Fault.OVERSIZED(size=10**15)]))
    request = httpx.Request("POST", "http://mock/v1/chat/completions", json=body_of())
    response = await provider.transport().handle_async_request(request)
    assert isinstance(response.stream, httpx.AsyncByteStream)
    async for _ in response.stream:
        break
    assert provider.log.snapshot().in_flight == 1
    await response.aclose()
    seen = provider.log.snapshot()
    assert (seen.in_flight, seen.disconnects) == (0, 1)


async def test_mock_transport_cancelled_request_ends_at_once() -> None:
    """The log counts a disconnect at once, during latency or a stall."""
    faults = FaultPlan(script=[None, Fault.STALL(seconds=3600)])
    provider = MockProvider(latency=3600, faults=faults)
    with anyio.fail_after(5):
        async with client_of(provider) as client, anyio.create_task_group() as group:
            for _ in range(2):
                group.start_soon(lambda: client.post("/chat/completions", json=body_of()))
            await provider.log.wait_for(lambda seen: seen.in_flight == 2)
            group.cancel_scope.cancel()
    seen = provider.log.snapshot()
    assert (seen.disconnects, seen.in_flight, seen.by_status) == (2, 0, {})


async def test_mock_transport_keeps_the_read_timeout() -> None:
    """The client's own limit ends a wait, as on a socket."""
    provider = MockProvider(latency=3600)
    async with client_of(provider, timeout=0.001) as client:
        with pytest.raises(httpx.ReadTimeout):
            await client.post("/chat/completions", json=body_of())
    assert provider.log.snapshot().disconnects == 1


async def test_mock_transport_has_no_limit_of_concurrency() -> None:
    """Peak and count are right."""
    provider = MockProvider()
    ready = anyio.Event()

    async def one(number: int) -> None:
        await ready.wait()
        request = httpx.Request("POST", "http://mock/v1/chat/completions", json=body_of(f"{number}"))
        response = await provider.transport().handle_async_request(request)
        await response.aread()

    async with anyio.create_task_group() as group:
        for number in range(500):
            group.start_soon(one, number)
        ready.set()
    seen = provider.log.snapshot()
    assert (seen.requests, seen.peak_in_flight, seen.in_flight) == (500, 500, 0)


async def test_faults_do_not_depend_on_the_order_of_arrival() -> None:
    """The same bodies meet the same faults forwards and backwards."""

    async def fates(order: list[int]) -> dict[int, int]:
        provider = MockProvider(faults=FaultPlan({Fault.SERVER_ERROR: 0.3}, seed=5))
        met = {}
        async with client_of(provider) as client:
            for number in order:
                response = await client.post("/chat/completions", json=body_of(f"{number}"))
                met[number] = response.status_code
        return met

    numbers = list(range(100))
    forwards = await fates(numbers)
    assert forwards == await fates(numbers[::-1])
    assert set(forwards.values()) == {200, 500}


async def test_fault_plan_lets_the_third_attempt_succeed() -> None:
    """With the default bound of two faults in a row."""
    provider = MockProvider(faults=FaultPlan({Fault.SERVER_ERROR: 1.0}))
    async with client_of(provider) as client:
        statuses = [(await client.post("/chat/completions", json=body_of())).status_code for _ in range(6)]
    assert statuses == [500, 500, 200, 500, 500, 200]


async def test_fault_plan_script_skips_invalid_requests() -> None:
    """Faults are for requests that would have been answered."""
    provider = MockProvider(faults=FaultPlan(script=[Fault.CONFLICT]))
    async with client_of(provider) as client:
        assert (await client.post("/chat/completions", json={})).status_code == 400
        assert (await client.post("/chat/completions", json=body_of())).status_code == 409


def test_mock_transport_works_on_a_virtual_clock() -> None:
    """The mock waits through AnyIO, so Trio's MockClock drives it: a simulation is exact."""
    provider = MockProvider(latency=3600, faults=FaultPlan(script=[Fault.SLOW_DRIP(seconds=60)]))

    async def main() -> float:
        async with client_of(provider) as client:
            start = trio.current_time()
            response = await client.post("/chat/completions", json=body_of())
            assert trio.current_time() - start == 3600 + 60 * len(response.content)
            start = trio.current_time()
            await client.post("/chat/completions", json=body_of("2"))
            return trio.current_time() - start

    took = virtual.run(main)
    assert took == 3600
    gaps = provider.log.snapshot().gaps
    assert gaps is not None
    assert gaps.min > 3600


def test_latency_is_the_same_in_every_run() -> None:
    """On a virtual clock two runs take exactly the same time, in any order."""

    async def main(order: list[int]) -> dict[int, float]:
        provider = MockProvider(latency=LogNormal(1.0, 0.5))
        took = {}
        async with client_of(provider) as client:
            for number in order:
                start = trio.current_time()
                await client.post("/chat/completions", json=body_of(f"{number}"))
                took[number] = round(trio.current_time() - start, 6)
        return took

    def run(order: list[int]) -> dict[int, float]:
        return virtual.run(main, order)

    first = run(list(range(20)))
    assert first == run(list(range(20))[::-1])
    assert len(set(first.values())) == 20


def test_log_waiter_does_not_stop_a_virtual_clock() -> None:
    """It learns of a disconnect at the very moment."""
    provider = MockProvider(latency=3600)

    async def main() -> float:
        async with client_of(provider) as client, trio.open_nursery() as nursery:
            start = trio.current_time()
            with trio.move_on_after(60):
                nursery.start_soon(provider.log.wait_for, lambda seen: seen.disconnects == 1)
                await client.post("/chat/completions", json=body_of())
        return trio.current_time() - start

    assert virtual.run(main) == 60
