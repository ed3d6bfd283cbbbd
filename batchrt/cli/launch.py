"""From the options of `batchrt run` to its job."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from batchrt.cli.booking import Booked, CutOffs, Gatekeeper, fields_of
from batchrt.cli.brake import Brake
from batchrt.cli.cargo import RowCargo
from batchrt.cli.execution import check_limits, execute
from batchrt.cli.feed import feed_of
from batchrt.cli.job import Job
from batchrt.cli.purse import Purse
from batchrt.cli.question import chat_model, prompt_template, read_schema
from batchrt.cli.settings import Settings
from batchrt.cli.speech import complain
from batchrt.cli.tally import Tally
from batchrt.cli.usage import UsageProblem
from batchrt.errors import InputError
from batchrt.jobs import Sink, Source, open_sink, required_columns
from batchrt.providers.chat import ChatOpenAI
from batchrt.runnables.base import Runnable
from batchrt.runnables.parsers import StrOutputParser
from batchrt.runnables.prompts import ChatPromptTemplate

__all__ = ["run_job"]


def run_job(settings: Settings) -> int:
    """Do what `settings` say and return the exit code.

    Raises:
        UsageProblem: something has to be put right first; nothing was sent and nothing written.
    """
    prompt = prompt_template(settings)
    schema = None if settings.schema is None else read_schema(settings.schema)
    check_limits(settings)
    purse = Purse.of(settings, answers=True)
    model = chat_model(settings)

    def new_job(source: Source, stack: ExitStack) -> Job:
        required_columns(source, prompt.input_variables)
        sink = stack.enter_context(_open_sink(settings, source))
        if not prompt.input_variables and not settings.quiet:
            complain("the prompt has no {column}: every row is asked the same")
        tally, gate, brake = (
            Tally(),
            Gatekeeper(max_wait=settings.max_wait, patience=settings.patience),
            Brake(),
        )
        chain = _chain(settings, prompt, model, schema, tally)
        fields = fields_of(source, prompt.input_variables)
        booked = Booked(chain, fields, tally=tally, gate=gate, brake=brake, purse=purse)
        cargo = RowCargo(booked, feed_of(source, settings.limit), settings.max_concurrency, tally, purse)
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
        # The library calls the option by the name it has for the input.
        raise UsageProblem(str(error).replace("--format", "--output-format")) from error


def _chain(
    settings: Settings,
    prompt: ChatPromptTemplate,
    model: ChatOpenAI,
    schema: dict[str, Any] | None,
    tally: Tally,
) -> Runnable[Any, Any]:
    answer: Runnable[Any, Any]
    if schema is None:
        answer = model | CutOffs(tally) | StrOutputParser()
    else:
        answer = model.with_structured_output(schema)
    chain = prompt | answer
    if settings.timeout is None:
        return chain
    return chain.with_config(timeout=settings.timeout, run_name="the row")
