"""Limit messages: the limits that a server names when it refuses a list; no I/O."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, Literal, NamedTuple, TypeAlias

__all__ = ["Named", "named_limits"]

Unit: TypeAlias = Literal["texts", "tokens of a request", "tokens of a text"]

_READ: Final = 10_000
"""Characters of a message that are searched: some servers repeat the whole input."""

_NUMBER: Final = r"(?<![\w.-])(\d[\d,_]{0,14})(?![\w-])"
# "maximum allowed batch size 32", "at most 2048", "larger than 10", "limit is 1000", "66 > 32"
_MOST_BEFORE: Final = re.compile(
    r"(?:\bmax\w*|\bmost|\blimit\w*|\b(?:more|larger|greater|longer|less|fewer) than|\bexceed\w*|\bup to|>)"
    rf"\D{{0,80}}?{_NUMBER}",
    re.IGNORECASE,
)
# "250 instances are allowed", "32 is the maximum"
_MOST_AFTER: Final = re.compile(
    rf"{_NUMBER}[^\d.;]{{0,40}}?(?:\ballowed|\bpermitted|\bis the (?:max|limit))", re.IGNORECASE
)
_ANY: Final = re.compile(_NUMBER)
_WHOLE: Final = re.compile(
    r"per (?:\w+ )?(?:request|batch|call)|request size|in (?:the|a|one) batch|batch has|overall|in total"
    r"|total (?:number of )?tokens|maximum allowed tokens",
    re.IGNORECASE,
)
_OTHER_UNITS: Final = re.compile(
    r"\s*(?:bytes?|[kmg]i?b\b|characters?|chars\b|seconds?|requests? per)", re.IGNORECASE
)


class Named(NamedTuple):
    """Hold a limit that a message names.

    Attributes:
        unit: the unit that it counts.
        most: the limit.
        given: the number that was sent, if the message has it.
    """

    unit: Unit
    most: int
    given: int | None


def named_limits(message: str) -> Iterator[Named]:
    """Yield the limits that an error's `message` may name, the likeliest first.

    Which of several numbers is the limit is not certain: "maximum exceeded: 66 > 32" has two. The caller
    takes the first one that the list was longer than.
    """
    message = message[:_READ]
    numbers = [_value(found) for found in _ANY.finditer(message)]
    seen: set[tuple[str, int]] = set()
    for pattern in (_MOST_BEFORE, _MOST_AFTER):
        for found in _overlapping(pattern, message):
            most = _value(found)
            unit = _unit_of(message, found)
            if most < 1 or unit is None or (unit, most) in seen:
                continue
            seen.add((unit, most))
            yield Named(unit, most, min((n for n in numbers if n > most), default=None))


def _overlapping(pattern: re.Pattern[str], message: str) -> Iterator[re.Match[str]]:
    """Yield a match for every position: one that begins with the wrong word does not hide the next."""
    position = 0
    while (found := pattern.search(message, position)) is not None:
        yield found
        position = found.start() + 1


def _value(found: re.Match[str]) -> int:
    return int(found[1].replace(",", "").replace("_", ""))


def _unit_of(message: str, found: re.Match[str]) -> Unit | None:
    after = message[found.end(1) : found.end(1) + 30]
    if _OTHER_UNITS.match(after):
        return None
    around = message[max(0, found.start() - 40) : found.end(1)] + after
    if "token" not in around.lower():
        return "texts"
    return "tokens of a request" if _WHOLE.search(message) else "tokens of a text"
