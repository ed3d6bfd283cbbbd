"""Faults of streamed answers: a function for each that spoils the events of a good reply.

Each spoils the stream in its middle, after some chunks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeAlias

from pydantic_core import to_json

from batchrt.testing.endpoints.replies import Ending, MockReply
from batchrt.testing.faults.plan import Fault, TunedFault

__all__ = ["STREAM_FAULTS", "StreamFault"]

StreamFault: TypeAlias = Callable[[MockReply, TunedFault], MockReply]

_ERROR = {
    "message": "The upstream model failed while it answered.",
    "type": "server_error",
    "param": None,
    "code": "upstream_error",
}


def _cut(ending: Ending) -> StreamFault:
    """Make a fault that ends the reply within its middle event."""

    def fault(good: MockReply, _fault: TunedFault) -> MockReply:
        middle = len(good.events) // 2
        pause, event = good.events[middle]
        events = (*good.events[:middle], (pause, event[: len(event) // 2]))
        return good._replace(events=events, ending=ending, delay=0.0)

    return fault


def _with_middle(make: Callable[[bytes], bytes], *, last: bool) -> StreamFault:
    """Make a fault that replaces the middle event, which may then be the last."""

    def fault(good: MockReply, _fault: TunedFault) -> MockReply:
        middle = len(good.events) // 2
        pause, event = good.events[middle]
        rest = () if last else good.events[middle + 1 :]
        return good._replace(events=(*good.events[:middle], (pause, make(event)), *rest), delay=0.0)

    return fault


def _silence(good: MockReply, fault: TunedFault) -> MockReply:
    middle = len(good.events) // 2
    _, event = good.events[middle]
    events = (*good.events[:middle], (fault.seconds or 0.0, event), *good.events[middle + 1 :])
    return good._replace(events=events, delay=0.0)


def _no_choices(good: MockReply, _fault: TunedFault) -> MockReply:
    pause, _ = good.events[0]
    return good._replace(events=((pause, b'data: {"choices": []}\n\ndata: [DONE]\n\n'),), delay=0.0)


def _drip(good: MockReply, fault: TunedFault) -> MockReply:
    pause = fault.seconds or 0.0
    events = tuple((pause, bytes((byte,))) for _, event in good.events for byte in event)
    return good._replace(events=events, delay=0.0)


STREAM_FAULTS: Mapping[Fault, StreamFault] = MappingProxyType(
    {
        Fault.SHORT_BODY: _cut(Ending.CLOSE),
        Fault.DROP_MID_BODY: _cut(Ending.RESET),
        Fault.TRUNCATED_JSON: _cut(Ending.COMPLETE),
        Fault.MALFORMED_JSON: _with_middle(lambda event: event.replace(b'":', b'"=', 1), last=False),
        Fault.ERROR_IN_200: _with_middle(lambda _: b"data: %b\n\n" % to_json({"error": _ERROR}), last=True),
        Fault.ERROR_EVENT: _with_middle(lambda _: b"event: error\ndata: %b\n\n" % to_json(_ERROR), last=True),
        Fault.EMPTY_CHOICES: _no_choices,
        Fault.SLOW_DRIP: _drip,
        Fault.SILENCE: _silence,
    }
)
"""Those that a streamed answer meets in another way than one that comes whole, or that only it can meet."""
