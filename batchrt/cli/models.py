"""Models as options name them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

from batchrt.cli.process import allow_connections
from batchrt.cli.settings import JobSettings
from batchrt.cli.usage import UsageProblem
from batchrt.errors import AuthenticationError, TokenizerError
from batchrt.limits.adaptive_concurrency import MOST_AT_ONCE
from batchrt.runtime.retry import RetryPolicy

__all__ = ["is_built_in", "new_model"]

M = TypeVar("M")

_BUILT_IN: Final = "mock"


def is_built_in(settings: JobSettings) -> bool:
    """Say whether the model is the one that needs no network."""
    return settings.model == _BUILT_IN and settings.base_url is None


def new_model(make: Callable[..., M], settings: JobSettings, **options: Any) -> M:
    """Return what `make` gives for `--model`, which is the embedded provider's if it is called `mock`.

    Args:
        make: the class.
        settings: say where the model is.
        options: more for `make`; those that are named in its errors are called like the command's.

    Raises:
        UsageProblem: an option makes no sense, something has to be installed for it, or there is no key
            where one is needed.
    """
    if is_built_in(settings):
        from batchrt.testing import MockProvider

        options |= {"transport": MockProvider().transport(), "base_url": "http://mock/v1", "api_key": ""}
    else:
        options["base_url"] = settings.base_url
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
        raise UsageProblem(
            "there is no API key; set OPENAI_API_KEY, or name another provider with --base-url"
        ) from error
    except (ImportError, TokenizerError) as error:
        raise UsageProblem(str(error).replace('tokenizer="tiktoken"', "--tokenizer tiktoken")) from error
    except (TypeError, ValueError) as error:
        raise UsageProblem(_in_options(str(error), options)) from error


def _most_in_flight(settings: JobSettings) -> int | None:
    """Return how many requests the system has files for, if that may be fewer than are tried."""
    if settings.max_concurrency != "auto":
        return None
    fit = allow_connections(MOST_AT_ONCE)
    return None if fit >= MOST_AT_ONCE else max(1, fit)


def _in_options(message: str, options: dict[str, Any]) -> str:
    """Return `message`, which begins with a parameter's name, with the option's name instead."""
    name, _, rest = message.partition(" ")
    return f"--{name.replace('_', '-')} {rest}" if name in options else message
