"""The metrics: names and buckets of the conventions, quotas as gauges, events as counters, Prometheus."""

from __future__ import annotations

import gc
from typing import Any

import anyio
import httpx
import pytest
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import CollectorRegistry, generate_latest

from batchrt import Quota
from batchrt.integrations.opentelemetry import instrument, uninstrument
from batchrt.integrations.opentelemetry.conventions import DURATION_BUCKETS, TOKEN_BUCKETS
from tests import virtual
from tests.integrations.opentelemetry.recording import answer_of, chat, embeddings, recording, refusal

BACKENDS = ["asyncio", "trio"]


@pytest.mark.anyio
async def test_measures_are_those_of_the_conventions() -> None:
    """Names, units, attributes and buckets."""
    with recording() as recorded:
        await chat().ainvoke("a")
        points = recorded.points()
    (duration,) = points["gen_ai.client.operation.duration"]
    assert duration.explicit_bounds == DURATION_BUCKETS
    assert dict(duration.attributes) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "m",
        "gen_ai.response.model": "m-1",
        "server.address": "mock",
        "server.port": 8000,
    }
    tokens = {point.attributes["gen_ai.token.type"]: point for point in points["gen_ai.client.token.usage"]}
    assert {kind: point.sum for kind, point in tokens.items()} == {"input": 10, "output": 4}
    assert tokens["input"].explicit_bounds == TOKEN_BUCKETS
    assert TOKEN_BUCKETS[-1] == 67_108_864
    (workflow,) = points["gen_ai.invoke_workflow.duration"]
    assert workflow.explicit_bounds[-1] == 7200


@pytest.mark.parametrize("backend", BACKENDS)
def test_measures_show_quotas_as_they_are(backend: str) -> None:
    """Requests in flight and waiting, limits with their sources, and their use, while a run goes on."""
    seen: list[dict[str, list[Any]]] = []

    with recording() as recorded:

        async def answer(request: httpx.Request) -> httpx.Response:
            await anyio.sleep(5)
            seen.append(recorded.points())
            headers = {"x-ratelimit-limit-tokens": "90000", "x-ratelimit-remaining-tokens": "80000"}
            reply = answer_of(request)
            return httpx.Response(200, content=reply.content, headers=headers)

        model = chat(quota=Quota(max_in_flight=2), transport=httpx.MockTransport(answer))
        virtual.run(model.abatch, ["a", "b", "c", "d", "e"], backend=backend)
        after = recorded.points()
    values = {name: [point.value for point in points] for name, points in seen[0].items() if "quota" in name}
    assert values["batchrt.quota.in_flight"] == [2]
    assert values["batchrt.quota.waiting"] == [3]
    limits = {
        (point.attributes["batchrt.limit.name"], point.attributes["batchrt.limit.source"]): point.value
        for point in after["batchrt.quota.limit"]
    }
    assert limits == {("max_in_flight", "given"): 2, ("tokens_per_minute", "told"): 90_000}
    assert {point.attributes["batchrt.limit.name"] for point in after["batchrt.quota.used"]} >= {
        "tokens_per_minute"
    }
    (waiting,) = after["batchrt.quota.waiting"]
    assert waiting.value == 0
    assert waiting.attributes["gen_ai.request.model"] == "m"
    assert waiting.attributes["batchrt.quota"] == 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_measures_count_cooldowns_and_show_the_rest_of_one(backend: str) -> None:
    """A cool-down is counted by its reason, and a gauge has its seconds left."""
    model = chat(refusal(429, **{"retry-after": "8"}), refusal(503))

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(model.ainvoke, "a")
            await anyio.sleep(3)
            (left,) = recorded.points()["batchrt.quota.cooldown"]
            assert left.value == pytest.approx(5)

    with recording() as recorded:
        virtual.run(main, backend=backend)
        (left,) = recorded.points()["batchrt.quota.cooldown"]
        assert left.value == 0
        assert recorded.values("batchrt.cooldowns", "batchrt.reason") == {"RateLimitError (status 429)": 1}
        assert recorded.values("batchrt.retries", "error.type") == {"RateLimitError": 1, "ServerError": 1}


@pytest.mark.parametrize("backend", BACKENDS)
def test_measures_count_outages(backend: str) -> None:
    """An outage is counted, and a gauge says for how long the provider has been down."""

    def fail(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("canary: no route", request=request)

    model = chat(*[fail] * 99, max_retries=5)
    with recording() as recorded:
        virtual.run(
            lambda: model.abatch([str(n) for n in range(40)], return_exceptions=True), backend=backend
        )
        assert sum(recorded.values("batchrt.outages", "").values()) >= 1
        assert "canary" not in recorded.everything()


def test_measures_tell_quotas_apart_and_let_go_of_them() -> None:
    """Two quotas of one model at one address have numbers; one that is collected is reported no more."""
    kept, dropped = chat(quota=Quota()), chat(quota=Quota())
    with recording() as recorded:
        kept.invoke("a")
        dropped.invoke("a")
        numbers = [point.attributes["batchrt.quota"] for point in recorded.points()["batchrt.quota.waiting"]]
        assert numbers == [1, 2]
        del dropped
        gc.collect()
        numbers = [point.attributes["batchrt.quota"] for point in recorded.points()["batchrt.quota.waiting"]]
        assert numbers == [1]


def test_measures_leave_the_short_way_of_requests_open() -> None:
    """A watched quota has no listener, for which each request would take the long way."""
    model = chat()
    with recording():
        model.invoke("a")
        assert model.quota.events.watchers
        assert not model.quota.events.listeners


def test_measures_are_scraped_by_prometheus() -> None:
    """The same metrics through OpenTelemetry's exporter, under Prometheus' names."""
    registry = CollectorRegistry()
    reader = PrometheusMetricReader()
    registry.register(reader._collector)
    meters = MeterProvider([reader])
    instrument(meter_provider=meters)
    try:
        chat().batch(["a", "b"])
        embeddings().batch(["a"])
        text = generate_latest(registry).decode()
    finally:
        uninstrument()
        meters.shutdown()
    lines = [line for line in text.splitlines() if not line.startswith("#")]

    def value(name: str, *labels: str) -> float:
        (line,) = [
            line for line in lines if line.startswith(name + "{") and all(label in line for label in labels)
        ]
        return float(line.rpartition(" ")[2])

    chats = 'gen_ai_operation_name="chat"'
    assert value("batchrt_requests_total", chats) == 2
    assert value("batchrt_tokens_total", chats, 'gen_ai_token_type="input"') == 20
    assert value("gen_ai_client_operation_duration_seconds_count", chats) == 2
    assert value("gen_ai_client_token_usage_sum", chats, 'gen_ai_token_type="output"') == 8
    assert value("batchrt_quota_in_flight", 'gen_ai_request_model="m"') == 0
