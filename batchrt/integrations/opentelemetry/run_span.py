"""The spans of runs and of their items."""

from __future__ import annotations

from contextvars import Context as Variables
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import anyio
from opentelemetry.context import Context, attach, get_current
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, get_current_span, set_span_in_context

from batchrt.integrations.opentelemetry import conventions as names
from batchrt.integrations.opentelemetry.request_span import RequestSpan
from batchrt.integrations.opentelemetry.tallies import Tally, error_type

if TYPE_CHECKING:
    from batchrt.config import RunConfig
    from batchrt.integrations.opentelemetry.instrumentation import Instrumentation
    from batchrt.runtime.observers import RequestObserver, RequestTarget
    from batchrt.runtime.run import Run
    from batchrt.runtime.step import Step
    from batchrt.runtime.strand import Strand

__all__ = ["RunSpan"]

_MANY: Final = 64
"""Models whose tallies a run remembers."""


class RunSpan:
    """Follow one run by a span, and its requests (`RunObserver`).

    Args:
        instrumentation: has the tracer, and says what is followed.
        run: the run.
        config: its configuration.
        single: it is of a single input. Outside of the sample it has no span, and its requests have none.
    """

    def __init__(
        self, instrumentation: Instrumentation, run: Run, config: RunConfig, *, single: bool
    ) -> None:
        self._instrumentation = instrumentation
        self._run = run
        self._name = config.get("run_name")
        self._span: Span | None = None
        self._began = 0.0
        self._context: Context | None = None
        self._all = instrumentation.sample_ratio >= 1
        self._tallies: dict[RequestTarget, Tally] = {}
        around = run.observer if isinstance(run.observer, RunSpan) else None
        if around is None or run.above is None:
            self._number = instrumentation.next_number()
            self._is_followed = not single or instrumentation.samples(self._number, 0)
        else:
            self._number = around._number
            self._is_followed = around._follows(run.above)

    def begin(self, around: Context) -> None:
        """Begin the span, within that of the context `around`, if the run is part of the sample."""
        self._context = around
        if not self._is_followed:
            return
        attributes = {names.OPERATION: names.INVOKE_WORKFLOW}
        if self._name is not None:
            attributes[names.WORKFLOW] = self._name
        title = names.INVOKE_WORKFLOW if self._name is None else f"{names.INVOKE_WORKFLOW} {self._name}"
        self._span = self._instrumentation.begin_span(title, around, SpanKind.INTERNAL, attributes)
        self._context = set_span_in_context(self._span, around)
        self._began = self._instrumentation.now(self._run)

    def enter(self, context: Variables) -> None:
        """Make the span the current one in `context`."""
        if self._context is not None:
            context.run(attach, self._context)

    def whole(self, step: Step) -> Step:
        """Return `step` such that its one call is the whole run."""

        def begin() -> None:
            self.begin(get_current())
            if self._context is not None:
                attach(self._context)  # in the strand's own context, which ends with it
                self._run.enter(self)

        async def call(value: Any, strand: Strand) -> Any:
            begin()
            try:
                output = await step.call(value, strand)
            except BaseException as error:
                self._end(error, strand)
                raise
            self._end(None, strand)
            return output

        return step._replace(call=call)

    def step(self, step: Step) -> Step:
        """Return `step` such that each item of the sample has a span, if spans of items are asked for."""
        if not self._instrumentation.items:
            return step
        carry = partial(self._carry_inline if step.inline else self._carry, step)

        def call(value: Any, strand: Strand) -> Any:
            return carry(value, strand) if self._follows(strand) else step.call(value, strand)

        return step._replace(call=call)

    async def _carry(self, step: Step, value: Any, strand: Strand) -> Any:
        span = self._begin_item(strand)
        try:
            return await step.call(value, strand)
        except BaseException as error:
            _fail(span, error, strand, self._instrumentation)
            raise
        finally:
            self._instrumentation.end_span(span)

    def _carry_inline(self, step: Step, value: Any, strand: Strand) -> Any:
        span = self._begin_item(strand)
        try:
            return step.call(value, strand)
        except BaseException as error:
            _fail(span, error, strand, self._instrumentation)
            raise
        finally:
            self._instrumentation.end_span(span)

    def _begin_item(self, strand: Strand) -> Span:
        """Begin the span of an item and make it the current one, in the item's own context."""
        attributes = {names.ITEM_INDEX: strand.item.index}
        span = self._instrumentation.begin_span("batchrt.item", attributes=attributes)
        attach(set_span_in_context(span))
        return span

    def origin(self) -> object:
        """Return the current span's identity, for links."""
        return get_current_span().get_span_context()

    def _follows(self, strand: Strand) -> bool:
        """Whether an item, or a list, and what it does are part of the sample."""
        if self._all or not self._is_followed:
            return self._is_followed
        item = strand.item
        while item.parent is not None:
            item = item.parent
        return item.index < 0 or self._instrumentation.samples(self._number, item.index)

    def request(
        self, target: RequestTarget, body: bytes, strand: Strand, *, streamed: bool = False
    ) -> RequestObserver:
        """Return a request's span, or the tally of its model if it is not part of the sample."""
        tally = self._tallies.get(target)
        if tally is None:
            tally = self._tally(target)
        if not self._follows(strand):
            return tally
        parent = get_current()
        if self._context is not None and not get_current_span(parent).get_span_context().is_valid:
            parent = self._context  # a list of several runs is sent outside of all of them
        return RequestSpan(self._instrumentation, tally, body, strand, parent, streamed)

    def _tally(self, target: RequestTarget) -> Tally:
        if len(self._tallies) >= _MANY:
            self._tallies.clear()  # functions make models for each item, perhaps
        tally = self._tallies[target] = self._instrumentation.measures.tally(target)
        return tally

    def ended(self, error: BaseException | None, admitted: int) -> None:
        """End the span."""
        span = self._span
        if span is None:
            return
        attributes: dict[str, str] = {} if self._name is None else {names.WORKFLOW: self._name}
        if error is not None:
            _fail(span, error, None, self._instrumentation)
            attributes[names.ERROR_TYPE] = error_type(error)
        counts = self._run.counts
        span.set_attributes(
            {
                "batchrt.run.items": admitted,
                "batchrt.run.retries": counts.retries,
                "batchrt.run.lists": counts.lists,
                "batchrt.run.list_inputs": counts.list_inputs,
                "batchrt.run.cached": counts.cached,
            }
        )
        seconds = max(0.0, self._instrumentation.now(self._run) - self._began)
        self._instrumentation.measures.workflow.record(seconds, attributes, self._context)
        self._instrumentation.end_span(span)

    def _end(self, error: BaseException | None, strand: Strand) -> None:
        self.ended(_outcome(error, strand), 1)


def _outcome(error: BaseException | None, strand: Strand | None) -> BaseException | None:
    """Return the error that an item ends with: a cancellation by its own timeout is one."""
    if error is None or isinstance(error, Exception) or strand is None or strand.run.loop is None:
        return error
    if any(scope.deadline <= anyio.current_time() for scope in strand.scopes):
        return TimeoutError("the timeout of the item, or the deadline of the run")
    return error


def _fail(span: Span, error: BaseException, strand: Strand | None, instrumentation: Instrumentation) -> None:
    """Record an error by its type; its message may quote a prompt."""
    error = _outcome(error, strand) or error
    span.set_status(Status(StatusCode.ERROR, str(error) if instrumentation.capture_content else None))
    span.set_attribute(names.ERROR_TYPE, error_type(error))
