"""Fixtures of jobs: a provider that counts, and the path of a journal."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.jobs.chains import Answers


@pytest.fixture
def answers() -> Answers:
    return Answers()


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "job.journal"
