"""A job: rows in, answers out, until the rows end or somebody says so."""

from __future__ import annotations

import importlib.util
import math
import sys
from functools import partial
from itertools import islice
from typing import Any, Final

import anyio
from anyio import CancelScope

from batchrt.cli.booking import Booked, CutOffs, Gatekeeper, fields_of
from batchrt.cli.entries import Entry
from batchrt.cli.feed import Feed, PipeFeed
from batchrt.cli.interrupts import watch_interrupts
from batchrt.cli.numbers import count
from batchrt.cli.process import allow_connections, collecting_less
from batchrt.cli.progress import Display, Progress, choose_display
from batchrt.cli.question import chat_model, prompt_template, read_schema
from batchrt.cli.settings import Settings
from batchrt.cli.speech import complain, say
from batchrt.cli.summary import summary
from batchrt.cli.tally import Tally
from batchrt.cli.usage import UsageProblem
from batchrt.cli.writer import Writer
from batchrt.config import RunConfig
from batchrt.errors import InputError
from batchrt.jobs import (
    OutputClosedError,
    OutputError,
    Sink,
    Source,
    open_sink,
    open_source,
    required_columns,
)
from batchrt.jobs.rendering import error_line
from batchrt.providers.chat import ChatOpenAI
from batchrt.runnables.base import Runnable
from batchrt.runnables.parsers import StrOutputParser
from batchrt.runnables.prompts import ChatPromptTemplate

__all__ = ["Job", "run_job"]

_CHUNK: Final = 256
_MOST_COUNTED: Final = 20_000
_BROKEN_PIPE: Final = 128 + 13  # what a shell says of a program that SIGPIPE ended


def run_job(settings: Settings, model: ChatOpenAI | None = None) -> int:
    """Do what `settings` say, with `model` if it is given, and return the exit code.

    Raises:
        UsageProblem: something has to be put right first; nothing was sent and nothing written.
    """
    prompt = prompt_template(settings)
    schema = None if settings.schema is None else read_schema(settings.schema)
    config = _config(settings)
    model = model or chat_model(settings)
    try:
        with open_source(settings.source, format=settings.format) as source:
            required_columns(source, prompt.input_variables)
            with _open_sink(settings, source) as sink:
                job = Job(
                    settings,
                    prompt=prompt,
                    model=model,
                    schema=schema,
                    config=config,
                    source=source,
                    sink=sink,
                )
                uvloop = importlib.util.find_spec("uvloop") is not None
                with collecting_less():
                    anyio.run(job.run, backend_options={"use_uvloop": uvloop})
            return job.conclude()
    except OutputClosedError:
        return _BROKEN_PIPE
    except OutputError as error:
        complain(str(error))
        return 1
    except InputError as error:
        raise UsageProblem(str(error)) from error


def _config(settings: Settings) -> RunConfig:
    seconds = settings.timeout
    if seconds is not None and not 0 < seconds < math.inf:
        raise UsageProblem(f"--timeout must be a number of seconds above 0, not {seconds:g}")
    fit = allow_connections(settings.max_concurrency)
    if fit < settings.max_concurrency and settings.model != "mock":
        raise UsageProblem(
            f"--max-concurrency {settings.max_concurrency} needs more open files than this system allows; "
            f"use at most {max(1, fit)}, or raise it with ulimit -n"
        )
    return {"max_concurrency": settings.max_concurrency}


def _open_sink(settings: Settings, source: Source) -> Sink:
    try:
        return open_sink(
            settings.output,
            columns=source.columns,
            output_column=settings.output_column,
            format=settings.output_format,
            overwrite=settings.overwrite,
            source=source,
        )
    except InputError as error:
        # The library speaks of the option that both files have in a program of its own.
        raise UsageProblem(str(error).replace("--format", "--output-format")) from error


def _chain(
    prompt: ChatPromptTemplate,
    model: ChatOpenAI,
    schema: dict[str, Any] | None,
    timeout: float | None,
    tally: Tally,
) -> Runnable[Any, Any]:
    answer: Runnable[Any, Any]
    if schema is None:
        answer = model | CutOffs(tally) | StrOutputParser()
    else:
        answer = model.with_structured_output(schema)
    chain = prompt | answer
    return chain if timeout is None else chain.with_config(timeout=timeout, run_name="the row")


