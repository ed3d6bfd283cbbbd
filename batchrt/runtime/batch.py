"""The ways to run: one input, a list, outcomes with their books, or a stream."""

from __future__ import annotations

from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeAlias, TypeVar, cast

import anyio
from anyio import CancelScope

from batchrt.config import RunConfig, cap_of, check_config, merge_configs
from batchrt.errors import (
    DeadlineExceededError,
    ItemTimeoutError,
    SpendingLimitError,
    StrayCancelledError,
)
from batchrt.prices import Price
from batchrt.runtime.async_input import AsyncInput, is_iterable, length_of
from batchrt.runtime.context import drive
from batchrt.runtime.event_loop import LoopHandle, cancellation_is_real
from batchrt.runtime.item import Item
from batchrt.runtime.lending import lending
from batchrt.runtime.observers import observed_step
from batchrt.runtime.outcome import BatchResult, Outcome, cost_of
from batchrt.runtime.progress_bar import counted
from batchrt.runtime.run import Run
from batchrt.runtime.scheduler import Deliver, Scheduler
from batchrt.runtime.slots import Slots
from batchrt.runtime.spending import Spending
from batchrt.runtime.step import NewListRun, Step
from batchrt.runtime.strand import Strand, current_strand, strand_context
from batchrt.runtime.task_pool import TaskPool, error_of, unswallowed

__all__ = ["Configs", "Inputs", "Job", "carry", "collect", "collect_outcomes", "run_one"]

T = TypeVar("T")

Inputs: TypeAlias = "Iterable[Any] | AsyncIterable[Any] | AsyncInput"
Configs: TypeAlias = "RunConfig | Sequence[RunConfig] | None"

MIN_WINDOW: Final = 1000
"""The default window for small caps: room for retries to sleep in without holding up the others. A
thousand waiting items are some megabytes."""
WINDOW_PER_SLOT: Final = 10
MAX_LIST_WINDOW: Final = 20_480
"""How far the default window widens so that lists can fill: ten of OpenAI's longest. An item that waits
in a list is some kilobytes."""

_INHERITED: Final = ("tags", "metadata", "configurable", "recursion_limit", "cache")


