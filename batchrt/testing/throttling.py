"""How a provider says that it is too much: statuses, words and headers, each vendor's way."""

from __future__ import annotations

import math
from types import MappingProxyType

from .buckets import Bucket
from .families import Family, ServerFamily
from .limits import LimitStyle, RateLimits, WaitForm
from .quotas import Quota, Shortage
from .replies import Headers, Reply

__all__ = ["Throttling", "duration"]

_WAITS: MappingProxyType[LimitStyle, frozenset[WaitForm]] = MappingProxyType(
    {
        "openai": frozenset({"retry-after", "retry-after-ms", "message"}),
        "azure": frozenset({"message"}),
        "litellm": frozenset({"llm_provider-retry-after"}),
        "tei": frozenset(),
    }
)
_STYLES: MappingProxyType[ServerFamily, LimitStyle] = MappingProxyType({"azure": "azure", "tei": "tei"})

_LEAST_WAIT = 0.001


def duration(seconds: float) -> str:
    """Write seconds as Go does, to the millisecond, rounded up: `12ms`, `1s`, `8.64s`, `6m0s`."""
    milliseconds = _milliseconds(seconds)
    if not milliseconds:
        return "0s"
    if milliseconds < 1000:  # noqa: PLR2004  a second
        return f"{milliseconds}ms"
    whole, fraction = divmod(milliseconds, 1000)
    minutes, whole = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    head = f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else ""
    tail = f".{fraction:03d}".rstrip("0") if fraction else ""
    return f"{head}{whole}{tail}s"


def _milliseconds(seconds: float) -> int:
    return math.ceil(seconds * 1000 - 1e-6)


def _whole(seconds: float) -> int:
    return math.ceil(seconds - 1e-9)


class Throttling:
    """Speak as `server` does, or as `limits` say that it does."""

    def __init__(self, server: ServerFamily, family: Family, limits: RateLimits | None) -> None:
        said = None if limits is None else limits.style
        self._style: LimitStyle = said or _STYLES.get(server, "openai")
        self._family = family
        waits = None if limits is None else limits.waits
        self._waits = _WAITS[self._style] if waits is None else frozenset(waits)
        self._headers = "none" if limits is None or self._style == "tei" else limits.headers

    def headers(self, quota: Quota, now: float, status: int | None) -> Headers:
        """Tell how `quota` stands, if an answer with `status` does."""
        if self._headers == "none" or (self._headers == "success" and status != 200):  # noqa: PLR2004
            return ()
        told: list[tuple[bytes, bytes]] = []
        for name, standing in quota.standings(now).items():
            # Azure's are bare seconds.
            until = standing.until_full
            reset = str(_whole(until)) if self._style == "azure" else duration(until)
            told += (
                (f"x-ratelimit-limit-{name}".encode(), b"%d" % standing.limit),
                (f"x-ratelimit-remaining-{name}".encode(), b"%d" % standing.left),
                (f"x-ratelimit-reset-{name}".encode(), reset.encode()),
            )
        return tuple(told)

    def over(self, quota: Quota, shortage: Shortage, now: float) -> Reply:
        """Refuse a request that is over its quota."""
        name = shortage.bucket.name
        reply = self.refusal(self._words(quota.model, shortage), shortage.wait, kind=name)
        return reply._replace(headers=(*reply.headers, *self.headers(quota, now, reply.status)))

    def refusal(self, message: str, wait: float | None, *, kind: str = "requests") -> Reply:
        """Make a 429 that asks to wait, where this provider says so."""
        # Who is told to wait for nothing is told nothing.
        wait = None if wait is None else max(wait, _LEAST_WAIT)
        headers, told = self._told(wait)
        if wait is not None and "message" in self._waits:
            message = f"{message} {self._plea(wait)}"
        kind, code = {
            "openai": (kind, "rate_limit_exceeded"),
            "azure": (kind, "429"),
            "litellm": ("throttling_error", "429"),
            "tei": ("Overloaded", None),
        }[self._style]
        reply = self._family.complaint(429, message, kind=kind, code=code).reply
        return reply._replace(headers=(*reply.headers, *headers), wait=told)

    def _plea(self, wait: float) -> str:
        if self._style in ("openai", "litellm"):
            return f"Please try again in {duration(wait)}."
        return f"Please retry after {_whole(wait)} seconds."

    def _told(self, wait: float | None) -> tuple[Headers, float | None]:
        """Give the headers that tell `wait`, and the finest of all that is told."""
        if wait is None or not self._waits:
            return (), None
        whole, milliseconds = _whole(wait), _milliseconds(wait)
        written = {
            "retry-after": whole,
            "retry-after-ms": milliseconds,
            "llm_provider-retry-after": whole,
        }
        headers = tuple((n.encode(), b"%d" % value) for n, value in written.items() if n in self._waits)
        fine = "retry-after-ms" in self._waits
        fine = fine or ("message" in self._waits and self._style in ("openai", "litellm"))
        return headers, milliseconds / 1000 if fine else float(whole)

    def _words(self, model: str, shortage: Shortage) -> str:
        if self._style == "tei":
            return "Model is overloaded"
        if self._style == "azure":
            what = "token" if shortage.bucket.name == "tokens" else "call"
            return (
                f"Requests to this operation have exceeded the {what} rate limit of your current pricing "
                "tier."
            )
        words = _openai_words(model, shortage)
        return f"litellm.RateLimitError: OpenAIException - {words}" if self._style == "litellm" else words


def _openai_words(model: str, shortage: Shortage) -> str:
    limit, requested = int(shortage.standing.limit), int(shortage.requested)
    what = _limit_words(shortage.bucket)
    if shortage.wait is None:
        return (
            f"Request too large for {model} on {what}: Limit {limit}, Requested {requested}. "
            "The input or output tokens must be reduced in order to run successfully."
        )
    used = limit - int(shortage.standing.left)
    return f"Rate limit reached for {model} on {what}: Limit {limit}, Used {used}, Requested {requested}."


def _limit_words(bucket: Bucket) -> str:
    per = "min" if bucket.per == "minute" else "day"
    return f"{bucket.name} per {per} ({bucket.name[0].upper()}P{per[0].upper()})"
