#!/usr/bin/env bash
# Polars 2.1.0: `pl.DataFrame` of a list of dicts, the way results of a batch become a table.
#
# A good guess: a value of row 101 that does not fit the type seen so far widens the column, or raises, as a string
# among integers does, and as the same rows do in `read_ndjson`.
# What it does: types and columns come from the first 100 rows. A float in an integer column is cut to an integer
# silently (1.9 is 1), and a member that no earlier row had is dropped: a score that was 0 or 1 a hundred times
# loses its decimals, and the `error` of the first failed row is not there.
#
# Seen: "row 101 of [{'score': 1}] * 100 + [{'score': 1.9, 'error': 'timeout'}]: {'score': 1}".
set -euo pipefail
home=$(mktemp -d); trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"; "$home/venv/bin/pip" install -q polars==2.1.0
"$home/venv/bin/python" - <<'END'
import io
import json

import polars as pl

last = {"score": 1.9, "error": "timeout"}
row = pl.DataFrame([{"score": 1}] * 100 + [last]).to_dicts()[-1]
print(f"row 101 of [{{'score': 1}}] * 100 + [{last}]: {row}")
assert row == {"score": 1}
row = pl.DataFrame([{"score": 1}] * 99 + [last]).to_dicts()[-1]
assert row == last, "one row earlier nothing is lost"

for build in (
    lambda: pl.DataFrame([{"score": 1}] * 100 + [{"score": "high"}]),
    lambda: pl.read_ndjson(io.BytesIO(b'{"score": 1}\n' * 100 + json.dumps({"score": 1.9}).encode())),
):
    try:
        build()
    except pl.exceptions.ComputeError as error:
        assert "could not append" in str(error) or "cannot parse" in str(error)
    else:
        raise SystemExit("another type was taken")
END
