"""The limit of open files, of which each connection needs one."""

from __future__ import annotations

import sys
from typing import Final

__all__ = ["allow_connections"]

_OTHER_FILES: Final = 64
"""Files of the process itself: inputs, outputs, libraries."""


def allow_connections(count: int) -> int:
    """Raise the process's limit of open files so that `count` connections fit; return how many do."""
    if sys.platform == "win32":
        return count
    import resource

    wanted = count + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return count
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    except (OSError, ValueError):  # macOS has a limit that getrlimit does not tell
        allowed = soft
    return min(count, allowed - _OTHER_FILES)
