"""What a quota allows, and how it says so."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from .schedules import Scripted, check_scripted

__all__ = ["LimitHeaders", "LimitStyle", "RateLimits", "WaitForm"]

LimitStyle: TypeAlias = Literal["openai", "azure", "litellm", "tei"]
LimitHeaders: TypeAlias = Literal["all", "success", "none"]
WaitForm: TypeAlias = Literal["retry-after", "retry-after-ms", "llm_provider-retry-after", "message"]

_NUMBERS = ("requests_per_minute", "tokens_per_minute", "requests_per_day", "tokens_per_day")


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimits:
    """Limit each API key's requests and tokens for each model, in buckets that refill continuously.

    A request over a limit gets a 429 at once, and takes nothing from any bucket. One that is let
    through takes a request, and for tokens what it may cost: its input's and, for each choice, its
    `max_tokens`. When it is answered, that is settled to what usage says; a failure is given back;
    of one whose client left, the charge stands. Where `max_tokens` is not said, the answer's tokens
    are thus charged afterwards, and may leave a bucket in debt.

    OpenAI's 429s show buckets of this kind, a minute's limit in size: "Limit 10000, Used 8554,
    Requested 3082. Please try again in 9.816s" is exactly the refill of what lacks.

    Args:
        requests_per_minute: a number, or steps `(second, number)`; None for no such limit.
        tokens_per_minute: likewise.
        requests_per_day: likewise.
        tokens_per_day: likewise.
        burst_seconds: how many seconds of its limit a minute's bucket holds, full at first. 60 is
            what OpenAI's holds; 1 is a strict one, as OpenAI announces where it enforces
            60,000 a minute as 1,000 a second. One request always fits, and one that costs more
            than the bucket holds waits until it is full and leaves a debt. A day's bucket holds
            the whole day's.
        settle: whether the charge is settled; otherwise it stays what it was on arrival.
        style: whose words and headers: None for those that fit the server, "openai" for most.
            "litellm" is its proxy, for a limit of the deployment behind it.
        headers: which answers carry `x-ratelimit-{limit,remaining,reset}-{requests,tokens}`: all,
            those with status 200, or none. They tell how the buckets were when the request arrived,
            its own charge taken; reset is the time until full, and of a minute's and a day's
            bucket they tell of the one with less left. "tei" has none.
        waits: where a 429 says how long to wait; () for nowhere. The default is the style's: both
            `retry-after` and `retry-after-ms` and the message for "openai", the message alone for
            "azure", `llm_provider-retry-after` alone for "litellm", nowhere for "tei". Only the
            second and OpenAI's message can say less than a second; the others round up.
    """

    requests_per_minute: Scripted | None = None
    tokens_per_minute: Scripted | None = None
    requests_per_day: Scripted | None = None
    tokens_per_day: Scripted | None = None
    burst_seconds: float = 60.0
    settle: bool = True
    style: LimitStyle | None = None
    headers: LimitHeaders = "all"
    waits: Collection[WaitForm] | None = None

    def __post_init__(self) -> None:
        given = {name: getattr(self, name) for name in _NUMBERS if getattr(self, name) is not None}
        if not given:
            raise ValueError(f"RateLimits needs one of {', '.join(_NUMBERS)}")
        for name, scripted in given.items():
            object.__setattr__(self, name, check_scripted(name, scripted))
        if not 0 < self.burst_seconds < math.inf:
            raise ValueError(f"burst_seconds must be above 0, not {self.burst_seconds!r}")
        if self.style is not None and self.style not in get_args(LimitStyle):
            raise ValueError(f"style must be one of {', '.join(get_args(LimitStyle))}; not {self.style!r}")
        if self.headers not in get_args(LimitHeaders):
            raise ValueError(
                f"headers must be one of {', '.join(get_args(LimitHeaders))}; not {self.headers!r}"
            )
        if self.waits is not None:
            strange = set(self.waits) - set(get_args(WaitForm))
            if isinstance(self.waits, str) or strange:
                raise ValueError(f"waits must be some of {', '.join(get_args(WaitForm))}; not {self.waits!r}")
            object.__setattr__(self, "waits", frozenset(self.waits))
