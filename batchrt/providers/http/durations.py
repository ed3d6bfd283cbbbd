"""Durations and timestamps in text: `2s`, `1m30s`, RFC 3339, "please retry after 7 seconds".

A text is scanned once, token by token, without backtracking: messages come from servers and may be long.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

__all__ = ["read_duration", "read_rfc3339", "wait_in_words"]

_LOOKED_AT: Final = 10_000
"""Characters of a message that are read: some servers quote the whole input."""

# No two alternatives begin alike, and none backtracks by more than a character.
_TOKEN: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[t ][0-9:.]{5,32}(?:z|[+-][0-9]{2}:?[0-9]{2})?"  # a moment, RFC 3339
    r"|[0-9]+(?:,[0-9]{3})*(?:\.[0-9]+)?"
    r"|[^\W\d_]+"
    r"|\S"
)

_UNITS: Final[dict[str, float]] = {
    name: seconds
    for seconds, names in (
        (1e-9, "ns nanos nanosecond nanoseconds"),
        (1e-6, "us µs μs micros microsecond microseconds"),
        (1e-3, "ms msec msecs millis milli millisecond milliseconds"),
        (1.0, "s sec secs second seconds"),
        (60.0, "m min mins minute minutes"),
        (3600.0, "h hr hrs hour hours"),
        (86_400.0, "d day days"),
        (604_800.0, "w week weeks"),
    )
    for name in names.split()
}

_ASKING: Final = """
    again available back backoff cooldown delay pause reset resets resetting retried retries retry retryafter
    retrydelay retrying sleep throttled wait waiting
"""
_ASKS: Final = frozenset(_ASKING.split())
"""Words after which a duration is a wait, if only words of `_BETWEEN` stand in between."""
_FILLERS: Final = """
    a about after again an and another approx approximately around at available back be by call calls capacity
    cooldown delay each expected for from full in interval is it later least limit may minimum more ms
    milliseconds must next no now of off once one or our out period please quota rate request requests reset
    resets retrieve retry retrying roughly s sec seconds sending should sooner than the then this time to
    trying until up wait waiting will window within you your
