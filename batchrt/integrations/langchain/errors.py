"""Exceptions of openai and LangChain for ours, so that `except openai.RateLimitError` works.

    ours                       openai's                          LangChain's, by langchain-openai
    AuthenticationError, 401   AuthenticationError               OpenAIAuthenticationError
    AuthenticationError, 403   PermissionDeniedError             OpenAIPermissionDeniedError
    BadRequestError, 404       NotFoundError                     OpenAIModelNotFoundError
    BadRequestError, 422       UnprocessableEntityError          the same
    BadRequestError            BadRequestError                   OpenAIInvalidRequestError
    ContextLengthError         BadRequestError                   OpenAIContextOverflowError
    RateLimitError             RateLimitError                    OpenAIRateLimitError
    QuotaExhaustedError        RateLimitError                    OpenAIRateLimitError
    ServerError, 409           ConflictError                     the same
    ServerError                InternalServerError               OpenAIAPIError
    RequestTimeoutError        APITimeoutError                   OpenAITimeoutError
    ConnectionFailedError      APIConnectionError                OpenAIConnectionError
    OutageError                APIConnectionError                OpenAIConnectionError
    MalformedResponseError     APIResponseValidationError        the same

An error of openai's has ours as its `__cause__`, with `attempts`, `retry_after` and `request_id`.
Other errors of ours (`SpendingLimitError`, `ItemTimeoutError` …) have no counterpart and stay themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from typing import Any, Final, NoReturn, TypeAlias

import langchain_openai.chat_models.base
import openai

from batchrt.errors import (
    AuthenticationError,
    BadRequestError,
    ConnectionFailedError,
    ContextLengthError,
    MalformedResponseError,
    OutageError,
    ProviderError,
    QuotaExhaustedError,
    RateLimitError,
    RequestTimeoutError,
    ServerError,
)

__all__ = [
    "OPENAI_ERRORS",
    "ErrorMapping",
    "Translate",
    "http_library",
    "openai_error",
    "raise_as",
    "translator",
]

ErrorMapping: TypeAlias = (
    "Mapping[type[ProviderError], type[Exception] | Callable[[ProviderError], Exception]]"
)
"""The exception to raise for a class of ours and its subclasses: a class of openai's, or a function that
makes one. The most specific entry counts; a class without one stays as it is."""

Translate: TypeAlias = "Callable[[ProviderError], Exception]"
"""Returns the exception to raise for one of ours."""


def _langchain(name: str, otherwise: type[Exception]) -> Any:
    """Return langchain-openai's subclass of an error of openai's, which its versions before 1.7 lack."""
    return getattr(langchain_openai.chat_models.base, name, otherwise)


_RATE_LIMIT: Final = _langchain("OpenAIRateLimitError", openai.RateLimitError)
_CONNECTION: Final = _langchain("OpenAIConnectionError", openai.APIConnectionError)

OPENAI_ERRORS: Final[ErrorMapping] = {
    AuthenticationError: _langchain("OpenAIAuthenticationError", openai.AuthenticationError),
    BadRequestError: _langchain("OpenAIInvalidRequestError", openai.BadRequestError),
    ContextLengthError: _langchain("OpenAIContextOverflowError", openai.BadRequestError),
    RateLimitError: _RATE_LIMIT,
    QuotaExhaustedError: _RATE_LIMIT,
    ServerError: _langchain("OpenAIAPIError", openai.InternalServerError),
    RequestTimeoutError: _langchain("OpenAITimeoutError", openai.APITimeoutError),
    ConnectionFailedError: _CONNECTION,
    OutageError: _CONNECTION,
    MalformedResponseError: openai.APIResponseValidationError,
}
"""Our classes and openai's; 403, 404, 409 and 422 have a class of their own with openai."""

_BY_STATUS: Final[Mapping[int, type[openai.APIStatusError]]] = {
    403: _langchain("OpenAIPermissionDeniedError", openai.PermissionDeniedError),
    404: _langchain("OpenAIModelNotFoundError", openai.NotFoundError),
    409: openai.ConflictError,
    422: openai.UnprocessableEntityError,
}
_STATUS: Final[Mapping[type[ProviderError], int]] = {
    AuthenticationError: 401,
    BadRequestError: 400,
    ContextLengthError: 400,
    RateLimitError: 429,
    QuotaExhaustedError: 429,
}
"""The status of an error that our client raised without an answer, as for a key that is missing."""


def translator(errors: object) -> Translate:
    """Return the function for an option `raise_openai_errors`: true, false or a mapping.

    Raises:
        TypeError: it is none of these.
    """
    if isinstance(errors, bool):
        return openai_error if errors else _same
    if not isinstance(errors, Mapping):
        raise TypeError(f"raise_openai_errors is true, false or a mapping, not {errors!r}")
    return partial(_chosen, errors)


def _same(error: ProviderError) -> Exception:
    return error


def _chosen(errors: ErrorMapping, error: ProviderError) -> Exception:
    for kind in type(error).__mro__:
        if kind in errors:
            made: Any = errors[kind]
            if isinstance(made, type) and issubclass(made, openai.APIError):
                return _made(made, error)
            chosen: Exception = made(error)
            return chosen
    return error


def openai_error(error: ProviderError) -> Exception:
    """Return the openai exception for `error`; see the table in this module."""
    for kind in type(error).__mro__:
        found: Any = OPENAI_ERRORS.get(kind)
        if found is not None:
            return _made(_BY_STATUS.get(error.status or 0, found), error)
    return error


def _made(kind: type[Exception], error: ProviderError) -> Exception:
    http = http_library()
    request = http.Request("POST", "https://api.openai.com/v1/chat/completions")
    if issubclass(kind, openai.APITimeoutError):
        return kind(request)
    if issubclass(kind, openai.APIConnectionError):
        return kind(message=str(error), request=request)
    body = {"message": error.message, "type": error.type, "param": error.param, "code": error.code}
    headers = {"x-request-id": error.request_id} if error.request_id else {}
    if error.retry_after is not None:
        headers["retry-after"] = f"{error.retry_after:g}"
    status = error.status or _STATUS.get(type(error), 500)
    response = http.Response(status, headers=headers, request=request, json={"error": body})
    if issubclass(kind, openai.APIResponseValidationError):
        return kind(response=response, body=None, message=str(error))
    if issubclass(kind, openai.APIStatusError):
        return kind(_said(error), response=response, body=body)
    return kind(str(error))


def raise_as(error: Exception, ours: ProviderError) -> NoReturn:
    """Raise `error` with `ours` as its cause, unless it is the same."""
    if error is ours:
        raise error
    raise error from ours


def http_library() -> Any:
    """Return the HTTP library that openai is built on, httpx2 or httpx; its errors hold objects of it."""
    bases = openai.DefaultHttpxClient.__mro__
    homes = (base.__module__.partition(".")[0] for base in bases)
    return import_module(next(home for home in homes if home.startswith("httpx")))


def _said(error: ProviderError) -> str:
    # langchain-openai tells a context overflow by the code's name in the text.
    code = " (context_length_exceeded)" if isinstance(error, ContextLengthError) else ""
    return f"{error}{'' if 'context_length_exceeded' in str(error) else code}"
