"""The inside of a contender's process: `python -m benchmarks.worker MODULE SETTINGS`."""

from __future__ import annotations

import json
import sys
from importlib import import_module

from benchmarks.isolation import raise_file_limit

__all__ = ["main"]


def main(module: str, settings: str) -> None:
    """Do the module's `work` and write what it returns as the last line."""
    raise_file_limit()
    result = import_module(f"benchmarks.{module}").work(json.loads(settings))
    sys.stdout.write(f"{json.dumps(result)}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
