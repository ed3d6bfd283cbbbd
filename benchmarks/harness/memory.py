"""How much a process has grown."""

from __future__ import annotations

import os
import sys
from pathlib import Path

__all__ = ["Growth"]

_STATM = Path("/proc/self/statm")


class Growth:
    """Follow the process's resident memory from now on.

    The kernel's own high-water mark counts where it rose meanwhile, and otherwise the samples: what
    was needed before, by imports say, hides smaller peaks from the mark.
    """

    def __init__(self) -> None:
        self._peak_at_start = _peak_bytes()
        self._start = self._sampled = _resident_bytes()

    def sample(self) -> None:
        """Look at how much it is now."""
        self._sampled = max(self._sampled, _resident_bytes())

    @property
    def megabytes(self) -> float:
        """The most it has grown by so far, in millions of bytes."""
        self.sample()
        peak = _peak_bytes()
        most = peak if peak > self._peak_at_start else self._sampled
        return max(most, self._sampled) / 1e6 - self._start / 1e6


def _resident_bytes() -> int:
    if not _STATM.exists():
        return _peak_bytes()
    return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _peak_bytes() -> int:
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
