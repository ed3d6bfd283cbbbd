"""The instrumentation of this process: switched on and off, with its options."""

from __future__ import annotations

import itertools
import logging
import os
import time
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

from opentelemetry.metrics import MeterProvider, get_meter_provider
from opentelemetry.trace import INVALID_SPAN, Span, Tracer, TracerProvider, get_tracer_provider

from batchrt.integrations.opentelemetry.measures import Measures
from batchrt.integrations.opentelemetry.run_span import RunSpan
from batchrt.runtime.observers import install, remove

if TYPE_CHECKING:
    from contextvars import Context as Variables

    from opentelemetry.context import Context

    from batchrt.config import RunConfig
    from batchrt.runtime.run import Run
    from batchrt.runtime.step import Step

__all__ = ["BatchrtInstrumentor", "Instrumentation", "instrument", "uninstrument"]

_LOG: Final = logging.getLogger("batchrt")
_GOLDEN: Final = 0.6180339887498949
_PLASTIC: Final = 0.7548776662466927
"""Multiples of these irrational numbers, modulo 1, are spread evenly (the quasi-random sequences R1 and R2):
the share below a bound is the bound, however few there are, and no period of the rows agrees with it."""


class Instrumentation:
    """Follow the runs of this process (`Observer`).

    Args:
        tracer: makes the spans.
        measures: has the instruments.
        capture_content: put prompts, answers and messages of errors into spans.
        items: give each item a span.
        sample_ratio: the share of items and requests that are followed one by one.
    """

    def __init__(
        self,
        tracer: Tracer,
        measures: Measures,
        *,
        capture_content: bool,
        items: bool,
        sample_ratio: float,
    ) -> None:
        self._tracer = tracer
        self._has_failed = False
        self.measures: Measures = measures
        self.capture_content: bool = capture_content
        self.items: bool = items
        self.sample_ratio: float = sample_ratio
        self._numbers = itertools.count(1)

    def begin_span(self, name: str, *arguments: Any, **options: Any) -> Span:
        """Begin a span; an invalid one, which records nothing, if a span processor or a sampler fails."""
        try:
            return self._tracer.start_span(name, *arguments, **options)
        except Exception:  # noqa: BLE001  an answer is worth more than its span
            self._report_failure()
            return INVALID_SPAN

    def end_span(self, span: Span) -> None:
        """End a span; a span processor that fails costs no answer."""
        try:
            span.end()
        except Exception:  # noqa: BLE001  an answer is worth more than its span
            self._report_failure()

    def _report_failure(self) -> None:
        if not self._has_failed:
            self._has_failed = True
            _LOG.exception("a span is not recorded: OpenTelemetry's SDK, or a part of it, failed")

    def next_number(self) -> int:
        """Return the number of a run that begins."""
        return next(self._numbers)

    def samples(self, run: int, item: int) -> bool:
        """Whether an item of a run is part of the sample; the same one is or is not, however often."""
        return (run * _PLASTIC + item * _GOLDEN) % 1.0 < self.sample_ratio

    def now(self, run: Run) -> float:
        """Return the seconds of the clock that the run's requests go by."""
        return time.monotonic() if run.loop is None else run.now()

    def run(self, run: Run, config: RunConfig, context: Variables) -> RunSpan:
        """Begin the span of a run of many inputs."""
        from opentelemetry.context import get_current

        around: Context = context.run(get_current)
        followed = RunSpan(self, run, config, single=False)
        followed.begin(around)
        return followed

    def single(self, run: Run, config: RunConfig, step: Step) -> Step:
        """Return a step whose call is the whole run; within another run it is no run of its own.

        Neither is a prompt or a parser that is called by itself: it waits for nothing, and sends nothing.
        """
        if step.inline or (run.observer is not None and not self.items):
            return step
        followed = RunSpan(self, run, config, single=True)
        run.observer = followed
        return followed.whole(step)


class _Process:
    """What is instrumented in this process."""

    def __init__(self) -> None:
        self.current: Instrumentation | None = None
        self.measures: WeakKeyDictionary[MeterProvider, Measures] = WeakKeyDictionary()
        self.global_measures: Measures | None = None
        self.watches_forks = False

    def measures_of(self, given: MeterProvider | None, release: str) -> Measures:
        """Return the measures of a provider, the global one for `None`.

        Before the global provider is set there is a proxy, whose instruments become those of the real one.
        """
        current = get_meter_provider()
        provider = current if given is None else given
        measures = self.measures.get(provider)
        if measures is None and provider is current:
            measures = self.global_measures
        if measures is None:
            measures = Measures(provider, release)
        self.measures[provider] = measures
        if provider is current:
            self.global_measures = measures
        return measures

    def reset_after_fork(self) -> None:
        for measures in self.measures.values():
            measures.reset_after_fork()


_process: Final = _Process()


def instrument(
    *,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
    capture_content: bool = False,
    items: bool = False,
    sample_ratio: float = 1.0,
) -> None:
    """Have the runs of this process followed by spans and metrics, from the next run on.

    A run is a span, and each of its requests a client span, with events for retries and cool-downs. Calling
    this again replaces the options. A forked process is instrumented as its parent was; one that is spawned
    has to call this itself.

    Args:
        tracer_provider: makes the tracer; `None` for the global one.
        meter_provider: makes the meter; likewise.
        capture_content: put prompts and answers, and the messages of errors, into spans. Without it there is
            no text of a prompt or an answer in any span or metric.
        items: give each item a span of its own between the run's and its requests'. Inputs that are packed
            into lists directly, with no other step, are no items of their own.
        sample_ratio: the share of a run's items that are followed one by one: they and their requests have
            spans, and their requests count in histograms. Counters and gauges are exact. Requests of lists,
            and runs of many inputs, are always followed; a run of a single input is an item.

    Raises:
        ValueError: `sample_ratio` is not between 0 and 1.
    """
    if not 0 <= sample_ratio <= 1:
        raise ValueError(f"sample_ratio must be from 0 to 1, not {sample_ratio!r}")
    uninstrument()
    release = version("batchrt")
    measures = _process.measures_of(meter_provider, release)
    tracers = tracer_provider if tracer_provider is not None else get_tracer_provider()
    _process.current = Instrumentation(
        tracers.get_tracer("batchrt", release),
        measures,
        capture_content=capture_content,
        items=items,
        sample_ratio=sample_ratio,
    )
    if not _process.watches_forks and hasattr(os, "register_at_fork"):
        _process.watches_forks = True
        os.register_at_fork(after_in_child=_process.reset_after_fork)
    install(_process.current)


def uninstrument() -> None:
    """Follow no more runs; those in progress are followed to their end.

    Counters keep their last values, and gauges of quotas are reported no more.
    """
    current, _process.current = _process.current, None
    if current is not None:
        remove(current)
        current.measures.leave()


class BatchrtInstrumentor:
    """Switch the instrumentation on for `opentelemetry-instrument`, which finds it by its entry point."""

    def instrument(self, **options: Any) -> None:
        """Call `instrument`; options of other libraries' instrumentations are left out."""
        instrument(**{name: value for name, value in options.items() if name in _OPTIONS})

    def uninstrument(self, **_options: Any) -> None:
        """Call `uninstrument`."""
        uninstrument()


_OPTIONS: Final = ("tracer_provider", "meter_provider", "capture_content", "items", "sample_ratio")
