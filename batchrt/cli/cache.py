"""The response cache of a job: opened, and given up aloud."""

from __future__ import annotations

import os
from contextlib import ExitStack

from batchrt import ResponseCache
from batchrt.cli.console import complain
from batchrt.cli.errors import UsageError
from batchrt.cli.options import JobSettings
from batchrt.files.remote import is_remote

__all__ = ["check_cache", "open_cache"]


def check_cache(settings: JobSettings, journal: str | None) -> None:
    """Raise UsageError if the path of `--cache` is remote, or another file of the job."""
    path = settings.cache
    if path is None:
        return
    if is_remote(path):
        raise UsageError(f"--cache {path}: it must be a file of this machine; name another one")
    others = {"OUT": settings.output, "the journal": journal or ""}
    for name, other in (*others.items(), *(("INPUT", source) for source in settings.source)):
        if other and os.path.realpath(other) == os.path.realpath(path):
            raise UsageError(f"--cache {path} is {name} too; name another file")


def open_cache(settings: JobSettings, journal: str | None, stack: ExitStack) -> ResponseCache | None:
    """Return the cache of `--cache`, which `stack` closes; `None` for none.

    Raises:
        UsageError: as for `check_cache`.
        InputError: the cache cannot be used; see `ResponseCache`.
    """
    check_cache(settings, journal)
    if settings.cache is None:
        return None
    cache = ResponseCache(settings.cache)
    stack.callback(_tell, cache)
    return stack.enter_context(cache)


def _tell(cache: ResponseCache) -> None:
    """Say why a cache that is closed was given up before, if it was."""
    if cache.problem is not None:
        complain(cache.problem)
