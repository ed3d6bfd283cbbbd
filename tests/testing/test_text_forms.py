"""Options of a mock provider as text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from batchrt.testing import Fault, LogNormal, Outage
from batchrt.testing.text_forms import read_faults, read_latency, read_outage, read_scripted


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (read_latency, "0.2", 0.2),
        (read_latency, "lognormal:0.2,0.5", LogNormal(0.2, 0.5)),
        (read_outage, "60-120", Outage(60, 120, 503)),
        (read_outage, "60-120=refused", Outage(60, 120, "refused")),
        (lambda text: read_scripted("capacity", text), "600", 600.0),
        (lambda text: read_scripted("capacity", text), "600,300@60", [(0.0, 600.0), (60.0, 300.0)]),
        (lambda text: dict(read_faults(0, [text]).rates), "stall:3=0.01", {Fault.STALL(seconds=3): 0.01}),
    ],
)
def test_text_forms_are_read(read: Callable[[str], Any], text: str, value: Any) -> None:
    """Numbers, distributions, spans of seconds, and steps."""
    assert read(text) == value


@pytest.mark.parametrize(
    ("read", "text", "message"),
    [
        (read_latency, "soon", "^latency must be seconds, as 0.2"),
        (read_outage, "60", "^outage 60: write it as START-END"),
        (lambda text: read_scripted("capacity", text), "5,4", "^capacity must be a number, as 600"),
        (lambda text: read_faults(0, [text]), "stall", "^fault stall: write it as stall=RATE"),
    ],
)
def test_text_forms_errors_begin_with_the_option(read: Callable[[str], Any], text: str, message: str) -> None:
    """They say how it is written."""
    with pytest.raises(ValueError, match=message):
        read(text)
