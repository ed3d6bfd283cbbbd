"""The documents: every file that they name exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import batchrt

PACKAGE = Path(batchrt.__file__).parent
ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "benchmarks" / "README.md"]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_docs_name_files_that_exist(document: Path) -> None:
    """Paths may begin at the root of the repository or at the package; a bare name may be in any room."""
    text = document.read_text(encoding="utf-8")
    names = {path.name for folder in (PACKAGE, ROOT / "tests") for path in folder.rglob("*.py")}
    missing = {
        name
        for name in re.findall(r"[\w/]*\w\.py\b", text)
        if not (PACKAGE / name).exists() and not (ROOT / name).exists() and name not in names
    }
    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_docs_link_to_files_that_exist(document: Path) -> None:
    """Links between documents and into the code are relative."""
    links = re.findall(r"\]\(([^)#]+)", document.read_text(encoding="utf-8"))
    assert not [link for link in links if not link.startswith("https://") and not (ROOT / link).exists()]
