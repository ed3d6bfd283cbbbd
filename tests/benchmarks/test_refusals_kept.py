"""The kept results of refusals: each run replaces its own cases."""

from __future__ import annotations

import re

from benchmarks import documents
from benchmarks.harness.measuring import Series
from benchmarks.studies import refusals_kept
from benchmarks.studies.results import Row, Table


def _table(case: str, lost: float) -> Table:
    return Table(case, (), [Row("batchrt", "asyncio", {"lost": Series((lost,))}, "a note")])


def test_kept_results_of_a_case_are_replaced_and_others_stay() -> None:
    """A case that is measured again keeps its place; a new one comes last; the other part is untouched."""
    document = refusals_kept.merged(
        {"sockets": [], "virtual": []}, "sockets", _table("a", 1), {"command": "1"}
    )
    document = refusals_kept.merged(document, "sockets", _table("b", 2), {"command": "1"})
    document = refusals_kept.merged(document, "sockets", _table("a", 3), {"command": "2"})
    document = refusals_kept.merged(document, "virtual", _table("a", 4), {"command": "3"})
    assert [each["case"] for each in document["sockets"]] == ["a", "b"]
    first = document["sockets"][0]
    assert first["rows"] == [{"contender": "batchrt", "note": "a note", "figures": {"lost": [3]}}]
    assert [each["run"]["command"] for each in document["sockets"]] == ["2", "1"]
    assert [each["rows"][0]["figures"] for each in document["virtual"]] == [{"lost": [4]}]


def test_kept_run_names_the_command_with_its_arguments() -> None:
    """The page tells how its figures are made."""
    run = refusals_kept.run_of("benchmarks.studies.refusals", ["rate", "--caps", "8"], {"cpu": "a CPU"})
    assert run["command"] == "python -m benchmarks.studies.refusals rate --caps 8"
    assert run["machine"] == {"cpu": "a CPU"}
    assert "openai" in run["peers"]


def test_kept_results_name_no_host_and_no_path() -> None:
    """The machine is known by its CPU, not by its name or its folders."""
    text = (documents.FOLDER / "refusals.json").read_text(encoding="utf-8")
    assert not re.search(r'"/|/home/|/root/|/work/|/tmp/|hostname', text)
