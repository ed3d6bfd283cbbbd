"""The options of a request, checked before anything is sent."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

__all__ = ["check_extra_body", "check_options"]

_RANGES: Final = {
    "temperature": (0.0, 2.0),
    "top_p": (0.0, 1.0),
    "frequency_penalty": (-2.0, 2.0),
    "presence_penalty": (-2.0, 2.0),
}
_WHOLE: Final = {"max_completion_tokens": 1, "max_tokens": 1, "seed": -(2**63), "best_of": 1}
_WORDS: Final = ("model", "reasoning_effort", "suffix")
_NOT_OFFERED: Final = {
    "ChatOpenAI": {
        "messages": "the messages are the input",
        "stream": "answers come whole; only False can be sent",
        "n": "an input has one output; give the input several times",
    },
    "OpenAI": {
        "prompt": "the prompts are the input",
        "stream": "answers come whole; only False can be sent",
        "n": "whether a prompt has one text or a list of them is for the whole model: give it to OpenAI",
    },
}
_OF_THE_CLIENT: Final = frozenset(
    (
        "api_key",
        "base_url",
        "extra_headers",
        "http_client",
        "linger",
        "max_batch_size",
        "max_in_flight",
        "max_linger",
        "max_response_bytes",
        "max_retries",
        "native_batch",
        "organization",
        "project",
        "quota",
        "requests_per_day",
        "requests_per_minute",
        "retry_policy",
        "share_lists",
        "timeout",
        "tokens_per_day",
        "tokens_per_minute",
        "transport",
    )
)


def check_options(options: Mapping[str, Any], owner: str = "ChatOpenAI") -> dict[str, Any]:
    """Return `options` as they go into a request's body; `None` stands for "not sent".

    Options that are not known here are passed on as they are: the API has more than this list.

    Args:
        options: by name.
        owner: whose they are, `ChatOpenAI` or `OpenAI`.

    Raises:
        ValueError: for a value out of the API's range, or an option that cannot be set like this.
        TypeError: for a value of the wrong type.
    """
    return {name: _check(name, value, owner) for name, value in options.items()}


def check_extra_body(extra: Mapping[str, Any] | None, owner: str = "ChatOpenAI") -> dict[str, Any]:
    """Return `extra` unless it changes what a request is about."""
    extra = dict(extra or {})
    for name, value in extra.items():
        _check_offered(name, value, owner)
    return extra


def check_lists(max_batch_size: int, linger: float, max_linger: float) -> None:
    """Raise ValueError or TypeError for what makes no sense as a list's length or as seconds to wait."""
    _whole("max_batch_size", max_batch_size, 1)
    for name, seconds in (("linger", linger), ("max_linger", max_linger)):
        if _number(name, seconds) < 0:
            raise ValueError(f"{name} must be 0 seconds or more, not {seconds}")


def check_count(n: int | None) -> int | None:
    """Return `n` if it is how many outputs an input can have."""
    return None if n is None else _whole("n", n, 1)


def _check_offered(name: str, value: object, owner: str) -> None:
    if name == "stream" and value is False:
        return  # there are servers that stream unless they are told not to
    if name in _NOT_OFFERED[owner]:
        raise ValueError(f"{name} cannot be set: {_NOT_OFFERED[owner][name]}")


def _check(name: str, value: Any, owner: str) -> Any:
    _check_offered(name, value, owner)
    if name in _OF_THE_CLIENT:
        raise ValueError(f"{name} belongs to the model as a whole: give it to {owner}")
    if name == "extra_body":
        return check_extra_body(value, owner)
    if name == "model" and not value:
        raise ValueError("model must be the name of a model")
    if value is None:
        return None
    if name in _RANGES:
        return _number(name, value, *_RANGES[name])
    if name in _WHOLE:
        return _whole(name, value, _WHOLE[name])
    if name in _WORDS and not isinstance(value, str):
        raise TypeError(f"{name} must be a string, not {type(value).__name__}")
    return _stops(value) if name == "stop" else value


def _number(name: str, value: Any, low: float = -math.inf, high: float = math.inf) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, not {type(value).__name__}")
    if not math.isfinite(value) or not low <= value <= high:
        raise ValueError(f"{name} must be from {low:g} to {high:g}, not {value}")
    return value


def _whole(name: str, value: Any, low: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, not {type(value).__name__}")
    if value < low:
        raise ValueError(f"{name} must be {low} or more, not {value}")
    return value


def _stops(value: Any) -> str | list[str]:
    if isinstance(value, str):
        return value
    if isinstance(value, Sequence) and all(isinstance(stop, str) for stop in value):
        return list(value)
    raise TypeError("stop must be a string or a list of strings")