class Job:
    """Carry a source's rows through a chain to a sink."""

    def __init__(
        self,
        settings: Settings,
        *,
        prompt: ChatPromptTemplate,
        model: ChatOpenAI,
        schema: dict[str, Any] | None,
        config: RunConfig,
        source: Source,
        sink: Sink,
    ) -> None:
        self.tally = Tally()
        self._gate = Gatekeeper(self._end)
        self._settings = settings
        self._model = model
        self._config = config
        self._source = source
        self._sink = sink
        self._chain = Booked(
            _chain(prompt, model, schema, settings.timeout, self.tally),
            fields_of(source, prompt.input_variables),
            self.tally,
            self._gate,
        )
        rows = islice(source, settings.limit)
        # Only a pipe has no share that was read.
        self._feed = PipeFeed(rows) if source.fraction_read is None else Feed(rows)
        self._display: Display = choose_display(
            quiet=settings.quiet,
            rows_on_terminal=settings.output == "-" and sys.stdout.isatty(),
        )
        self._scope: CancelScope | None = None
        self._broken: OutputError | None = None
        self._signal: int | None = None
        self._seconds = 0.0

    async def run(self) -> None:
        """Run until the rows end, or are ended."""
        started = anyio.current_time()
        writer, progress = Writer(self._sink), self._progress()
        async with anyio.create_task_group() as helpers:
            helpers.start_soon(partial(watch_interrupts, stop=self._stop, cancel=self._cancel))
            helpers.start_soon(self._display.show, progress)
            helpers.start_soon(self._watch_output, writer)
            with CancelScope() as self._scope:
                await self._carry(writer)
            await self._finish(writer)
            helpers.cancel_scope.cancel()
        self._seconds = anyio.current_time() - started

    async def _carry(self, writer: Writer) -> None:
        async with self._model, self._chain.abatch_iter(
            self._feed, self._config, return_exceptions=True
        ) as outcomes:
            while True:
                try:
                    chunk = await outcomes.next_chunk(_CHUNK)
                except StopAsyncIteration:
                    return
                try:
                    await writer.put([self._take(outcome) for outcome in chunk])
                except OutputError as error:
                    self._break(error)

    def _take(self, outcome: Entry | Exception) -> Entry:
        entry = self._feed.entries.popleft()
        if isinstance(outcome, Exception):  # what even the books could not hold, such as a stray cancellation
            entry.error = outcome
            self.tally.add_failure(entry, outcome)
        return entry

    async def _finish(self, writer: Writer) -> None:
        """Write the rows that ended while others before them had not."""
        self._feed.stop()
        entries = [entry for entry in self._feed.entries if entry.ended]
        if self._broken is None:
            try:
                await writer.put(entries)
                await writer.drain()
            except OutputError as error:
                self._broken = error

    async def _watch_output(self, writer: Writer) -> None:
        try:
            await writer.keep_draining()
        except OutputError as error:
            self._break(error)

    def _break(self, error: OutputError) -> None:
        self._broken = error
        self._end()

    def _end(self) -> None:
        assert self._scope is not None
        self._scope.cancel()

    def _stop(self, number: int) -> None:
        self._signal = number
        self._feed.stop()
        waiting = count(self.tally.in_flight, "row")
        self._display.note(f"stopping, with {waiting} in flight to finish; Ctrl-C again cancels at once")

    def _cancel(self) -> None:
        self._display.note(f"cancelled {count(self.tally.in_flight, 'row')} in flight")
        self._end()

    def _progress(self) -> Progress:
        source = self._source
        return Progress(self.tally, total=self._total(), fraction_read=lambda: source.fraction_read)

    def _total(self) -> int | None:
        """Count the rows of a small file; of a large one the share of its bytes says as much."""
        if self._settings.quiet or self._settings.source == "-" or self._source.fraction_read is None:
            return None
        most = min(self._settings.limit or _MOST_COUNTED, _MOST_COUNTED)
        with open_source(self._settings.source, format=self._settings.format) as again:
            rows = sum(1 for _ in islice(again, most + 1))
        if rows > most:
            return most if self._settings.limit == most else None
        return rows

    def conclude(self) -> int:
        """Say how it went; return the exit code.

        Raises:
            OutputError: what ended it early.
        """
        if self._broken is not None:
            raise self._broken
        if not self._settings.quiet:
            say(summary(self.tally, self._sink, self._seconds))
        if self._signal is not None:
            return 128 + self._signal
        refusal = self._gate.refusal
        if refusal is not None and (self._gate.is_shut or not self.tally.done):
            complain(f"stopped, for the provider lets no request through: {error_line(refusal)}")
            return 1 if self.tally.done else 2
        return 1 if self.tally.failed else 0
