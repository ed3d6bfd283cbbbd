"""The command line, as `python -m batchrt`."""

from __future__ import annotations

from batchrt.cli.entry import main

if __name__ == "__main__":
    main()
