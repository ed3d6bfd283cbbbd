"""Arrow: the library, imported when it is needed."""

from __future__ import annotations

from typing import Any

__all__ = ["pyarrow"]


def pyarrow(use: str = "a .parquet file", instead: str = "") -> Any:
    """Return pyarrow, with its `parquet` and `compute`.

    Args:
        use: for what it is needed, for the error.
        instead: what else could be done.

    Raises:
        ImportError: it is not installed; says what to install.
    """
    try:
        import pyarrow as pa
        import pyarrow.compute
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(f"{use} needs pyarrow: install batchrt[parquet]{instead}") from error
    return pa
