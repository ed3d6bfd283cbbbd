"""Measures: the metric instruments of one meter provider, and the tallies and quotas that they report."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, TypeAlias
from weakref import WeakKeyDictionary, ref

from opentelemetry.metrics import CallbackOptions, Histogram, MeterProvider, Observation
from opentelemetry.trace import get_current_span

from batchrt.integrations.opentelemetry import conventions as names
from batchrt.integrations.opentelemetry.tallies import Tally
from batchrt.limits.events import CooledDown, LimitChanged, Listener, ProviderDown, QuotaEvent

if TYPE_CHECKING:
    from batchrt.limits.quota import Quota
    from batchrt.limits.quota_statistics import QuotaStatistics
    from batchrt.runtime.observers import RequestTarget

__all__ = ["Measures"]

Attributes: TypeAlias = "Mapping[str, str | int]"


class _WatchedQuota:
    """A quota at which requests were made, its attributes, and the tally that counts its rare events."""

    def __init__(self, attributes: Attributes, tally: Tally) -> None:
        self.attributes = attributes
        self._tally = tally
        self.listener: Listener = self.note

    def note(self, event: QuotaEvent) -> None:
        """Count a rare event, and add it to the current span, which is that of the request it came with."""
        span, tally = get_current_span(), self._tally
        match event:
            case CooledDown(wait=wait, reason=reason, named=named):
                with tally.lock:
                    tally.cooldowns[reason] += 1
                span.add_event(
                    "batchrt.cooldown",
                    {names.WAIT: wait, names.REASON: reason, "batchrt.cooldown.named": named},
                )
            case LimitChanged(name=name, after=after, reason=reason):
                limit = {} if after is None else {"batchrt.limit.value": after}
                span.add_event("batchrt.limit", {names.LIMIT: name, names.REASON: reason, **limit})
            case ProviderDown(reason=reason):
                with tally.lock:
                    tally.outages += 1
                span.add_event("batchrt.outage", {names.REASON: reason})  # its message may quote a prompt
            case _:
                pass


class Measures:
    """Hold the instruments of a meter provider, made once: a second one of a name would have no callbacks.

    Counters and gauges are read when they are collected, from tallies and from the quotas' statistics, so
    that a request pays for a few additions. Histograms take a measurement for each request of the sample.

    Args:
        provider: of the meter.
        version: of the instrumentation.
    """

    def __init__(self, provider: MeterProvider, version: str) -> None:
        self._lock = threading.Lock()
        self._tallies: dict[tuple[str, str], Tally] = {}
        self._quotas: WeakKeyDictionary[Quota, _WatchedQuota] = WeakKeyDictionary()
        self._numbered = 0
        meter = provider.get_meter("batchrt", version)

        def histogram(name: str, unit: str, buckets: Iterable[float], text: str) -> Histogram:
            return meter.create_histogram(
                name, unit, text, explicit_bucket_boundaries_advisory=list(map(float, buckets))
            )

        seconds = partial(histogram, unit="s", buckets=names.DURATION_BUCKETS)
        self.duration: Histogram = seconds(
            "gen_ai.client.operation.duration", text="GenAI operation duration."
        )
        self.tokens: Histogram = histogram(
            "gen_ai.client.token.usage",
            "{token}",
            names.TOKEN_BUCKETS,
            "Number of input and output tokens used.",
        )
        self.first_chunk: Histogram = seconds(
            "gen_ai.client.operation.time_to_first_chunk",
            text="Time from sending a request to its first chunk.",
        )
        self.next_chunk: Histogram = seconds(
            "gen_ai.client.operation.time_per_output_chunk", text="Time from a chunk to the next."
        )
        self.workflow: Histogram = histogram(
            "gen_ai.invoke_workflow.duration", "s", names.WORKFLOW_BUCKETS, "Duration of a run."
        )
        self.queue: Histogram = seconds(
            names.QUEUE_TIME, text="Time for which a request waited for its quota before it was sent."
        )
        for name, unit, read in _COUNTERS:
            meter.create_observable_counter(name, [partial(self._count, read)], unit)
        for name, unit, read_state in _GAUGES:
            meter.create_observable_gauge(name, [partial(self._gauge, read_state)], unit)

    def tally(self, target: RequestTarget) -> Tally:
        """Return the tally of a request's model, and watch its quota from now on."""
        key = target.url, target.model
        tally = self._tallies.get(key)
        if tally is None:
            with self._lock:
                tally = self._tallies.setdefault(key, Tally(*key))
        quota = target.quota
        if tally.last_quota is None or tally.last_quota() is not quota:
            self._watch(quota, tally)
            tally.last_quota = ref(quota)
        return tally

    def _watch(self, quota: Quota, tally: Tally) -> None:
        with self._lock:
            if quota in self._quotas:
                return
            self._numbered += 1
            kept = {name: value for name, value in tally.attributes.items() if name != names.OPERATION}
            watched = self._quotas[quota] = _WatchedQuota({**kept, names.QUOTA: self._numbered}, tally)
        quota.events.watch(watched.listener)

    def leave(self) -> None:
        """Leave the quotas, whose gauges are reported no more; counters stay as they are."""
        with self._lock:
            left = list(self._quotas.items())
            self._quotas.clear()
            for tally in self._tallies.values():
                tally.last_quota = None
        for quota, watched in left:
            quota.events.unwatch(watched.listener)

    def reset_after_fork(self) -> None:
        """Begin anew in a child process, whose requests are not its parent's."""
        self._lock = threading.Lock()
        for tally in self._tallies.values():
            tally.reset()

    def _watched(self) -> list[tuple[Quota, _WatchedQuota]]:
        with self._lock:
            return list(self._quotas.items())

    def _count(self, read: _ReadTally, _options: CallbackOptions) -> Iterator[Observation]:
        with self._lock:
            tallies = list(self._tallies.values())
        for tally in tallies:
            with tally.lock:
                found = list(read(tally))
            for count, more in found:
                yield Observation(count, {**tally.attributes, **more})

    def _gauge(self, read: _ReadState, _options: CallbackOptions) -> Iterator[Observation]:
        for quota, watched in self._watched():
            for value, more in read(quota.statistics()):
                yield Observation(value, {**watched.attributes, **more})


