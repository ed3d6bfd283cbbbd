"""A FastAPI service: a deadline for each request, cancelled when the client goes away, with metrics.

    pip install '.[mock]' fastapi prometheus-client
    uvicorn --app-dir examples service:app

    curl -s localhost:8000/classify -H 'content-type: application/json' -d '{"text": "The lamp is broken"}'
    curl -s localhost:8000/metrics

The built-in mock provider answers. For a real model, leave out `transport` and `base_url` and set
OPENAI_API_KEY.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Annotated, TypeVar

import anyio
from fastapi import FastAPI, Header, HTTPException, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from pydantic import BaseModel

from batchrt import (
    ChatOpenAI,
    ChatPromptTemplate,
    ItemTimeoutError,
    OutageError,
    Quota,
    QuotaExhaustedError,
    RateLimitError,
    StrOutputParser,
)
from batchrt.testing import MockProvider

T = TypeVar("T")
CLIENT_CLOSED_REQUEST = 499  # nginx's status; no client reads it, the access log has it

provider = MockProvider(latency=0.2)
model = ChatOpenAI("mock", base_url="http://mock/v1", transport=provider.transport(), max_in_flight=100)
chain = ChatPromptTemplate.from_template("Category of: {text}") | model | StrOutputParser()


class Ticket(BaseModel):
    """The body of a request."""

    text: str


class QuotaMetrics(Collector):
    """Give a quota's counters to Prometheus when it asks for them."""

    def __init__(self, quota: Quota) -> None:
        self._quota = quota

    def collect(self) -> Iterator[Metric]:
        """Yield counters and gauges of this moment."""
        now = self._quota.statistics()
        yield GaugeMetricFamily("llm_requests_in_flight", "Requests in flight", now.in_flight)
        yield GaugeMetricFamily("llm_requests_waiting", "Requests that wait for the quota", now.waiting)
        yield GaugeMetricFamily("llm_cool_down_seconds", "Seconds left of the cool-down", now.quiet_for)
        yield CounterMetricFamily("llm_requests", "Requests sent", now.requests)
        yield CounterMetricFamily("llm_answers", "Requests that succeeded", now.answers)
        yield CounterMetricFamily("llm_refusals", "Requests refused for a rate limit", now.refusals)
        yield CounterMetricFamily("llm_tokens", "Tokens billed", now.tokens)


registry = CollectorRegistry()
registry.register(QuotaMetrics(model.quota))


async def while_connected(request: Request, work: Callable[[], Awaitable[T]]) -> T:
    """Await `work()`, and cancel it, with its requests, when the client goes away."""
    outcome: list[T] = []
    failure: list[Exception] = []

    async with anyio.create_task_group() as tasks:

        async def run() -> None:
            try:
                outcome.append(await work())
            except Exception as error:  # noqa: BLE001  raised below, outside of the task group's ExceptionGroup
                failure.append(error)
            tasks.cancel_scope.cancel()

        tasks.start_soon(run)
        while (await request.receive())["type"] != "http.disconnect":
            pass
        tasks.cancel_scope.cancel()

    if failure:
        raise failure[0]
    if not outcome:
        raise HTTPException(CLIENT_CLOSED_REQUEST, "the client has gone away")
    return outcome[0]


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Close the connections to the provider when the service ends."""
    yield
    await model.aclose()


app = FastAPI(lifespan=lifespan)


@app.post("/classify")
async def classify(
    ticket: Ticket, request: Request, x_deadline: Annotated[float, Header(gt=0, le=60)] = 10.0
) -> dict[str, str]:
    """Answer within the deadline, in seconds, that the caller names."""
    try:
        category = await while_connected(
            request, lambda: chain.ainvoke(ticket.model_dump(), config={"timeout": x_deadline})
        )
    except ItemTimeoutError as error:
        raise HTTPException(504, f"no answer within {x_deadline:g} seconds") from error
    except RateLimitError as error:
        raise HTTPException(
            503, "the provider is busy", {"retry-after": f"{error.retry_after or 1:.0f}"}
        ) from error
    except (OutageError, QuotaExhaustedError) as error:
        raise HTTPException(503, "the provider does not answer") from error
    return {"category": category}


@app.get("/metrics")
async def metrics() -> Response:
    """Return the counters in Prometheus's format."""
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)
