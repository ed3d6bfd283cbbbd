"""The body of a successful response: JSON, errors reported in it, token usage; no I/O."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from batchrt.errors import MalformedResponseError
from batchrt.messages import Usage
from batchrt.providers.http.error_mapping import error_from, excerpt
from batchrt.providers.http.response import Reply, load_json
from batchrt.providers.http.retry_after import advise
from batchrt.providers.http.secrets import Secrets

__all__ = [
    "ReportedError",
    "ShapeError",
    "is_error_reported",
    "malformed",
    "read_answer",
    "read_usage",
    "reported_error",
    "whole_number",
]

T = TypeVar("T")

_EVENT: Final = re.compile(rb"\s{0,64}(?:data|event|id|retry|) ?:")
"""The beginning of a stream of events, in the server-sent events of the HTML standard (9.2.6)."""


class ShapeError(Exception):
    """A part of a response is missing or of the wrong type.

    `lasting` means that another attempt would get the same.
    """

    def __init__(self, what: str, *, lasting: bool = False) -> None:
        super().__init__(what)
        self.lasting = lasting


class ReportedError(Exception):
    """A part of a response reports an error; `said` has the form of an error's body."""

    def __init__(self, said: object) -> None:
        super().__init__("the answer reports an error")
        self.said = said


def read_answer(
    reply: Reply, secrets: Secrets, wall: Callable[[], float], read: Callable[[dict[str, Any]], T]
) -> T:
    """Return `read` of the JSON object in a successful `reply`; for `secrets` and `wall` see `error_from`.

    Raises:
        MalformedResponseError: it is not JSON, or `read` raises a ShapeError, whose message it has.
        ProviderError: the body reports an error, in place of an answer or beside a partial one.
    """
    try:
        data = load_json(reply.body)
    except ValueError as error:
        if _EVENT.match(reply.body):
            streamed = malformed("is a stream of events, which was not asked for", reply, secrets)
            streamed.message += '; say extra_body={"stream": False}, and the server may answer whole'
            advise(streamed, retry=False)
            raise streamed from None
        raise malformed(f"is not JSON: {error}", reply, secrets) from None
    if isinstance(data, list) and len(data) == 1:  # Google's endpoint wraps its errors in a list
        data = data[0]
    if not isinstance(data, dict):
        raise malformed("is no JSON object", reply, secrets)
    try:
        said = reported_error(data)
        if said is not None:
            raise ReportedError(said)
        return read(data)
    except ReportedError as reported:
        raise error_from(reply, secrets, wall, reported.said) from None
    except ShapeError as shape:
        failure = malformed(str(shape), reply, secrets)
        usage = read_usage(data.get("usage"))
        if shape.lasting or (usage is not None and usage.output_tokens):
            advise(failure, retry=False)  # another attempt would cost as much and get the same
        raise failure from None


def reported_error(data: dict[str, Any]) -> object:
    """Return the error that a response of status 200 reports, for `error_from`; `None` for none."""
    error = data.get("error")
    if error is not None and is_error_reported(error):
        return data
    status = data.get("base_resp")  # MiniMax, whose status_code is 0 for a success
    if isinstance(status, dict) and whole_number(status.get("status_code")):
        return {"message": status.get("status_msg"), "code": status.get("status_code")}
    # Every answer has one of the two; without them, more members count as a report of an error.
    return None if data.get("choices") or data.get("data") else _reported_alone(data)


def _reported_alone(data: dict[str, Any]) -> object:
    """Return the error that an object without an answer reports; `None` for none."""
    errors = data.get("errors")  # Cloudflare
    if isinstance(errors, list) and errors:
        return {"error": errors[0]}
    is_error = data.get("object") == "error" or data.get("type") == "error"  # vLLM before 0.10, Anthropic
    flat = "code" in data and isinstance(data.get("message"), str)
    return data if is_error or flat or data.get("detail") else None


def is_error_reported(error: object) -> bool:
    """Whether a member `error` reports one: some servers send it empty."""
    if isinstance(error, dict):
        return any(error.values())
    return bool(error)


def malformed(what: str, reply: Reply, secrets: Secrets) -> MalformedResponseError:
    """Return the error for a malformed response, with the fault and the beginning of the body."""
    shown = excerpt(reply.body, secrets)
    return MalformedResponseError(
        f"the answer {what}; it begins: {shown}" if shown else f"the answer {what}: it is empty",
        status=reply.status,
        request_id=reply.request_id,
    )


