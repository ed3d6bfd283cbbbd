"""The tree of errors that the package raises on its own account.

    BatchError
    ├── MissingFieldError         a prompt names a field that the row lacks (also a KeyError)
    ├── OutputParserError         a parser cannot read a model's text (also a ValueError)
    ├── RecursionLimitError       a function kept returning runnables
    ├── ListLengthError           a native step returned a list of the wrong length
    ├── BlockedEventLoopError     a sync call waits for the event loop that it blocks (also a RuntimeError)
    ├── StrayCancelledError       user code raised a cancellation though the item was not cancelled
    ├── ItemTimeoutError          one item took longer than `timeout` (also a TimeoutError)
    ├── DeadlineExceededError     the run took longer than `deadline` (also a TimeoutError)
    ├── SpendingLimitError        the run reached `max_tokens_total` or `max_cost`
    ├── RunStoppedError           the run was stopped before this item was sent; see `arun_iter`
    ├── TokenizerError            the requested tokenizer cannot be loaded
    ├── InputError                a file or a row cannot be read (also a ValueError)
    ├── OutputError               a file can no longer be written
    │   └── OutputClosedError     the reader closed the pipe, as `head` does (also a BrokenPipeError)
    ├── JournalError              a job's journal cannot be read or written
    ├── RecordedError             a row's error, as a job's journal recorded it
    └── ProviderError             a request without an answer
        ├── AuthenticationError   401, 403: the key is missing, wrong, or may not do this
        ├── BadRequestError       400, 404, 413, 422 …: the request itself is wrong; names the parameter
        │   └── ContextLengthError    the input does not fit the model
        ├── RateLimitError        429: too many requests or tokens for now
        ├── QuotaExhaustedError   402, 429 … that waiting cannot fix: no credit, or a spending limit
        ├── ServerError           5xx and 408, 409: the provider's fault, worth another attempt
        ├── ConnectionFailedError no answer: refused, reset, DNS, TLS
        ├── RequestTimeoutError   no answer in time (also a TimeoutError)
        ├── OutageError           not sent: the provider is down for longer than the policy's patience
        └── MalformedResponseError    an answer that breaks the API's contract

A user function's own error is raised as itself and never wrapped.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

__all__ = [
    "AuthenticationError",
    "BadRequestError",
    "BatchError",
    "BlockedEventLoopError",
    "ConnectionFailedError",
    "ContextLengthError",
    "DeadlineExceededError",
    "InputError",
    "ItemTimeoutError",
    "JournalError",
    "ListLengthError",
    "MalformedResponseError",
    "MissingFieldError",
    "OutageError",
    "OutputClosedError",
    "OutputError",
    "OutputParserError",
    "ProviderError",
    "QuotaExhaustedError",
    "RateLimitError",
    "RecordedError",
    "RecursionLimitError",
    "RequestTimeoutError",
    "RunStoppedError",
    "ServerError",
    "SpendingLimitError",
    "StrayCancelledError",
    "TokenizerError",
]


class BatchError(Exception):
    """Root of the errors that batchrt raises on its own account."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Results are sent between processes, and exceptions with keyword-only arguments cannot be
        # pickled by default.
        return _rebuild, (type(self), self.args, self.__dict__.copy())


def _rebuild(kind: type[BatchError], args: tuple[Any, ...], state: dict[str, Any]) -> BatchError:
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(state)
    return error


