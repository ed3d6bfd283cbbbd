#!/usr/bin/env bash
# pyarrow 26.0.1 (and pandas 3.1.1 on it): a folder of Parquet files, of which a later one has one column more.
#
# A good guess: the table has the columns of all files, null where a file lacks one; or the difference is an error,
# as in Polars.
# What it does: the schema is that of the first file by name, and a column that only later files have is dropped
# silently. A job that wrote its first part before the first failure has no `error` column when it is read
# back. If the first part has the column with nothing in it, its type is null, and reading fails instead.
#
# Seen: "folder: ['id'], pandas: ['id'], the second file alone: ['id', 'error']; first all null:
# ArrowNotImplementedError".
set -euo pipefail
home=$(mktemp -d); trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"; "$home/venv/bin/pip" install -q pyarrow==26.0.1 pandas==3.1.1
cd "$home"
venv/bin/python - <<'END'
import os

import pandas
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq

def write(folder, *parts):
    os.mkdir(folder)
    for number, columns in enumerate(parts):
        pq.write_table(pa.table(columns), f"{folder}/part-{number}.parquet")
    return folder

folder = write("lacking", {"id": [1]}, {"id": [2], "error": ["timed out"]})
names = pq.read_table(folder).column_names
assert pyarrow.dataset.dataset(folder).schema.names == names
with_pandas = list(pandas.read_parquet(folder).columns)
alone = pq.read_table(f"{folder}/part-1.parquet").column_names
print(f"folder: {names}, pandas: {with_pandas}, the second file alone: {alone}", end="; ")
assert (names, with_pandas, alone) == (["id"], ["id"], ["id", "error"])

folder = write("null", {"id": [1], "error": [None]}, {"id": [2], "error": ["timed out"]})
try:
    pq.read_table(folder)
except pa.ArrowNotImplementedError as error:
    print(f"first all null: {type(error).__name__}: {error}")
else:
    raise SystemExit("a null column was read as strings")
END
