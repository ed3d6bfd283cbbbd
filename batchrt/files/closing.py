"""What is closed at the end of a `with` block."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import nullcontext, suppress
from types import TracebackType
from typing import Self

from batchrt.errors import OutputError

__all__ = ["Closing"]


class Closing(ABC):
    """Be an output that leaving a `with` block closes."""

    @abstractmethod
    def close(self) -> None:
        """Write what is left and close the file; raises OutputError."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # What ended the block, a cancellation say, must not be hidden by what it led to.
        with nullcontext() if error is None else suppress(OutputError):
            self.close()
