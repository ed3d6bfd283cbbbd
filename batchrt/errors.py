"""Every error the package raises on its own account.

    BatchError
    ├── MissingFieldError         a prompt names a field that the row has not (also a KeyError)
    ├── OutputParserError         a model's text is not what the parser wants (also a ValueError)
    ├── RecursionLimitError       a function kept returning runnables
    ├── ListLengthError           a native step's list is not as long as the one it was given
    ├── BlockedEventLoopError     a sync call waits for the event loop that it blocks (also a RuntimeError)
    ├── StrayCancelledError       user code raised a cancellation that nobody asked for
    ├── ItemTimeoutError          one item took longer than `timeout` (also a TimeoutError)
    ├── DeadlineExceededError     the run took longer than `deadline` (also a TimeoutError)
    ├── SpendingLimitError        the run reached `max_tokens_total` or `max_cost`
    ├── TokenizerError            the tokenizer that was asked for cannot be loaded
    ├── InputError                a file or a row that cannot be read (also a ValueError)
    ├── OutputError               a file that cannot be written to any more
    │   └── OutputClosedError     its reader has gone, as `head` does (also a BrokenPipeError)
    └── ProviderError             a request that did not give an answer
        ├── AuthenticationError   401, 403: the key is missing, wrong, or may not do this
        ├── BadRequestError       400, 404, 413, 422 …: the request itself is wrong; names the parameter
        │   └── ContextLengthError    the input does not fit the model
        ├── RateLimitError        429: too many requests or tokens for now
        ├── QuotaExhaustedError   402, 429 … that waiting does not mend: no credit, or a spending limit
        ├── ServerError           5xx and 408, 409: the provider's fault, worth another attempt
        ├── ConnectionFailedError no answer: refused, reset, DNS, TLS
        ├── RequestTimeoutError   no answer in time (also a TimeoutError)
        ├── OutageError           not sent: nobody had an answer for longer than was to be waited for
        └── MalformedResponseError    an answer that is not what the API promises

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
    "RecursionLimitError",
    "RequestTimeoutError",
    "ServerError",
    "SpendingLimitError",
    "StrayCancelledError",
    "TokenizerError",
]


class BatchError(Exception):
    """Be the root of what batchrt raises on its own account."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions with keyword-only arguments do not survive pickling by themselves, and results
        # travel between processes.
        return _rebuild, (type(self), self.args, self.__dict__.copy())


def _rebuild(kind: type[BatchError], args: tuple[Any, ...], state: dict[str, Any]) -> BatchError:
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(state)
    return error


