"""The abort of a job whose provider refuses every request."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

from batchrt import (
    AuthenticationError,
    FailureKind,
    InputError,
    OutageError,
    ProviderError,
    QuotaExhaustedError,
)

__all__ = ["MOST_FORBIDDEN", "MOST_REFUSED", "AbortPolicy"]

MOST_REFUSED: Final = 5
"""How many rows in a row may be refused for the key, the model or the credit, or given up for an outage,
before the job is stopped. One would do for a wrong key, but a proxy in front of several accounts may have a
bad one among them."""
MOST_FORBIDDEN: Final = 50
"""The same for 403, which some providers also say of a single text they do not like."""

_FORBIDDEN: Final = 403
_NOT_FOUND: Final = 404


class AbortPolicy:
    """Decide when a job is aborted: a wrong key or model, no credit left, or a long outage.

    Args:
        max_wait: seconds for which the provider may ask to be left alone.
        patience: seconds for which a provider that is down is waited for. Without any, a job is not stopped
            for a wrong address either: all of its rows fail fast.

    Attributes:
        on_abort: called when that is so.
        refusal: the last such error, or `None` if a request succeeded since.
        is_aborted: whether it was so.
    """

    def __init__(self, *, max_wait: float, patience: float = math.inf) -> None:
        self.on_abort: Callable[[], None] = lambda: None
        self.refusal: Exception | None = None
        self.is_aborted: bool = False
        self._max_wait = max_wait
        self._waits = patience > 0
        self._in_a_row = 0
        self._reached = False

    def record_success(self) -> None:
        """Note a row that the provider did not turn away."""
        self._reached = True
        if not self.is_aborted:
            self.refusal = None
            self._in_a_row = 0

    def record_failure(self, error: Exception) -> bool:
        """Note a row that failed; return whether it did by itself, and not along with the whole job.

        Rows of one list that failed have the same error, which counts once.
        """
        if error is self.refusal:
            return True
        most = self._most_in_a_row(error)
        if most is None:
            if (
                not isinstance(error, InputError) and not FailureKind.of(error).wrong_address
            ):  # nothing was sent
                self.record_success()
            return True
        if self.is_aborted:
            return False
        self.refusal = error
        self._in_a_row += 1
        if self._in_a_row >= most:
            self.is_aborted = True
            self.on_abort()
        return True

    def _most_in_a_row(self, error: Exception) -> int | None:
        """Return after how many errors like this the job is stopped; `None` if it is the row's own."""
        status = error.status if isinstance(error, ProviderError) else None
        if self._asks_too_much(error):
            return 1  # nothing is sent until then, so there would not be another one
        if self._has_wrong_address(error):
            return 1
        if isinstance(error, OutageError | AuthenticationError | QuotaExhaustedError):
            return MOST_FORBIDDEN if status == _FORBIDDEN else MOST_REFUSED
        # 404 is a model or a path that does not exist.
        return MOST_REFUSED if status == _NOT_FOUND else None

    def _has_wrong_address(self, error: Exception | None) -> bool:
        """Whether the address is wrong, as far as is known: no request reached a server there before."""
        return self._waits and not self._reached and FailureKind.of(error).wrong_address

    def _asks_too_much(self, error: Exception | None) -> bool:
        """Whether the provider asks, for all that is sent, to wait for longer than that."""
        if not isinstance(error, ProviderError) or not FailureKind.of(error).overloaded:
            return False
        return (error.retry_after or 0.0) > self._max_wait

    @property
    def is_wrong_address(self) -> bool:
        """Whether no request can reach a server: then requests in flight are not worth waiting for."""
        return self._has_wrong_address(self.refusal)

    def reason(self) -> str:
        """Return why the job was aborted, in terms of the command's options."""
        error = self.refusal
        if isinstance(error, OutageError):
            return "the provider was down for longer than --patience"
        if isinstance(error, ProviderError) and self._asks_too_much(error):
            assert error.retry_after is not None
            return f"the provider asks to wait {_until(error.retry_after)}, which is more than --max-wait"
        if self.is_wrong_address:
            return "no server answers at the provider's address"
        return "the provider lets no request through"


def _until(seconds: float) -> str:
    try:
        moment = datetime.now(UTC) + timedelta(seconds=seconds)
    except OverflowError:  # beyond the last year of the calendar
        return f"{seconds:g} s"
    return f"until {moment:%Y-%m-%d %H:%M:%S} UTC"
