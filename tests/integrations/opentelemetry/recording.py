"""Recordings of what an SDK gets: spans and metrics in memory, and a provider that answers by a plan."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from batchrt import ChatOpenAI, OpenAIEmbeddings
from batchrt.integrations.opentelemetry import instrument, uninstrument

__all__ = ["Recorder", "answer_of", "chat", "embeddings", "recording", "refusal"]


class Recorder:
    """An SDK whose spans and metrics stay in memory."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.tracer_provider = TracerProvider()
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self._reader = InMemoryMetricReader()
        self.meter_provider = MeterProvider([self._reader])

    def spans(self, start: str = "") -> list[ReadableSpan]:
        """Return the spans that have ended, of names that begin with `start`, in the order of their ends."""
        return [span for span in self._exporter.get_finished_spans() if span.name.startswith(start)]

    def points(self) -> dict[str, list[Any]]:
        """Return the data points by the names of their metrics."""
        data: Any = self._reader.get_metrics_data()
        resources = [] if data is None else data.resource_metrics
        return {
            metric.name: list(metric.data.data_points)
            for resource in resources
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def values(self, name: str, by: str) -> dict[Any, Any]:
        """Return the values (a histogram's sums) of a metric by an attribute, added up, without zeros."""
        found: dict[Any, Any] = {}
        for point in self.points().get(name, ()):
            key = point.attributes.get(by)
            found[key] = found.get(key, 0) + (point.value if hasattr(point, "value") else point.sum)
        return {key: value for key, value in found.items() if value}

    def everything(self) -> str:
        """Return all that was recorded, as text."""
        spans = [span.to_json() for span in self.spans()]
        return "\n".join([*spans, repr(self.points())])


@contextmanager
def recording(**options: Any) -> Iterator[Recorder]:
    """Instrument the process with an SDK of the block's own."""
    recorder = Recorder()
    instrument(tracer_provider=recorder.tracer_provider, meter_provider=recorder.meter_provider, **options)
    try:
        yield recorder
    finally:
        uninstrument()


def answer_of(request: httpx.Request) -> httpx.Response:
    """Answer a chat by "fine", and texts by vectors."""
    body = json.loads(request.content)
    if "input" in body:
        texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
        vectors = [{"index": place, "embedding": [1.0, 2.0]} for place in range(len(texts))]
        usage = {"prompt_tokens": 3 * len(texts), "total_tokens": 3 * len(texts)}
        return httpx.Response(200, json={"model": "e-1", "data": vectors, "usage": usage})
    usage_of_chat = {
        "prompt_tokens": 10,
        "completion_tokens": 4,
        "total_tokens": 14,
        "prompt_tokens_details": {"cached_tokens": 6},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }
    message = {"role": "assistant", "content": "fine"}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    content = {"id": "chatcmpl-7", "model": "m-1", "choices": [choice], "usage": usage_of_chat}
    return httpx.Response(200, json=content, headers={"x-request-id": "req-9"})


def refusal(status: int, **headers: str) -> Callable[[httpx.Request], httpx.Response]:
    """Return a function that refuses a request, and quotes it."""

    def refuse(request: httpx.Request) -> httpx.Response:
        said = f"cannot do that: {request.content.decode()}"
        return httpx.Response(status, json={"error": {"message": said}}, headers=headers)

    return refuse


def _options(plan: Sequence[Callable[[httpx.Request], httpx.Response]], options: dict[str, Any]) -> Any:
    left = iter(plan)

    def handle(request: httpx.Request) -> httpx.Response:
        return next(left, answer_of)(request)

    return {
        "base_url": "http://mock:8000/v1",
        "api_key": "sk-canary-key",
        "transport": httpx.MockTransport(handle),
        "timeout": None,
        **options,
    }


def chat(*plan: Callable[[httpx.Request], httpx.Response], **options: Any) -> ChatOpenAI:
    """Return a model whose first requests are answered by `plan`, and later ones as usual."""
    return ChatOpenAI("m", **_options(plan, options))


def embeddings(*plan: Callable[[httpx.Request], httpx.Response], **options: Any) -> OpenAIEmbeddings:
    """Return the same for vectors; lists wait until no other item can arrive, on however busy a machine."""
    return OpenAIEmbeddings("e", **_options(plan, {"linger": 60.0, "max_linger": 60.0, **options}))
