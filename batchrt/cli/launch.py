"""From options to a job: everything is looked at before anything is sent or written."""

from __future__ import annotations

import importlib.util
import math
from typing import Any, Final

import anyio

from batchrt.cli.booking import CutOffs, fields_of
from batchrt.cli.job import Job
from batchrt.cli.process import allow_connections, collecting_less
from batchrt.cli.question import chat_model, is_built_in, prompt_template, read_schema
from batchrt.cli.settings import Settings
from batchrt.cli.speech import complain
from batchrt.cli.tally import Tally
from batchrt.cli.usage import UsageProblem
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
from batchrt.providers.chat import ChatOpenAI
from batchrt.runnables.base import Runnable
from batchrt.runnables.parsers import StrOutputParser
from batchrt.runnables.prompts import ChatPromptTemplate

__all__ = ["run_job"]

_BY_SIGNAL: Final = 128
"""What a shell adds to the number of the signal that ended a program."""
_SIGPIPE: Final = 13


def run_job(settings: Settings) -> int:
    """Do what `settings` say and return the exit code.

    Raises:
        UsageProblem: something has to be put right first; nothing was sent and nothing written.
    """
    prompt = prompt_template(settings)
    schema = None if settings.schema is None else read_schema(settings.schema)
    _check_limits(settings)
    model = chat_model(settings)
    try:
        with open_source(settings.source, format=settings.format) as source:
            required_columns(source, prompt.input_variables)
            with _open_sink(settings, source) as sink:
                job = _job(settings, prompt, model, schema, source=source, sink=sink)
                with collecting_less():
                    uvloop = importlib.util.find_spec("uvloop") is not None
                    anyio.run(job.run, backend_options={"use_uvloop": uvloop})
            return _conclude(job)
    except OutputClosedError:
        return _BY_SIGNAL + _SIGPIPE
    except OutputError as error:
        complain(str(error))
        return 1
    except InputError as error:
        raise UsageProblem(str(error)) from error


def _check_limits(settings: Settings) -> None:
    seconds = settings.timeout
    if seconds is not None and not 0 < seconds < math.inf:
        raise UsageProblem(f"--timeout must be a number of seconds above 0, not {seconds:g}")
    if is_built_in(settings):
        return
    wanted = settings.max_concurrency
    fit = allow_connections(wanted)
    if fit < wanted:
        raise UsageProblem(
            f"--max-concurrency {wanted} needs more open files than this system allows; "
            f"use at most {max(1, fit)}, or allow more with ulimit -n"
        )


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


def _job(
    settings: Settings,
    prompt: ChatPromptTemplate,
    model: ChatOpenAI,
    schema: dict[str, Any] | None,
    *,
    source: Source,
    sink: Sink,
) -> Job:
    if not prompt.input_variables and not settings.quiet:
        complain("the prompt has no {column}: every row is asked the same")
    tally = Tally()
    return Job(
        _chain(settings, prompt, model, schema, tally),
        model,
        settings=settings,
        source=source,
        sink=sink,
        fields=fields_of(source, prompt.input_variables),
        tally=tally,
    )


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


def _conclude(job: Job) -> int:
    job.conclude()
    if job.signal is not None:
        return _BY_SIGNAL + job.signal
    if job.refusal is not None:
        return 1 if job.tally.done else 2
    return 1 if job.tally.failed else 0
