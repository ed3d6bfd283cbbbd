"""The kept results of the refusals suite: one JSON document, of which each run replaces its own cases."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

from benchmarks import documents
from benchmarks.harness.machine import installed
from benchmarks.studies.results import Table

__all__ = ["Part", "keep", "merged", "read", "run_of"]

Part: TypeAlias = Literal["sockets", "virtual"]
_PEERS = ("aiohttp", "langchain-core", "langchain-openai", "openai", "tenacity")


def read() -> dict[str, Any]:
    """Return the results; without any yet, parts that are empty."""
    path = documents.FOLDER / "refusals.json"
    if not path.exists():
        return {"sockets": [], "virtual": []}
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


def run_of(module: str, arguments: Sequence[str] | None, machine: Mapping[str, Any]) -> dict[str, Any]:
    """Return what figures of this run belong to: the command, the machine and the versions."""
    given = sys.argv[1:] if arguments is None else arguments
    return {
        "command": shlex.join(["python", "-m", module, *given]),
        "machine": dict(machine),
        "peers": {name: installed(name) for name in _PEERS},
    }


def keep(part: Part, table: Table, run: Mapping[str, Any]) -> None:
    """Write the results with those of one more table; a table without figures is not kept."""
    if not any(row.figures for row in table.rows):
        return
    documents.FOLDER.mkdir(exist_ok=True)
    text = json.dumps(merged(read(), part, table, run), indent=1, ensure_ascii=False)
    (documents.FOLDER / "refusals.json").write_text(f"{text}\n", encoding="utf-8")


def merged(document: Mapping[str, Any], part: Part, table: Table, run: Mapping[str, Any]) -> dict[str, Any]:
    """Return `document` with the table in place of the one of the same case, or as the last of its part."""
    rows = [
        {
            "contender": row.contender,
            "note": row.note,
            "figures": {key: [round(value, 4) for value in one.values] for key, one in row.figures.items()},
        }
        for row in table.rows
    ]
    entry = {"case": table.case, "run": run, "rows": rows}
    entries = [entry if each["case"] == table.case else each for each in document[part]]
    return {**document, part: entries if entry in entries else [*entries, entry]}
