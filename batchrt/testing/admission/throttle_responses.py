"""Throttle responses: statuses, messages and headers of each vendor."""

from __future__ import annotations

import math
from collections.abc import Collection
from types import MappingProxyType
from typing import Literal, Self

from batchrt.testing.admission.quota import MockQuota, Shortage
from batchrt.testing.admission.rate_limits import LimitHeaders, LimitStyle, RateLimits, WaitForm
from batchrt.testing.admission.token_bucket import MockTokenBucket
from batchrt.testing.endpoints.replies import Headers, MockReply, bytes_reply, error_reply, json_reply
from batchrt.testing.endpoints.server_families import MockFamily, ServerFamily

__all__ = ["ThrottleResponses", "duration"]

_WAITS: MappingProxyType[LimitStyle, frozenset[WaitForm]] = MappingProxyType(
    {
        "openai": frozenset({"retry-after", "retry-after-ms", "message"}),
        "azure": frozenset({"message"}),
        "litellm": frozenset({"llm_provider-retry-after"}),
        "tei": frozenset(),
        "infinity": frozenset(),
        "nginx": frozenset(),
    }
)
_STYLES: MappingProxyType[ServerFamily, LimitStyle] = MappingProxyType(
    {"azure": "azure", "tei": "tei", "infinity": "infinity"}
)
# Styles without headers about the quota.
_SILENT: frozenset[LimitStyle] = frozenset({"tei", "infinity", "nginx"})
_REASONS = MappingProxyType({429: "Too Many Requests", 503: "Service Temporarily Unavailable"})
# The wait that LiteLLM's proxy asks for when too many requests are in flight: its window, in seconds.
_LITELLM_WINDOW = 60.0
_LITELLM_PARALLEL = "x-ratelimit-api_key-{}-max_parallel_requests"

_LEAST_WAIT = 0.001  # seconds: a millisecond is the unit of `retry-after-ms`


def duration(seconds: float) -> str:
    """Format seconds as Go does, to the millisecond, rounded up: `12ms`, `1s`, `8.64s`, `6m0s`."""
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


