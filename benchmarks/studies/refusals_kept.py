"""The kept results of the refusals suite: one JSON document, of which each run replaces its own cases."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

from benchmarks import documents
from benchmarks.harness.machine import installed
from benchmarks.studies.results import Row, Table

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
    """Return `document` with the table in place of the one of the same case, or as the last of its part.

    Rows of contenders that were not measured again stay, and the newer ones beside them name their own run.
    """
    entry: dict[str, Any] = {"case": table.case, "run": run, "rows": [_row(row) for row in table.rows]}
    if hasattr(os, "getloadavg"):
        entry["load"] = round(os.getloadavg()[1], 1)
    older = next((each for each in document[part] if each["case"] == table.case), None)
    if older is None:
        return {**document, part: [*document[part], entry]}
    newer = {row["contender"]: row for row in entry["rows"]}
    if any(row["contender"] not in newer for row in older["rows"]):
        rows = {row["contender"]: row for row in older["rows"]}
        rows |= {name: {**row, "run": run} for name, row in newer.items()}
        entry = {**older, "rows": list(rows.values())}
    return {**document, part: [entry if each is older else each for each in document[part]]}


def _row(row: Row) -> dict[str, Any]:
    figures = {key: [round(value, 4) for value in one.values] for key, one in row.figures.items()}
    return {"contender": row.contender, "note": row.note, "figures": figures}
