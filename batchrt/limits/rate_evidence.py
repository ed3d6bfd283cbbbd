"""The rate that explains refusals: replays of a token bucket of each plausible rate and size."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeAlias

__all__ = ["Active", "Event", "likeliest_rate"]

_TOLERANCE: Final = 0.35
_JITTER: Final = 0.01
"""Tokens, and seconds' worth of a rate, by which the replayed bucket may be off: arrival is not sending."""
_JITTER_SHARE: Final = 0.15
_BURSTS: Final = (1.0, 2.0, 4.0, 10.0, 30.0, 100.0, math.inf)
"""Bucket sizes that are tried, in requests: refill into a full bucket is lost, and only its size tells how
much."""
_FACTORS: Final = (0.5, 0.7, 0.85, 0.93, 1.0, 1.08, 1.2, 1.5, 2.0, 3.0, 5.0)
_LEADERS: Final = 6
_MOSTLY: Final = 0.9
"""The share of a window outside of named waits, below which the rate without the waits is tried as well."""
_EQUAL: Final = 0.4
_EQUAL_SHARE: Final = 0.05
"""Unexplained outcomes by which two rates may differ and be equally likely; and more for each refusal."""

Active: TypeAlias = Callable[[float, float], float]
"""Returns the seconds between two times outside of named waits."""
Event: TypeAlias = tuple[float, int, bool, float]
"""When a request was sent, beside how many others, whether it was refused, and its weight."""


def likeliest_rate(
    events: Sequence[Event], known: Sequence[float], active: Active
) -> tuple[float, float, float]:
    """Return the likeliest rate, the highest one that is as likely, and the unexplained weight."""
    dry = _dry(events)
    found = [
        (
            min(
                _unexplained(events, rate, burst, dry) for burst in (*_BURSTS, *_fitting_bursts(events, rate))
            ),
            rate,
        )
        for rate in _candidates(events, known, active)
    ]
    if not found:
        return 0.0, 0.0, math.inf
    fewest = min(found)[0]
    most = fewest + _EQUAL + _EQUAL_SHARE * sum(event[3] for event in events if event[2])
    equal = [rate for unexplained, rate in found if unexplained <= most]
    # The candidates come with the likeliest first.
    return equal[0], max(equal), fewest


def _candidates(events: Sequence[Event], known: Sequence[float], active: Active) -> Iterable[float]:
    """Return rates worth a try, the likeliest first."""
    leaders = _leaders(events)
    rates = _rates_between(leaders)
    span = events[-1][0] - events[0][0]
    if not rates and span > 0:
        # Nothing was let in since: all that is known is that a token takes longer.
        let_in = leaders[-1][1]
        rates = [max(let_in, 0.5) / span]
    rates += known
    base = rates[0] if rates else None
    (start, before), (end, after) = leaders[0], leaders[-1]
    if end > start and active(start, end) < _MOSTLY * (end - start):
        # A small bucket is full long before a wait ends, and later refill is lost.
        rates.append((after - before) / active(start, end))
    if base is not None:
        rates += [base * factor for factor in _FACTORS]
    fastest = _fastest(events)
    rates += [fastest, fastest / 1.25, fastest / 2] if fastest else []
    return dict.fromkeys(rate for rate in rates if rate > 0)


def _dry(events: Sequence[Event]) -> float:
    """Return the seconds from the first refusal to the last one before anything was let in."""
    last = events[0][0]
    for at, _, refused, _ in events:
        if not refused:
            break
        last = at
    return last - events[0][0]


def _leaders(events: Sequence[Event]) -> list[tuple[float, int]]:
    """Return when the newest waves of refusals began, and how many requests were let in before each."""
    leaders: list[tuple[float, int]] = []
    let_in, before = 0, False
    for at, _, refused, _ in events:
        if refused and not before:
            leaders.append((at, let_in))
        before = refused
        let_in += not refused
    return leaders[-_LEADERS:]


def _rates_between(leaders: Sequence[tuple[float, int]]) -> list[float]:
    """Return the rates of accepted requests between two waves, which are about the refill.

    The window with the most requests is the most exact, and comes first.
    """
    windows = [
        (more - count, (more - count) / (end - start))
        for place, (start, count) in enumerate(leaders)
        for end, more in leaders[place + 1 :]
        if end > start and more > count
    ]
    return [rate for _, rate in sorted(windows, reverse=True)]


def _fitting_bursts(events: Sequence[Event], rate: float) -> set[float]:
    """Return the bucket sizes that the newest refusals tell if `rate` is the refill.

    A request that is refused although a large bucket would hold a token tells how much of the refill was lost
    since the bucket was full last.
    """
    level, last, most = 0.5, events[0][0], 0.5
    found: list[float] = []
    for at, _, refused, _ in events:
        if at > last:
            level += (at - last) * rate
            last = at
        most = max(most, level)
        if refused:
            if level > 1.0 + _TOLERANCE:
                found.append(most - level + 1.0)
            level = most = min(level, 1.0)
        else:
            level = max(level - 1.0, 0.0)
    return {burst for burst in found[-2:] if burst > 1.0}


def _fastest(events: Sequence[Event]) -> float:
    """Return the rate at which the last accepted requests were sent, 0 if they are too few."""
    times = [at for at, _, refused, _ in events if not refused][-9:]
    if len(times) < 9 or times[-1] <= times[0]:  # noqa: PLR2004
        return 0.0
    return (len(times) - 1) / (times[-1] - times[0])


def _unexplained(events: Sequence[Event], rate: float, burst: float, dry: float) -> float:
    """Return the weight of the outcomes that a bucket of `burst` tokens does not predict.

    The replay begins at a refusal, when the bucket held less than a token, so much less that the `dry`
    seconds did not fill it. Each outcome that it did not predict puts it right. A refusal within tolerance
    counts by how far it is off (a hinge loss): a client that keeps to some rate is always near the edge of a
    bucket with this rate, and random refusals would be explained by whatever rate is kept to.
    """
    # The tolerance may be no large share of a small bucket.
    tolerance = _TOLERANCE + min(_JITTER * rate, _JITTER_SHARE * (burst - 1.0))
    level, last, total = max(0.0, min(0.5, 1.0 - rate * dry)), events[0][0], 0.0
    for at, _, refused, weight in events:
        if at > last:
            level = min(burst, level + (at - last) * rate)
            last = at
        if refused:
            if level > 1.0 + tolerance or level >= burst:  # a full bucket refuses nothing
                total += weight
                level = (level + 1.0) / 2
            elif level > 1.0:
                total += weight * (level - 1.0) / tolerance
                level = 1.0
        else:
            if level < 1.0 - tolerance:
                total += weight
            level = max(level - 1.0, -tolerance)
    return total