@dataclass(frozen=True, slots=True)
class Job:
    """Describe a run: its step, its inputs and its configuration; checked before anything runs.

    Attributes:
        step: carries each input.
        inputs: any iterable or async iterable; pulled lazily.
        config: the run's configuration.
        item_configs: one configuration for all items, or one for each.
        expected: how many inputs there are said to be; `None` if they cannot say.
    """

    step: Step
    inputs: Inputs
    config: RunConfig
    item_configs: RunConfig | Sequence[RunConfig]
    expected: int | None = None

    @classmethod
    def of(cls, step: Step, inputs: Inputs, configs: Configs) -> Job:
        """Check and put together.

        Raises:
            ValueError: a config makes no sense, or there is not one config for each input.
            TypeError: the inputs cannot be iterated over, or a config is no mapping.
        """
        if isinstance(inputs, str | bytes) or not (is_iterable(inputs) or isinstance(inputs, AsyncIterable)):
            raise TypeError(
                f"the inputs must be an iterable of inputs, not {type(inputs).__name__}; "
                "to run a single input, put it in a list or use ainvoke"
            )
        above = inherited(current_strand())
        expected = None if hasattr(type(inputs), "__next__") else length_of(inputs)
        if configs is None or not isinstance(configs, Sequence):
            config = merge_configs(above, check_config(configs))
            return cls(step, inputs, config, config, expected)
        each = [merge_configs(above, check_config(config)) for config in configs]
        if len(each) != expected:
            count = "an unknown number of" if expected is None else expected
            raise ValueError(f"there must be one config for each input: {len(each)} for {count} inputs")
        return cls(step, inputs, each[0] if each else above, each, expected)

    def open(self, deliver: Deliver, **options: Any) -> Scheduler:
        """Return a scheduler for a run of this on the running loop, nested in the current strand."""
        parent = current_strand()
        run = _run(self.config, parent)
        return Scheduler(
            run,
            self.step,
            self._source(),
            config=self.item_configs,
            deliver=deliver,
            window=options.pop("window", None) or self.window,
            deadline=self.config.get("deadline"),
            parent=parent.item if parent else None,
            expected=self.expected,
            **options,
        )

    def _source(self) -> Iterator[Any] | AsyncIterator[Any] | AsyncInput:
        inputs = self.inputs
        if isinstance(inputs, AsyncInput):
            return inputs
        return iter(inputs) if is_iterable(inputs) else aiter(cast("AsyncIterable[Any]", inputs))

    @property
    def has_spending_limit(self) -> bool:
        """Whether the run, or one that it is nested in, may reach a limit of spending."""
        if self.config.get("max_tokens_total") is not None or self.config.get("max_cost") is not None:
            return True
        parent = current_strand()
        return parent is not None and parent.spending is not None

    @property
    def by_lists(self) -> bool:
        """Whether the inputs can be sent as lists from the start, with nothing to be done for each."""
        return (
            self.takes_lists
            and self.expected is not None
            and is_iterable(self.inputs)
            and self.config.get("timeout") is None
        )

    @property
    def takes_lists(self) -> bool:
        """Whether inputs can be packed into lists as they are pulled, with no task and no queue for each."""
        parent = current_strand()
        if parent is not None and parent.run.arrivals.task_pool is not None:
            return False  # others may come to the same lists
        return self.step.bulk is not None and self.item_configs is self.config

    @property
    def window(self) -> int:
        """The most items admitted and not yet delivered."""
        cap = cap_of(self.config)
        usual = max(MIN_WINDOW, WINDOW_PER_SLOT * (cap or 0))
        return self.config.get("window") or max(usual, self._list_window(cap))

    def _list_window(self, cap: int | None) -> int:
        # As many lists under way as there are slots, one that fills meanwhile, and one that is on its
        # way to the next step.
        lists = self.step.lists
        return min(lists * ((cap or MAX_LIST_WINDOW) + 2), max(MAX_LIST_WINDOW, 2 * lists))

    @property
    def lead(self) -> int:
        """The most outcomes that may wait for a slow consumer before no more work is begun."""
        cap = cap_of(self.config)
        # A list's outcomes come all at once.
        return self.window if cap is None or self.step.lists else cap


def inherited(parent: Strand | None) -> RunConfig:
    """Return the part of the surrounding configuration that nested calls inherit."""
    if parent is None:
        return RunConfig()
    config = parent.config
    return cast("RunConfig", {key: value for key, value in config.items() if key in _INHERITED})


def _run(config: RunConfig, parent: Strand | None) -> Run:
    run = Run(_slots(config, parent), parent=parent.run if parent else None)
    run.above = parent
    run.spending = Spending.of(config, parent.spending if parent else None)
    return run


def _slots(config: RunConfig, parent: Strand | None) -> Slots:
    cap = cap_of(config)
    if config.get("max_concurrency") == "auto":
        return Slots(None, None if parent is None else parent.slots, adaptive=True)
    if parent is None:
        return Slots(cap)
    if parent.run.loop is not None and not parent.run.loop.here():
        return parent.lend_afar(LoopHandle.current(), cap)
    return parent.slots if cap is None else Slots(cap, parent.slots)


async def run_one(step: Step, value: Any, config: RunConfig | None) -> Any:
    """Carry one value through, under the caller's slots if it is inside a run.

    Raises:
        ItemTimeoutError, DeadlineExceededError: as the config says.
        Exception: an error of the step, as itself.
    """
    async with lending():
        return await carry(step, value, config)


