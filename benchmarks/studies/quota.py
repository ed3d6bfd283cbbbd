"""What a provider allows: is it used, is nobody flooded, and what does that cost?"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from benchmarks.studies import (
    quota_auto,
    quota_limits,
    quota_outage,
    quota_peers,
    quota_socket,
    quota_waiters,
)
from benchmarks.studies.results import Table

__all__ = ["measure"]


def measure(*, quick: bool, tell: Callable[[str], None]) -> Iterator[Table]:
    """Measure one table after the other."""
    parts = (quota_limits, quota_peers, quota_auto, quota_outage, quota_waiters, quota_socket)
    for part in parts:
        yield from part.measure(quick=quick, tell=tell)
