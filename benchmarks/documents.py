"""The results as files: one JSON document for each tier, replaced by each run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.scenarios.protocol import Tier

__all__ = ["FOLDER", "merged", "read", "write"]

FOLDER = Path(__file__).parent / "results"


def read(tier: Tier) -> dict[str, Any] | None:
    """Return the results of a tier; None if it has not been measured."""
    path = FOLDER / f"{tier}.json"
    if not path.exists():
        return None
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


def write(document: dict[str, Any]) -> Path:
    """Write results; a run of a part of the scenarios keeps the results of the others."""
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{document['tier']}.json"
    older = read(document["tier"])
    text = json.dumps(merged(older, document), indent=1, ensure_ascii=False)
    path.write_text(f"{text}\n", encoding="utf-8")
    return path


def merged(older: dict[str, Any] | None, newer: dict[str, Any]) -> dict[str, Any]:
    """Return `newer` with the scenarios that only `older` has, in the order of `older`.

    Each scenario names the date of its measurement, since they may differ.
    """
    measured = {each["key"]: {**each, "date": newer["machine"]["date"]} for each in newer["scenarios"]}
    kept = [measured.pop(each["key"], each) for each in (older or {"scenarios": []})["scenarios"]]
    return {**newer, "scenarios": [*kept, *measured.values()]}
