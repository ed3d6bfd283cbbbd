"""What answers say about rate limits: headers `x-ratelimit-{limit,remaining,reset}-{requests,tokens}`, words.

The reset is the time until all of the limit is there again, and no time to wait; it looks like `1s`,
`6m0s` or `12ms`, and at Azure's like bare seconds. A limit may be written as `30,000`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from batchrt.runtime.allowance import Standing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchrt.errors import ProviderError
    from batchrt.providers.reply import HeaderMap
    from batchrt.runtime.buckets import Unit

__all__ = ["limited_unit", "read_duration", "standings"]

_COUNTED: Final[tuple[tuple[Unit, str], ...]] = (
    ("requests", "requests"),
    ("tokens", "tokens"),
    ("tokens", "project-tokens"),
)
_NUMBER: Final = re.compile(r"[0-9]{1,15}(?:\.[0-9]{0,15})?")
_SECONDS: Final = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_PART: Final = r"[0-9]{1,12}(?:\.[0-9]{1,12})?(?:ms|us|µs|ns|h|m|s)"
_DURATION: Final = re.compile(rf"(?:{_PART})+")
_PARTS: Final = re.compile(r"([0-9.]+)(ms|us|µs|ns|h|m|s)")
_WORDS: Final = re.compile(
    r"\b(tokens|requests) per (?:min|day)|\((T|R)P[MD]\)|\b(token|call) rate limit", re.IGNORECASE
)
_UNITS: Final[dict[str, Unit]] = {
    "tokens": "tokens",
    "token": "tokens",
    "t": "tokens",
    "requests": "requests",
    "call": "requests",
    "r": "requests",
}
_LONGEST: Final = 86_400.0
"""Seconds: what is longer is a moment and no duration, or makes no sense."""


def standings(headers: HeaderMap) -> Sequence[Standing]:
    """Return what `headers` say about limits; what makes no sense is left out.

    Of limits for the same unit, as a project's and an organization's, only the one with less left counts.
    """
    get = headers.get
    found: list[Standing] = []
    for unit, name in _COUNTED:
        told = get(f"x-ratelimit-limit-{name}")
        if told is None:
            continue
        limit, remaining = _number(told), _number(get(f"x-ratelimit-remaining-{name}"))
        # Proxies say 0 where there is no limit.
        if not limit or remaining is None:
            continue
        reset = read_duration(get(f"x-ratelimit-reset-{name}"))
        if not reset or reset > _LONGEST:
            reset = None
        standing = Standing(unit, limit, min(remaining, limit), reset)
        if found and found[-1].unit == unit:
            if standing.remaining < found[-1].remaining:
                found[-1] = standing
        else:
            found.append(standing)
    return found


def _number(text: str | None) -> float | None:
    if text is None:
        return None
    text = text.strip().replace(",", "")
    return float(text) if _NUMBER.fullmatch(text) else None


def read_duration(text: str | None) -> float | None:
    """Return the seconds that `text` stands for, as `6m0s`, `8.64s`, `12ms` or `7`; `None` for nothing."""
    if text is None:
        return None
    text = text.strip()
    if _NUMBER.fullmatch(text):
        return float(text)
    if _DURATION.fullmatch(text):
        return sum(float(number) * _SECONDS[unit] for number, unit in _PARTS.findall(text))
    return None


def limited_unit(error: ProviderError) -> Unit | None:
    """Return what there is too much of, if a refusal says: OpenAI in its type and words, Azure in words."""
    if error.type is not None and error.type in ("requests", "tokens"):
        return _UNITS[error.type]
    found = _WORDS.search(error.message[:2_000])
    return None if found is None else _UNITS[next(filter(None, found.groups())).lower()]
