"""The records of one input: attempts, tokens, seconds."""

from __future__ import annotations

from collections.abc import Mapping

from batchrt.messages import Usage
from batchrt.runtime.outcome import total

__all__ = ["Item"]


class Item:
    """Keep the books of one input: its place, its retries, its tokens, its seconds.

    Attributes:
        bills: the tokens that were billed, by model; `None` if no server said.
        request_seconds: those of the requests that were answered, from sending them to the end of the
            answer; `None` if there were none.
        waits: seconds of waiting for a quota, by the reason; `None` if there were none.
        request_id: the provider's id of the last exchange that was answered, or `None`.
    """

    __slots__ = (
        "bills",
        "finished",
        "index",
        "parent",
        "request_id",
        "request_seconds",
        "retries",
        "started",
        "waits",
    )

    def __init__(self, index: int, parent: Item | None = None) -> None:
        self.index: int = index
        self.parent: Item | None = parent
        self.retries: int = 0
        self.bills: dict[str, Usage] | None = None
        self.request_seconds: float | None = None
        self.waits: dict[str, float] | None = None
        self.request_id: str | None = None
        self.started: float = 0.0
        self.finished: float = 0.0

    @property
    def usage(self) -> Usage | None:
        """The tokens that were billed, of all models together; `None` if no server said."""
        return None if self.bills is None else total(self.bills)

    @property
    def was_sent(self) -> bool:
        """Whether a request of it was answered, billed or tried again."""
        return bool(self.retries) or self.bills is not None or self.request_seconds is not None

    def add_usage(self, usage: Usage, model: str = "") -> None:
        """Add the tokens that a call to `model` was billed, to this item and to the one it is nested in."""
        bills = self.bills
        if bills is None:
            self.bills = {model: usage}
        else:
            known = bills.get(model)
            bills[model] = usage if known is None else known + usage
        if self.parent is not None:
            self.parent.add_usage(usage, model)

    def add_bills(self, bills: Mapping[str, Usage] | None) -> None:
        """Add a share of a list's bill."""
        for model, usage in (bills or {}).items():
            self.add_usage(usage, model)

    def add_book(self, book: Item) -> None:
        """Add the retries, the bill and the requests' seconds of a part of a list."""
        self.retries += book.retries
        self.add_bills(book.bills)
        self.add_request(book.request_seconds)

    def add_wait(self, reason: str, seconds: float) -> None:
        """Add seconds of waiting for a quota, to this item and to the one it is nested in."""
        if self.waits is None:
            self.waits = {}
        self.waits[reason] = self.waits.get(reason, 0.0) + seconds
        if self.parent is not None:
            self.parent.add_wait(reason, seconds)

    def add_request(self, seconds: float | None) -> None:
        """Add the seconds of requests that were answered, to this item and to the one it is nested in."""
        if seconds is None:
            return
        self.request_seconds = seconds + (self.request_seconds or 0.0)
        if self.parent is not None:
            self.parent.add_request(seconds)
