"""Listeners hear of everything while they listen, and cannot harm the work."""

from __future__ import annotations

import dataclasses
import logging

import pytest

from batchrt.limits.events import (
    BY_HAND,
    CooledDown,
    Events,
    LimitChanged,
    ProviderDown,
    QuotaEvent,
    Sent,
    TellingLock,
)


def test_events_go_to_listeners_alone() -> None:
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


def test_events_blocks_may_end_in_any_order() -> None:
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


def test_events_listener_leaves_when_its_block_fails() -> None:
    """It does not listen on behind an error."""
    events = Events()
    with pytest.raises(KeyError), events.listening(print):
        raise KeyError
    assert not events.listeners


def test_events_log_a_listeners_exception_and_reach_the_others(caplog: pytest.LogCaptureFixture) -> None:
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


def test_events_let_an_interrupt_of_a_listener_through() -> None:
    """Only errors are kept from the work."""
    events = Events()

    def stop(_: QuotaEvent) -> None:
        raise KeyboardInterrupt

    with events.listening(stop), pytest.raises(KeyboardInterrupt):
        events.tell(Sent(1, 0))


def test_events_are_values() -> None:
    """They are compared by value, and immutable."""
    event = LimitChanged("max_concurrency", 8, 9, "why")
    assert event == LimitChanged("max_concurrency", 8, 9, "why")
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.after = 10  # type: ignore[misc]


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the warnings that were logged, and check that nothing else was."""
    assert {record.levelname for record in caplog.records} <= {"WARNING"}
    assert {record.name for record in caplog.records} <= {"batchrt"}
    return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize(
    ("waits", "logged"),
    [
        ([(0.0, 30.0)], 1),
        ([(0.0, 1.001)], 1),
        ([(0.0, 1.0)], 0),
        ([(0.0, 0.2), (1.0, 0.2), (2.0, 0.2)], 0),
        ([(0.0, 30.0), (0.1, 30.0), (0.2, 31.0)], 1),
        ([(0.0, 30.0), (31.0, 30.0)], 2),
        ([(0.0, 0.5), (0.1, 30.0), (0.2, 30.0)], 1),
    ],
)
def test_events_log_one_warning_for_a_cool_down_of_more_than_a_second(
    caplog: pytest.LogCaptureFixture, waits: list[tuple[float, float]], logged: int
) -> None:
    """Refusals of the same wave make it longer, and are not logged."""
    events = Events()
    heard: list[QuotaEvent] = []
    with events.listening(heard.append):
        for now, wait in waits:
            events.announce(CooledDown(wait, "RateLimitError (status 429)"), now)
    assert len(heard) == len(waits)
    assert len(warnings(caplog)) == logged
    assert all("the provider asked for it, with a RateLimitError" in line for line in warnings(caplog))


def test_events_log_no_named_wait_where_there_was_none(caplog: pytest.LogCaptureFixture) -> None:
    """A refusal may name none."""
    Events().announce(CooledDown(4.0, "RateLimitError (status 429)", named=False), 0.0)
    assert warnings(caplog) == [
        "nothing is sent for 4 s: the provider refuses, with a RateLimitError (status 429)"
    ]


@pytest.mark.parametrize(
    ("changes", "logged"),
    [
        ([LimitChanged("requests_per_minute", None, 600, "told by the provider")], 1),
        ([LimitChanged("requests_per_minute", None, 600, BY_HAND)], 0),
        (
            [LimitChanged(f"{unit}_per_minute", None, 600, "a") for unit in ("tokens", "requests")],
            2,
        ),
        ([LimitChanged("tokens_per_day", None, 5, "a"), LimitChanged("tokens_per_day", 5, 6, "b")], 1),
        ([LimitChanged("max_concurrency", 8 * 2**n, 16 * 2**n, "doubling") for n in range(9)], 0),
        ([LimitChanged("max_concurrency", n + 1, n, "too many") for n in range(90, 1, -1)], 1),
        ([LimitChanged("tokens_per_minute", 5, None, "gone")], 0),
    ],
)
def test_events_log_one_warning_for_a_limit_that_was_found(
    caplog: pytest.LogCaptureFixture, changes: list[LimitChanged], logged: int
) -> None:
    """With its name; none for a limit given by hand, nor for changes of a known one."""
    events = Events()
    for change in changes:
        events.announce(change, 0.0)
    assert len(warnings(caplog)) == logged


def test_events_log_a_warning_for_an_outage(caplog: pytest.LogCaptureFixture) -> None:
    """With the reason."""
    Events().announce(ProviderDown(10, "ServerError (status 503)", "no capacity"), 0.0)
    (line,) = warnings(caplog)
    assert "10 requests in a row" in line
    assert "ServerError (status 503): no capacity" in line


def test_events_watchers_hear_announced_events_alone() -> None:
    """A watcher is told of what is rare, under a lock once it is released, and is no listener."""
    events = Events()
    lock = TellingLock(events)
    seen: list[QuotaEvent] = []
    events.watch(seen.append)
    rare = CooledDown(1, "x"), LimitChanged("max_in_flight", None, 2, "y"), ProviderDown(3, "z")
    with lock:
        for event in rare:
            events.announce(event, 0.0)
        assert not seen
    events.tell(Sent(1, 0))
    assert seen == [*rare]
    assert not events.listeners
    events.unwatch(seen.append)
    events.unwatch(seen.append)  # once is enough
    with lock:
        events.announce(rare[0], 10.0)
    assert seen == [*rare]
    assert not events.is_heard


def test_events_are_told_to_listeners_beside_watchers() -> None:
    """Each hears its own; the last one that leaves leaves silence."""
    events = Events()
    heard: list[QuotaEvent] = []
    watched: list[QuotaEvent] = []
    events.watch(watched.append)
    with events.listening(heard.append):
        events.tell(Sent(1, 0))
        events.announce(CooledDown(1, "x"), 0.0)
    assert events.is_heard
    events.announce(CooledDown(2, "x"), 9.0)
    assert heard == [Sent(1, 0), CooledDown(1, "x")]
    assert watched == [CooledDown(1, "x"), CooledDown(2, "x")]
