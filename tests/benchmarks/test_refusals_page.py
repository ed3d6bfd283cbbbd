"""The page of refusals: it is what the renderer makes of the committed results."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from benchmarks.pages import refusals
from benchmarks.studies import refusals_kept
from benchmarks.studies.refusals_cases import cases

ROOT = Path(__file__).parent.parent.parent
RUN = {
    "command": "python -m benchmarks.studies.refusals",
    "machine": {
        "date": "2026-01-01",
        "cpu": "a CPU",
        "usable_cores": 2,
        "load": [0.5],
        "system": "Linux",
        "python": "CPython",
        "commit": "abc",
        "stack": {"httpx": "0.28"},
    },
    "peers": {"openai": "3", "aiohttp": None},
}
NAMES = {case.key: case.name for case in cases()}


def _entry(case: str, rows: Mapping[str, Any]) -> dict[str, Any]:
    made = [{"contender": who, "note": "", "figures": dict(figures)} for who, figures in rows.items()]
    return {"case": case, "run": RUN, "rows": made}


def _rendered(monkeypatch: pytest.MonkeyPatch, *, sockets: Any = (), virtual: Any = ()) -> str:
    monkeypatch.setattr(refusals_kept, "read", lambda: {"sockets": list(sockets), "virtual": list(virtual)})
    return refusals.contents()["docs/refusals.md"]


def test_page_is_rendered_from_the_committed_results_of_refusals() -> None:
    """Neither a table nor a sentence was edited."""
    committed = (ROOT / "docs" / "refusals.md").read_text(encoding="utf-8")
    assert committed == refusals.contents()["docs/refusals.md"], "run `nox -s bench -- --render`"


def test_page_cells_have_the_median_and_the_worst_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that lost items has no time relative to the ideal, and no column is empty throughout."""
    rows = {
        "batchrt, cap 8": {
            "lost": [0, 0, 0],
            "ideal": [1.1, 1.2, 1.25],
            "refused": [2, 3, 4],
            "in_waits": [0],
        },
        "openai SDK, 2 retries, cap 8": {"lost": [7], "refused": [20], "in_waits": [0]},
    }
    text = _rendered(monkeypatch, sockets=[_entry(NAMES["rate"], rows)])
    assert "|  | runs | lost | x ideal | refused % |" in text
    assert "| batchrt, cap 8 | 3 | 0 | 1.20 (1.25) | 3.0 (4.0) |" in text
    assert "| openai SDK, 2 retries, cap 8 | 1 | 7 | - | 20.0 |" in text
    assert "missed" not in text
    assert "commit `abc`" in text
    assert "httpx 0.28, openai 3" in text


@pytest.mark.parametrize(
    ("figures", "says"),
    [
        ({"lost": [0, 2], "ideal": [1.0], "refused": [1]}, "2 lost"),
        ({"lost": [0], "ideal": [1.0, 1.31], "refused": [1]}, "1.31 x ideal"),
        ({"lost": [0], "ideal": [1.0], "refused": [9, 11]}, "11.0 % refused"),
    ],
)
def test_page_says_which_target_batchrt_missed(
    monkeypatch: pytest.MonkeyPatch, figures: dict[str, Any], says: str
) -> None:
    """One bad run is enough; the targets are not those of the peers."""
    rows = {"batchrt, cap 8": figures, "openai SDK, 2 retries, cap 8": {**figures, "lost": [9]}}
    text = _rendered(monkeypatch, sockets=[_entry(NAMES["rate"], rows)])
    assert f"Targets missed in the worst run: batchrt, cap 8: {says}." in text


def test_page_has_both_ideals_where_random_refusals_name_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits that nobody ignored, and refusals without a wait, leave one ideal."""
    kept = {"lost": [0], "ideal": [4.0], "waited": [1.2], "refused": [20], "in_waits": [0]}
    ignored = {"lost": [0], "ideal": [1.1], "waited": [0.7], "refused": [20], "in_waits": [50]}
    rows = {"batchrt, cap 50": kept, "aiohttp, tenacity, cap 50": ignored}
    text = _rendered(monkeypatch, sockets=[_entry(NAMES["random-2"], rows)])
    assert "| batchrt, cap 50 | 1 | 0 | 4.00 | 1.20 | 20.0 | 0 |" in text
    assert "batchrt, cap 50: 4.00 x ideal (1.20 with waits kept)." in text
    alone = _rendered(monkeypatch, sockets=[_entry(NAMES["random-2-bare"], {"batchrt, cap 50": kept})])
    assert "| batchrt, cap 50 | 1 | 0 | 4.00 | 20.0 |" in alone


def test_page_puts_servers_of_other_packages_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cases are in the order of the suite, in whatever order they were measured."""
    figures = {"batchrt, cap 8": {"lost": [0], "ideal": [1.0], "refused": [1]}}
    keys = ("parallel", "nginx-rate", "rate")
    text = _rendered(monkeypatch, sockets=[_entry(NAMES[key], figures) for key in keys])
    parts = [
        "## Beside other clients",
        NAMES["rate"],
        NAMES["parallel"],
        "## Servers of other",
        NAMES["nginx-rate"],
    ]
    places = [text.index(part) for part in parts]
    assert places == sorted(places)
    assert text.count("commit `abc`") == 2


def test_page_lists_the_virtual_cells_that_miss(monkeypatch: pytest.MonkeyPatch) -> None:
    """The blind server has targets of its own; one request at a time need not use the quota."""
    blind = {
        "cap 1": {"lost": [0], "slowness": [1.0], "refused": [0], "used": [19]},
        "cap 8": {"lost": [0], "slowness": [1.0], "refused": [1, 2.5], "used": [96, 94]},
    }
    fine = {"cap 1": {"lost": [0], "slowness": [1.0], "refused": [3], "used": [0]}}
    made = [_entry("chat: blind, ms", blind), _entry("chat: bare", fine)]
    text = _rendered(monkeypatch, virtual=made)
    assert "- blind, ms, cap 8: 2.5 % refused, 94.0 % of the quota used" in text
    assert "cap 1:" not in text
    assert "1 to 2 runs a cell" in text
    assert "All are met." in _rendered(monkeypatch, virtual=made[1:])
