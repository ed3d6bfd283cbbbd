"""Listeners hear of everything while they listen, and cannot harm the work."""

from __future__ import annotations

import dataclasses
import logging

import pytest

from batchrt.runtime.events import CooledDown, Events, LimitChanged, QuotaEvent, Sent


def test_who_listens_is_told_and_nobody_else() -> None:
    """Within its block, each as often as it asked for it."""
    events = Events()
    first: list[QuotaEvent] = []
    second: list[QuotaEvent] = []
    events.tell(Sent(1, 0))
    with events.listening(first.append):
        events.tell(Sent(2, 0))
        with events.listening(second.append), events.listening(second.append):
            events.tell(Sent(3, 0))
        events.tell(Sent(4, 0))
    events.tell(Sent(5, 0))
    assert first == [Sent(2, 0), Sent(3, 0), Sent(4, 0)]
    assert second == [Sent(3, 0), Sent(3, 0)]
    assert not events.listeners


def test_blocks_may_end_in_any_order() -> None:
    """Each takes out its own listener."""
    events = Events()
    heard: list[str] = []
    one = events.listening(lambda _: heard.append("one"))
    two = events.listening(lambda _: heard.append("two"))
    one.__enter__()
    two.__enter__()
    one.__exit__(None, None, None)
    events.tell(CooledDown(1, "x"))
    two.__exit__(None, None, None)
    assert heard == ["two"]
    assert not events.listeners


def test_a_listener_leaves_when_its_block_fails() -> None:
    """It does not listen on behind an error."""
    events = Events()
    with pytest.raises(KeyError), events.listening(print):
        raise KeyError
    assert not events.listeners


def test_what_a_listener_raises_is_logged_and_the_others_are_told(caplog: pytest.LogCaptureFixture) -> None:
    """The work does not suffer from it."""
    events = Events()
    heard: list[QuotaEvent] = []

    def fail(_: QuotaEvent) -> None:
        raise RuntimeError("the listener's own fault")

    with events.listening(fail), events.listening(heard.append), caplog.at_level(logging.ERROR, "batchrt"):
        events.tell(Sent(1, 2))
    assert heard == [Sent(1, 2)]
    assert "Sent" in caplog.text
    assert "the listener's own fault" in caplog.text


def test_an_interrupt_from_a_listener_is_one() -> None:
    """Only errors are kept from the work."""
    events = Events()

    def stop(_: QuotaEvent) -> None:
        raise KeyboardInterrupt

    with events.listening(stop), pytest.raises(KeyboardInterrupt):
        events.tell(Sent(1, 0))


def test_events_are_values() -> None:
    """They compare, and nobody changes them."""
    event = LimitChanged("max_concurrency", 8, 9, "why")
    assert event == LimitChanged("max_concurrency", 8, 9, "why")
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.after = 10  # type: ignore[misc]
