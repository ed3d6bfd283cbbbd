"""The progress bar of a run: tqdm's, in a terminal or a notebook."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Self

from batchrt.config import RunConfig

if TYPE_CHECKING:
    from batchrt.runtime.item import Item
    from batchrt.runtime.scheduler import Deliver

__all__ = ["ProgressBar", "counted"]


class ProgressBar:
    """Show how many items have ended, and how many of them failed.

    `tqdm.auto` chooses between a terminal's bar, a notebook's widget and, where that has no widgets, text.
    Rich has bars too, but without widgets shows none in a notebook, and only one at a time.

    Args:
        total: the number of items; `None` if it is not known.
        unit: the noun of an item.

    Raises:
        ImportError: tqdm is not installed.
    """

    def __init__(self, total: int | None, unit: str = "item") -> None:
        try:
            from tqdm.auto import tqdm
        except ImportError as error:
            raise ImportError("a progress bar needs tqdm: install batchrt[progress]") from error
        self._bar: Any = tqdm(total=total, unit=unit, dynamic_ncols=True)
        self._failed = 0

    @classmethod
    def of(cls, config: RunConfig, total: int | None) -> Self | None:
        """Return the bar that `config` asks for, if it does."""
        return cls(total) if config.get("progress") else None

    def counting(self, put: Deliver) -> Deliver:
        """Return `put` such that each item it takes is counted."""

        def count(item: Item, output: Any, error: Exception | None) -> bool:
            self.show(self._bar.n + 1, self._failed + (error is not None))
            return put(item, output, error)

        return count

    def show(self, ended: int, failed: int) -> None:
        """Show so many items; tqdm draws ten times a second at most."""
        if failed != self._failed:
            self._failed = failed
            self._bar.set_postfix_str(f"{failed:,} failed", refresh=False)
        self._bar.update(ended - self._bar.n)

    def close(self) -> None:
        """Draw the bar for the last time; idempotent."""
        self._bar.close()


def counted(config: RunConfig, total: int | None, put: Deliver) -> AbstractContextManager[Deliver]:
    """Return a block that is given `put`, which counts items on a bar if `config` asks for one."""
    bar = ProgressBar.of(config, total)
    return nullcontext(put) if bar is None else _Counted(bar, put)


class _Counted(AbstractContextManager["Deliver"]):
    # A `contextmanager` sets the error's traceback, which a frozen exception refuses.

    def __init__(self, bar: ProgressBar, put: Deliver) -> None:
        self._bar = bar
        self._put = put

    def __enter__(self) -> Deliver:
        return self._bar.counting(self._put)

    def __exit__(self, *_: object) -> None:
        self._bar.close()
