"""Files in, files out."""

from __future__ import annotations

from .formats import Format
from .rows import BadRow, Row
from .sinks import OutputClosedError, OutputError, Sink, open_sink
from .sources import Source, open_source, required_columns

__all__ = [
    "BadRow",
    "Format",
    "OutputClosedError",
    "OutputError",
    "Row",
    "Sink",
    "Source",
    "open_sink",
    "open_source",
    "required_columns",
]
