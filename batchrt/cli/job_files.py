"""The files of a job, opened as its options say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from batchrt import InputError
from batchrt.cli.errors import UsageError, option_of
from batchrt.cli.options import JobSettings
from batchrt.files import SampledSource, Source, choose_format, expand_paths, open_source

__all__ = ["open_input", "open_output", "option_named", "output_format"]

T = TypeVar("T")


def option_named(error: InputError) -> str:
    """Return the error's message with the option in place of the parameter that it names."""
    if error.parameter is None:
        return str(error)
    return str(error).replace(f"`{error.parameter}`", option_of(error.parameter))


def output_format(settings: JobSettings) -> str | None:
    """Return the format of the output; `None` if neither an option nor a suffix tells it."""
    if settings.output_format is not None or settings.output == "-":
        return settings.output_format
    try:
        return choose_format(settings.output)
    except InputError:  # opening it raises the same
        return None


def open_input(settings: JobSettings) -> Source:
    """Open the input; a delimiter is for CSV, and for an output that is one."""
    delimiter = settings.delimiter
    names = expand_paths(settings.source)
    if delimiter is not None and all(choose_format(name, settings.format) != "csv" for name in names):
        if output_format(settings) != "csv":
            raise UsageError("--delimiter is for CSV, and neither the input nor the output is one")
        delimiter = None
    if settings.follow and settings.sample is not None:
        raise UsageError("--sample reads the input to its end, which --follow does not have; leave one out")
    source = open_source(
        names,
        format=settings.format,
        delimiter=delimiter,
        encoding=settings.encoding,
        follow=settings.follow,
    )
    if settings.sample is None:
        return source
    return SampledSource(source, settings.sample, seed=settings.sample_seed, limit=settings.limit)


def open_output(open_sink: Callable[..., T], settings: JobSettings, source: Source, **options: Any) -> T:
    """Open the output by `open_sink`, which `options` are for too.

    Raises:
        UsageError: it cannot be opened, or an option makes no sense.
    """
    how = {"format": settings.output_format, "overwrite": settings.overwrite, "source": source}
    try:
        return open_sink(settings.output, **how, **options)
    except ImportError as error:
        raise UsageError(str(error)) from error
    except InputError as error:
        named = str(error).replace("`format`", "--output-format")
        raise UsageError(named if error.parameter == "format" else option_named(error)) from error
