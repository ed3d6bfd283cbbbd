"""Files in, files out."""

from __future__ import annotations

from batchrt.errors import OutputClosedError, OutputError
from batchrt.jobs.formats import Format
from batchrt.jobs.rows import BadRow, Row
from batchrt.jobs.sinks import Sink, open_sink
from batchrt.jobs.sources import Source, open_source, required_columns
from batchrt.jobs.vector_sinks import open_vector_sink
from batchrt.jobs.vectors import VectorFormat, VectorSink

__all__ = [
    "BadRow",
    "Format",
    "OutputClosedError",
    "OutputError",
    "Row",
    "Sink",
    "Source",
    "VectorFormat",
    "VectorSink",
    "open_sink",
    "open_source",
    "open_vector_sink",
    "required_columns",
]
