"""The program `batchrt`: the module that its script imports first.

It stands beside the package, whose own import takes a tenth of a second: a Ctrl-C in that time would end in a
traceback before any code of the package could catch it.
"""

from __future__ import annotations

import sys
from typing import NoReturn

__all__ = ["main"]

_INTERRUPTED = 130


def main() -> NoReturn:
    """Run the command in the process's arguments and exit."""
    try:
        from batchrt.cli.entry import main as run
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
    run()
