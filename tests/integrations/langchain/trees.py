"""What tests of LangChain share: a tracer that keeps run trees, and their shapes."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.tracers import BaseTracer

__all__ = ["BOTH_LOOPS", "Trees", "shape"]

BOTH_LOOPS = pytest.mark.parametrize(
    "anyio_backend",
    [("asyncio", {"debug": True}), ("asyncio", {"use_uvloop": True})],
    ids=["asyncio", "uvloop"],
)
"""For a test of the event loops that LangChain supports."""


class Trees(BaseTracer):
    """Keep the root runs that ended, in order of their ends."""

    def __init__(self) -> None:
        super().__init__()
        self.roots: list[Any] = []

    def _persist_run(self, run: Any) -> None:
        self.roots.append(run)

    @property
    def shapes(self) -> list[Any]:
        """The shapes of the root runs."""
        return [shape(run) for run in self.roots]


def shape(run: Any) -> Any:
    """Return what is the same for equal runs: names, kinds, tags, errors, outputs, and the runs inside.

    Runs that begin at the same time have no order.
    """
    children = sorted((shape(child) for child in run.child_runs), key=repr)
    inputs = run.inputs if run.run_type == "chain" else None
    return (run.name, run.run_type, sorted(run.tags), run.error is not None, repr(inputs), children)
