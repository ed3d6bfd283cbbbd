"""Models made from options, and hints about a wrong base URL."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final, TypeVar

from batchrt import AuthenticationError, RetryPolicy, TokenizerError
from batchrt.cli.counts import Counts
from batchrt.cli.errors import UsageError, option_of
from batchrt.cli.options import JobSettings
from batchrt.providers.http.address import address_mistake
from batchrt.providers.http.open_files import allow_connections

__all__ = ["is_built_in", "new_model", "url_hint"]

M = TypeVar("M")

_BUILT_IN: Final = "mock"
_AUTO_AT_MOST: Final = 10_000
"""Requests in flight that `auto` goes up to."""


def is_built_in(settings: JobSettings) -> bool:
    """Say whether the model is the one that needs no network."""
    return settings.model == _BUILT_IN and settings.base_url is None


def new_model(make: Callable[..., M], settings: JobSettings, **options: Any) -> M:
    """Return the model that `--model` names; `mock` is that of a provider in this process.

    Args:
        make: the class.
        settings: say where the model is.
        options: more for `make`; a parameter in its errors has the name of the command's option.

    Raises:
        UsageError: an option makes no sense, something has to be installed for it, or there is no key
            where one is needed.
    """
    if is_built_in(settings):
        from batchrt.testing import MockProvider

        options |= {"transport": MockProvider().transport(), "base_url": "http://mock/v1", "api_key": ""}
    else:
        options["base_url"], options["api_key"] = settings.base_url, settings.api_key
        if settings.dry_run and not (settings.api_key or os.environ.get("OPENAI_API_KEY")):
            options["api_key"] = "not-needed"  # nothing is sent
        if (most := _most_in_flight(settings)) is not None:
            options["max_in_flight"] = most
    if settings.headers:
        options["extra_headers"] = settings.headers
    options |= {
        "requests_per_minute": settings.requests_per_minute,
        "tokens_per_minute": settings.tokens_per_minute,
        "max_retries": settings.max_retries,
        "retry_policy": RetryPolicy(max_retry_after=settings.max_wait, patience=settings.patience),
    }
    try:
        return make(settings.model, **options)
    except AuthenticationError as error:
        raise UsageError(
            "there is no API key; set OPENAI_API_KEY, or name another provider with --base-url"
        ) from error
    except (ImportError, TokenizerError) as error:
        raise UsageError(str(error).replace('tokenizer="tiktoken"', "--tokenizer tiktoken")) from error
    except (TypeError, ValueError) as error:
        # It begins with a parameter's name, mostly, which is the option's but for the dashes.
        name, _, rest = str(error).partition(" ")
        raise UsageError(f"{option_of(name)} {rest}" if name in options else str(error)) from error


def _most_in_flight(settings: JobSettings) -> int | None:
    """Return how many requests the system has files for, if that may be fewer than are tried."""
    if settings.max_concurrency != "auto":
        return None
    fit = allow_connections(_AUTO_AT_MOST)
    return None if fit >= _AUTO_AT_MOST else max(1, fit)


_SUSPICIOUS: Final = ("BadRequestError", "MalformedResponseError")
"""Errors of a path that does not exist: a 404 or 405, or a page in place of JSON."""


def url_hint(base_url: str | None, counts: Counts) -> str:
    """Return the probable mistake in `--base-url`; empty if it looks right, or responses came."""
    given = base_url or os.environ.get("OPENAI_BASE_URL") or ""
    if counts.answered or not given or not any(name in counts.kinds for name in _SUSPICIOUS):
        return ""
    problem = address_mistake(given)
    return f"{'--base-url' if base_url else 'OPENAI_BASE_URL'} {problem}" if problem else ""
