"""OpenTelemetry: spans and metrics of runs and requests, by the GenAI conventions.

    from batchrt.integrations.opentelemetry import instrument

    instrument()  # the providers are the global ones, unless others are passed
    await chain.abatch(rows, config={"run_name": "tickets"})

Needs the extra `batchrt[opentelemetry]`, and an SDK and an exporter of your own. See `docs/observability.md`.
"""

from __future__ import annotations

from batchrt.integrations.opentelemetry.instrumentation import BatchrtInstrumentor, instrument, uninstrument

__all__ = ["BatchrtInstrumentor", "instrument", "uninstrument"]
