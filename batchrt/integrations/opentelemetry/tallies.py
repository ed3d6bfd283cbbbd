"""Tallies: the counts of the requests to one model, kept without a measurement for each."""

from __future__ import annotations

import threading
from collections import Counter
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar
from weakref import ref

from batchrt.integrations.opentelemetry import conventions as names

if TYPE_CHECKING:
    from batchrt.limits.quota import Quota
    from batchrt.messages import Usage

__all__ = ["CANCELLED", "Tally", "error_type"]

R = TypeVar("R")

CANCELLED: Final = "cancelled"
"""The `error.type` of what was cancelled, by whichever library, or given up by its consumer."""


def error_type(error: BaseException) -> str:
    """Return the `error.type` of an error: the name of its class, with its module unless it is batchrt's."""
    kind = type(error)
    if not isinstance(error, Exception):
        return CANCELLED
    own = kind.__module__ == "builtins" or kind.__module__.startswith("batchrt.")
    return kind.__qualname__ if own else f"{kind.__module__}.{kind.__qualname__}"


class Tally:
    """Count the requests to one model at one address, of which none is followed by itself.

    The observer of requests outside of the sample (`RequestObserver`): one object for all of them.

    Attributes:
        attributes: of the requests' spans and measurements.
        operation: `chat`, `text_completion` or `embeddings`.
        span_name: the name of the requests' spans.
        answers: requests that were answered.
        failures: requests that were not, by `error.type`.
        retries: attempts after the first, by the `error.type` of the one before.
        input_tokens: those that were billed.
        output_tokens: likewise.
        cache_read_tokens: input tokens that came from the provider's cache.
        reasoning_tokens: output tokens that were spent on reasoning.
        cooldowns: cool-downs of its quota, by their reasons.
        outages: of the provider, at its quota.
    """

    def __init__(self, url: str, model: str) -> None:
        self.operation: str = names.operation_of(url)
        self.attributes: dict[str, str | int] = {
            names.OPERATION: self.operation,
            names.PROVIDER: names.provider_of(url),
            names.REQUEST_MODEL: model,
            **names.server_of(url),
        }
        self.span_name: str = f"{self.operation} {model}"
        self.lock: threading.Lock = threading.Lock()
        self.last_quota: ref[Quota] | None = None
        self.reset()

    def reset(self) -> None:
        """Begin anew, as in a fork: its requests are not its parent's."""
        self.lock = threading.Lock()
        self.answers: int = 0
        self.failures: Counter[str] = Counter()
        self.retries: Counter[str] = Counter()
        self.input_tokens: int = 0
        self.output_tokens: int = 0
        self.cache_read_tokens: int = 0
        self.reasoning_tokens: int = 0
        self.cooldowns: Counter[str] = Counter()
        self.outages: int = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.count_error(error)

    def sent(self) -> None:
        """Note nothing: only requests of the sample have their times taken."""

    def retried(self, error: Exception, wait: float, attempt: int) -> None:  # noqa: ARG002
        """Count a retry."""
        with self.lock:
            self.retries[error_type(error)] += 1

    def reading(self, read: R) -> R:
        """Return `read` itself."""
        return read

    def chunk(self, chunk: Any) -> None:
        """Note nothing."""

    def answered(self, answer: Any) -> None:
        """Count an answer and its tokens."""
        self.count_answer(answer.usage)

    def count_error(self, error: BaseException) -> None:
        """Count a request without an answer."""
        with self.lock:
            self.failures[error_type(error)] += 1

    def count_answer(self, usage: Usage | None) -> None:
        """Count a request with an answer."""
        with self.lock:
            self.answers += 1
            if usage is not None:
                self.input_tokens += usage.input_tokens
                self.output_tokens += usage.output_tokens
                self.cache_read_tokens += usage.cached_input_tokens
                self.reasoning_tokens += usage.reasoning_tokens