class MissingFieldError(BatchError, KeyError):
    """A row lacks a field of a prompt.

    Attributes:
        field: the missing field.
        available: the fields that the row has.
    """

    def __init__(self, message: str, *, field: str, available: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.field = field
        self.available = available

    def __str__(self) -> str:
        # KeyError shows the repr of the message.
        return str(self.args[0])


class OutputParserError(BatchError, ValueError):
    """A parser could not read a model's output; `text` is the whole of it."""

    def __init__(self, message: str, *, text: str) -> None:
        super().__init__(message)
        self.text = text


class RecursionLimitError(BatchError, RecursionError):
    """Functions kept returning runnables past `recursion_limit`."""


class ListLengthError(BatchError):
    """A list call returned a list of the wrong length, or no list.

    Attributes:
        expected: the number of inputs.
        received: the number of outputs; `None` if the result is not a list.
    """

    def __init__(self, message: str, *, expected: int, received: int | None) -> None:
        super().__init__(message)
        self.expected = expected
        self.received = received


class BlockedEventLoopError(BatchError, RuntimeError):
    """A sync call in async code would wait for ever for the event loop that it blocks itself.

    It waits for a limit (of a quota or of spending) that is used up by requests on that loop. Await the
    async method instead: `ainvoke` for `invoke`, `abatch` for `batch`.
    """


class StrayCancelledError(BatchError):
    """User code raised a cancellation, though neither the item nor the run was cancelled.

    Causes are awaiting a task or future that other code cancelled, and cancelling the current task, as a
    hand-written timeout does. The original exception is `__cause__`.
    """

    @classmethod
    def of(cls, cancelled: BaseException | None) -> StrayCancelledError:
        """Return an error that replaces `cancelled`."""
        error = cls(
            "the function was cancelled from within (it awaited a task that other code cancelled, or it "
            "cancelled the task that it runs in); neither the item nor the run was cancelled"
        )
        error.__cause__ = cancelled
        return error


class ItemTimeoutError(BatchError, TimeoutError):
    """One item took longer than `timeout` seconds, retries and waits included."""

    def __init__(self, message: str, *, seconds: float) -> None:
        super().__init__(message)
        self.seconds = seconds


class DeadlineExceededError(BatchError, TimeoutError):
    """The run took longer than `deadline` seconds."""

    def __init__(self, message: str, *, seconds: float) -> None:
        super().__init__(message)
        self.seconds = seconds


class SpendingLimitError(BatchError):
    """The run reached a spending limit; requests in flight were finished, and no more were sent.

    Attributes:
        limit: the limit that was reached: `max_tokens_total` or `max_cost`.
        tokens: the number of tokens spent.
        cost: the money spent, in the prices' currency.
        expected: the estimate for the request that did not fit, in tokens or in money as `limit` is.
        started: for an item's error: the item had started and could not be finished.
        result: for the error of a whole run: a `BatchResult` with each item's outcome; else `None`.
    """

    def __init__(
        self,
        message: str,
        *,
        limit: str,
        tokens: int,
        cost: float,
        expected: float = 0.0,
        started: bool = False,
    ) -> None:
        super().__init__(message)
        self.limit = limit
        self.tokens = tokens
        self.cost = cost
        self.expected = expected
        self.started = started
        self.result: Any = None

    def again(self, *, started: bool = True) -> SpendingLimitError:
        """Return a new error with the same facts."""
        return SpendingLimitError(
            str(self),
            limit=self.limit,
            tokens=self.tokens,
            cost=self.cost,
            expected=self.expected,
            started=started,
        )


class RunStoppedError(BatchError):
    """An item was waiting to be sent when its run was stopped; the error of that item, never raised.

    Attributes:
        started: a request of the item had been answered, or retried, before.
    """

    def __init__(self, message: str, *, started: bool = False) -> None:
        super().__init__(message)
        self.started = started


class TokenizerError(BatchError):
    """The tokenizer cannot be loaded; the message gives the reason and a remedy. Nothing was sent."""


class InputError(BatchError, ValueError):
    """A file, row (counted from 1 without the header) or column cannot be read.

    `parameter` is the argument that would help, if there is one; the message has its name in backticks.
    """

    def __init__(
        self,
        message: str,
        *,
        path: str | None = None,
        row: int | None = None,
        column: str | None = None,
        parameter: str | None = None,
    ) -> None:
        super().__init__(message)
        self.path = path
        self.row = row
        self.column = column
        self.parameter = parameter


class OutputError(BatchError):
    """A file can no longer be written; the message gives the reason."""

    def __init__(self, message: str, *, path: str) -> None:
        super().__init__(message)
        self.path = path


class OutputClosedError(OutputError, BrokenPipeError):
    """The reader closed the pipe, as `head` does, which is not worth a complaint."""

    def __str__(self) -> str:
        # OSError's expects an errno.
        return str(self.args[0])


JournalFault: TypeAlias = Literal["full", "io", "permission", "locked", "corrupt", "version", "path"]


class JournalError(BatchError):
    """A job's journal cannot be read or written; outcomes that were committed before stay in it.

    Attributes:
        path: the journal.
        fault: `full` (no room on the disk), `io` (a failing disk), `permission`, `locked` (another process
            writes it), `corrupt` (damaged, or no journal), `version` (another format), `path` (it leads
            nowhere).
    """

    def __init__(self, message: str, *, path: str, fault: JournalFault) -> None:
        super().__init__(message)
        self.path = path
        self.fault = fault


class RecordedError(BatchError):
    """A row's error, as a job's journal recorded it.

    Attributes:
        kind: the name of the error's class.
        status: the HTTP status, `None` if there was none.
        request_id: the provider's id of the exchange, or `None`.
    """

    def __init__(
        self, message: str, *, kind: str, status: int | None = None, request_id: str | None = None
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.status = status
        self.request_id = request_id


class ProviderError(BatchError):
    """A request failed.

    Attributes:
        status: the HTTP status, `None` if there was no answer.
        code: the provider's `error.code`, unchanged, or `None`.
        type: the provider's `error.type`, or `None`.
        param: the request parameter the provider blames, or `None`.
        request_id: the provider's id of the exchange, to quote to its support.
        attempts: the number of requests sent for this call, this one included.
        retry_after: the wait that the provider asked for, in seconds, or `None`.
        retry_advised: the provider's own statement whether to retry; `None` if it made none.
        partial: for a stream that broke off after its first chunk, the sum of the chunks that had come: an
            `AIMessageChunk`, or a text; else `None`.
    """

    partial: Any = None

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        type: str | None = None,  # noqa: A002  the wire's own name
        param: str | None = None,
        request_id: str | None = None,
        attempts: int = 1,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.code = code
        self.type = type
        self.param = param
        self.request_id = request_id
        self.attempts = attempts
        self.retry_after = retry_after
        self.retry_advised: bool | None = None

    def __str__(self) -> str:
        facts: list[str] = []
        if self.status is not None:
            facts.append(f"status {self.status}")
        if self.code:
            facts.append(f"code {self.code}")
        if self.param:
            facts.append(f"param {self.param}")
        if self.request_id:
            facts.append(f"request id {self.request_id}")
        if self.attempts > 1:
            facts.append(f"{self.attempts} attempts")
        return f"{self.message} ({', '.join(facts)})" if facts else self.message


class AuthenticationError(ProviderError):
    """401 or 403: set a valid key; no retry helps."""


class BadRequestError(ProviderError):
    """The request itself is wrong; `param` names the parameter if the provider does."""


class ContextLengthError(BadRequestError):
    """The input exceeds the model's context length; shorten it or choose another model."""


class RateLimitError(ProviderError):
    """429: too many requests or tokens; wait `retry_after` seconds, or lower the concurrency."""


class QuotaExhaustedError(ProviderError):
    """Credit or a spending limit is used up; waiting does not help. Add credit or raise the limit."""


class ServerError(ProviderError):
    """The provider failed; another attempt may succeed."""


ConnectionFault: TypeAlias = Literal["host", "certificate", "protocol", "refused", "proxy", "resources"]


class ConnectionFailedError(ProviderError):
    """There was no connection, or it broke before the answer was complete.

    Attributes:
        fault: the fault of the address, or of the proxy's if there is one: `host` (unknown name),
            `certificate` (not accepted), `protocol` (https to a port without TLS, or HTTP to a port that
            does not speak it), `refused` (no listener), `proxy` (the proxy refuses to connect). Before the
            first answer such an error is final and not waited out. `resources`: the process has no file
            descriptor or port left, which is no fault of the provider's. `None` for a connection that broke.
    """

    fault: ConnectionFault | None = None


class RequestTimeoutError(ProviderError, TimeoutError):
    """There was no complete answer within the request's `timeout`."""


class OutageError(ProviderError):
    """The provider has been down for `seconds`: nothing was sent; try again when it is up."""

    def __init__(self, message: str, *, seconds: float) -> None:
        super().__init__(message, attempts=0)
        self.seconds = seconds


class MalformedResponseError(ProviderError):
    """The answer is not JSON, not complete, or not of the API's shape."""
