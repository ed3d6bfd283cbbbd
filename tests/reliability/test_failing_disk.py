"""Jobs whose calls to the system fail one by one: no row is lost or run twice, and errors name the file."""

from __future__ import annotations

import pytest

from tests.reliability.conftest import Figure
from tests.reliability.failing_disk import CASES, can_fail, run_in_child

pytestmark = pytest.mark.skipif(not can_fail(), reason="needs Linux and a C compiler")


@pytest.mark.parametrize(
    ("case", "code", "lasting", "stride"),
    [
        ("unordered csv", "ENOSPC", "lasting", 4),
        *(
            pytest.param(case, code, lasting, 1, marks=pytest.mark.long)
            for case in CASES
            for code in ("ENOSPC", "EIO", "EDQUOT", "EROFS")
            for lasting in ("once", "lasting")
        ),
    ],
)
def test_failing_disk_loses_no_row(case: str, code: str, lasting: str, stride: int, figure: Figure) -> None:
    """Whichever call of SQLite's, Arrow's or Python's fails; the next run completes the job."""
    figure(calls_that_failed=run_in_child(case, code, lasting, stride) // stride)