class ThrottleResponses:
    """Responses in the style of `server` or the given `style`; other arguments as in RateLimits."""

    def __init__(
        self,
        server: ServerFamily,
        family: MockFamily,
        *,
        style: LimitStyle | None = None,
        waits: Collection[WaitForm] | None = None,
        headers: LimitHeaders = "none",
        named_wait: float | None = None,
    ) -> None:
        self._style: LimitStyle = style or _STYLES.get(server, "openai")
        self._family = family
        self._has_custom_waits = waits is not None
        self._waits = _WAITS[self._style] if waits is None else frozenset(waits)
        self._headers: LimitHeaders = "none" if self._style in _SILENT else headers
        self._named_wait = named_wait

    @classmethod
    def of(cls, server: ServerFamily, family: MockFamily, limits: RateLimits | None) -> Self:
        """Return the responses of `limits`, or the server's own without limits."""
        if limits is None:
            return cls(server, family)
        return cls(
            server,
            family,
            style=limits.style,
            waits=limits.waits,
            headers=limits.headers,
            named_wait=limits.named_wait,
        )

    @property
    def names_waits(self) -> bool:
        """Whether a refusal can give a wait."""
        return bool(self._waits)

    def headers(self, quota: MockQuota, now: float, status: int | None) -> Headers:
        """Return the headers about `quota` of an answer with `status`."""
        if self._headers == "none" or (self._headers == "success" and status != 200):  # noqa: PLR2004
            return ()
        told: list[tuple[bytes, bytes]] = []
        for name, level in quota.levels(now).items():
            # Azure gives plain seconds.
            until = level.until_full
            reset = str(_whole(until)) if self._style == "azure" else duration(until)
            told += (
                (f"x-ratelimit-limit-{name}".encode(), b"%d" % level.limit),
                (f"x-ratelimit-remaining-{name}".encode(), b"%d" % level.left),
                (f"x-ratelimit-reset-{name}".encode(), reset.encode()),
            )
        most, left = quota.parallel(now), quota.parallel_left(now)
        if self._style == "litellm" and status == 200 and most is not None:  # noqa: PLR2004
            told += (
                (_LITELLM_PARALLEL.format("limit").encode(), b"%d" % most),
                (_LITELLM_PARALLEL.format("remaining").encode(), b"%d" % (left or 0)),
            )
        return tuple(told)

    def over_quota(self, quota: MockQuota, shortage: Shortage, now: float) -> MockReply:
        """Refuse a request that is over its quota."""
        name = shortage.bucket.name
        # A request that never fits has no wait, and no wrong one either.
        wait = shortage.wait if shortage.wait is None else self._named_wait or shortage.wait
        reply = self.refusal(self._message(quota.model, shortage), wait, kind=name)
        return reply._replace(headers=(*reply.headers, *self.headers(quota, now, reply.status)))

    def over_parallel_limit(self, quota: MockQuota, second: float) -> MockReply:
        """Refuse a request while the limit of parallel requests is reached."""
        most = quota.parallel(second)
        if self._style == "litellm":
            return self._litellm_over_parallel_limit(quota, most or 0)
        words = f"Rate limit reached for {quota.model} on parallel requests: Limit {most}."
        reply = self.refusal(words, self._named_wait)
        # There is room as soon as a request ends: a client that returns earlier does not break the wait.
        return reply._replace(wait=None)

    def _litellm_over_parallel_limit(self, quota: MockQuota, most: int) -> MockReply:
        words = (
            f"Rate limit exceeded for api_key: {quota.key:016x}. Limit type: max_parallel_requests. "
            f"Current limit: {most}, Remaining: 0."
        )
        wait = self._named_wait or _LITELLM_WINDOW
        told = (
            self._wait_headers(wait)[0]
            if self._has_custom_waits
            else ((b"retry-after", b"%d" % _whole(wait)),)
        )
        headers = (*told, (b"rate_limit_type", b"max_parallel_requests"))
        return error_reply(429, words, type="None", param="None", code="429", headers=headers)

    def refusal(
        self, message: str, wait: float | None, *, kind: str = "requests", status: Literal[429, 503] = 429
    ) -> MockReply:
        """Make a 429 or a 503 that asks to wait, where this style does."""
        # A wait of 0 would not be written.
        wait = None if wait is None else max(wait, _LEAST_WAIT)
        headers, told = self._wait_headers(wait)
        wait_text = self._wait_text(wait) if wait is not None and "message" in self._waits else ""
        reply = self._styled_reply(status, message, wait_text, kind)
        return reply._replace(headers=(*reply.headers, *headers), wait=told)

    def _styled_reply(self, status: Literal[429, 503], message: str, wait_text: str, kind: str) -> MockReply:
        if self._style == "nginx":
            return _nginx_page(status, wait_text)
        if self._style == "infinity":
            words = f"model overloaded {wait_text}".rstrip()
            error = {"message": words, "type": None, "param": None, "code": status}
            return json_reply(status, {"error": error})
        kind, code = {
            "openai": (kind, "rate_limit_exceeded"),
            "azure": (kind, "429"),
            "litellm": ("throttling_error", "429"),
            "tei": ("Overloaded", None),
        }[self._style]
        return self._family.make_error(status, f"{message} {wait_text}".rstrip(), kind=kind, code=code).reply

    def _wait_text(self, wait: float) -> str:
        if self._names_fractions:
            return f"Please try again in {duration(wait)}."
        return f"Please retry after {_whole(wait)} seconds."

    def _wait_headers(self, wait: float | None) -> tuple[Headers, float | None]:
        """Return the headers that give `wait`, and the most precise value given anywhere."""
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
        fine = fine or ("message" in self._waits and self._names_fractions)
        return headers, milliseconds / 1000 if fine else float(whole)

    @property
    def _names_fractions(self) -> bool:
        """Whether the message can name less than a second."""
        return self._style not in ("azure", "tei")

    def _message(self, model: str, shortage: Shortage) -> str:
        if self._style == "tei":
            return "Model is overloaded"
        if self._style == "azure":
            what = "token" if shortage.bucket.name == "tokens" else "call"
            return (
                f"Requests to this operation have exceeded the {what} rate limit of your current pricing "
                "tier."
            )
        words = _openai_message(model, shortage)
        return f"litellm.RateLimitError: OpenAIException - {words}" if self._style == "litellm" else words


def _nginx_page(status: int, wait_text: str) -> MockReply:
    title = f"{status} {_REASONS[status]}"
    page = (
        f"<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n<center><h1>{title}</h1></center>\r\n"
        f"{f'<p>{wait_text}</p>' if wait_text else ''}<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
    )
    return bytes_reply(status, page.encode(), ((b"server", b"nginx"),), content_type=b"text/html")


def _openai_message(model: str, shortage: Shortage) -> str:
    limit, requested = int(shortage.level.limit), int(shortage.requested)
    what = _limit_text(shortage.bucket)
    if shortage.wait is None:
        return (
            f"Request too large for {model} on {what}: Limit {limit}, Requested {requested}. "
            "The input or output tokens must be reduced in order to run successfully."
        )
    used = limit - int(shortage.level.left)
    return f"Rate limit reached for {model} on {what}: Limit {limit}, Used {used}, Requested {requested}."


def _limit_text(bucket: MockTokenBucket) -> str:
    per = "min" if bucket.per == "minute" else "day"
    return f"{bucket.name} per {per} ({bucket.name[0].upper()}P{per[0].upper()})"
