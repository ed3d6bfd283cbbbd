"""The job of `batchrt run`: a chain over rows."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from batchrt.cli.abort import Brake, Gatekeeper
from batchrt.cli.budget import Purse
from batchrt.cli.console import complain
from batchrt.cli.counts import Tally
from batchrt.cli.errors import UsageProblem
from batchrt.cli.job import Job, check_limits, execute, output_format, output_option_named
from batchrt.cli.options import RunSettings
from batchrt.cli.pipeline import RowCargo, feed_of
from batchrt.cli.prompt import chat_model, prompt_of, read_prompt, read_schema
from batchrt.cli.row_step import Answer, Answers, Booked, fields_of
from batchrt.errors import InputError
from batchrt.files import Sink, Source, open_sink
from batchrt.files.cells import error_line
from batchrt.providers.chat.model import ChatOpenAI
from batchrt.runnables.base import Runnable

__all__ = ["run_job"]


def run_job(settings: RunSettings) -> int:
    """Do what `settings` say and return the exit code.

    Raises:
        UsageProblem: something has to be put right first; nothing was sent and nothing written.
    """
    messages = read_prompt(settings)
    schema = None if settings.schema is None else read_schema(settings.schema)
    check_limits(settings)
    purse = Purse.of(settings, answers=True)
    model = chat_model(settings)
    tally = Tally()
    answers = _answers(settings, model, schema, tally)

    def new_job(source: Source, stack: ExitStack) -> Job:
        columns = source.survey(settings.limit)
        prompt = prompt_of(messages, source, columns)
        sink = stack.enter_context(_open_sink(settings, source, columns))
        if not prompt.input_variables and not settings.quiet:
            complain("the prompt has no {column}: every row is asked the same")
        gate, brake = Gatekeeper(max_wait=settings.max_wait, patience=settings.patience), Brake()
        chain: Runnable[Any, Answer] = prompt | answers
        if settings.timeout is not None:
            chain = chain.with_config(timeout=settings.timeout, run_name="the row")
        fields = fields_of(source, prompt.input_variables)
        feed = feed_of(source, settings.limit)
        booked = Booked(chain, fields, tally=tally, gate=gate, brake=brake, purse=purse, load=feed.load)
        cargo = RowCargo(booked, feed, settings.max_concurrency, tally, purse)
        return Job(
            cargo,
            model,
            settings=settings,
            source=source,
            sink=sink,
            tally=tally,
            gate=gate,
            brake=brake,
            purse=purse,
        )

    return execute(settings, new_job)


def _open_sink(settings: RunSettings, source: Source, columns: Sequence[str]) -> Sink:
    kind = output_format(settings)
    try:
        return open_sink(
            settings.output,
            columns=columns,
            output_column=settings.output_column,
            format=settings.output_format,
            overwrite=settings.overwrite,
            source=source,
            finish_reasons=True,
            delimiter=settings.delimiter if kind == "csv" else None,
            encoding=settings.output_encoding,
        )
    except InputError as error:
        raise UsageProblem(output_option_named(error)) from error


def _answers(
    settings: RunSettings, model: ChatOpenAI, schema: dict[str, Any] | None, tally: Tally
) -> Runnable[Any, Answer]:
    """Return the part of the chain behind the prompt.

    Raises:
        UsageProblem: the schema cannot be sent.
    """
    answers = Answers(tally, structured=schema is not None, fail_cut_off=settings.fail_cut_off)
    if schema is None:
        return model | answers
    try:
        structured = model.with_structured_output(schema, include_raw=True)
    except Exception as error:
        reason = error_line(error)
        raise UsageProblem(f"--schema: {settings.schema} cannot be used: {reason}") from error
    return structured | answers
