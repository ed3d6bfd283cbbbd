"""The entry points of a runnable: one input or many, from async or sync code."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeAlias, TypeVar, cast

from batchrt.config import RunConfig, cap_of, check_config
from batchrt.runnables.foreign import exported
from batchrt.runnables.streams import closing_input, input_chunks, produced, transformed
from batchrt.runtime.batch import Job, collect, collect_outcomes, run_one
from batchrt.runtime.caller import Caller
from batchrt.runtime.chunk_stream import ChunkStream, ItemChunkStream
from batchrt.runtime.context import drive_to_end
from batchrt.runtime.item import Item
from batchrt.runtime.observers import observed_step
from batchrt.runtime.outcome import BatchResult, Outcome
from batchrt.runtime.outcome_iterator import OutcomeIterator, SyncOutcomeIterator
from batchrt.runtime.portal import call_blocking, iterate
from batchrt.runtime.run import Run
from batchrt.runtime.slots import Slots
from batchrt.runtime.step import Step
from batchrt.runtime.strand import Strand, current_strand, strand_context
from batchrt.runtime.stream import Stream

__all__ = ["Configs", "EntryPoints", "In", "Method", "Out"]

In = TypeVar("In", contravariant=True)  # noqa: PLC0105  these two stand in every signature
Out = TypeVar("Out", covariant=True)  # noqa: PLC0105

Configs: TypeAlias = "RunConfig | Sequence[RunConfig] | None"
"""One configuration for the run, or one for each input."""

Method: TypeAlias = Literal[
    "_build",
    "abatch_native",
    "abatch",
    "batch",
    "ainvoke",
    "invoke",
    "atransform",
    "transform",
    "astream",
    "stream",
]
"""A method by which a class says how it runs; see `base.py`."""


class EntryPoints(Generic[In, Out]):
    """Run the step that `_prepare` returns: the methods that every `Runnable` has."""

    def _prepare(
        self, kwargs: Mapping[str, Any], configs: Configs, method: Method | None = None
    ) -> tuple[Step, Configs]:
        """Return the step and the configuration for a run of this runnable by itself.

        `method` is set when the default implementation of that method asks, which must not come back to
        an override of it; see `Runnable._inherited_step`.
        """
        raise NotImplementedError

    def _job(
        self,
        inputs: Iterable[Any] | AsyncIterable[Any],
        configs: Configs,
        kwargs: Mapping[str, Any],
        method: Method | None = None,
    ) -> Job:
        step, configs = self._prepare(kwargs, configs, method)
        return Job.of(step, inputs, configs)

    async def ainvoke(self, input: In, config: RunConfig | None = None, **kwargs: Any) -> Out:  # noqa: A002
        """Return the output for one input.

        Raises:
            Exception: a step's error, as itself.
            ItemTimeoutError, DeadlineExceededError: after the `timeout` or `deadline` of `config`.
        """
        step, configs = self._prepare(kwargs, config, "ainvoke")
        return cast("Out", await run_one(step, input, cast("RunConfig | None", configs)))

    def invoke(self, input: In, config: RunConfig | None = None, **kwargs: Any) -> Out:  # noqa: A002
        """Return the output for one input, from sync code; see `ainvoke`.

        A chain of sync functions alone runs in the calling thread. Any other chain runs on a background
        event loop while the calling thread waits.

        Raises:
            BlockedEventLoopError: in async code, if the call would wait for the event loop that it blocks;
                await `ainvoke` there.
        """
        step, configs = self._prepare(kwargs, config, "invoke")
        config = check_config(cast("RunConfig | None", configs))
        bounded = "timeout" in config or "deadline" in config
        if (step.inline or step.direct) and not bounded and current_strand() is None:
            return cast("Out", _run_direct(step, input, config))
        return cast("Out", call_blocking(partial(run_one, step, input, config)))

    if not TYPE_CHECKING:  # a type checker would take a runnable of the wrong type for a function

        def __call__(self, *_args: Any, **_kwargs: Any) -> Any:
            """Return this as a runnable of LangChain, whose `|` takes it for a function.

            A runnable that a function returns is run on the function's input, in LangChain as here.

            Raises:
                TypeError: LangChain is not loaded.
            """
            return exported(self)

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
            config: for the run, or a list with one for each input (`max_concurrency`, `deadline`, `window`
                and spending limits are the first one's).
            return_exceptions: return an item's exception in its place instead of stopping the run.
            kwargs: passed to each call, as with `bind`.

        Raises:
            TypeError: for keyword arguments that no step takes; the message names the step they belong to.
            Exception: without `return_exceptions`, the first error, as itself, after all other items
                were cancelled and have ended.
            DeadlineExceededError: when `deadline` passed; with `return_exceptions` and inputs of known
                length, it stands in the unfinished items' places instead.
            ValueError: for an invalid config, before any item starts.
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

        In async code the call blocks the event loop, which async inputs must not need; see `invoke` for the
        error that it raises there.
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
            DeadlineExceededError: only if `deadline` passed and the number of inputs is unknown.
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
        room: Callable[[], bool] | None = None,
        on_outcome: Callable[[Outcome[Out]], object] | None = None,
        **kwargs: Any,
    ) -> OutcomeIterator[Out]:
        """Iterate over the outcomes while the run goes on, with bounded memory; no item's error is raised.

        The iterator can be stopped, and reports how the run ended (see `OutcomeIterator`). A limit of
        spending or a `deadline` ends the iteration and is reported by its `ended`. For a native step alone,
        or behind inline steps, inputs are pulled in lists, and `timeout` applies to a list.

        Args:
            inputs: pulled lazily, on the event loop: an iterator that blocks, such as one over a pipe, blocks
                the loop and should be an async iterable. Reading a file takes microseconds a row.
            config: as for `abatch`.
            ordered: in input order; otherwise as items are completed (see `Outcome.index`).
            room: bounds memory by your own measure, such as the bytes of the inputs under way: asked before
                an input (or a list of them) is pulled, and again whenever outcomes are taken. While it
                returns `False` none is pulled, unless every outcome has been taken. It bounds the run in
                addition to `window`, also with `ordered=False`, where `window` leaves out inputs behind a
                slow one.
            on_outcome: called with each outcome as its item ends, in the order of completion: before the
                item's slot goes to another, so that a `stop()` within it keeps the next one from being
                sent. It must be sync and fast; its error ends the run and is raised by the iteration.
            kwargs: passed to each call, as with `bind`.
        """
        job = self._job(inputs, config, kwargs)
        return OutcomeIterator(job, ordered=ordered, room=room, on_outcome=on_outcome)

    def run_iter(
        self,
        inputs: Iterable[In] | AsyncIterable[In],
        config: Configs = None,
        *,
        ordered: bool = True,
        room: Callable[[], bool] | None = None,
        on_outcome: Callable[[Outcome[Out]], object] | None = None,
        **kwargs: Any,
    ) -> SyncOutcomeIterator[Out]:
        """Do `arun_iter` from sync code; an iterator of inputs runs in this thread, and may block it.

        `room` and `on_outcome` are called in the event loop's thread.
        """
        caller = Caller()
        job = self._job(caller.pull(inputs), config, kwargs)
        return SyncOutcomeIterator(job, caller, ordered=ordered, room=room, on_outcome=on_outcome)

    def abatch_iter(
        self,
        inputs: Iterable[In] | AsyncIterable[In],
        config: Configs = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> Stream[Out]:
        """Iterate over the outputs in input order, with bounded memory; see `Stream` for closing it.

        Outputs that finish early are held back, at most `window` of them; a slow consumer slows the run
        down. `deadline` means the same as for `abatch`.
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

        `deadline` means the same as for `abatch`; items that it left unfinished come last.
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

    # Streams

    def astream(
        self,
        input: In,  # noqa: A002
        config: RunConfig | None = None,
        **kwargs: Any,
    ) -> ChunkStream[Out]:
        """Iterate over the chunks of the output for one input; see `ChunkStream` for closing it.

        A step that needs its whole input gets the chunks added up (see `add_chunks`), and one that cannot
        stream gives one chunk. The sum of the chunks is what `ainvoke` returns.

        Raises:
            Exception: by the iteration: a step's error, as itself, behind the chunks that came before it.
            ItemTimeoutError, DeadlineExceededError: likewise, after the `timeout` or `deadline` of `config`,
                the consumer's own time included.
        """
        step, configs = self._prepare(kwargs, config, "astream")
        return ChunkStream(partial(produced, step, input), check_config(cast("RunConfig | None", configs)))

    def stream(
        self,
        input: In,  # noqa: A002
        config: RunConfig | None = None,
        **kwargs: Any,
    ) -> Iterator[Out]:
        """Do `astream` from sync code, on a background event loop; closing the generator ends the stream."""
        step, configs = self._prepare(kwargs, config, "stream")
        config = check_config(cast("RunConfig | None", configs))
        return iterate(ChunkStream[Out](partial(produced, step, input), config), Caller())

    def atransform(
        self,
        input: AsyncIterable[Any] | Iterable[Any],  # noqa: A002
        config: RunConfig | None = None,
        **kwargs: Any,
    ) -> ChunkStream[Out]:
        """Do `astream` for an input that comes in chunks; a step that can begins with the first.

        Args:
            input: the chunks, which add up to the input; pulled in the stream's own task, at the consumer's
                pace, and closed with the stream.
            config: as for `astream`.
            kwargs: passed to the call, as with `bind`.
        """
        step, configs = self._prepare(kwargs, config, "atransform")
        opened = partial(transformed, step, input_chunks(input))
        return ChunkStream(opened, check_config(cast("RunConfig | None", configs)))

    def transform(
        self,
        input: Iterable[Any] | AsyncIterable[Any],  # noqa: A002
        config: RunConfig | None = None,
        **kwargs: Any,
    ) -> Iterator[Out]:
        """Do `atransform` from sync code; an iterator of chunks runs in this thread, and is closed in it."""
        step, configs = self._prepare(kwargs, config, "transform")
        config = check_config(cast("RunConfig | None", configs))
        caller = Caller()
        opened = partial(transformed, step, input_chunks(caller.pull(input)))
        return closing_input(iterate(ChunkStream[Out](opened, config), caller), input)

    def astream_batch(
        self,
        inputs: Iterable[In] | AsyncIterable[In],
        config: Configs = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> ItemChunkStream[Out]:
        """Iterate over `(index, chunk)` for the outputs of many inputs, as the chunks come.

        Memory is bounded: while the consumer is slow, items wait and none is begun. The chunks of one item
        are in order.

        Args:
            inputs: as for `abatch`.
            config: as for `abatch`.
            return_exceptions: hand an item's exception over as its last chunk, instead of ending the run.
            kwargs: passed to each call, as with `bind`.
        """
        job = self._job(inputs, config, kwargs)
        return ItemChunkStream(job, partial(produced, job.step), return_exceptions=return_exceptions)

    def stream_batch(
        self,
        inputs: Iterable[In] | AsyncIterable[In],
        config: Configs = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> Iterator[tuple[int, Out]]:
        """Do `astream_batch` from sync code; closing the generator ends the run."""
        caller = Caller()
        job = self._job(caller.pull(inputs), config, kwargs)
        chunks: ItemChunkStream[Out] = ItemChunkStream(
            job, partial(produced, job.step), return_exceptions=return_exceptions
        )
        return iterate(chunks, caller)


def _run_direct(step: Step, value: Any, config: RunConfig) -> Any:
    """Run a step of sync functions alone in the calling thread, without an event loop."""
    run = Run(Slots(cap_of(config)), direct=True)
    step = observed_step(run, config, step)
    strand = Strand(run, Item(0), config, run.slots, has_slot=run.slots.try_take())
    context = strand_context(strand)
    try:
        if step.inline:
            return context.run(step.call, value, strand)
        return drive_to_end(context, step.call(value, strand))
    finally:
        strand.close()
