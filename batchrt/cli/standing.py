"""How things stand with the provider, in a few words."""

from __future__ import annotations

from typing import Final

from batchrt.cli.numbers import count, duration, short
from batchrt.limits.quota_statistics import QuotaStatistics

__all__ = ["in_flight", "trouble", "use"]

_SHORTEST: Final = 1.0
"""Seconds of a pause that are worth a word: many are over before it is read."""


def in_flight(standing: QuotaStatistics, noun: str | None) -> str:
    """Return `12 in flight`, `12 of 32 in flight` where that is found out, with what it is if `noun` says."""
    most = standing.max_concurrency
    number = f"{standing.in_flight:,}" if most is None else f"{standing.in_flight:,} of {most:,}"
    if noun is None:
        return f"{number} in flight"
    plural = "" if (standing.in_flight if most is None else most) == 1 else "s"
    return f"{number} {noun}{plural} in flight"


def trouble(standing: QuotaStatistics) -> list[str]:
    """Return why nothing is sent, if that is so."""
    words: list[str] = []
    if standing.quiet_for >= _SHORTEST:
        words.append(f"cooling down {duration(standing.quiet_for)}")
    if standing.down_for is not None:
        words.append(f"provider down {duration(standing.down_for)}")
    return words


def use(standing: QuotaStatistics, noun: str | None) -> list[str]:
    """Return how many wait, and how much is used of the limit that is used most, of those that are known."""
    words: list[str] = []
    if standing.waiting:
        waiting = f"{standing.waiting:,}" if noun is None else count(standing.waiting, noun)
        words.append(f"{waiting} waiting")
    known = [(share, name) for name, share in standing.used.items() if name in standing.limits]
    if known:
        share, name = max(known)
        what = name.replace("_per_minute", "/min").replace("_per_day", "/day")
        words.append(f"{share:.0%} of {short(round(standing.limits[name]))} {what}")
    return words
