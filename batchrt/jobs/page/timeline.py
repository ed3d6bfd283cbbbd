"""A timeline: the time in which a job was at work, with long pauses cut out."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any, Final

import numpy as np

__all__ = ["Timeline", "joined"]

_LEAST_PAUSE: Final = 60.0
"""Seconds without a row or an event that are a pause, such as the night between two runs."""
_SHARE_OF_WORK: Final = 0.05
"""The same as a share of the time at work: a pause in a long job is cut if it would take room."""

Span = tuple[float, float]


def joined(spans: Iterable[Span], gap: float) -> list[Span]:
    """Return `spans` in order, those joined between which there is no more than `gap`."""
    whole: list[Span] = []
    for began, ended in sorted(spans):
        if whole and began <= whole[-1][1] + gap:
            whole[-1] = (whole[-1][0], max(whole[-1][1], ended))
        else:
            whole.append((began, ended))
    return whole


class Timeline:
    """Map times to seconds of work.

    Args:
        spans: in which something happened; begin and end, in seconds since 1970.

    Attributes:
        spans: those of work, in order, with pauses between them.
        seconds: of work, more than 0.
    """

    def __init__(self, spans: Iterable[Span]) -> None:
        found = joined(spans, 0.0) or [(0.0, 0.0)]
        work = sum(ended - began for began, ended in found)
        self.spans: list[Span] = joined(found, max(_LEAST_PAUSE, _SHARE_OF_WORK * work))
        lengths = [ended - began for began, ended in self.spans]
        self.seconds: float = max(sum(lengths), 1e-3)
        ends = np.cumsum(lengths)
        self._known = np.array([edge for span in self.spans for edge in span])
        self._mapped = np.ravel(np.column_stack([ends - lengths, ends]))

    @property
    def pauses(self) -> list[tuple[float, float]]:
        """The pauses that were cut: where each is, in seconds of work, and its length in seconds."""
        return [
            (float(self.at(following[0])), following[0] - before[1])
            for before, following in pairwise(self.spans)
        ]

    def at(self, times: Any) -> Any:
        """Return the seconds of work before `times` (seconds since 1970; a number or an array)."""
        return np.interp(times, self._known, self._mapped)
