"""Rows of input and output files: CSV, TSV, JSONL, Parquet, and vectors as .npy."""

from __future__ import annotations

from batchrt.errors import OutputClosedError, OutputError
from batchrt.files.encodings import OutputEncoding
from batchrt.files.fields import column_text, field_reader, prompt_values, text_reader
from batchrt.files.flattening import FieldKind, fields_of_schema
from batchrt.files.formats import Format, choose_format
from batchrt.files.paths import expand_paths
from batchrt.files.row_writer import Entry, RowWriter, without_traces
from batchrt.files.rows import BadRow, Row, bad_row
from batchrt.files.sampled_source import SampledSource
from batchrt.files.sink import Sink
from batchrt.files.sinks import open_sink
from batchrt.files.source import Source, required_columns
from batchrt.files.sources import open_source
from batchrt.files.threaded_iterator import INPUT_THREAD, ThreadedIterator
from batchrt.files.vectors.base import VectorFormat, VectorSink
from batchrt.files.vectors.sinks import open_vector_sink

__all__ = [
    "INPUT_THREAD",
    "BadRow",
    "Entry",
    "FieldKind",
    "Format",
    "OutputClosedError",
    "OutputEncoding",
    "OutputError",
    "Row",
    "RowWriter",
    "SampledSource",
    "Sink",
    "Source",
    "ThreadedIterator",
    "VectorFormat",
    "VectorSink",
    "bad_row",
    "choose_format",
    "column_text",
    "expand_paths",
    "field_reader",
    "fields_of_schema",
    "open_sink",
    "open_source",
    "open_vector_sink",
    "prompt_values",
    "required_columns",
    "text_reader",
    "without_traces",
]