"""
_BETWEEN: Final = frozenset(_FILLERS.split())
_MARKS: Final = frozenset(":=\"'`_-~≈(<>*[{")
_BEHIND: Final = frozenset(("before", "until", "till"))
"""Words that make the duration before them a wait, if a word of `_NEXT` follows: "5 s before retrying"."""
_FOLLOWING: Final = (
    "again another making next requesting reset resets retry retrying sending submitting try trying"
)
_NEXT: Final = frozenset(_FOLLOWING.split())
_FAR: Final = 12
"""Most tokens between such a word and the duration."""
_NEAR: Final = 4
_LONGEST: Final = 1e9
"""Seconds; a longer duration is not a wait."""


def read_rfc3339(text: str) -> float | None:
    """Return the seconds since the epoch of an RFC 3339 timestamp; one without a zone is UTC."""
    text = text.rstrip(".:")
    if not (16 <= len(text) <= 64 and text[4] == "-" and text[:4].isdecimal()):  # noqa: PLR2004
        return None
    try:
        moment = datetime.fromisoformat(text.upper())
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def read_duration(text: str) -> float | None:
    """Return the seconds of a text that is a duration: `2s`, `1m30s`, `2 minutes`, `1.5 sec`."""
    tokens = _TOKEN.findall(text.strip().lower())
    seconds, stop, named = _duration(tokens, 0)
    return seconds if named and stop == len(tokens) else None


def wait_in_words(message: str, now: float = math.inf) -> float | None:
    """Return the seconds that an error's `message` asks to wait; `None` if it does not.

    Args:
        message: in English, in any of the usual wordings and units.
        now: seconds since the epoch, from which timestamps are measured.
    """
    if not any(character.isdecimal() for character in message[:_LOOKED_AT]):
        return None
    tokens = _TOKEN.findall(message[:_LOOKED_AT].lower())
    for place, token in enumerate(tokens):
        if token in _ASKS:
            found = _asked(tokens, place + 1, now)
        elif token[0].isdecimal():
            found = _until_next(tokens, place)
        else:
            continue
        if found is not None and found < _LONGEST:
            return found
    return None


def _asked(tokens: Sequence[str], place: int, now: float) -> float | None:
    """Return the duration that follows from `place` on, with only words of `_BETWEEN` before it."""
    unit = 1.0
    for at in range(place, min(place + _FAR, len(tokens))):
        token = tokens[at]
        if token[0].isdecimal():
            if tokens[at - 1] == "-":  # negative
                return None
            moment = read_rfc3339(token)
            if moment is not None:
                return max(0.0, moment - now) if now < math.inf else None
            return _read(tokens, at, unit)
        if token not in _BETWEEN and token not in _MARKS:
            return None
        unit = 1e-3 if token in {"ms", "milliseconds"} else unit
    return None


def _read(tokens: Sequence[str], place: int, unit: float) -> float | None:
    """Return the duration at `place`, in units of `unit` seconds if it names none; `None` for none."""
    clock = _clock_duration(tokens, place)
    if clock is not None:
        return clock
    seconds, stop, named = _duration(tokens, place)
    if named:
        return seconds
    # A number alone is seconds, unless it counts a noun that follows, or is a time of day.
    if stop == place or tokens[place - 1] == "at":
        return None
    behind = [*tokens[stop : stop + 2], "", ""]
    is_hour = behind[0] == ":" and behind[1][:1].isdecimal()
    return None if is_hour or behind[0][:1].isalpha() else seconds * unit


def _until_next(tokens: Sequence[str], place: int) -> float | None:
    """Return the duration at `place` if a request may be repeated only after it."""
    if place and tokens[place - 1][0].isdecimal():
        return None  # part of a longer duration
    seconds, stop, named = _duration(tokens, place)
    if named and tokens[stop : stop + 1] in (["remaining"], ["left"]):
        stop += 1
    behind = tokens[stop : stop + _NEAR]
    if named and behind and behind[0] in _BEHIND and not _NEXT.isdisjoint(behind):
        return seconds
    return None


def _clock_duration(tokens: Sequence[str], place: int) -> float | None:
    """Return the seconds of `m:ss` or `h:mm:ss` at `place`, if it is a duration and not a time of day."""
    if tokens[place - 1] not in {"in", "after", "for"} or tokens[place + 1 : place + 2] != [":"]:
        return None
    parts = [tokens[place]]
    at = place + 1
    while len(parts) < 3 and tokens[at : at + 1] == [":"] and at + 1 < len(tokens):  # noqa: PLR2004
        parts.append(tokens[at + 1])
        at += 2
    if len(parts) < 2 or not all(part.isdecimal() and len(part) <= 2 for part in parts):  # noqa: PLR2004
        return None
    seconds = 0.0
    for part in parts:
        seconds = seconds * 60 + int(part)
    return seconds


def _duration(tokens: Sequence[str], place: int) -> tuple[float, int, bool]:
    """Return the duration at `place`, the place behind it, and whether it names a unit.

    Parts add up while their units get smaller: `1m30s`, `1 hour and 5 minutes`, `2 min, 3 sec`.
    """
    total, smallest, named = 0.0, math.inf, False
    while place < len(tokens) and tokens[place][0].isdecimal():
        number = _number(tokens[place])
        unit = _UNITS.get(tokens[place + 1]) if place + 1 < len(tokens) else None
        if number is None or (unit is None and named) or (unit is not None and unit >= smallest):
            break
        place += 1
        if unit is None:
            return number, place, False
        total, smallest, named = total + number * unit, unit, True
        place += 1
        if tokens[place : place + 3] == ["(", "s", ")"]:
            place += 3  # "second(s)"
        if place + 1 < len(tokens) and tokens[place] in {"and", ","} and tokens[place + 1][0].isdecimal():
            place += 1
    return total, place, named


def _number(token: str) -> float | None:
    text = token.replace(",", "")
    return float(text) if len(text) <= 32 and text.replace(".", "", 1).isdecimal() else None  # noqa: PLR2004
