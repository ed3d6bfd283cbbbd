"""The entry point of the program, which imports the rest of it."""

from __future__ import annotations

import gc
import sys
from typing import Final, NoReturn

__all__ = ["main"]

_INTERRUPTED: Final = 130


def main() -> NoReturn:
    """Run the command in the process's arguments and exit; Ctrl-C while it imports leaves no traceback."""
    try:
        from batchrt.cli.main import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
    finally:
        # The interpreter's last collections walk over the objects of all modules, and find nothing that the
        # end of the process would not free: 0.1 s, and half a second on a busy machine, after Ctrl-C too.
        gc.freeze()
