"""Results as files: a run of one scenario replaces that one."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import documents
from tests.benchmarks.documents import document, row, scenario


def test_documents_keep_the_scenarios_of_earlier_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A scenario that is measured again is replaced in its place, and each names its date."""
    monkeypatch.setattr(documents, "FOLDER", tmp_path)
    old, new = (scenario([row("batchrt", cpu=[cpu])], key="chat") for cpu in (1, 2))
    kept = scenario([row("batchrt", cpu=[3])], key="items")
    documents.write(document(old, kept, date="yesterday"))
    documents.write(document(new, date="today"))
    found = documents.read("quick")
    assert found is not None
    measured = [
        (each["key"], each["cases"][0]["rows"][0]["figures"]["cpu"], each["date"])
        for each in found["scenarios"]
    ]
    assert measured == [("chat", [2], "today"), ("items", [3], "yesterday")]
    assert documents.read("full") is None
