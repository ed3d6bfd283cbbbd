"""The path of a job's journal: named, beside the output, or none."""

from __future__ import annotations

import os

from batchrt import JournalError
from batchrt.cli.errors import UsageError, option_of
from batchrt.cli.options import JobSettings
from batchrt.files import Source
from batchrt.files.cells import listed
from batchrt.files.formats import STANDARD_STREAM
from batchrt.files.remote import is_remote, local_path
from batchrt.jobs.journal_reader import JournalReader
from batchrt.jobs.output import is_stream
from batchrt.jobs.rows import source_paths

__all__ = ["check_owner", "journal_path"]

_SUFFIX = ".journal"


def journal_path(settings: JobSettings) -> str | None:
    """Return where the job's journal is: `--journal`, else beside an output file; `None` for none.

    Raises:
        UsageError: options contradict each other, or the journal is the input or the output.
    """
    path = settings.journal
    if settings.no_journal and path is not None:
        raise UsageError("--journal and --no-journal contradict each other; leave one out")
    if path is None and not settings.no_journal and _is_file(settings.output):
        path = local_path(settings.output) + _SUFFIX
    if path is None:
        for name in ("retry_failed", "fresh"):
            if getattr(settings, name):
                raise UsageError(f"{option_of(name)} is for a job with a journal; {_say_how(settings)}")
        if settings.reuse != "same":
            raise UsageError(f"--reuse is for a job with a journal; {_say_how(settings)}")
        return None
    if is_remote(path):
        raise UsageError(f"--journal {path}: it must be a file of this machine; name another one")
    for name, other in (("OUT", settings.output), *(("INPUT", source) for source in settings.source)):
        if os.path.realpath(other) == os.path.realpath(path):
            raise UsageError(f"--journal {path} is {name} too; name another file")
    return path


def _is_file(output: str) -> bool:
    """Whether an output is, or will be, a file of this machine."""
    return not (output == STANDARD_STREAM or is_remote(output) or is_stream(local_path(output)))


def _say_how(settings: JobSettings) -> str:
    return "leave --no-journal out" if settings.no_journal else "name one with --journal"


def check_owner(path: str, source: Source, settings: JobSettings, *, of_vectors: bool) -> None:
    """Check that a journal that exists belongs to this command.

    One that is not named on the command line must be that of a job over at least one of the same files.

    Raises:
        UsageError: it belongs to another one.
    """
    if settings.fresh or not os.path.exists(path):  # noqa: PTH110  unlike Path's it raises nothing
        return
    try:
        with JournalReader(path) as journal:
            before, holds_bytes = journal.source, journal.holds_bytes
    except JournalError:  # raised again where the job opens it, or too new to hold anything
        return
    hint = "name another output, or begin a new journal with --fresh (the old one is kept)"
    if holds_bytes is not None and holds_bytes != of_vectors:
        kind = "vectors of batchrt embed" if holds_bytes else "answers of batchrt run"
        raise UsageError(f"the journal {path} holds {kind}; {hint}")
    paths = source_paths(source)
    if settings.journal is None and before and set(before).isdisjoint(paths):
        named = f"to use it for this input as well, add --journal {path}"
        raise UsageError(f"the journal {path} belongs to a job over {listed(before)}; {hint}; {named}")