_Values: TypeAlias = "Iterable[tuple[float, Mapping[str, str]]]"
_ReadTally: TypeAlias = "Callable[[Tally], _Values]"
_ReadState: TypeAlias = "Callable[[QuotaStatistics], _Values]"


def _by(attribute: str, counts: Mapping[str, int]) -> _Values:
    return [(count, {attribute: value}) for value, count in counts.items()]


def _ended(tally: Tally) -> _Values:
    return [(tally.answers, {}), *_by(names.ERROR_TYPE, tally.failures)]


def _tokens(tally: Tally) -> _Values:
    kinds = [("input", tally.input_tokens)]
    if tally.operation != "embeddings":
        kinds.append(("output", tally.output_tokens))
    return [(count, {names.TOKEN_TYPE: kind}) for kind, count in kinds]


def _alone(value: float | None) -> _Values:
    return [] if value is None else [(value, {})]


def _limits(state: QuotaStatistics) -> Iterator[tuple[float, Mapping[str, str]]]:
    for status in state.sources:
        yield status.limit, {names.LIMIT: status.name, names.LIMIT_SOURCE: status.source}
    if state.max_concurrency is not None:
        yield state.max_concurrency, {names.LIMIT: "max_concurrency", names.LIMIT_SOURCE: "found"}


def _used(state: QuotaStatistics) -> _Values:
    return [(share, {names.LIMIT: name}) for name, share in state.used.items()]


_COUNTERS: tuple[tuple[str, str, _ReadTally], ...] = (
    ("batchrt.requests", "{request}", _ended),
    ("batchrt.retries", "{retry}", lambda tally: _by(names.ERROR_TYPE, tally.retries)),
    ("batchrt.tokens", "{token}", _tokens),
    ("batchrt.tokens.cache_read", "{token}", lambda tally: _alone(tally.cache_read_tokens)),
    ("batchrt.tokens.reasoning", "{token}", lambda tally: _alone(tally.reasoning_tokens)),
    ("batchrt.cooldowns", "{cooldown}", lambda tally: _by(names.REASON, tally.cooldowns)),
    ("batchrt.outages", "{outage}", lambda tally: _alone(tally.outages)),
)
_GAUGES: tuple[tuple[str, str, _ReadState], ...] = (
    ("batchrt.quota.in_flight", "{request}", lambda state: _alone(state.in_flight)),
    ("batchrt.quota.waiting", "{request}", lambda state: _alone(state.waiting)),
    ("batchrt.quota.limit", "1", _limits),
    ("batchrt.quota.used", "1", _used),
    ("batchrt.quota.cooldown", "s", lambda state: _alone(state.quiet_for)),
    ("batchrt.quota.outage", "s", lambda state: _alone(state.down_for or 0.0)),
    ("batchrt.quota.retry_tokens", "1", lambda state: _alone(state.retry_tokens)),
)