async def carry(
    step: Step,
    value: Any,
    config: RunConfig | None,
    *,
    pooled: bool = False,
    scopes: tuple[CancelScope, ...] = (),
) -> Any:
    """Do `run_one` for a caller that has lent its slot.

    Args:
        step: carries the value.
        value: the input.
        config: the call's own.
        pooled: give the run helper tasks also if `step` says that it needs none.
        scopes: those that the runtime has put around this.
    """
    parent = current_strand()
    merged = merge_configs(inherited(parent), check_config(config))
    run = _run(merged, parent)
    step = observed_step(run, merged, step)
    item = Item(0, parent.item if parent else None)
    strand = Strand(run, item, merged, run.slots)
    strand.scopes = scopes
    try:
        if pooled or (step.meets and run.arrivals.task_pool is None):
            return await _with_task_pool(run, partial(_bounded_and_given, step, value, strand))
        return await _bounded(step, value, strand)
    except anyio.get_cancelled_exc_class() as error:
        if cancellation_is_real():
            # For the leaf that this is nested in, which may go on.
            strand.give(newcomers=parent is None)
            raise
        raise StrayCancelledError.of(error) from error
    finally:
        strand.close()
        run.end()
        if run.calls:
            await run.wait_for_calls()


async def _with_task_pool(run: Run, function: Callable[[], Awaitable[T]]) -> T:
    """Await `function()` while the run has helper tasks."""
    result: list[T] = []
    failure: BaseException | None = None
    cut: BaseException | None = None
    ended = False
    try:
        async with anyio.create_task_group() as group:
            run.hire(TaskPool(group))
            try:
                result.append(await function())
            except anyio.get_cancelled_exc_class() as error:
                cut = error
                if cancellation_is_real():
                    raise
                failure = error
            except BaseException as error:  # noqa: BLE001  raised below: the group would wrap it
                failure = error
            ended = True
            group.cancel_scope.cancel()
    except BaseExceptionGroup as errors:
        failure = error_of(errors)
    if failure is not None:
        raise failure
    if not ended:
        raise unswallowed(cut)
    return result[0]


async def _bounded_and_given(step: Step, value: Any, strand: Strand) -> Any:
    try:
        return await _bounded(step, value, strand)
    finally:
        strand.give()  # tasks that have not ended may need the slot


async def _bounded(step: Step, value: Any, strand: Strand) -> Any:
    config = strand.config
    timeout, deadline = config.get("timeout"), config.get("deadline")
    context = strand_context(strand)
    if step.inline:
        return context.run(step.call, value, strand)
    if timeout is None and deadline is None:
        return await drive(context, step.call(value, strand))
    seconds = min(bound for bound in (timeout, deadline) if bound is not None)
    with anyio.move_on_after(seconds) as scope:
        strand.scopes = (*strand.scopes, scope)
        return await drive(context, step.call(value, strand))
    assert scope.cancelled_caught
    if seconds == timeout:
        raise ItemTimeoutError(f"the call took longer than its timeout of {seconds:g} s", seconds=seconds)
    raise DeadlineExceededError(f"the call's deadline of {seconds:g} s passed", seconds=seconds)


class _Pending:
    """Stand for an outcome that has not come."""


_PENDING: Final = _Pending()


class _Results:
    """Put outcomes in their places as they come.

    Attributes:
        total: how many places there are, once that is known.
    """

    def __init__(self, make: Any) -> None:
        self.list: list[Any] = []
        self.total: int | None = None
        self._make = make

    def put(self, item: Item, output: Any, error: Exception | None) -> bool:
        index, results = item.index, self.list
        made = self._make(item, output, error)
        if index == len(results):
            results.append(made)
            return True
        while len(results) <= index:
            results.append(_PENDING)
        results[index] = made
        return True

    def fill(self, error: Exception) -> None:
        """Give every place that has nothing yet this error."""
        for index in range(len(self.list) if self.total is None else self.total):
            if index >= len(self.list) or self.list[index] is _PENDING:
                self.put(Item(index), None, error)


def _output_or_error(_item: Item, output: Any, error: Exception | None) -> Any:
    return output if error is None else error


