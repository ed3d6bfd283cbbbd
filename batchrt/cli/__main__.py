"""What `python -m batchrt.cli` runs."""

from __future__ import annotations

from batchrt.cli.main import main

main()
