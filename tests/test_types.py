"""The files in `typing/` are for mypy and pyright (`nox -s types`); here they only have to be sound."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

import batchrt

FILES = sorted((Path(__file__).parent / "typing").glob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_files_for_the_type_checkers_can_be_imported(path: Path) -> None:
    """What they name exists, and the classes they subscript can be subscripted."""
    assert runpy.run_path(str(path))["__doc__"]


def test_the_package_says_that_it_is_typed() -> None:
    """`py.typed` is there for the users' type checkers."""
    assert (Path(batchrt.__file__).parent / "py.typed").exists()
