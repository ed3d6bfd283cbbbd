"""What it costs to make a matrix of an answer that is there already."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from benchmarks.embedders import MODEL
from benchmarks.isolation import WorkerError, run_worker
from benchmarks.machine import installed
from benchmarks.measuring import Series, per_item, rotated, settle, stopwatch
from benchmarks.results import Column, Row, Table

__all__ = ["CASE", "COLUMNS", "REFERENCE", "measure", "work"]

_VECTORS, _WIDTH = 1_000, 1_536
CASE = f"decoding an answer of {_VECTORS:,} vectors of {_WIDTH:,} numbers"
REFERENCE = "json, base64, numpy"
COLUMNS = (Column("cpu", "CPU µs/vector"), Column("ratio", f"x {REFERENCE}", 2))

_URL = "http://127.0.0.1/v1"  # nobody is asked there

Encoding: TypeAlias = Literal["base64", "float"]
Decode: TypeAlias = Callable[[bytes], Any]
"""Makes a matrix of the body of an answer."""


def _batchrt(encoding: Encoding) -> Decode:
    """Decode as the client does, its packing of the texts included: no HTTP is spoken."""

    def decode(body: bytes) -> Any:
        import httpx

        from batchrt import OpenAIEmbeddings

        answering = httpx.MockTransport(lambda _: httpx.Response(200, content=body))
        model = OpenAIEmbeddings(MODEL, base_url=_URL, encoding_format=encoding, transport=answering)
        return model.embed_array([f"text {n}" for n in range(_VECTORS)])

    return decode


def _by_hand(loads: Callable[[bytes], Any], row_of: Callable[[Any], Any]) -> Decode:
    def decode(body: bytes) -> Any:
        import numpy as np

        matrix = np.empty((_VECTORS, _WIDTH), dtype=np.float32)
        for item in loads(body)["data"]:
            matrix[item["index"]] = row_of(item["embedding"])
        return matrix

    return decode


def _from_base64(text: str) -> Any:
    import numpy as np

    return np.frombuffer(b64decode(text), dtype="<f4")


def _as_it_is(numbers: list[float]) -> Any:
    return numbers


def _orjson(body: bytes) -> Any:
    import orjson

    return orjson.loads(body)


@dataclass(frozen=True, slots=True)
class _Decoder:
    """Say who decodes what."""

    name: str
    decode: Decode
    encoding: Encoding
    needs: tuple[str, ...] = ("numpy",)

    @property
    def note(self) -> str:
        """What keeps it from being measured; empty if nothing does."""
        missing = [name for name in self.needs if installed(name) is None]
        return f"missing: {', '.join(missing)}" if missing else ""


_DECODERS = (
    _Decoder(REFERENCE, _by_hand(json.loads, _from_base64), "base64"),
    _Decoder("orjson, base64, numpy", _by_hand(_orjson, _from_base64), "base64", ("numpy", "orjson")),
    _Decoder("batchrt, base64", _batchrt("base64"), "base64"),
    _Decoder("json, numbers, numpy", _by_hand(json.loads, _as_it_is), "float"),
    _Decoder("orjson, numbers, numpy", _by_hand(_orjson, _as_it_is), "float", ("numpy", "orjson")),
    _Decoder("batchrt, numbers", _batchrt("float"), "float"),
)


def measure(rounds: int) -> Table:
    """Measure all of them in one process, in turns."""
    try:
        measured = run_worker("decoding", {"rounds": rounds})
    except WorkerError as error:
        return Table(CASE, COLUMNS, [Row("all", note=f"failed: {error}")])
    cpu = {name: per_item(seconds, _VECTORS) for name, seconds in measured.items()}
    return Table(CASE, COLUMNS, [_row(each, cpu) for each in _DECODERS])


def _row(decoder: _Decoder, cpu: Mapping[str, Series]) -> Row:
    if decoder.note:
        return Row(decoder.name, note=decoder.note)
    mine = cpu[decoder.name]
    return Row(decoder.name, figures={"cpu": mine, "ratio": mine.over(cpu[REFERENCE])})


def work(settings: Mapping[str, Any]) -> dict[str, list[float]]:
    """Measure every round; see `isolation.run_worker`.

    Raises:
        ValueError: a matrix is wrong.
    """
    import numpy as np

    wanted = np.random.default_rng(7).normal(0, _WIDTH**-0.5, (_VECTORS, _WIDTH)).astype(np.float32)
    bodies = {"base64": _body(wanted, _to_base64), "float": _body(wanted, _to_numbers)}
    ready = [each for each in _DECODERS if not each.note]
    seconds: dict[str, list[float]] = {each.name: [] for each in ready}
    for round_number in range(settings["rounds"] + 1):
        for each in rotated(ready, round_number):
            settle()
            with stopwatch() as sample:
                matrix = each.decode(bodies[each.encoding])
            if not np.array_equal(matrix, wanted):
                raise ValueError(f"{each.name} made a wrong matrix")
            if round_number:  # the first one warms up
                seconds[each.name].append(sample.cpu)
    return seconds


def _body(matrix: Any, write: Callable[[Any], Any]) -> bytes:
    data = [{"object": "embedding", "index": n, "embedding": write(row)} for n, row in enumerate(matrix)]
    usage = {"prompt_tokens": _VECTORS, "total_tokens": _VECTORS}
    return json.dumps({"object": "list", "data": data, "model": "mock", "usage": usage}).encode()


def _to_base64(row: Any) -> str:
    return b64encode(row.astype("<f4").tobytes()).decode()


def _to_numbers(row: Any) -> list[float]:
    numbers: list[float] = row.tolist()
    return numbers
