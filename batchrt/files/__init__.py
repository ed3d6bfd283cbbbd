"""Rows of input and output files: CSV, TSV, JSONL, and vectors as .npy and Parquet."""

from __future__ import annotations

from batchrt.errors import OutputClosedError, OutputError
from batchrt.files.formats import Format
from batchrt.files.rows import BadRow, Row
from batchrt.files.sinks import Sink, open_sink
from batchrt.files.sources import Source, open_source, required_columns
from batchrt.files.vectors.base import VectorFormat, VectorSink
from batchrt.files.vectors.sinks import open_vector_sink

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