def outcome_of(
    prices: Price | Mapping[str, Price] | None, item: Item, output: Any, error: Exception | None
) -> Outcome[Any]:
    """Return the outcome of an item that has ended, in a run with these prices."""
    seconds = max(0.0, item.finished - item.started)
    bills = item.bills
    return Outcome(
        item.index,
        output,
        error,
        item.retries + 1,
        seconds,
        None if bills is None else item.usage,
        item.request_seconds,
        bills,
        item.waits,
        None if bills is None or prices is None else cost_of(bills, prices),
        item.request_id,
    )


async def collect(job: Job, *, return_exceptions: bool) -> list[Any]:
    """Return the outputs in input order; with `return_exceptions`, errors in their places.

    Raises:
        DeadlineExceededError, SpendingLimitError: unless `return_exceptions` and the number of inputs is
            known: then the items that were not finished have it in their places. The latter's `result`
            has the outcomes until then.
        Exception: without `return_exceptions`, the first error, as itself.
    """
    if job.has_spending_limit:
        return await _collect_within_limits(job, return_exceptions=return_exceptions)
    results = _Results(_output_or_error)
    await _run_into(results, job, return_exceptions=return_exceptions)
    return results.list


async def _collect_within_limits(job: Job, *, return_exceptions: bool) -> list[Any]:
    results = _Results(partial(outcome_of, job.config.get("prices")))
    result = await _collect_outcomes(results, job, fail_fast=not return_exceptions)
    if result.ended is not None and not (return_exceptions and results.total is not None):
        result.ended.result = result  # nothing that was paid is lost
        raise result.ended
    return [outcome.output if outcome.error is None else outcome.error for outcome in result]


async def collect_outcomes(job: Job) -> BatchResult[Any]:
    """Return every item's outcome, whatever it is.

    Raises:
        DeadlineExceededError: only if the number of inputs is not known beforehand.
    """
    results = _Results(partial(outcome_of, job.config.get("prices")))
    return await _collect_outcomes(results, job, fail_fast=False)


async def _collect_outcomes(results: _Results, job: Job, *, fail_fast: bool) -> BatchResult[Any]:
    started = anyio.current_time()
    ended: SpendingLimitError | None = None
    try:
        await _run_into(results, job, return_exceptions=not fail_fast, timed=True)
    except SpendingLimitError as error:
        if error.started:  # one item's own, which a limit inside of it ended
            raise
        ended = error
        results.fill(error)
    seconds = anyio.current_time() - started
    return BatchResult(tuple(results.list), seconds, ended, job.config.get("prices"))


async def _run_into(results: _Results, job: Job, *, return_exceptions: bool, timed: bool = False) -> None:
    async with lending():
        try:
            with counted(job.config, job.expected, results.put) as put:
                if job.by_lists:
                    new_run = cast("NewListRun", job.step.bulk)
                    await _run_lists_into(results, put, job, new_run, fail_fast=not return_exceptions)
                    return
                scheduler = job.open(put, fail_fast=not return_exceptions, timed=timed)
                try:
                    await scheduler.run()
                finally:
                    results.total = scheduler.total
        except DeadlineExceededError as error:
            # An item may raise one of its own: only the run's has no outcome yet to stand in.
            if not return_exceptions or results.total is None:
                raise
            results.fill(error)


async def _run_lists_into(
    results: _Results, put: Deliver, job: Job, new_run: NewListRun, *, fail_fast: bool
) -> None:
    parent = current_strand()
    bulk = new_run(job.config, put, fail_fast=fail_fast, parent=parent.item if parent else None)
    results.total = await bulk.look_at(cast("Iterable[Any]", job.inputs))
    lists = Job(bulk.step, bulk.lists(), job.config, job.config)
    await lists.open(lambda *_: True, unit="list").run()
    if bulk.ended is not None:
        raise bulk.ended.again(started=False)
