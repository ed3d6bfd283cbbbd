"""Figures of the reliability suite: what each test ran, printed at the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Figure = Callable[..., None]

FIGURES: pytest.StashKey[list[str]] = pytest.StashKey()


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Figure:
    """Record what a test ran: `figure(seeds=100)`; the long tier prints it."""

    def record(**counts: Any) -> None:
        said = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in counts.items())
        request.config.stash.setdefault(FIGURES, []).append(f"{request.node.name}: {said}")

    return record


@pytest.hookimpl
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the figures of the long tier, which the reliability page shows."""
    figures = config.stash.get(FIGURES, [])
    if figures and config.option.markexpr != "not long":
        terminalreporter.section("figures")
        for line in figures:
            terminalreporter.write_line(line)
