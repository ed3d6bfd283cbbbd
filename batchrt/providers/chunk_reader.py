"""The chunk reader: events of a streamed answer as chunks; the base of each kind of model's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Final, Generic, TypeVar

from batchrt.errors import MalformedResponseError, ProviderError
from batchrt.messages import Usage
from batchrt.providers.choices import check_failure, finish_reason_of
from batchrt.providers.http.error_mapping import error_from
from batchrt.providers.http.event_stream import Event
from batchrt.providers.http.response import Reply, load_json
from batchrt.providers.http.secrets import Secrets
from batchrt.providers.response_body import ReportedError, malformed, read_usage, reported_error, whole_number

__all__ = ["ChunkReader"]

T = TypeVar("T")

_DONE: Final = b"[DONE]"
_ANSWERS: Final = (b"", b"message")
"""Names of events whose data has to be JSON. Events of other names that is not are passed over, such as a
`ping` with a time."""


class ChunkReader(ABC, Generic[T]):
    """Read the events of one answer; see `Chunks`.

    Usage may come with any event, and with each of them the sum so far: the last one holds, and it is
    delivered with the last chunk alone. Of several choices one is read, the first to come.

    Args:
        head: status and headers of the response.
        secrets: masked in errors.
        wall: returns seconds since the epoch, against which dates are read.

    Attributes:
        usage: the last usage.
        done: the end of the answer was sent.
        request_id: the provider's id of the exchange.
    """

    def __init__(self, head: Reply, secrets: Secrets, wall: Callable[[], float]) -> None:
        self._head = head
        self._secrets = secrets
        self._wall = wall
        self.usage: Usage | None = None
        self.done: bool = False
        self.request_id: str | None = head.request_id
        self._finish: str | None = None
        self._index: int | None = None
        self._tier: object = None
        self._has_choice = self._ends_with_usage = False

    def read(self, event: Event) -> T | None:
        """Return the chunk in an event; `None` if it holds nothing to deliver.

        Raises:
            MalformedResponseError: it is not JSON, or no object.
            ProviderError: it reports an error.
        """
        if event.data.strip() == _DONE:
            self.done = True
            return None
        data = self._load(event)
        if data is None:
            return None
        said = data if event.name == b"error" else reported_error(data)
        if said is not None:
            raise self._reported(said, event)
        choices = data.get("choices")
        usage = data.get("usage")
        self._tier = data.get("service_tier") or self._tier
        if usage is not None:
            self.usage = read_usage(usage, self._tier) or self.usage
            self._ends_with_usage = not choices
        choice = self._choice(choices)
        if choice is None:
            return None
        try:
            check_failure(choice)
        except ReportedError as reported:
            raise self._reported(reported.said, event) from None
        return self._chunk(choice, data)

    def end(self) -> T | None:
        """Return the last chunk, with the usage; `None` if there is nothing left to deliver.

        Raises:
            MalformedResponseError: the stream ended before the answer did, or there was no answer.
        """
        if not self._has_choice:
            raise malformed("has no choices", self._head, self._secrets)
        if not (self.done or self._finish or self._ends_with_usage):
            raise malformed(
                "was cut short: its stream ended without a finish_reason, a usage or [DONE]",
                self._head,
                self._secrets,
            )
        return self._last()

    def whole(self, reply: Reply) -> T:
        """Return the answer of a server that does not stream, as one chunk.

        Raises:
            ProviderError: it is malformed, or reports an error.
        """
        chunk, self.usage = self._whole(reply)
        return chunk

    @abstractmethod
    def _whole(self, reply: Reply) -> tuple[T, Usage | None]:
        """Return a whole answer as one chunk, and its usage."""

    @abstractmethod
    def partial(self) -> object:
        """Return the sum of the chunks so far."""

    @abstractmethod
    def _chunk(self, choice: Mapping[str, Any], data: Mapping[str, Any]) -> T | None:
        """Return the chunk in a choice of an event; `None` if it holds nothing to deliver."""

    @abstractmethod
    def _last(self) -> T | None:
        """Return a chunk of that which was not delivered yet."""

    def _load(self, event: Event) -> dict[str, Any] | None:
        """Return the object that an event holds; `None` if it is no part of the answer."""
        try:
            data = load_json(event.data)
        except ValueError as error:
            if event.name == b"error":
                raise self._reported({"message": event.data.decode("utf-8", "replace")}, event) from None
            if event.name not in _ANSWERS:
                return None
            raise self._malformed(f"has an event that is not JSON: {error}", event) from None
        if isinstance(data, list) and len(data) == 1:  # Google's endpoint wraps its errors in a list
            data = data[0]
        if isinstance(data, dict):
            return data
        if event.name in _ANSWERS:
            raise self._malformed("has an event that is no JSON object", event)
        return None if event.name != b"error" else {"message": str(data)}

    def _choice(self, choices: object) -> Mapping[str, Any] | None:
        """Return the choice that is read; `None` if there is none of it in this event."""
        if isinstance(choices, dict):
            choices = [choices]
        if not isinstance(choices, list):
            return None
        for choice in choices:
            if isinstance(choice, dict):
                index = whole_number(choice.get("index")) or 0
                if not self._has_choice:
                    self._has_choice, self._index = True, index
                if index == self._index:
                    return choice
        return None

    def _ended(self, choice: Mapping[str, Any]) -> str | None:
        """Return the finish reason of a choice if it is news."""
        if choice.get("finish_reason") is None:
            return None
        reason = finish_reason_of(choice)
        if reason is None or reason == self._finish:
            return None
        self._finish = reason
        return reason

    def _reported(self, said: object, event: Event) -> ProviderError:
        return error_from(self._reply(event), self._secrets, self._wall, said)

    def _malformed(self, what: str, event: Event) -> MalformedResponseError:
        return malformed(what, self._reply(event), self._secrets)

    def _reply(self, event: Event) -> Reply:
        return Reply(self._head.status, self._head.headers, event.data)
