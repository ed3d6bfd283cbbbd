#!/usr/bin/env bash
# pyarrow 26.0.1 and polars 2.1.0: a data frame taken over by the Arrow stream that both have (`pa.table(frame)`).
#
# A good guess: the table is the one of `frame.to_arrow()`, and can be filtered, sorted, compared and written.
# What it does: the stream has texts as `string_view`, for which pyarrow can build and print columns but has no kernels:
# `filter`, `take`, `sort_by`, `==` and `utf8_upper` raise, and with a categorical column so does `write_table`.
# `frame.to_arrow()` has `large_string`, with which all of it works.
#
# Seen: "stream: string_view, failing: filter take sort equal upper write" and "to_arrow: large_string, failing: -".
set -euo pipefail
home=$(mktemp -d); trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"; "$home/venv/bin/pip" install -q pyarrow==26.0.1 polars==2.1.0
cd "$home"
venv/bin/python - <<'END'
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

frame = pl.DataFrame({"s": ["b", "a"], "c": pl.Series(["x", "y"], dtype=pl.Categorical), "n": [1, 2]})
seen = {}
for name, table in {"stream": pa.table(frame), "to_arrow": frame.to_arrow()}.items():
    steps = {
        "filter": lambda: table.filter(pc.greater(table["n"], 1)),
        "take": lambda: table.take([0]),
        "sort": lambda: table.sort_by("s"),
        "equal": lambda: pc.equal(table["s"], "a"),
        "upper": lambda: pc.utf8_upper(table["s"]),
        "write": lambda: pq.write_table(table, "a.parquet"),
    }
    failing = []
    for step, call in steps.items():
        try:
            call()
        except (pa.ArrowNotImplementedError, pa.ArrowTypeError):
            failing.append(step)
    seen[name] = (str(table.schema.field("s").type), failing)
    print(f"{name}: {seen[name][0]}, failing: {' '.join(failing) or '-'}")
assert seen["stream"] == ("string_view", ["filter", "take", "sort", "equal", "upper", "write"])
assert seen["to_arrow"] == ("large_string", [])
END
