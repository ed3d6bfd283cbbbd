"""The abort of a run whose provider refuses every request."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from batchrt.errors import AuthenticationError, InputError, OutageError, ProviderError, QuotaExhaustedError
from batchrt.limits.error_kinds import kind_of

__all__ = ["MOST_FORBIDDEN", "MOST_REFUSED", "AbortPolicy"]

MOST_REFUSED: Final = 5
"""How many items in a row may be refused for the key, the model or the credit, or given up for an outage,
before the run is aborted. One would do for a wrong key, but a proxy in front of several accounts may have a
bad one among them."""
MOST_FORBIDDEN: Final = 50
"""The same for 403, which some providers also say of a single text they do not like."""

_FORBIDDEN: Final = 403
_NOT_FOUND: Final = 404


class AbortPolicy:
    """Decide when a run is aborted: a wrong key or model, no credit left, or a long outage.

    To be told of every outcome, as in `on_outcome` of `arun_iter`.

    Args:
        max_wait: seconds for which the provider may ask to be left alone.
        patience: seconds for which a provider that is down is waited for. Without any, a run is not aborted
            for a wrong address either: all of its items fail fast.

    Attributes:
        on_abort: called when the run is to be aborted.
        refusal: the last error of that kind, or `None` if a request succeeded since.
        is_aborted: whether `on_abort` was called.
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
        """Record an item that the provider did not turn away."""
        self._reached = True
        if not self.is_aborted:
            self.refusal = None
            self._in_a_row = 0

    def record_failure(self, error: Exception) -> bool:
        """Record an item that failed; return whether it did by itself, and not along with the whole run.

        Items of one list that failed have the same error, which counts once.
        """
        if error is self.refusal:
            return True
        most = self._most_in_a_row(error)
        if most is None:
            # With an error of the input or the address nothing was sent.
            if not isinstance(error, InputError) and not kind_of(error).wrong_address:
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

    def is_of_provider(self, error: Exception) -> bool:
        """Whether an error is that of any item at this moment: the same item may succeed later.

        Such are errors of the key, the credit, an outage, an address without a server (unless items are to
        fail at once without one), and a wait that is too long; a 403 or 404 may be about one item.
        """
        if isinstance(error, ProviderError) and error.status == _FORBIDDEN:
            return False
        is_refused = isinstance(error, OutageError | AuthenticationError | QuotaExhaustedError)
        return is_refused or self._leads_nowhere(error) or self.asks_too_much(error)

    def _most_in_a_row(self, error: Exception) -> int | None:
        """Return after how many errors like this the run is aborted; `None` if it is the item's own."""
        status = error.status if isinstance(error, ProviderError) else None
        if self.asks_too_much(error):
            return 1  # nothing is sent until then, so there would not be another one
        if self._has_wrong_address(error):
            return 1
        if isinstance(error, OutageError | AuthenticationError | QuotaExhaustedError) or self._leads_nowhere(
            error
        ):
            return MOST_FORBIDDEN if status == _FORBIDDEN else MOST_REFUSED
        # 404 is a model or a path that does not exist.
        return MOST_REFUSED if status == _NOT_FOUND else None

    def _has_wrong_address(self, error: Exception | None) -> bool:
        """Whether the address is wrong, as far as is known: no request reached a server there before."""
        return not self._reached and self._leads_nowhere(error)

    def _leads_nowhere(self, error: Exception | None) -> bool:
        return self._waits and kind_of(error).wrong_address

    def asks_too_much(self, error: Exception | None) -> bool:
        """Whether the provider asks, for all that is sent, to wait for longer than that."""
        if not isinstance(error, ProviderError) or not kind_of(error).overloaded:
            return False
        return (error.retry_after or 0.0) > self._max_wait

    @property
    def is_wrong_address(self) -> bool:
        """Whether no request can reach a server: then requests in flight are not worth waiting for."""
        return self._has_wrong_address(self.refusal)
