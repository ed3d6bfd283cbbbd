"""Results documents of made-up figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

COLUMNS = [
    {"key": "cpu", "heading": "CPU", "digits": 0, "best": "least"},
    {"key": "wrong", "heading": "wrong", "digits": 0, "best": ""},
]


def row(contender: str, *, reason: str = "", **figures: Sequence[float]) -> dict[str, Any]:
    """Return a contender's row."""
    return {
        "contender": contender,
        "label": contender,
        "note": "",
        "reason": reason,
        "figures": {key: list(values) for key, values in figures.items()},
    }


def scenario(*cases: Sequence[dict[str, Any]], key: str = "chat", **changes: Any) -> dict[str, Any]:
    """Return a scenario of cases, each given by its rows."""
    return {
        "key": key,
        "title": key.title(),
        "about": "How it is measured.",
        "relative": "cpu",
        "charts": [key],
        "columns": COLUMNS,
        "cases": [
            {"key": str(10 ** (number + 1)), "title": f"{10 ** (number + 1)} items, busy", "rows": list(rows)}
            for number, rows in enumerate(cases)
        ],
        **changes,
    }


def document(*scenarios: dict[str, Any], date: str = "2026-01-01T00:00:00+00:00") -> dict[str, Any]:
    """Return a document of scenarios."""
    keys = {row["contender"] for each in scenarios for case in each["cases"] for row in case["rows"]}
    return {
        "tier": "quick",
        "command": "nox -s bench",
        "seconds": 1,
        "machine": {
            "date": date,
            "cpu": "a CPU",
            "usable_cores": 2,
            "load": [0.1],
            "system": "Linux",
            "python": "CPython 3.12",
            "batchrt": "1.0",
            "stack": {"httpx": "0.28"},
        },
        "contenders": [{"key": key, "name": key, "version": "1", "use": "As it is."} for key in sorted(keys)],
        "scenarios": list(scenarios),
    }