def whole_number(value: object) -> int | None:
    """Return a whole number sent as `3`, `3.0` or `"3"`; `None` for anything else."""
    if type(value) is int:
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and value.isdecimal() and value.isascii() and len(value) <= _LONGEST_NUMBER:
        return int(value)
    return None


_LONGEST_NUMBER: Final = 15
_INPUT: Final = ("prompt_tokens", "input_tokens")
_OUTPUT: Final = ("completion_tokens", "output_tokens")
"""OpenAI's names, and those of Anthropic and of OpenAI's Responses API, which gateways leave as they are."""
_CACHED: Final = ("prompt_cache_hit_tokens", "cached_tokens", "cache_read_input_tokens")
"""Beside the details: DeepSeek, Moonshot, Anthropic."""
_WRITTEN: Final = ("cache_write_tokens", "cache_creation_input_tokens")
"""OpenAI's name and OpenRouter's; Anthropic's, which gateways leave as it is."""


def read_usage(usage: object, tier: object = None) -> Usage | None:
    """Return a response's `usage`; `None` if it makes no sense.

    An answer that was paid for is never rejected for a malformed count. Zeros alone are not a count:
    LiteLLM's proxy sends them where its upstream sent none (version 1.108.7,
    findings/litellm-missing-usage-becomes-zero.sh), and a spending limit must not count that as free.

    Args:
        usage: the member as it came.
        tier: the response's `service_tier`.
    """
    if not isinstance(usage, dict):
        return None
    counts = _counts(usage)
    if counts is None or not any(counts):
        return None
    details = {} if usage.keys() <= _PLAIN else _read_details(usage, counts[0])
    if tier is not None and isinstance(tier, str):
        details["service_tier"] = tier or None
    return Usage(*counts, **details)


_PLAIN: Final = frozenset(("prompt_tokens", "completion_tokens", "total_tokens"))


def _counts(usage: Mapping[str, Any]) -> tuple[int, int, int] | None:
    """Return the tokens of the prompt, of the answer, and of both; `None` if they make no sense."""
    get = usage.get
    prompt, answer, both = get("prompt_tokens"), get("completion_tokens"), get("total_tokens")
    if type(prompt) is int and type(answer) is int and type(both) is int and min(prompt, answer, both) >= 0:
        return prompt, answer, both
    try:
        entered, made, total = _count(usage, _INPUT), _count(usage, _OUTPUT), _count(usage, ("total_tokens",))
    except ValueError:
        return None
    if entered is None:
        if total is None:
            return None
        entered = max(0, total - (made or 0))
    if made is None:
        made = 0 if total is None else max(0, total - entered)
    return entered, made, entered + made if total is None else total


def _read_details(usage: Mapping[str, Any], entered: int) -> dict[str, Any]:
    """Return the details of the tokens as members of `Usage`, without zeros."""
    into, out = _details(usage, "prompt", "input"), _details(usage, "completion", "output")
    found: dict[str, Any] = {}
    cached = _detail(into, "cached_tokens")
    for name in _CACHED:
        cached = cached or _detail(usage, name)
    if cached:
        found["cached_input_tokens"] = min(cached, entered)
    written = _detail(into, _WRITTEN[0]) or _detail(usage, _WRITTEN[1]) or _detail(into, _WRITTEN[1])
    if written := min(written, entered - found.get("cached_input_tokens", 0)):
        found["cache_write_tokens"] = written
    if reasoning := _detail(out, "reasoning_tokens") or _detail(usage, "reasoning_tokens"):
        found["reasoning_tokens"] = reasoning
    if audio := _detail(into, "audio_tokens"):
        found["input_audio_tokens"] = audio
    if audio := _detail(out, "audio_tokens"):
        found["output_audio_tokens"] = audio
    return found


def _count(usage: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    """Return the count of the first of these names that has one.

    Raises:
        ValueError: it is no count.
    """
    for name in names:
        value = usage.get(name)
        if value is not None:
            count = None if isinstance(value, str) else whole_number(value)
            if count is None or count < 0:
                raise ValueError(f"{name} is no count")
            return count
    return None


def _details(usage: Mapping[str, Any], *kinds: str) -> Mapping[str, Any]:
    for kind in kinds:
        details = usage.get(f"{kind}_tokens_details")
        if isinstance(details, dict):
            return details
    return {}


def _detail(details: Mapping[str, Any], name: str) -> int:
    value = details.get(name)
    return max(0, whole_number(value) or 0) if value else 0
