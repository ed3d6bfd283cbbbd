"""The mapping of error replies to error classes: one class for each remedy that a caller has."""

from __future__ import annotations

import re
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from batchrt.errors import (
    AuthenticationError,
    BadRequestError,
    ContextLengthError,
    ProviderError,
    QuotaExhaustedError,
    RateLimitError,
    ServerError,
)
from batchrt.providers.http.credit_errors import NO_CREDIT_CODES, says_no_credit
from batchrt.providers.http.response import load_json
from batchrt.providers.http.retry_after import MAX_RETRY_AFTER, advise, retry_after
from batchrt.providers.http.secrets import NO_SECRETS, Secrets, scrub
from batchrt.runtime.clock import clock_time

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from batchrt.providers.http.response import Reply

__all__ = ["error_from", "excerpt"]

_EXCERPT: Final = 200
_LONGEST_MESSAGE: Final = 500
"""Characters."""
_LARGEST_BODY: Final = 2**20
"""Bytes of the largest error body that is parsed: some servers echo the whole input."""

_MAY_LACK_CREDIT: Final = frozenset((400, 401, 403, 429, 500))
"""Statuses of errors whose message may say that there is no credit; 500 is the status of an error within a
success. A 422 is left out: it may echo the input, whose words are not the server's."""
_MAY_BE_LIMITED: Final = frozenset((429, 503))
_LOOKED_AT: Final = 10_000
"""Bytes that are read of a body that is not JSON."""
_LONGEST_TITLE: Final = 410
_CONTEXT_CODES: Final = frozenset(("context_length_exceeded", "exceed_context_size_error"))
_CONTEXT_WORDS: Final = re.compile(
    r"maximum context length"  # OpenAI, vLLM
    r"|longer than the (?:maximum )?model"  # vLLM
    r"|maximum model length"  # vLLM
    r"|exceeds? the (?:available )?context (?:size|length|window)"  # llama-server
    r"|exceeds? (?:the )?(?:model's )?context (?:size|length|window)"  # llama-cpp-python, Ollama
    r"|input (?:\(\d+ tokens\) )?is too large to process"  # llama-server, embeddings
    r"|ContextWindowExceeded"  # LiteLLM, for all servers behind it
    r"|input token count \(\d+\) exceeds the maximum"  # Google
    r"|maximum prompt length is"  # xAI
    r"|`?inputs`? must have less than \d+ tokens"  # TEI, TGI
    r"|(?:prompt|input) is too long"
    r"|reduce the length of the (?:messages|input|prompt)",
    re.IGNORECASE,
)
_RATE_CODES: Final = frozenset(
    ("rate_limit_exceeded", "rate_limit_error", "slow_down", "overloaded", "too_many_requests")
)
_KEY_CODES: Final = frozenset(
    ("invalid_api_key", "authentication_error", "permission_error", "permission_denied")
)

_ASKS: Final = "; the provider asks to wait"


@dataclass(slots=True)
class _ErrorBody:
    """The fields of an error reply's body.

    `more` is further text that may name a wait, `details` the object that may hold one.
    """

    message: str = ""
    code: str | None = None
    type: str | None = None
    param: str | None = None
    more: str = ""
    details: object = None


def error_from(
    reply: Reply,
    secrets: Secrets,
    wall: Callable[[], float],
    said: object = None,
    longest: float = MAX_RETRY_AFTER,
) -> ProviderError:
    """Return the error that `reply` stands for.

    Args:
        reply: a reply with a status other than 2xx, or a 2xx whose body holds an `error`.
        secrets: masked in the message, even if the server echoes them.
        wall: returns seconds since the epoch, against which dates are read.
        said: the object that reports the error, like the body of one; `None` for the reply's own body.
        longest: seconds; a wait that is longer is not waited for, and the message says when it ends.
    """
    body_error = _read(reply) if said is None else _read_json(said) or _ErrorBody(excerpt(reply.body))
    now = wall()
    status = _effective_status(reply, body_error)
    words = "\n".join(filter(None, (body_error.message, body_error.more)))
    wait = retry_after(
        reply.headers, words, now=now, details=body_error.details, limited=status in _MAY_BE_LIMITED
    )
    redirects = 300 <= reply.status < 400  # noqa: PLR2004  and then the body does not help
    message = "" if redirects else _shorten(scrub(body_error.message, secrets), _LONGEST_MESSAGE)
    message = message or _phrase(reply)
    if wait is not None and wait > longest:
        message += _until(wait, now)
    error = _class_of(status, body_error, wait)(
        message,
        status=reply.status,
        code=_clean(body_error.code, secrets),
        type=_clean(body_error.type, secrets),
        param=_clean(body_error.param, secrets),
        request_id=reply.request_id,
        retry_after=wait,
    )
    said = reply.headers.get("x-should-retry")
    if said in ("true", "false"):
        advise(error, retry=said == "true")
    return error


def say_until(error: ProviderError, now: float) -> None:
    """Add the end of the wait that the provider asks for to the message of `error`, unless it is there.

    Args:
        error: an error with a `retry_after`.
        now: seconds since the epoch.
    """
    assert error.retry_after is not None
    if _ASKS not in error.message:
        error.message += _until(error.retry_after, now)
        error.args = (error.message, *error.args[1:])


def _until(wait: float, now: float) -> str:
    return f"{_ASKS} {wait:g} s: until {clock_time(now + wait)}"


