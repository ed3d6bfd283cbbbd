"""A run with its spans and metrics on the console: `python examples/traced.py`.

Needs `pip install "batchrt[otel]" opentelemetry-sdk`. The provider is the mock, in this process. It refuses
some requests, so that a retry and a cool-down show. For a real collector, put OTLP exporters in place of the
console's.
"""

from __future__ import annotations

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter

from batchrt import ChatOpenAI, OpenAIEmbeddings, RunnableParallel, StrOutputParser
from batchrt.integrations.opentelemetry import instrument
from batchrt.testing import MockProvider, RateLimits


def main() -> None:
    """Run a chain of a chat and an embedding side by side."""
    tracers = TracerProvider()
    tracers.add_span_processor(BatchSpanProcessor(ConsoleSpanExporter()))
    meters = MeterProvider([PeriodicExportingMetricReader(ConsoleMetricExporter())])
    instrument(tracer_provider=tracers, meter_provider=meters, items=True)

    limits = RateLimits(requests_per_minute=120, burst_seconds=1, headers="none")
    transport = MockProvider(rate_limits=limits).transport()
    chat = ChatOpenAI("mock-chat", base_url="http://mock/v1", api_key="none", transport=transport)
    vectors = OpenAIEmbeddings("mock-vectors", base_url="http://mock/v1", api_key="none", transport=transport)
    chain = RunnableParallel(answer=chat | StrOutputParser(), vector=vectors)

    with tracers.get_tracer("example").start_as_current_span("caller"):
        chain.batch([f"ticket {number}" for number in range(5)], config={"run_name": "tickets"})

    tracers.shutdown()
    meters.shutdown()


if __name__ == "__main__":
    main()
