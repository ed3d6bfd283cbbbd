"""The files in `typing/` are for mypy and pyright (`nox -s types`); here they only have to be importable."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

import batchrt

FILES = sorted((Path(__file__).parent / "typing").glob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_types_files_can_be_imported(path: Path) -> None:
    """Their names exist, and their subscripted classes can be subscripted."""
    assert runpy.run_path(str(path))["__doc__"]


def test_types_marker_is_in_the_package() -> None:
    """`py.typed` is there for type checkers."""
    assert (Path(batchrt.__file__).parent / "py.typed").exists()
