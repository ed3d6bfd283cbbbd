"""One run against a provider that limits, fails and refuses, as a trace of all that reached the provider.

`python -m tests.trace [asyncio|trio]` prints it; `tests/test_virtual.py` compares it between processes.
"""

from __future__ import annotations

import hashlib
import sys
from typing import Any

import anyio

from batchrt import ChatOpenAI, OpenAIEmbeddings
from batchrt.testing import FaultPlan, LogNormal, MockProvider, Queueing, RateLimits
from tests import virtual

__all__ = ["digest_of", "lines_of", "trace"]


def trace(backend: str, seed: int = 0, items: int = 250) -> list[str]:
    """Return a line for each request: when it came, how long it took, its status and its attempt."""
    provider = MockProvider(
        seed=seed,
        latency=LogNormal(0.5, 0.7),
        latency_per_input=0.001,
        # Also dates as waits, stalls longer than the timeout, and answers that are no use.
        faults=FaultPlan.everything(0.1, seed=seed, permanent=False, lists=True),
        rate_limits=RateLimits(requests_per_minute=1200, burst_seconds=2, headers="none"),
        queueing=Queueing(capacity=[(0, 40), (8, 20)], max_waiting=20, full_status=429),
    )

    async def main() -> None:
        given: Any = {"base_url": "http://mock/v1", "api_key": "k", "transport": provider.transport()}
        chat = ChatOpenAI("m", timeout=4.0, **given)
        embeddings = OpenAIEmbeddings("e", timeout=4.0, max_batch_size=8, **given)
        inputs = [f"number {item}" for item in range(items)]
        async with anyio.create_task_group() as group:

            def start(model: Any, inputs: list[str], **config: Any) -> None:
                group.start_soon(model.arun, inputs, config)

            start(chat, inputs, max_concurrency=50, deadline=60.0)
            start(chat, inputs[::-1], max_concurrency="auto", timeout=30.0)
            start(embeddings, inputs, max_concurrency=8)

    virtual.run(main, backend=backend, seed=seed)
    return lines_of(provider)


def lines_of(provider: MockProvider) -> list[str]:
    """Return a line for each request that reached `provider`."""
    return [
        # To the microsecond: what two machines' arithmetic makes of the last digits may differ.
        f"{record.time:.6f} {record.seconds:.6f} {record.status} {record.attempt} {record.gone} "
        f"{record.items} {record.digest:016x}"
        for record in provider.log.records()
    ]


def digest_of(lines: list[str]) -> str:
    """Name a trace by its hash."""
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


if __name__ == "__main__":
    sys.stdout.write("\n".join(trace(sys.argv[1] if len(sys.argv) > 1 else "trio")))
