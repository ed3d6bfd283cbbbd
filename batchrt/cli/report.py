"""`batchrt report`: what the journal of a job holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import typer

from batchrt import InputError, JournalError, OutputError
from batchrt.cli.console import complain, count
from batchrt.cli.errors import UsageError, option_of
from batchrt.cli.options import option

__all__ = ["ReportSettings", "show_report"]

_ALL_ANSWERED: Final = 0
_SOME_FAILED: Final = 1
_NOT_COMPLETE: Final = 4

_JOURNAL: Final = typer.Argument(metavar="JOURNAL", help="The journal of a job.")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportSettings:
    """Hold the options of `batchrt report`."""

    journal: str = field(metadata={"shown": _JOURNAL})
    failed: str | None = option(
        None, metavar="OUT", help="Write the failed rows with their errors: .csv, .tsv, .jsonl or .parquet."
    )
    html: str | None = option(
        None, metavar="PAGE", help="Write a page with pictures of the job (.html); needs batchrt[report]."
    )
    overwrite: bool = option(False, "--overwrite", help="Replace OUT and PAGE if they exist.")


def show_report(settings: ReportSettings) -> int:
    """Show the journal of `settings` on stdout, and return the exit code.

    Raises:
        UsageError: there is no such journal, or a file cannot be made.
    """
    for name in ("failed", "html"):
        if getattr(settings, name) == "-":
            raise UsageError(f"{option_of(name)} needs a file, since the report itself is on stdout")
    from batchrt import JobReport  # loads pydantic, which --help does without

    try:
        found = JobReport.of(settings.journal)
        typer.echo(str(found))
        for row in found.failed_rows():
            typer.echo(row)
        if settings.failed is not None:
            rows = found.write_failed(settings.failed, overwrite=settings.overwrite)
            typer.echo(f"{count(rows, 'failed row')} written to {settings.failed}")
        if settings.html is not None:
            found.write_html(settings.html, overwrite=settings.overwrite)
            typer.echo(f"page written to {settings.html}")
    except ImportError as error:
        raise UsageError(str(error)) from error
    except (JournalError, InputError) as error:
        raise UsageError(str(error).replace("`overwrite`", option_of("overwrite"))) from error
    except OutputError as error:
        complain(str(error))
        return _NOT_COMPLETE
    if not found.is_complete:
        return _NOT_COMPLETE
    return _SOME_FAILED if found.failed else _ALL_ANSWERED
