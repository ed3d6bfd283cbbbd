"""Cells: runs in virtual time against providers that limit in different ways, each with its trace.

    python -m tests.providers.cells

prints a hash of the trace of each; `nox -s traces` compares them between Pythons.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, Final

from batchrt.testing import MockProvider, Outage, Queueing, RateLimits, Stranger
from tests.providers.mocked import LATENCY, Network, lengths, simulate
from tests.trace import digest_of, lines_of

__all__ = ["BACKENDS", "CELLS", "digests"]

BACKENDS: Final = ("trio", "asyncio")
ITEMS: Final = 150


def _limits(**limits: Any) -> dict[str, Any]:
    return {"rate_limits": RateLimits(**limits)}


CELLS: Final[Mapping[str, tuple[dict[str, Any], dict[str, Any]]]] = {
    "requests, given": (_limits(requests_per_minute=600), {"requests_per_minute": 600}),
    "requests, told": (_limits(requests_per_minute=600, burst_seconds=1.0), {}),
    "tokens, told": (_limits(tokens_per_minute=30_000, burst_seconds=5.0), {}),
    "both, shared by runs": (_limits(requests_per_minute=600, tokens_per_minute=90_000), {"runs": 4}),
    "a limit that halves": (_limits(requests_per_minute=[(0, 1200), (5, 600)]), {"cap": 16}),
    "refusals alone": (_limits(requests_per_minute=600, burst_seconds=1.0, headers="none"), {}),
    "refusals without waits": (_limits(requests_per_minute=600, burst_seconds=1.0, style="nginx"), {}),
    "requests at once": (_limits(max_parallel_requests=8, style="litellm"), {"cap": "auto"}),
    "a queue": ({"queueing": Queueing(capacity=16, max_waiting=8, full_status=429)}, {"cap": "auto"}),
    "a stranger": (
        _limits(requests_per_minute=600, burst_seconds=1.0, stranger=Stranger(requests_per_minute=200)),
        {},
    ),
    "an outage": ({"outages": [Outage(2.0, 8.0, 503)]}, {"cap": "auto"}),
}
"""Arguments of the provider, and of `simulate`, by name."""


def digests(seed: int = 0) -> list[str]:
    """Run each cell on each event loop, and return its name and a hash of its trace."""
    found = []
    for name, (limits, options) in CELLS.items():
        for backend in BACKENDS:
            provider = MockProvider(seed=seed, latency=LATENCY, answer=lengths, **limits)
            transport = Network(provider.transport(), seed)
            simulate(provider, ITEMS, backend=backend, seed=seed, transport=transport, **options)
            found.append(f"{name} {backend} {digest_of(lines_of(provider))}")
    return found


if __name__ == "__main__":
    sys.stdout.write("\n".join(digests()) + "\n")
