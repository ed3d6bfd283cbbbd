"""The span and the measurements of one request, its retries included.

A request is one client span, as the conventions have it for a call of a model: its attempts are a matter of
HTTP, and show as events. The span begins when the first attempt is sent, and so do the measurements of
`gen_ai.client.operation.duration` and of the time to the first chunk. The wait for the quota before that is
no latency of the provider's, and is measured as `batchrt.queue.duration`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

from opentelemetry.context import Context, attach, detach
from opentelemetry.trace import (
    Link,
    Span,
    SpanKind,
    Status,
    StatusCode,
    get_current_span,
    set_span_in_context,
)

from batchrt.integrations.opentelemetry import content
from batchrt.integrations.opentelemetry import conventions as names
from batchrt.integrations.opentelemetry.tallies import Tally, error_type
from batchrt.runtime.observers import sending_list

if TYPE_CHECKING:
    from contextvars import Token

    from batchrt.integrations.opentelemetry.instrumentation import Instrumentation
    from batchrt.messages import Usage
    from batchrt.runtime.strand import Strand

__all__ = ["RequestSpan"]

R = TypeVar("R")


class RequestSpan:
    """Follow one request by a span and by measurements (`RequestObserver`).

    Args:
        instrumentation: has the tracer and the instruments.
        tally: of the request's model.
        body: of the request.
        strand: sends it.
        parent: the context of the span.
        streamed: the answer comes in chunks.
    """

    __slots__ = (
        "_answer",
        "_asked",
        "_asked_at",
        "_attempts",
        "_body",
        "_chunk_at",
        "_ended",
        "_first_chunk",
        "_found",
        "_instrumentation",
        "_parent",
        "_reply",
        "_sent",
        "_span",
        "_strand",
        "_streamed",
        "_tally",
        "_texts",
        "_token",
    )

    def __init__(  # noqa: PLR0917  one call
        self,
        instrumentation: Instrumentation,
        tally: Tally,
        body: bytes,
        strand: Strand,
        parent: Context,
        streamed: bool,  # noqa: FBT001
    ) -> None:
        self._instrumentation = instrumentation
        self._tally = tally
        self._body = body
        self._strand = strand
        self._parent = parent
        self._streamed = streamed
        self._asked = self._sent = self._ended = self._chunk_at = 0.0
        self._asked_at = self._attempts = 0
        self._first_chunk: float | None = None
        self._found: content.Attributes = {}
        self._texts: list[str] = []
        self._answer: Any = None
        self._reply = b""
        self._span: Span | None = None
        self._token: Token[Context] | None = None

    def __enter__(self) -> Self:
        self._asked, self._asked_at = self._strand.run.now(), time.time_ns()
        return self

    def sent(self) -> None:
        """Begin the span, if this is the first attempt."""
        self._attempts += 1
        if self._span is not None:
            return
        self._sent = self._chunk_at = self._strand.run.now()
        span = self._begin(None)
        if not self._streamed:  # a stream is pulled in contexts of its consumer's
            self._token = attach(set_span_in_context(span, self._parent))

    def _begin(self, start_time: int | None) -> Span:
        attributes: content.Attributes = {**self._tally.attributes}
        if self._streamed:
            attributes[names.REQUEST_STREAM] = True
        listed = sending_list.get()
        if listed is not None:
            attributes[names.LIST_SIZE] = listed.size
        span = self._span = self._instrumentation.begin_span(
            self._tally.span_name,
            self._parent,
            SpanKind.CLIENT,
            attributes,
            () if listed is None else self._links(listed.origins),
            start_time,
        )
        if span.is_recording():
            whole = self._instrumentation.capture_content
            body = content.json_of(self._body, whole=whole)
            span.set_attributes(content.parameters(body))
            if whole and (messages := content.input_messages(body)) is not None:
                span.set_attribute(names.INPUT_MESSAGES, messages)
        self._body = b""
        return span

    def _links(self, origins: Sequence[Sequence[Any]]) -> list[Link]:
        """Return links to the spans of a list's items and runs, but for the parent."""
        seen = {get_current_span(self._parent).get_span_context().span_id}
        links = []
        for origin in (origin for each in origins for origin in each):
            if origin.is_valid and origin.span_id not in seen:
                seen.add(origin.span_id)
                links.append(Link(origin))
        return links

    def retried(self, error: Exception, wait: float, attempt: int) -> None:
        """Add an event for a failed attempt that another follows."""
        self._tally.retried(error, wait, attempt)
        if self._span is None:
            return
        failure: dict[str, str | int | float] = {
            names.ERROR_TYPE: error_type(error),
            names.WAIT: wait,
            "batchrt.retry.attempt": attempt,
        }
        if (status := getattr(error, "status", None)) is not None:
            failure[names.STATUS_CODE] = status
        self._span.add_event("batchrt.retry", failure)

    def reading(self, read: R) -> R:
        """Return a function that keeps the body of the reply that it reads, for a span that is recorded."""

        def noting(reply: Any, clock: Any) -> Any:
            if self._span is not None and self._span.is_recording():
                self._reply = reply.body
            return cast("Callable[..., Any]", read)(reply, clock)

        return cast("R", noting)

    def chunk(self, chunk: Any) -> None:
        """Take the time of a chunk."""
        now, instruments = self._strand.run.now(), self._instrumentation.measures
        seconds, self._chunk_at = now - self._chunk_at, now
        if self._first_chunk is None:
            self._first_chunk = seconds
            instruments.first_chunk.record(seconds, self._tally.attributes, self._context())
        else:
            instruments.next_chunk.record(seconds, self._tally.attributes, self._context())
        if self._span is not None and self._span.is_recording():
            if isinstance(model := getattr(chunk, "model", None), str):
                self._found[names.RESPONSE_MODEL] = model
            if isinstance(reason := getattr(chunk, "finish_reason", None), str):
                self._found[names.FINISH_REASONS] = [reason]
            if self._instrumentation.capture_content:
                self._texts.append(chunk if isinstance(chunk, str) else chunk.text)

    def answered(self, answer: Any) -> None:
        """Take the answer."""
        self._answer, self._ended = answer, self._strand.run.now()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._token is not None:
            detach(self._token)
        if self._span is None:  # it was never sent
            self._sent = self._asked
            self._begin(self._asked_at)
        assert self._span is not None
        span, ended = self._span, self._ended or self._strand.run.now()
        attributes = {**self._tally.attributes}
        if error is not None:
            attributes[names.ERROR_TYPE] = error_type(error)
            self._fail(span, error)
        usage: Usage | None = getattr(self._answer, "usage", None)
        if error is None:
            self._tally.count_answer(usage)
        else:
            self._tally.count_error(error)
        if span.is_recording():
            found = self._response()
            span.set_attributes({**found, **_usage_attributes(usage, self._tally.operation)})
            if names.RESPONSE_MODEL in found:
                attributes[names.RESPONSE_MODEL] = str(found[names.RESPONSE_MODEL])
        elif isinstance(model := getattr(self._answer, "model", None), str):
            attributes[names.RESPONSE_MODEL] = model
        self._measure(ended - self._sent, attributes, usage)
        self._instrumentation.end_span(span)

    def _context(self) -> Context:
        return self._parent if self._span is None else set_span_in_context(self._span, self._parent)

    def _fail(self, span: Span, error: BaseException) -> None:
        """Record an error by its type; its message may quote a prompt."""
        said = str(error) if self._instrumentation.capture_content else None
        span.set_status(Status(StatusCode.ERROR, said))
        span.set_attribute(names.ERROR_TYPE, error_type(error))
        if (status := getattr(error, "status", None)) is not None:
            span.set_attribute(names.STATUS_CODE, status)
        if (request_id := getattr(error, "request_id", None)) is not None:
            span.set_attribute(names.REQUEST_ID, request_id)

    def _measure(self, seconds: float, attributes: dict[str, str | int], usage: Usage | None) -> None:
        measures, context = self._instrumentation.measures, self._context()
        measures.duration.record(max(0.0, seconds), attributes, context)
        measures.queue.record(max(0.0, self._sent - self._asked), self._tally.attributes, context)
        if usage is not None:
            measures.tokens.record(usage.input_tokens, {**attributes, names.TOKEN_TYPE: "input"}, context)
            if self._tally.operation != "embeddings":
                measures.tokens.record(
                    usage.output_tokens, {**attributes, names.TOKEN_TYPE: "output"}, context
                )

    def _response(self) -> content.Attributes:
        """Return the attributes of the response, and of the way to it."""
        found: content.Attributes = {
            **self._found,
            names.QUEUE_TIME: max(0.0, self._sent - self._asked),
            names.ATTEMPTS: self._attempts,
        }
        whole, answer = self._instrumentation.capture_content, self._answer
        messages: str | None = None
        if self._first_chunk is not None:
            found[names.TIME_TO_FIRST_CHUNK] = self._first_chunk
        if self._texts:
            messages = content.output_messages({"choices": [{"message": {"content": "".join(self._texts)}}]})
        elif self._reply:
            body = content.json_of(self._reply, whole=whole)
            found.update(content.response_attributes(body))
            messages = content.output_messages(body) if whole else None
        if messages is not None:
            found[names.OUTPUT_MESSAGES] = messages
        if isinstance(request_id := getattr(answer, "request_id", None), str):
            found[names.REQUEST_ID] = request_id
        return found


def _usage_attributes(usage: Usage | None, operation: str) -> content.Attributes:
    if usage is None:
        return {}
    found: content.Attributes = {names.INPUT_TOKENS: usage.input_tokens}
    if operation != "embeddings":
        found[names.OUTPUT_TOKENS] = usage.output_tokens
    details = (
        (names.CACHE_READ_TOKENS, usage.cached_input_tokens),
        (names.CACHE_WRITE_TOKENS, usage.cache_write_tokens),
        (names.REASONING_TOKENS, usage.reasoning_tokens),
    )
    return {**found, **{name: count for name, count in details if count}}
