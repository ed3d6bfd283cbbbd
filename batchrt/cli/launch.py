"""From the options of `batchrt run` to its job."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from batchrt.cli.answers import Answer, Answers
from batchrt.cli.booking import Booked, Gatekeeper, fields_of
from batchrt.cli.brake import Brake
from batchrt.cli.cargo import RowCargo
from batchrt.cli.execution import check_limits, execute, in_options, output_format
from batchrt.cli.feed import feed_of
from batchrt.cli.job import Job
from batchrt.cli.purse import Purse
from batchrt.cli.question import chat_model, prompt_of, read_prompt, read_schema
from batchrt.cli.settings import Settings
from batchrt.cli.speech import complain
from batchrt.cli.tally import Tally
from batchrt.cli.usage import UsageProblem
from batchrt.errors import InputError
from batchrt.files import Sink, Source, open_sink
from batchrt.files.cells import error_line
from batchrt.providers.chat.model import ChatOpenAI
from batchrt.runnables.base import Runnable

__all__ = ["run_job"]


def run_job(settings: Settings) -> int:
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


def _open_sink(settings: Settings, source: Source, columns: Sequence[str]) -> Sink:
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
        # Its format has an option of another name than the input's.
        prefix = "output_" if error.parameter == "format" else ""
        raise UsageProblem(in_options(error, prefix)) from error


def _answers(
    settings: Settings, model: ChatOpenAI, schema: dict[str, Any] | None, tally: Tally
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
