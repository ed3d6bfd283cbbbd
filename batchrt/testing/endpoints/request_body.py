"""Request bodies: parsing and checks that the endpoints share, with their errors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from pydantic_core import from_json

from batchrt.testing.endpoints.replies import RejectedError
from batchrt.testing.endpoints.vectors import Embeddable

__all__ = [
    "CREATED",
    "FINGERPRINT",
    "Reject",
    "as_inputs",
    "check_choices",
    "check_inputs",
    "check_model",
    "is_count",
    "parse_body",
    "refuse_stream",
    "token_limit",
    "wrong_type",
]

Reject: TypeAlias = Callable[[str], bool]
"""Predicate on a text; True refuses the request that contains it."""

# Part of the answers, so constant.
CREATED = 1_750_000_000  # Unix seconds
FINGERPRINT = "fp_batchrt_mock"

_MOST_CHOICES = 128  # OpenAI's bound of `n`


def parse_body(raw: bytes) -> Mapping[str, Any]:
    """Parse a request's body; RejectedError if it is not a JSON object."""
    try:
        body = from_json(raw)
    except ValueError as error:
        message = f"We could not parse the JSON body of your request: {error}"
        raise RejectedError(400, message) from error
    if not isinstance(body, dict):
        raise RejectedError(400, "The body of your request must be a JSON object.")
    return body


def check_model(model: object, models: tuple[str, ...] | None) -> None:
    """Raise RejectedError for a model that is no name or not among `models`; None accepts every name."""
    if not isinstance(model, str) or not model:
        raise RejectedError(400, "you must provide a model parameter", param="model")
    if models is not None and model not in models:
        message = f"The model `{model}` does not exist or you do not have access to it."
        raise RejectedError(404, message, param="model", code="model_not_found")


def refuse_stream(body: Mapping[str, Any]) -> None:
    """Raise RejectedError if a stream is requested, where there is none."""
    if body.get("stream"):
        raise RejectedError(
            400,
            "This endpoint does not stream: leave 'stream' out or set it to false.",
            param="stream",
            code="unsupported_value",
        )


def token_limit(body: Mapping[str, Any], *names: str) -> int | None:
    """Return the first of the limits `names` that is given; RejectedError if it is not a positive integer."""
    for name in names:
        limit = body.get(name)
        if limit is not None:
            if not is_count(limit):
                raise wrong_type(name, "a positive integer")
            return int(limit)
    return None


def check_choices(body: Mapping[str, Any]) -> None:
    """Raise RejectedError for an invalid `n`."""
    choices = body.get("n")
    if choices is not None and (not is_count(choices) or choices > _MOST_CHOICES):
        raise wrong_type("n", f"an integer from 1 to {_MOST_CHOICES}")


def as_inputs(body: Mapping[str, Any], name: str) -> Sequence[Embeddable]:
    """Return the parameter `name` as a list of texts, or of token lists."""
    given = body.get(name)
    if isinstance(given, str):
        return [given]
    if isinstance(given, list) and given:
        if all(isinstance(value, str) for value in given):
            return given
        if _are_tokens(given):
            return [given]
        if all(isinstance(value, list) and _are_tokens(value) for value in given):
            return given
    raise wrong_type(name, "a string, an array of strings, an array of tokens, or an array of those")


def _are_tokens(value: list[Any]) -> bool:
    return all(isinstance(token, int) and not isinstance(token, bool) for token in value)


def check_inputs(inputs: Iterable[Embeddable], reject: Reject | None, param: str) -> None:
    """Raise RejectedError, which does not tell which text, if `reject` holds for one of `inputs`."""
    if reject is not None and any(isinstance(value, str) and reject(value) for value in inputs):
        raise RejectedError(400, f"Invalid '{param}': the request was refused.", param=param)


def is_count(value: object) -> bool:
    """Return whether `value` is an integer above zero."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def wrong_type(param: str, expected: str) -> RejectedError:
    """Make the error for a parameter of the wrong type."""
    message = f"Invalid value for '{param}': expected {expected}."
    return RejectedError(400, message, param=param, code="invalid_type")
