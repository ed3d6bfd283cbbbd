"""Console output: messages on stderr, and numbers as people read them."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import Final

import typer

from batchrt.files.cells import shorten

__all__ = ["complain", "count", "duration", "money", "rate", "say", "short", "size"]

_MINUTE: Final = 60
_HOUR: Final = 3600


def count(number: int, noun: str) -> str:
    """Return `1 row`, `10,000 rows`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def short(number: int) -> str:
    """Return `950`, `12.3k`, `4.56M`."""
    value, unit = float(number), ""
    for unit in ("", "k", "M", "G"):
        if value < 999.5 or unit == "G":  # noqa: PLR2004  would be shown as 1000
            break
        value /= 1000
    return f"{value:.3g}{unit}" if unit else str(number)


def size(path: str) -> str:
    """Return `950 B`, `12.3 MB`: the size of a file; of one that is not there `0 B`."""
    number = 0
    with contextlib.suppress(OSError):
        number = Path(path).stat().st_size
    shown = short(number)
    return f"{shown} B" if shown.isdecimal() else f"{shown[:-1]} {shown[-1].replace('k', 'K')}B"


def money(amount: float) -> str:
    """Return `4.98`, `1,250.00`, `0.00312`: an amount in any currency, of small ones three digits."""
    if amount >= 1 or amount <= 0:
        return f"{amount:,.2f}"
    return f"{amount:.{2 - math.floor(math.log10(amount))}f}"


def rate(per_second: float) -> str:
    """Return `0.42/s`, `37/s`, `2,480/s`."""
    return f"{per_second:.2g}/s" if per_second < 10 else f"{per_second:,.0f}/s"  # noqa: PLR2004


def duration(seconds: float) -> str:
    """Return `4 s`, `2:05` (minutes), `1:02:05`."""
    whole = round(seconds)
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        return f"{whole // _MINUTE}:{whole % _MINUTE:02}"
    return f"{whole // _HOUR}:{whole % _HOUR // _MINUTE:02}:{whole % _MINUTE:02}"


_LONGEST: Final = 1200
"""Characters: less than a terminal of 80 times 24 shows at once."""


def say(text: str) -> None:
    """Write `text` to stderr; a stderr that has gone is no reason to fail."""
    with contextlib.suppress(OSError):
        typer.echo(text, err=True)


def complain(text: str) -> None:
    """Write a warning or an error to stderr, in one line; a very long one is cut in the middle."""
    say(f"batchrt: {shorten(' '.join(text.split()), _LONGEST)}")
