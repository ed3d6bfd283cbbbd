"""A job from beginning to end: what was asked for is looked at before anything is sent or written."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from contextlib import ExitStack
from typing import Final

import anyio

from batchrt.cli.job import Job
from batchrt.cli.models import is_built_in
from batchrt.cli.process import allow_connections, collecting_less
from batchrt.cli.settings import JobSettings
from batchrt.cli.speech import complain
from batchrt.cli.usage import UsageProblem
from batchrt.errors import InputError
from batchrt.files import OutputClosedError, OutputError, Source, open_source
from batchrt.files.formats import choose_format

__all__ = ["check_limits", "execute", "output_format"]

_BY_SIGNAL: Final = 128
"""What a shell adds to the number of the signal that ended a program."""
_SIGPIPE: Final = 13
_SOME_FAILED: Final = 1
_NOTHING_ANSWERED: Final = 2
_BROKE: Final = 3
"""A limit of spending was reached, whatever became of the rows until then."""
_STOPPED: Final = 4
"""Something ended the job before its input ended, whatever became of the rows until then."""


def check_limits(settings: JobSettings) -> None:
    """Raise UsageProblem for a time, a rate or a number of requests that cannot be had."""
    seconds = settings.timeout
    if seconds is not None and not 0 < seconds < math.inf:
        raise UsageProblem(f"--timeout must be a number of seconds above 0, not {seconds:g}")
    for name in ("requests_per_minute", "tokens_per_minute"):
        limit = getattr(settings, name)
        if limit is not None and not 0 < limit < math.inf:
            raise UsageProblem(f"{_option(name)} must be a number above 0, not {limit:g}")
    for name in ("patience", "max_wait"):
        wait = getattr(settings, name)
        if not 0 <= wait < math.inf:
            raise UsageProblem(f"{_option(name)} must be a number of seconds, 0 or more, not {wait:g}")
    wanted = settings.max_concurrency
    if wanted == "auto" or is_built_in(settings):
        return
    fit = allow_connections(wanted)
    if fit < wanted:
        raise UsageProblem(
            f"--max-concurrency {wanted} needs more open files than this system allows; "
            f"use at most {max(1, fit)}, or allow more with ulimit -n"
        )


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def in_options(error: InputError, prefix: str = "") -> str:
    """Return the error's message with the parameter it names as an option, whose name has `prefix`."""
    if error.parameter is None:
        return str(error)
    return str(error).replace(f"`{error.parameter}`", _option(f"{prefix}{error.parameter}"))


def output_format(settings: JobSettings) -> str | None:
    """Return the format of the output, `None` if neither an option nor a suffix tells it."""
    if settings.output_format is not None or settings.output == "-":
        return settings.output_format
    try:
        return choose_format(settings.output)
    except InputError:  # what opens it says so
        return None


def _open_source(settings: JobSettings) -> Source:
    """Open the input; a delimiter is for CSV, and for an output that is one."""
    delimiter = settings.delimiter
    if delimiter is not None and choose_format(settings.source, settings.format) != "csv":
        if output_format(settings) != "csv":
            raise UsageProblem("--delimiter is for CSV, and neither the input nor the output is one")
        delimiter = None
    return open_source(
        settings.source, format=settings.format, delimiter=delimiter, encoding=settings.encoding
    )


def execute(settings: JobSettings, new_job: Callable[[Source, ExitStack], Job]) -> int:
    """Run a job over the input of `settings` and return the exit code.

    Args:
        settings: as they were given.
        new_job: makes the job; what it opens is closed by the stack when the job has ended.

    Raises:
        UsageProblem: something has to be put right first; nothing was sent and nothing written.
    """
    try:
        with _open_source(settings) as source:
            with ExitStack() as stack:
                job = new_job(source, stack)
                with collecting_less():
                    uvloop = importlib.util.find_spec("uvloop") is not None
                    anyio.run(job.run, backend_options={"use_uvloop": uvloop})
            return _conclude(job)
    except OutputClosedError:
        return _BY_SIGNAL + _SIGPIPE
    except OutputError as error:
        complain(str(error))
        return _STOPPED
    except InputError as error:
        raise UsageProblem(in_options(error)) from error


def _conclude(job: Job) -> int:
    job.conclude()
    if job.signal is not None:
        return _BY_SIGNAL + job.signal
    if job.purse.is_empty:
        return _BROKE
    tally = job.tally
    if (tally.failed or job.refusal is not None) and not tally.answered:
        return _NOTHING_ANSWERED
    if job.is_stopped:
        return _STOPPED
    return _SOME_FAILED if tally.failed else 0