class MissingFieldError(BatchError, KeyError):
    """Say which field a prompt wanted and which ones the row had."""

    def __init__(self, message: str, *, field: str, available: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.field = field
        self.available = available

    def __str__(self) -> str:
        # KeyError would show the repr of the message.
        return str(self.args[0])


class OutputParserError(BatchError, ValueError):
    """Say what a parser could not read; `text` is the model's output, whole."""

    def __init__(self, message: str, *, text: str) -> None:
        super().__init__(message)
        self.text = text


class RecursionLimitError(BatchError, RecursionError):
    """Say that functions went on returning runnables past `recursion_limit`."""


class ListLengthError(BatchError):
    """Say that a step which takes lists gave one of the wrong length, or no list.

    Attributes:
        expected: how many outputs there should have been.
        received: how many there were; `None` for what is no list.
    """

    def __init__(self, message: str, *, expected: int, received: int | None) -> None:
        super().__init__(message)
        self.expected = expected
        self.received = received


class BlockedEventLoopError(BatchError, RuntimeError):
    """Say that a sync call in async code would wait for ever for the event loop that it blocks itself.

    It waits for a limit (of a quota, of spending) that is used up by requests on that loop. Await the async
    method instead: `ainvoke` for `invoke`, `abatch` for `batch`.
    """


class StrayCancelledError(BatchError):
    """Stand for a cancellation that user code raised though nobody cancelled the item.

    Awaiting a task or future that somebody else cancelled does this, and so does the cancellation of the
    current task, as a timeout made by hand does it. The original is `__cause__`.
    """

    @classmethod
    def of(cls, cancelled: BaseException | None) -> StrayCancelledError:
        """Return one that stands for `cancelled`."""
        error = cls(
            "the function was cancelled from within (it awaited something that somebody else cancelled, or "
            "cancelled the task that it runs in); neither the item nor the run was"
        )
        error.__cause__ = cancelled
        return error


class ItemTimeoutError(BatchError, TimeoutError):
    """Say that one item took longer than `timeout` seconds, retries and waits included."""

    def __init__(self, message: str, *, seconds: float) -> None:
        super().__init__(message)
        self.seconds = seconds


class DeadlineExceededError(BatchError, TimeoutError):
    """Say that the run took longer than `deadline` seconds."""

    def __init__(self, message: str, *, seconds: float) -> None:
        super().__init__(message)
        self.seconds = seconds


class SpendingLimitError(BatchError):
    """Say that the run has spent what it may; what was under way was finished, and nothing more was sent.

    Attributes:
        limit: which one was reached: `max_tokens_total` or `max_cost`.
        tokens: how many were spent.
        cost: what was spent, in the prices' currency.
        started: of an item's error: it was under way, and not all of it could be done.
        result: of the error of a whole run: a `BatchResult` that tells what became of each item; else
            `None`.
    """

    def __init__(self, message: str, *, limit: str, tokens: int, cost: float, started: bool = False) -> None:
        super().__init__(message)
        self.limit = limit
        self.tokens = tokens
        self.cost = cost
        self.started = started
        self.result: Any = None

    def again(self, *, started: bool = True) -> SpendingLimitError:
        """Return another one that says the same."""
        return SpendingLimitError(
            str(self), limit=self.limit, tokens=self.tokens, cost=self.cost, started=started
        )


class TokenizerError(BatchError):
    """Say why a tokenizer cannot be loaded, and what to do: nothing was sent."""


class InputError(BatchError, ValueError):
    """Say which file, row (counted from 1, the header not counted) and column cannot be read.

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
    """Say which file cannot be written to any more, and why."""

    def __init__(self, message: str, *, path: str) -> None:
        super().__init__(message)
        self.path = path


class OutputClosedError(OutputError, BrokenPipeError):
    """Say that whoever read the output has gone, as `head` does: no reason to complain."""

    def __str__(self) -> str:
        # OSError's would look for an errno.
        return str(self.args[0])


class ProviderError(BatchError):
    """Say how a request failed.

    Attributes:
        status: the HTTP status, `None` when there was no answer.
        code: the provider's `error.code`, as it was sent, or `None`.
        type: the provider's `error.type`, or `None`.
        param: the request parameter the provider blames, or `None`.
        request_id: the provider's name for the exchange, to quote to its support.
        attempts: how many requests were sent for this call, this one included.
        retry_after: seconds the provider asked to wait, or `None`.
        retry_advised: whether the provider said that another attempt helps; `None` if it did not say.
    """

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
    """The request itself was refused; `param` names the culprit where the provider does."""


class ContextLengthError(BadRequestError):
    """The input is longer than the model takes; shorten it or choose another model."""


class RateLimitError(ProviderError):
    """429: too much for now; wait `retry_after`, or lower the concurrency."""


class QuotaExhaustedError(ProviderError):
    """A refusal that waiting does not mend: add credit or raise the spending limit."""


class ServerError(ProviderError):
    """The provider failed; another attempt may do."""


ConnectionFault: TypeAlias = Literal["host", "certificate", "protocol", "refused"]


class ConnectionFailedError(ProviderError):
    """No connection, or it broke before the answer was whole.

    Attributes:
        fault: what is wrong with the address, if that is it: `host` (the name is unknown), `certificate` (it
            is refused), `protocol` (https is asked of a port that does not speak TLS, or HTTP of one that
            does not speak that), `refused` (nothing listens there); of the proxy's address if there is one.
            Before the first answer such an error is not waited out. `None` for a connection that broke.
    """

    fault: ConnectionFault | None = None


class RequestTimeoutError(ProviderError, TimeoutError):
    """No whole answer within the request's `timeout`."""


class OutageError(ProviderError):
    """The provider is down, for `seconds` already: nothing was sent; try again when it is back."""

    def __init__(self, message: str, *, seconds: float) -> None:
        super().__init__(message, attempts=0)
        self.seconds = seconds


class MalformedResponseError(ProviderError):
    """An answer that is not JSON, not whole, or not of the API's shape."""
