"""The algebra's root: what every runnable can do.

A class says how it runs by what it overrides, found once when the class is made:

    _build          a step put together from others (everything in this package)
    abatch_native   a list call: items that meet are sent together
    abatch, batch   the same, said the LCEL way
    ainvoke         a leaf on the event loop
    invoke only     a leaf in a worker thread

and gets every other method from here.
"""

from __future__ import annotations

from collections.abc import (
    AsyncIterable,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextvars import copy_context
from functools import partial, wraps
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, TypeAlias, TypeVar, cast, overload

from batchrt.config import RunConfig, cap_of, check_config, handed_config
from batchrt.runnables.keywords import check_keywords, function_takes
from batchrt.runtime.batch import Job, collect, collect_outcomes, run_one
from batchrt.runtime.caller import Caller
from batchrt.runtime.context import drive_to_end
from batchrt.runtime.item import Item
from batchrt.runtime.outcome import BatchResult
from batchrt.runtime.outcome_iterator import OutcomeIterator, SyncOutcomeIterator
from batchrt.runtime.portal import call_blocking, iterate
from batchrt.runtime.run import Run
from batchrt.runtime.slots import Slots
from batchrt.runtime.step import Step
from batchrt.runtime.strand import Strand, current_strand, strand_context
from batchrt.runtime.stream import Stream
from batchrt.runtime.threads import call_in_thread, is_awaitable

if TYPE_CHECKING:
    from batchrt.runnables.binding import RunnableBinding
    from batchrt.runnables.each import RunnableEach
    from batchrt.runnables.fallbacks import RunnableWithFallbacks
    from batchrt.runnables.passthrough import RunnableAssign, RunnablePick
    from batchrt.runnables.retry import RunnableRetry
    from batchrt.runnables.sequence import RunnableSequence

__all__ = [
    "PLAIN",
    "Configs",
    "Entry",
    "RetryIf",
    "Runnable",
    "RunnableLike",
    "awaited",
    "coerce",
    "no_awaitable",
]

In = TypeVar("In", contravariant=True)  # noqa: PLC0105  these two stand in every signature
Out = TypeVar("Out", covariant=True)  # noqa: PLC0105
T = TypeVar("T")
U = TypeVar("U")

RetryIf: TypeAlias = "tuple[type[BaseException], ...] | type[BaseException] | Callable[[BaseException], bool]"
"""Which errors are worth another attempt: of these types, or those the function says yes to."""

Configs: TypeAlias = "RunConfig | Sequence[RunConfig] | None"
"""One configuration for the run, or one for each input."""

Entry: TypeAlias = Literal["_build", "abatch_native", "abatch", "batch", "ainvoke", "invoke"]
_LISTS: Final[tuple[Entry, ...]] = ("abatch", "batch")
_ENTRIES: Final[tuple[Entry, ...]] = ("_build", "abatch_native", *_LISTS, "ainvoke", "invoke")


class Runnable(Generic[In, Out]):
    """Take an input and give an output; compose with `|`; run one or many.

    Override `ainvoke` (runs on the event loop) or `invoke` (runs in a worker thread); the other methods
    follow. All batch methods take any iterable or async iterable and pull it lazily, and run under
    `config`'s limits (see `RunConfig`).

    What takes lists overrides `abatch_native(inputs)` instead, async or not: it is given a list and gives
    a list, one output for each input in their order; an exception in an output's place is that item's
    error. Wherever such a runnable stands in a chain, the items of the run that come to it meet and are
    sent together, within `max_batch_size` and `max_batch_cost` (with a method `cost(input)`): when a
    list is full, when nobody is on the way to it any more, or when nobody came for `linger` seconds, or
    `max_linger` seconds after the first. A list that fails is halved until the guilty item stands
    alone. An `abatch` or `batch` that a subclass overrides, as in LCEL, is used the same way.

    Attributes:
        name: what messages call it; else its class's name.
        max_batch_size: the most inputs a list; `None` for no bound. May change during a run.
        max_batch_cost: the most their costs may add up to; `None` for no bound.
        linger: seconds; `None` for 0.05, or 0.005 with `share_lists`.
        max_linger: seconds; `None` for 1, or 0.05 with `share_lists`.
        share_lists: put lists of concurrent runs together too, as a service wants it whose requests call
            `ainvoke` each for itself. A call then waits `linger` seconds for others.
    """

    name: str | None = None
    max_batch_size: int | None = None
    max_batch_cost: float | None = None
    linger: float | None = None
    max_linger: float | None = None
    share_lists: bool = False
    _entry: Entry | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for entry in _ENTRIES:
            if entry in cls.__dict__:
                cls._entry = entry
                break
        if cls._entry == "invoke" and isinstance(own := cls.__dict__.get("invoke"), FunctionType):
            cls.invoke = _awaiting(own)  # type: ignore[method-assign]

    # How it runs

    def _build(self, kwargs: Mapping[str, Any]) -> Step:
        """Return this runnable as a step for a run; `kwargs` go to the call, as `bind` says."""
        raise NotImplementedError

    def _step(self, kwargs: Mapping[str, Any] | None = None) -> Step:
        """Return the step that stands for this runnable in a chain."""
        return self._step_of(self._entry, kwargs or {})

    def _takes(self, keyword: str) -> bool:
        """Whether calls of this take a keyword argument of this name."""
        return function_takes(
            (getattr(self, entry) for entry in _ENTRIES if entry != "_build" and self._overrides(entry)),
            keyword,
        )

    def _keyword_hint(self, keyword: str) -> str:  # noqa: ARG002  subclasses know more
        """Return where a keyword argument belongs that this does not take."""
        return "no step takes it"

    def _step_of(self, entry: Entry | None, kwargs: Mapping[str, Any]) -> Step:
        if kwargs:
            check_keywords(self, kwargs)
        match entry:
            case "_build":
                return self._build(kwargs)
            case "abatch_native" | "abatch" | "batch":
                from batchrt.runnables.native import native_step

                return native_step(self, entry, kwargs)
            case "ainvoke":
                return _async_method_step(self.ainvoke, kwargs)
            case "invoke":
                method = getattr(self.invoke, "_unawaited", None)
                # A run awaits on its own loop, and not in the thread.
                return _sync_method_step(partial(method, self) if method else self.invoke, kwargs)
        name = type(self).__name__
        raise TypeError(f"{name} defines neither ainvoke nor invoke nor abatch_native: it cannot run")

    def _inherited_step(self, method: Entry, kwargs: Mapping[str, Any]) -> Step:
        """Return a step for `method` of this class that does not come back to an override of it.

        Called only when `method` itself is not overridden, or from an override through `super()`. What
        calls for single inputs looks first at what takes a single input: an `abatch` in terms of
        `self.ainvoke` must not come back to itself either.
        """
        entries: tuple[Entry, ...] = ("_build", "abatch_native", "ainvoke", "invoke")
        if method in _LISTS:
            if not self._overrides(method):
                return self._step(kwargs)
        else:
            entries += _LISTS
        usable = (entry for entry in entries if entry != method and self._overrides(entry))
        return self._step_of(next(usable, None), kwargs)

    def _overrides(self, entry: Entry) -> bool:
        return getattr(type(self), entry, None) is not getattr(Runnable, entry, None)

    def _prepare(
        self, kwargs: Mapping[str, Any], configs: Configs, method: Entry | None = None
    ) -> tuple[Step, Configs]:
        """Return the step and the configuration for a run of this by itself.

        `method` says that it is that method's own default that asks; see `_inherited_step`.
        """
        step = self._inherited_step(method, kwargs) if method else self._step(kwargs)
        return step, configs

    def _job(
        self,
        inputs: Iterable[Any] | AsyncIterable[Any],
        configs: Configs,
        kwargs: Mapping[str, Any],
        method: Entry | None = None,
    ) -> Job:
        step, configs = self._prepare(kwargs, configs, method)
        return Job.of(step, inputs, configs)

    def get_name(self) -> str:
        """Return the name that messages use for it."""
        return self.name or type(self).__name__

    def __repr__(self) -> str:
        return f"{self.get_name()}()"

    # One input

    async def ainvoke(self, input: In, config: RunConfig | None = None, **kwargs: Any) -> Out:  # noqa: A002
        """Return the output for one input.

        Raises:
            Exception: what a step raises, as itself.
            ItemTimeoutError, DeadlineExceededError: as `config` says.
        """
        step, configs = self._prepare(kwargs, config, "ainvoke")
        return cast("Out", await run_one(step, input, cast("RunConfig | None", configs)))

    def invoke(self, input: In, config: RunConfig | None = None, **kwargs: Any) -> Out:  # noqa: A002
        """Return the output for one input, from sync code; see `ainvoke`.

        A chain of sync functions alone runs in the calling thread. Anything else runs on a background
        event loop while the calling thread waits.

        Raises:
            BlockedEventLoopError: in async code, where it would wait for the event loop that it blocks: await
                `ainvoke` there.
        """
        step, configs = self._prepare(kwargs, config, "invoke")
        config = check_config(cast("RunConfig | None", configs))
        bounded = "timeout" in config or "deadline" in config
        if (step.inline or step.direct) and not bounded and current_strand() is None:
            return cast("Out", _run_direct(step, input, config))
        return cast("Out", call_blocking(partial(run_one, step, input, config)))

    # Many inputs

    async def abatch(
        self,
        inputs: Iterable[In] | AsyncIterable[In],
        config: Configs = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[Out]:
        """Return the outputs, in input order.

        Args:
            inputs: pulled one at a time, as items are admitted. An iterator runs on the event loop; one
                that blocks should be an async iterable.
            config: for the run, or a list of one for each input (the first one's `max_concurrency`,
                `deadline`, `window` and limits of spending count).
            return_exceptions: put an item's exception in its place instead of stopping.
            kwargs: go to each call, as with `bind`.

        Raises:
            TypeError: for keyword arguments that no step takes; it says where they belong.
            Exception: without `return_exceptions`, the first error, as itself, after everything else
                was cancelled and has ended.
            DeadlineExceededError: when `deadline` passed; with `return_exceptions` and inputs of known
                length, it stands in the unfinished items' places instead.
            ValueError: for a config that makes no sense, before anything runs.
        """
        job = self._job(inputs, config, kwargs, "abatch")
        return await collect(job, return_exceptions=return_exceptions)

    def batch(
        self,
        inputs: Iterable[In] | AsyncIterable[In],
        config: Configs = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[Out]:
        """Do `abatch` from sync code, on a background event loop; an iterator runs in this thread.

        In async code it blocks the event loop, which async inputs must not need; for what it raises then see
        `invoke`.
        """
        caller = Caller()
        job = self._job(caller.pull(inputs), config, kwargs, "batch")

        return call_blocking(partial(collect, job, return_exceptions=return_exceptions), caller)

    async def arun(
        self,
        inputs: Iterable[In] | AsyncIterable[In],
        config: Configs = None,
        **kwargs: Any,
    ) -> BatchResult[Out]:
        """Return each item's outcome with its attempts, seconds and tokens; no item's error is raised.

        Raises:
            DeadlineExceededError: only when `deadline` passed and the inputs' number is not known.
        """
        return await collect_outcomes(self._job(inputs, config, kwargs))

    def run(
        self,
        inputs: Iterable[In] | AsyncIterable[In],
        config: Configs = None,
        **kwargs: Any,
    ) -> BatchResult[Out]:
        """Do `arun` from sync code."""
        caller = Caller()
        job = self._job(caller.pull(inputs), config, kwargs)
        return call_blocking(partial(collect_outcomes, job), caller)

    def arun_iter(
        self,
        inputs: Iterable[In] | AsyncIterable[In],
        config: Configs = None,
        *,
        ordered: bool = True,
        **kwargs: Any,
    ) -> OutcomeIterator[Out]:
        """Iterate over the outcomes while the run goes on, with bounded memory; no item's error is raised.

        The iterator can be stopped gracefully and tells how the run ended: see `OutcomeIterator`. A limit of
        spending or a `deadline` ends the iteration and is told by its `ended`. Where this is a native step by
        itself, inputs are pulled in lists, and `timeout` is that of a list.

        Args:
            inputs: pulled lazily, on the event loop: an iterator that blocks, such as one over a pipe, blocks
                the loop and should be an async iterable. Reading a file takes microseconds a row.
            config: as for `abatch`.
            ordered: in input order; else as items are completed (`Outcome.index` tells which).
            kwargs: go to each call, as with `bind`.
        """
        return OutcomeIterator(self._job(inputs, config, kwargs), ordered=ordered)

    def run_iter(
        self,
        inputs: Iterable[In] | AsyncIterable[In],
        config: Configs = None,
        *,
        ordered: bool = True,
        **kwargs: Any,
    ) -> SyncOutcomeIterator[Out]:
        """Do `arun_iter` from sync code; an iterator of inputs runs in this thread, and may block it."""
        caller = Caller()
        return SyncOutcomeIterator(self._job(caller.pull(inputs), config, kwargs), caller, ordered=ordered)

    def abatch_iter(
        self,
        inputs: Iterable[In] | AsyncIterable[In],
        config: Configs = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> Stream[Out]:
        """Iterate over the outputs in input order, with bounded memory; see `Stream` for closing it.

        Outputs that are early wait for their turn, `window` items at most; a consumer that is slow
        slows the run down. A `deadline` means the same as for `abatch`.
        """
        job = self._job(inputs, config, kwargs)
        return Stream(job, ordered=True, return_exceptions=return_exceptions)

    def batch_iter(
        self,
        inputs: Iterable[In] | AsyncIterable[In],
        config: Configs = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> Iterator[Out]:
        """Do `abatch_iter` from sync code; closing the generator ends the run."""
        caller = Caller()
        job = self._job(caller.pull(inputs), config, kwargs)
        stream: Stream[Out] = Stream(job, ordered=True, return_exceptions=return_exceptions)
        return iterate(stream, caller)

    def abatch_as_completed(
        self,
        inputs: Iterable[In] | AsyncIterable[In],
        config: Configs = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> Stream[tuple[int, Out]]:
        """Iterate over `(index, output)` as items finish; they start in input order.

        A `deadline` means the same as for `abatch`; what it kept from being finished comes last.
        """
        job = self._job(inputs, config, kwargs)
        return Stream(job, ordered=False, return_exceptions=return_exceptions)

    def batch_as_completed(
        self,
        inputs: Iterable[In] | AsyncIterable[In],
        config: Configs = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> Iterator[tuple[int, Out]]:
        """Do `abatch_as_completed` from sync code; closing the generator ends the run."""
        caller = Caller()
        job = self._job(caller.pull(inputs), config, kwargs)
        stream: Stream[tuple[int, Out]] = Stream(job, ordered=False, return_exceptions=return_exceptions)
        return iterate(stream, caller)

    # Composition

    @overload
    def __or__(self, other: Runnable[Out, T]) -> RunnableSequence[In, T]: ...
    @overload
    def __or__(self, other: Callable[[Out], Runnable[Any, T]]) -> RunnableSequence[In, T]: ...
    @overload
    def __or__(self, other: Callable[[Out], Awaitable[T]]) -> RunnableSequence[In, T]: ...
    @overload
    def __or__(self, other: Callable[[Out], T]) -> RunnableSequence[In, T]: ...
    @overload
    def __or__(self, other: Callable[[Out, RunConfig], Awaitable[T]]) -> RunnableSequence[In, T]: ...
    @overload
    def __or__(self, other: Callable[[Out, RunConfig], T]) -> RunnableSequence[In, T]: ...
    @overload
    def __or__(self, other: Mapping[str, Any]) -> RunnableSequence[In, dict[str, Any]]: ...
    def __or__(self, other: Any) -> RunnableSequence[In, Any]:
        """Return the sequence of this and `other`."""
        from batchrt.runnables.sequence import RunnableSequence

        return RunnableSequence(self, coerce(other))

    @overload
    def __ror__(self, other: Callable[[T], Runnable[Any, In]]) -> RunnableSequence[T, Out]: ...
    @overload
    def __ror__(self, other: Callable[[T], Awaitable[In]]) -> RunnableSequence[T, Out]: ...
    @overload
    def __ror__(self, other: Callable[[T], In]) -> RunnableSequence[T, Out]: ...
    @overload
    def __ror__(self, other: Callable[[T, RunConfig], Awaitable[In]]) -> RunnableSequence[T, Out]: ...
    @overload
    def __ror__(self, other: Callable[[T, RunConfig], In]) -> RunnableSequence[T, Out]: ...
    @overload
    def __ror__(self, other: Mapping[str, Any]) -> RunnableSequence[Any, Out]: ...
    def __ror__(self, other: Any) -> RunnableSequence[Any, Out]:
        """Return the sequence of `other` and this."""
        from batchrt.runnables.sequence import RunnableSequence

        return RunnableSequence(coerce(other), self)

    def pipe(self, *others: RunnableLike[Any, Any], name: str | None = None) -> RunnableSequence[In, Any]:
        """Return the sequence of this and `others`."""
        from batchrt.runnables.sequence import RunnableSequence

        return RunnableSequence(self, *others, name=name)

    def bind(self, **kwargs: Any) -> RunnableBinding[In, Out]:
        """Return this with `kwargs` given to every call."""
        from batchrt.runnables.binding import RunnableBinding

        return RunnableBinding(self, kwargs=kwargs)

    def with_config(self, config: RunConfig | None = None, **keys: Any) -> RunnableBinding[In, Out]:
        """Return this with `config` (or its keys) laid under what a call says.

        `max_concurrency` and `timeout` hold inside a chain too: for this part of it. A call's explicit
        `None` does not lift them, as in LCEL (of limits of spending it does); `with_config` of the result
        does, key by key.
        """
        from batchrt.runnables.binding import RunnableBinding

        return RunnableBinding(self, config=check_config({**(config or {}), **keys}))

    @overload
    def with_types(self, *, input_type: type[T], output_type: type[U]) -> RunnableBinding[T, U]: ...
    @overload
    def with_types(self, *, input_type: type[T]) -> RunnableBinding[T, Out]: ...
    @overload
    def with_types(self, *, output_type: type[U]) -> RunnableBinding[In, U]: ...
    def with_types(
        self, *, input_type: type[Any] | None = None, output_type: type[Any] | None = None
    ) -> RunnableBinding[Any, Any]:
        """Return this with other types for the type checker; nothing is checked at run time."""
        from batchrt.runnables.binding import RunnableBinding

        return RunnableBinding(self, input_type=input_type, output_type=output_type)

    def with_retry(
        self,
        *,
        retry_if_exception_type: RetryIf = (Exception,),
        wait_exponential_jitter: bool = True,
        exponential_jitter_params: Mapping[str, float] | None = None,
        stop_after_attempt: int = 3,
    ) -> RunnableRetry[In, Out]:
        """Return this with up to `stop_after_attempt` attempts for each item.

        Args:
            retry_if_exception_type: what is worth another attempt: types, or a function that is given the
                error and says whether it is.
            wait_exponential_jitter: wait between attempts, exponentially longer and with jitter; else
                not at all.
            exponential_jitter_params: tenacity's `initial` (1 s), `max`, `exp_base` (2), `jitter` (1 s).
            stop_after_attempt: attempts in all, the first included.
        """
        from batchrt.runnables.retry import RunnableRetry

        return RunnableRetry(
            self,
            retry_if_exception_type=retry_if_exception_type,
            wait_exponential_jitter=wait_exponential_jitter,
            exponential_jitter_params=exponential_jitter_params,
            stop_after_attempt=stop_after_attempt,
        )

    def with_fallbacks(
        self,
        fallbacks: Sequence[Runnable[In, Out]],
        *,
        exceptions_to_handle: tuple[type[BaseException], ...] = (Exception,),
        exception_key: str | None = None,
    ) -> RunnableWithFallbacks[In, Out]:
        """Return this with others to try, in order, when it fails; if all fail, the first error is raised.

        Args:
            fallbacks: what to try.
            exceptions_to_handle: which errors lead to the next one.
            exception_key: put the last error under this key of the (dict) input of the next one.
        """
        from batchrt.runnables.fallbacks import RunnableWithFallbacks

        return RunnableWithFallbacks(
            self, fallbacks, exceptions_to_handle=exceptions_to_handle, exception_key=exception_key
        )

    def map(self) -> RunnableEach[In, Out]:
        """Return a runnable that takes a list and runs this over its elements."""
        from batchrt.runnables.each import RunnableEach

        return RunnableEach(self)

    def assign(self, **fields: RunnableLike[Any, Any]) -> RunnableSequence[In, dict[str, Any]]:
        """Return this with `fields`, computed from its output dict, added to it."""
        from batchrt.runnables.passthrough import RunnableAssign
        from batchrt.runnables.sequence import RunnableSequence

        added: RunnableAssign = RunnableAssign(fields)
        return RunnableSequence(self, added)

    def pick(self, keys: str | list[str]) -> RunnableSequence[In, Any]:
        """Return this with one key's value of its output dict, or a dict of several keys."""
        from batchrt.runnables.passthrough import RunnablePick
        from batchrt.runnables.sequence import RunnableSequence

        picked: RunnablePick = RunnablePick(keys)
        return RunnableSequence(self, picked)


RunnableLike: TypeAlias = (
    Runnable[In, Out]
    | Callable[[In], Runnable[Any, Out]]
    | Callable[[In], Awaitable[Out]]
    | Callable[[In], Out]
    | Callable[[In, RunConfig], Awaitable[Out]]
    | Callable[[In, RunConfig], Out]
    | Mapping[str, Any]
)
"""What can stand in a chain: a runnable, a function (sync or async), or a dict of them."""


def coerce(thing: Any) -> Runnable[Any, Any]:
    """Return `thing` as a runnable.

    Raises:
        TypeError: if it is neither a runnable, nor callable, nor a dict of such.
    """
    from batchrt.runnables.lambdas import RunnableLambda
    from batchrt.runnables.parallel import RunnableParallel

    if isinstance(thing, Runnable):
        return thing
    if isinstance(thing, Mapping):
        return RunnableParallel(thing)
    if callable(thing):
        return RunnableLambda(thing)
    raise TypeError(
        f"a step of a chain must be a Runnable, a function or a dict of them, not {type(thing).__name__}"
    )


def _async_method_step(method: Callable[..., Coroutine[Any, Any, Any]], kwargs: Mapping[str, Any]) -> Step:
    async def call(value: Any, strand: Strand) -> Any:
        await strand.take()
        output = await method(value, handed_config(strand.config), **kwargs)
        if type(output) in PLAIN or not hasattr(type(output), "__await__"):
            return output
        return await no_awaitable(output)

    return Step(call)


def _sync_method_step(method: Callable[..., Any], kwargs: Mapping[str, Any]) -> Step:
    async def call(value: Any, strand: Strand) -> Any:
        config = handed_config(strand.config)
        if strand.run.direct:
            output = copy_context().run(method, value, config, **kwargs)  # as in a thread
        else:
            await strand.take()
            output = await call_in_thread(lambda item: method(item, config, **kwargs), value, strand)
        if hasattr(type(output), "__await__"):
            return await (_on_another_loop if strand.run.direct else no_awaitable)(output)
        return output

    return Step(call, direct=True)


def _awaiting(invoke: Callable[..., Any]) -> Callable[..., Any]:
    """Return a class's `invoke` such that an awaitable that it returns is awaited.

    It may be a plain wrapper of something async: its caller wants what comes of that.
    """

    @wraps(invoke)
    def awaiting(self: Any, *args: Any, **kwargs: Any) -> Any:
        return awaited(invoke(self, *args, **kwargs))

    awaiting._unawaited = invoke  # type: ignore[attr-defined]
    return awaiting


def awaited(output: Any) -> Any:
    """Return a sync function's output, in a run without an event loop: awaited on one, if it has to be."""
    if not is_awaitable(output):
        return output

    async def wait() -> Any:
        return await output

    return call_blocking(wait)


PLAIN: Final = frozenset((str, int, float, bool, dict, list, tuple, type(None)))
"""Types of outputs that are neither to be awaited nor to be run: a look-up for the most of them."""


async def no_awaitable(output: Any) -> Any:
    """Return what `output` gives, as long as that is to be awaited, which is never an item's output."""
    while hasattr(type(output), "__await__"):
        output = await output
    return output


async def _on_another_loop(output: Any) -> Any:
    """Return what `output` gives, for a run that has no event loop of its own."""
    return call_blocking(partial(no_awaitable, output))


def _run_direct(step: Step, value: Any, config: RunConfig) -> Any:
    run = Run(Slots(cap_of(config)), direct=True)
    strand = Strand(run, Item(0), config, run.slots, has_slot=run.slots.try_take())
    context = strand_context(strand)
    try:
        if step.inline:
            return context.run(step.call, value, strand)
        return drive_to_end(context, step.call(value, strand))
    finally:
        strand.close()
