"""Vectors as JSONL: one object a line."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any, Final

from batchrt.files.cells import error_line, json_text
from batchrt.files.output_file import OutputFile, TextOutput
from batchrt.files.vectors.base import VectorFormat, VectorSink

__all__ = ["JsonlSink"]

_NUMBER: Final = "%.9g"
"""Nine digits identify every float32 (IEEE 754; only -0 is read as 0), and are a third shorter than Python's
text of the double."""


class JsonlSink(TextOutput, VectorSink):
    """Write `{…, "embedding": [0.1, …], "error": null}`, with one of the two null."""

    format: VectorFormat = "jsonl"

    def __init__(self, file: OutputFile, width: int | None) -> None:
        super().__init__((file.path,), width)
        self._file = file
        self._template = ""
        self._numbers = struct.Struct("")

    def _put(
        self, values: Mapping[str, Any], vector: bytes | None, error: BaseException | str | None
    ) -> None:
        line = None if error is None else error_line(error)
        if vector is None:
            self._file.put(json_text({**values, "embedding": None, "error": line}) + "\n")
            return
        if self._numbers.size != len(vector):
            self._numbers = struct.Struct(f"<{self.width}f")
            self._template = ", ".join([_NUMBER] * (self.width or 0))
        numbers = self._template % self._numbers.unpack(vector)
        head, tail = json_text(dict(values)), json_text({"error": line})
        beginning = "{" if head == "{}" else f"{head[:-1]}, "
        self._file.put(f'{beginning}"embedding": [{numbers}], {tail[1:]}\n')
