"""All scenarios, in the order of the page."""

from __future__ import annotations

from benchmarks.scenarios.chat import CHAT
from benchmarks.scenarios.embeddings import EMBEDDINGS
from benchmarks.scenarios.protocol import Scenario
from benchmarks.scenarios.scaling import IN_FLIGHT, ITEMS
from benchmarks.scenarios.startup import STARTUP
from benchmarks.scenarios.steps import STEPS
from benchmarks.scenarios.trouble import FAULTS, RATE_LIMITS

__all__ = ["SCENARIOS"]

SCENARIOS: tuple[Scenario, ...] = (
    CHAT,
    EMBEDDINGS,
    RATE_LIMITS,
    FAULTS,
    STEPS,
    ITEMS,
    IN_FLIGHT,
    STARTUP,
)
