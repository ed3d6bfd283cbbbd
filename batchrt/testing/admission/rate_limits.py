"""Rate limits: the numbers of a quota, and how refusals and headers report them."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from batchrt.testing.admission.schedules import Scripted, check_scripted

__all__ = [
    "LimitHeaders",
    "LimitStyle",
    "RateLimits",
    "Stranger",
    "WaitForm",
    "check_style",
    "check_waits",
]

LimitStyle: TypeAlias = Literal["openai", "azure", "litellm", "tei", "infinity", "nginx"]
LimitHeaders: TypeAlias = Literal["all", "success", "none"]
WaitForm: TypeAlias = Literal["retry-after", "retry-after-ms", "llm_provider-retry-after", "message"]

_RATES = ("requests_per_minute", "tokens_per_minute", "requests_per_day", "tokens_per_day")
_NUMBERS = (*_RATES, "max_parallel_requests")


def check_style(style: object) -> None:
    """Raise ValueError for a style that is neither None nor a LimitStyle."""
    if style is not None and style not in get_args(LimitStyle):
        raise ValueError(f"style must be one of {', '.join(get_args(LimitStyle))}; not {style!r}")


def check_waits(waits: Collection[WaitForm] | None) -> Collection[WaitForm] | None:
    """Return `waits` as an immutable collection; ValueError for an unknown form."""
    if waits is None:
        return None
    if isinstance(waits, str) or set(waits) - set(get_args(WaitForm)):
        raise ValueError(f"waits must be some of {', '.join(get_args(WaitForm))}; not {waits!r}")
    return frozenset(waits)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stranger:
    """An invisible client that uses the same key, for each of its models.

    Its requests come evenly at each rate, counted from the provider's first request; one that is over a limit
    is dropped. They appear in no log and no verdict, except for the capacity that they take.

    Args:
        requests_per_minute: its rate, or steps `(second, number)`; 0 is possible. A step of a tenth of a
            second is a burst.
        tokens: the tokens that each of them takes from the limits of tokens.
        in_flight: how many of `max_parallel_requests` it occupies, or steps.
    """

    requests_per_minute: Scripted = 0
    tokens: float = 0.0
    in_flight: Scripted = 0

    def __post_init__(self) -> None:
        for name, whole in (("requests_per_minute", False), ("in_flight", True)):
            checked = check_scripted(name, getattr(self, name), whole=whole, zero=True)
            object.__setattr__(self, name, checked)
        if not 0 <= self.tokens < math.inf:
            raise ValueError(f"tokens must not be below 0, got {self.tokens!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimits:
    """Limit each API key's requests and tokens for each model, in buckets that refill continuously.

    A request over a limit gets a 429 at once, and takes nothing from any bucket. An admitted one takes a
    request, and for tokens the most it may cost: its input's and, for each choice, its `max_tokens`. When it
    is answered, that is settled to the usage; a failure is refunded; if the client disconnects, the charge
    stands. Without `max_tokens` the answer's tokens are therefore charged afterwards, and may leave a bucket
    in debt.

    OpenAI's 429s show token buckets with a size of one minute's limit: "Limit 10000, Used 8554, Requested
    3082. Please try again in 9.816s" is exactly the refill of the shortage.

    Args:
        requests_per_minute: a number, or steps `(second, number)`; None for no such limit.
        tokens_per_minute: likewise.
        requests_per_day: likewise.
        tokens_per_day: likewise.
        max_parallel_requests: how many requests may be in flight, a whole number or steps; further ones are
            refused at once, as by nginx' `limit_conn` and LiteLLM's proxy. Where it falls, requests in flight
            stay. Such a refusal asks for no wait of the quota's, because it passes as soon as one ends: only
            LiteLLM names one, 60 seconds, which the verdict does not count.
        burst_seconds: how many seconds of its limit a minute's bucket holds, full at first. 60 is OpenAI's; 1
            is a strict one, as OpenAI announces where it enforces 60,000 a minute as 1,000 a second. One
            request always fits, and one that costs more than the bucket holds waits until it is full and
            leaves a debt. A day's bucket holds the whole day's.
        settle: whether the charge is settled; otherwise it stays as it was on arrival.
        style: the vendor whose wording and headers are used: None for the server's own, "openai" for most.
            "litellm" is its proxy, for a limit of the deployment behind it, or for its own of parallel
            requests. "nginx" is one in front of the server, with a page of HTML; its `limit_req` with
            `burst=10 nodelay` at 50 a second is `requests_per_minute=3000, burst_seconds=0.2`. "infinity"
            reports an overloaded model in OpenAI's error shape.
        headers: which answers carry `x-ratelimit-{limit,remaining,reset}-{requests,tokens}`: all, those with
            status 200, or none. They report the buckets when the request arrived, its own charge taken; reset
            is the time until full, and of a minute's and a day's bucket they report the one with less left.
            "tei", "infinity" and "nginx" have none. Those of "litellm" report parallel requests too, if the
            status is 200.
        waits: where a 429 gives the seconds to wait; () for nowhere. The default is the style's: both
            `retry-after` and `retry-after-ms` and the message for "openai", the message alone for "azure",
            `llm_provider-retry-after` alone for "litellm", nowhere for "tei", "infinity" and "nginx". Only
            the second and OpenAI's message can give less than a second; the others round up.
        named_wait: the seconds that every 429 of these limits names, right or wrong, if it names any; None
            for the buckets' own.
        stranger: an invisible client with the same key; None for none.
    """

    requests_per_minute: Scripted | None = None
    tokens_per_minute: Scripted | None = None
    requests_per_day: Scripted | None = None
    tokens_per_day: Scripted | None = None
    max_parallel_requests: Scripted | None = None
    burst_seconds: float = 60.0
    settle: bool = True
    style: LimitStyle | None = None
    headers: LimitHeaders = "all"
    waits: Collection[WaitForm] | None = None
    named_wait: float | None = None
    stranger: Stranger | None = None

    def __post_init__(self) -> None:
        given = {name: getattr(self, name) for name in _NUMBERS if getattr(self, name) is not None}
        if not given:
            raise ValueError(f"RateLimits needs one of {', '.join(_NUMBERS)}")
        for name, scripted in given.items():
            object.__setattr__(self, name, check_scripted(name, scripted, whole=name not in _RATES))
        if not 0 < self.burst_seconds < math.inf:
            raise ValueError(f"burst_seconds must be above 0, not {self.burst_seconds!r}")
        check_style(self.style)
        if self.headers not in get_args(LimitHeaders):
            raise ValueError(
                f"headers must be one of {', '.join(get_args(LimitHeaders))}; not {self.headers!r}"
            )
        object.__setattr__(self, "waits", check_waits(self.waits))
        if self.named_wait is not None and not 0 < self.named_wait < math.inf:
            raise ValueError(f"named_wait must be seconds > 0, not {self.named_wait!r}")
