"""Files in, files out."""

from __future__ import annotations

from batchrt.errors import OutputClosedError, OutputError
from batchrt.jobs.formats import Format
from batchrt.jobs.rows import BadRow, Row
from batchrt.jobs.sinks import Sink, open_sink
from batchrt.jobs.sources import Source, open_source, required_columns

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