def excerpt(body: bytes, secrets: Secrets = NO_SECRETS) -> str:
    """Return the beginning of `body` as text, at most 200 characters of it, on one line."""
    # The longest secret may straddle the cut: mask before cutting.
    margin = max(map(len, secrets), default=0)
    text = body[: 4 * (_EXCERPT + margin)].decode("utf-8", "replace")
    return _shorten(" ".join(scrub(text, secrets).split()), _EXCERPT)


def _shorten(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _clean(text: str | None, secrets: Secrets) -> str | None:
    return None if text is None else _shorten(scrub(text, secrets), _EXCERPT)


def _phrase(reply: Reply) -> str:
    location = reply.headers.get("location")
    if 300 <= reply.status < 400 and location:  # noqa: PLR2004
        where = location.partition("?")[0]
        return f"the server sends elsewhere ({_shorten(where, _EXCERPT)}); set base_url to that"
    try:
        return HTTPStatus(reply.status).phrase
    except ValueError:
        return f"the server answered with status {reply.status}"


def _lacks_credit(status: int, body_error: _ErrorBody, wait: float | None) -> bool:
    if status == 402 or {body_error.code, body_error.type} & NO_CREDIT_CODES:  # noqa: PLR2004  Payment Required
        return True
    # Google says "check your plan and billing details" of limits per minute, too, and names the wait.
    return wait is None and status in _MAY_LACK_CREDIT and says_no_credit(body_error.message)


def _class_of(status: int, body_error: _ErrorBody, wait: float | None) -> type[ProviderError]:
    names = {body_error.code, body_error.type}
    if _lacks_credit(status, body_error, wait):
        return QuotaExhaustedError
    if status in (401, 403):
        return AuthenticationError
    if status == 429:  # noqa: PLR2004
        return RateLimitError
    if names & _CONTEXT_CODES or _CONTEXT_WORDS.search(body_error.message[:10_000]):
        return ContextLengthError
    if status in (408, 409) or status >= 500:  # noqa: PLR2004
        return ServerError
    return BadRequestError


def _effective_status(reply: Reply, body_error: _ErrorBody) -> int:
    """Return the status, or for an error that came as a success the one that its code means."""
    if reply.status >= 300:  # noqa: PLR2004
        return reply.status
    code = body_error.code or ""
    if len(code) == 3 and code.isdecimal() and code[0] in "45":  # noqa: PLR2004  a status of HTTP's
        return int(code)
    names = {body_error.code, body_error.type}
    if names & _RATE_CODES:
        return 429
    if names & _KEY_CODES:
        return 401
    return 400 if "invalid_request_error" in names else 500


def _read(reply: Reply) -> _ErrorBody:
    body = reply.body
    if len(body) <= _LARGEST_BODY:
        try:
            return _read_json(load_json(body)) or _ErrorBody(excerpt(body))
        except ValueError:
            pass
    page = body[:_LOOKED_AT]
    return _ErrorBody(excerpt(_title(page) or body), more=page.decode("utf-8", "replace"))


def _title(page: bytes) -> bytes:
    """Return the title of a page of HTML; empty if there is none."""
    lower = page.lower()
    start = lower.find(b">", max(0, lower.find(b"<title"))) + 1 if b"<title" in lower else 0
    stop = lower.find(b"</title", start, start + _LONGEST_TITLE) if start else -1
    return page[start:stop] if stop > 0 else b""


def _read_json(data: object) -> _ErrorBody | None:
    if isinstance(data, list) and data:  # Google's endpoint wraps its error in a list
        data = data[0]
    if not isinstance(data, dict):
        return None
    error = data.get("error")
    if error is None:
        error = data.get("errors")  # Cloudflare has several
    if isinstance(error, list) and error:
        error = error[0]
    if isinstance(error, dict):
        return _from_object(error)
    if isinstance(error, str) and error:
        return _ErrorBody(error, _text(data.get("code")), _text(data.get("error_type")), details=data)
    if data.get("detail"):
        return _from_detail(data["detail"])
    if isinstance(data.get("message"), str):
        return _from_object(data)
    return None


def _from_object(error: Mapping[str, Any]) -> _ErrorBody:
    metadata = error.get("metadata")
    raw = _text(metadata.get("raw")) if isinstance(metadata, dict) else None
    return _ErrorBody(
        _text(error.get("message")) or _text(error.get("msg")) or raw or "",
        _word(error.get("code")),
        _word(error.get("type")) or _word(error.get("status")),
        _word(error.get("param")),
        more=raw or "",  # OpenRouter: the upstream's message, where its own says only that there is one
        details=error,
    )


def _from_detail(detail: object) -> _ErrorBody:
    """Read FastAPI's `detail`: a text, an object, or a list of `{loc, msg, type, input}`."""
    if isinstance(detail, str):
        return _ErrorBody(detail)
    if isinstance(detail, dict):
        return _from_object(detail)
    parts = [part for part in detail if isinstance(part, dict)] if isinstance(detail, list) else []
    lines = [f"{_place(part)}: {_text(part.get('msg')) or ''}" for part in parts[:5]]
    first = parts[0] if parts else {}
    return _ErrorBody("; ".join(lines), type=_text(first.get("type")), param=_place(first) or None)


def _place(part: Mapping[str, Any]) -> str:
    loc = part.get("loc")
    steps = [str(step) for step in loc] if isinstance(loc, list) else []
    return ".".join(steps[1:] if steps[:1] == ["body"] else steps)


def _word(value: object) -> str | None:
    """Return a code, a type or a parameter's name; LiteLLM writes none as Python does."""
    text = _text(value)
    return None if text is None or text.strip() in {"", "None", "null"} else text


def _text(value: object) -> str | None:
    """Return a code, a type or a message as text, whatever it was sent as."""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
