"""batchrt measured beside what else does the work: `python -m benchmarks`."""

from __future__ import annotations

__all__: list[str] = []
