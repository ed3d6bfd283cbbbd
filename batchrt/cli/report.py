"""`batchrt report`: what the journal of a job holds."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from batchrt import InputError, JobReport, JournalError, OutputError
from batchrt.cli.console import complain, count
from batchrt.cli.errors import UsageError

__all__ = ["report"]

_ALL_ANSWERED: Final = 0
_SOME_FAILED: Final = 1
_NOT_COMPLETE: Final = 4

_Journal = Annotated[str, typer.Argument(metavar="JOURNAL", help="The journal of a job.")]
_Failed = Annotated[
    str | None,
    typer.Option(
        metavar="OUT", help="Write the failed rows with their errors: .csv, .tsv, .jsonl or .parquet."
    ),
]
_Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace OUT if it exists.")]


def report(journal: _Journal, *, failed: _Failed = None, overwrite: _Overwrite = False) -> int:
    """Show what became of a job's rows, from its journal, also while the job runs.

    Exit codes: 0 each row has an answer, 1 some rows failed, 2 there is no such journal, 4 the job has not
    come to its end, or OUT cannot be written.
    """
    try:
        found = JobReport.of(journal)
        typer.echo(str(found))
        for row in found.failed_rows():
            typer.echo(row)
        if failed is not None:
            rows = found.write_failed(failed, overwrite=overwrite)
            typer.echo(f"{count(rows, 'failed row')} written to {failed}")
    except (JournalError, InputError) as error:
        raise UsageError(str(error).replace("`overwrite`", "--overwrite")) from error
    except OutputError as error:
        complain(str(error))
        return _NOT_COMPLETE
    if not found.is_complete:
        return _NOT_COMPLETE
    return _SOME_FAILED if found.failed else _ALL_ANSWERED
