"""Fault responses: a function for each fault that makes a bad reply of a good one."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import MappingProxyType
from typing import TypeAlias

from pydantic_core import from_json

from batchrt.testing.endpoints.replies import Ending, MockReply, bytes_reply, error_reply, json_reply
from batchrt.testing.faults.list_defects import DEFECTS
from batchrt.testing.faults.plan import Fault, TunedFault
from batchrt.testing.faults.stream_faults import STREAM_FAULTS

__all__ = ["apply_fault"]

_HTML = (
    b"<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n"
    b"<body><h1>502 Bad Gateway</h1></body>\r\n</html>\r\n"
)
_CHUNK = 65_536  # bytes
_GZIP_WINDOW = 31  # zlib's code for the largest window and a gzip header


def apply_fault(good: MockReply, fault: TunedFault) -> MockReply:
    """Return the reply that a client gets in place of `good`, with the same delay before it.

    Returns `good` itself if it cannot have the fault.
    """
    defect, in_stream = DEFECTS.get(fault.fault), STREAM_FAULTS.get(fault.fault)
    if good.events and in_stream is not None:
        bad: MockReply | None = in_stream(good, fault)
    elif fault.fault.of_streams or (good.events and defect is not None):
        return good
    else:
        bad = _RESPONSES[fault.fault](good, fault) if defect is None else defect(good)
    if bad is None:
        return good
    return bad._replace(delay=bad.delay + good.delay)


def _rate_limit(name: bytes, write: Callable[[float], str]) -> FaultResponse:
    """Make a 429 with its seconds in the header `name`, formatted by `write`."""

    def response(_good: MockReply, fault: TunedFault) -> MockReply:
        seconds = fault.seconds or 0.0
        reply = error_reply(
            429,
            "Rate limit reached for requests.",
            type="requests",
            code="rate_limit_exceeded",
            headers=((name, write(seconds).encode()),),
        )
        return reply._replace(wait=seconds)

    return response


def _http_date(seconds: float) -> str:
    # A date has no fraction: rounded up, so that the wait is not shorter than requested.
    moment = datetime.now(UTC) + timedelta(seconds=seconds)
    whole = moment.replace(microsecond=0) + timedelta(seconds=1 if moment.microsecond else 0)
    return format_datetime(whole, usegmt=True)


def _azure(_good: MockReply, fault: TunedFault) -> MockReply:
    seconds = math.ceil(fault.seconds or 0.0)
    message = (
        "Requests to this operation have exceeded the call rate limit of your current pricing "
        f"tier. Please retry after {seconds} seconds."
    )
    return error_reply(429, message, type="requests", code="429")._replace(wait=float(seconds))


def _error(status: int, message: str, kind: str, code: str | None, param: str | None) -> FaultResponse:
    def response(_good: MockReply, _fault: TunedFault) -> MockReply:
        return error_reply(status, message, type=kind, code=code, param=param)

    return response


def _bad_gateway(_good: MockReply, _fault: TunedFault) -> MockReply:
    return bytes_reply(502, _HTML, content_type=b"text/html")


def _malformed(good: MockReply, _fault: TunedFault) -> MockReply:
    return bytes_reply(200, good.whole_body.replace(b":", b"=", 1))


def _truncated(good: MockReply, _fault: TunedFault) -> MockReply:
    body = good.whole_body
    return bytes_reply(200, body[: len(body) // 2])


def _wrong_type(_good: MockReply, _fault: TunedFault) -> MockReply:
    return bytes_reply(200, b"<html><body>Please log in.</body></html>", content_type=b"text/html")


def _error_in_200(_good: MockReply, _fault: TunedFault) -> MockReply:
    message = "The upstream model failed while it answered."
    return error_reply(200, message, type="server_error", code="upstream_error")


def _no_choices(good: MockReply, _fault: TunedFault) -> MockReply:
    if good.entries:
        return json_reply(200, {**from_json(good.whole_body), good.entries: []})
    document = {
        "id": "chatcmpl-empty",
        "object": "chat.completion",
        "created": 0,
        "model": "mock",
        "choices": [],
    }
    return json_reply(200, document)


def _half(good: MockReply, ending: Ending) -> MockReply:
    body = good.whole_body
    return good._replace(body=body[: len(body) // 2], ending=ending, delay=0.0)


def _short(good: MockReply, _fault: TunedFault) -> MockReply:
    return _half(good, Ending.CLOSE)


def _drop_mid_body(good: MockReply, _fault: TunedFault) -> MockReply:
    return _half(good, Ending.RESET)


def _drop(_good: MockReply, _fault: TunedFault) -> MockReply:
    return MockReply(None, ending=Ending.CLOSE)


def _stall(_good: MockReply, fault: TunedFault) -> MockReply:
    return MockReply(None, delay=fault.seconds or 0.0, ending=Ending.CLOSE)


def _drip(good: MockReply, fault: TunedFault) -> MockReply:
    return good._replace(pause=fault.seconds or 0.0, delay=0.0)


def _padded(body: bytes, size: int) -> Iterator[bytes]:
    # Blanks before the closing brace: valid JSON of any length.
    left = size - len(body)
    yield body[:-1]
    while left > 0:
        yield b" " * min(_CHUNK, left)
        left -= _CHUNK
    yield body[-1:]


def _oversized(good: MockReply, fault: TunedFault) -> MockReply:
    # Without a content-length, so that the client must count for itself.
    body = good.whole_body
    headers = ((b"content-type", b"application/json"),)
    return MockReply(200, headers, lambda: _padded(body, fault.size or 0))


def _gzip_bomb(good: MockReply, fault: TunedFault) -> MockReply:
    body = good.whole_body
    headers = ((b"content-type", b"application/json"), (b"content-encoding", b"gzip"))
    return MockReply(200, headers, lambda: _zipped(_padded(body, fault.size or 0)))


def _zipped(parts: Iterator[bytes]) -> Iterator[bytes]:
    press = zlib.compressobj(9, zlib.DEFLATED, _GZIP_WINDOW)
    for part in parts:
        yield press.compress(part)
    yield press.flush()


FaultResponse: TypeAlias = Callable[[MockReply, TunedFault], MockReply]

_RESPONSES: MappingProxyType[Fault, FaultResponse] = MappingProxyType(
    {
        Fault.RATE_LIMIT_SECONDS: _rate_limit(b"retry-after", lambda s: str(math.ceil(s))),
        Fault.RATE_LIMIT_FLOAT: _rate_limit(b"retry-after", lambda s: f"{s:.3f}"),
        Fault.RATE_LIMIT_MS: _rate_limit(b"retry-after-ms", lambda s: str(math.ceil(s * 1000))),
        Fault.RATE_LIMIT_DATE: _rate_limit(b"retry-after", _http_date),
        Fault.RATE_LIMIT_LITELLM: _rate_limit(b"llm_provider-retry-after", lambda s: str(math.ceil(s))),
        Fault.RATE_LIMIT_AZURE: _azure,
        Fault.RATE_LIMIT_BARE: _error(429, "Rate limit reached.", "requests", "rate_limit_exceeded", None),
        Fault.SLOW_DOWN: _error(429, "Slow down: the load rose too fast.", "requests", "slow_down", None),
        Fault.REQUEST_TIMEOUT: _error(408, "Request timed out.", "timeout", None, None),
        Fault.CONFLICT: _error(409, "Conflict: try again.", "conflict", None, None),
        Fault.SERVER_ERROR: _error(500, "The server had an error.", "server_error", "internal_error", None),
        Fault.BAD_GATEWAY: _bad_gateway,
        Fault.OVERLOADED: _error(
            503, "The server is overloaded.", "server_error", "server_is_overloaded", None
        ),
        Fault.GATEWAY_TIMEOUT: _error(504, "The gateway timed out.", "server_error", None, None),
        Fault.MALFORMED_JSON: _malformed,
        Fault.TRUNCATED_JSON: _truncated,
        Fault.WRONG_CONTENT_TYPE: _wrong_type,
        Fault.ERROR_IN_200: _error_in_200,
        Fault.EMPTY_CHOICES: _no_choices,
        Fault.SHORT_BODY: _short,
        Fault.DROP_BEFORE_RESPONSE: _drop,
        Fault.DROP_MID_BODY: _drop_mid_body,
        Fault.STALL: _stall,
        Fault.SLOW_DRIP: _drip,
        Fault.INSUFFICIENT_QUOTA: _error(
            429,
            "You exceeded your current quota, please check your plan and billing details.",
            "insufficient_quota",
            "insufficient_quota",
            None,
        ),
        Fault.CONTEXT_LENGTH: _error(
            400,
            "This model's maximum context length is 128 tokens.",
            "invalid_request_error",
            "context_length_exceeded",
            "messages",
        ),
        Fault.BAD_PARAMETER: _error(
            400,
            "Unsupported value for 'temperature'.",
            "invalid_request_error",
            "unsupported_value",
            "temperature",
        ),
        Fault.UNAUTHORIZED: _error(
            401,
            "Incorrect API key provided.",
            "invalid_request_error",
            "invalid_api_key",
            None,
        ),
        Fault.OVERSIZED: _oversized,
        Fault.GZIP_BOMB: _gzip_bomb,
    }
)
