"""Merged sources: several files are one input, and errors name the file and its row."""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import Any

import pytest

from batchrt.errors import InputError
from batchrt.files import BadRow, Source, open_sink, open_source, required_columns
from tests.files.files import json_rows, values, write


def opened(folder: Path, **files: str | bytes) -> Source:
    """Write files, whose names are given with `_` for `.`, and open them all."""
    return open_source([write(folder, name.replace("_", "."), content) for name, content in files.items()])


def test_merged_source_reads_files_in_order(tmp_path: Path) -> None:
    """Numbered throughout; each row has the columns of its file."""
    with opened(tmp_path, b_csv="id,text\n1,a\n2,b\n", a_csv="id,text\n3,c\n") as source:
        assert (source.format, source.is_table, source.delimiter) == ("csv", True, ",")
        assert source.path == f"{tmp_path}/b.csv and 1 more"
        assert source.count(10) == 3
        assert source.fraction_read == 0
        rows = list(source)
        assert source.fraction_read == 1
    assert [row.number for row in rows] == [1, 2, 3]
    assert [row.line for row in rows] == [2, 3, 2]
    assert [row.values["id"] for row in rows] == ["1", "2", "3"]


def test_merged_source_unites_columns_and_formats(tmp_path: Path) -> None:
    """Those of all files are known before the first row; compressed files are as good as others."""
    packed = gzip.compress(b'{"id": 2, "note": "n"}\n{"late": 1}\n')
    with opened(tmp_path, a_csv="id,text\n1,a\n", b_jsonl_gz=packed, c_tsv="extra\nx\n") as source:
        assert source.columns == ("id", "text", "note", "extra")
        assert source.survey() == ("id", "text", "note", "extra", "late")
        assert (source.format, source.is_table) == ("jsonl", False)
        required_columns(source, ["id", "extra"])
        with pytest.raises(InputError, match="did you mean 'note'"):
            required_columns(source, ["not"])
        found = values(list(source))
    assert found == [{"id": "1", "text": "a"}, {"id": 2, "note": "n"}, {"late": 1}, {"extra": "x"}]


def test_merged_source_of_tables_with_other_columns_is_no_table(tmp_path: Path) -> None:
    """Since a row may lack a column."""
    with opened(tmp_path, a_csv="id,text\n1,a\n", b_csv="id\n2\n") as source:
        assert (source.format, source.is_table) == ("csv", False)
    with opened(tmp_path, a_csv="id\n1\n", b_csv="text,id\n2,a\n") as source:
        assert not source.is_table


def test_merged_source_errors_name_the_file_and_its_row(tmp_path: Path) -> None:
    """Of faulty rows and of rows that lack a column; the rows around them are good."""
    with opened(tmp_path, a_jsonl='{"a":1}\n{"a":2}\n', b_jsonl='{"a":3}\nnonsense\n{"b":5}\n') as source:
        rows = list(source)
        assert [row.number for row in rows] == [1, 2, 3, 4, 5]
        [bad] = [row for row in rows if isinstance(row, BadRow)]
        assert str(bad.error).startswith(f"{tmp_path}/b.jsonl, row 2 (line 2): not valid JSON")
        lacking = source.row_error(rows[4], "no", column="a")
        assert str(lacking) == f"{tmp_path}/b.jsonl, row 3 (line 3), column 'a': no"
        assert str(source.row_error(rows[0], "no")) == f"{tmp_path}/a.jsonl, row 1 (line 1): no"


def test_merged_source_finds_an_unusable_file_at_once(tmp_path: Path) -> None:
    """Before a row of the first is read; one without content is skipped, unless all are."""
    with pytest.raises(InputError, match=r"b\.csv, header"):
        opened(tmp_path, a_csv="id\n1\n", b_csv="id,id\n2,2\n")
    with opened(tmp_path, a_csv="", b_csv="id\n2\n", c_csv="\n") as source:
        assert values(list(source)) == [{"id": "2"}]
        assert source.path.endswith("b.csv")
    with pytest.raises(InputError, match=r"a\.csv: the file is empty"):
        opened(tmp_path, a_csv="", b_csv="")
    with pytest.raises(InputError, match="no such file"):
        open_source([tmp_path / "a.csv", tmp_path / "gone.csv"])


def test_merged_source_reads_on_after_a_file_that_is_gone(tmp_path: Path) -> None:
    """Or that breaks in its middle: each is one bad row."""
    lines = "".join(f"{os.urandom(30).hex()}\n" for _ in range(9000))
    cut = gzip.compress(f"id\n{lines}".encode())[:-1000]
    with opened(tmp_path, a_csv="id\n1\n", b_csv="id\n2\n", c_csv_gz=cut, d_csv="id\n4\n") as source:
        (tmp_path / "b.csv").unlink()
        rows = list(source)
        assert source.is_broken
    bad = [row for row in rows if isinstance(row, BadRow)]
    assert len(bad) == 2
    assert "b.csv: no such file" in str(bad[0].error)
    assert "c.csv.gz, row" in str(bad[1].error)
    assert rows[-1].values == {"id": "4"}
    assert len(rows) > 8000


def test_merged_source_of_patterns(tmp_path: Path) -> None:
    """Sorted, each file once; a file of that very name comes first."""
    for name in ("c.csv", "a.csv", "b[1].csv"):
        write(tmp_path, name, f"id\n{name}\n")
    (tmp_path / "folder.csv").mkdir()
    write(tmp_path / "folder.csv", "d.csv", "id\nd.csv\n")
    with open_source([tmp_path / "c.csv", tmp_path / "*.csv"]) as source:
        assert [row.values["id"] for row in source] == ["c.csv", "a.csv", "b[1].csv"]
    with open_source(tmp_path / "**" / "d.csv") as source:
        assert values(list(source)) == [{"id": "d.csv"}]
        assert source.path.endswith("d.csv")
    with open_source(tmp_path / "b[1].csv") as source:
        assert values(list(source)) == [{"id": "b[1].csv"}]
    with pytest.raises(InputError, match="no file matches this pattern"):
        open_source(tmp_path / "*.jsonl")
    with pytest.raises(InputError, match="give it alone"):
        open_source(["-", tmp_path / "a.csv"], format="csv")
    with pytest.raises(InputError, match="there is no input"):
        open_source([])


def test_merged_source_is_none_of_the_outputs(tmp_path: Path) -> None:
    """Whichever of the files it is."""
    with opened(tmp_path, a_csv="id\n1\n", b_csv="id\n2\n") as source:
        link = tmp_path / "c.csv"
        link.symlink_to(tmp_path / "b.csv")
        for path in (link, tmp_path / "a.csv"):
            with pytest.raises(InputError, match="this is the input"):
                open_sink(path, columns=["id"], overwrite=True, source=source)


def test_merged_source_of_parquet_keeps_types_that_agree(tmp_path: Path) -> None:
    """A column with two types is one of strings."""
    pa: Any = pytest.importorskip("pyarrow")
    pq: Any = pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table({"x": pa.array([1], pa.int8()), "y": [1]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"x": pa.array([2], pa.int8()), "y": ["b"], "z": [0.5]}), tmp_path / "b.parquet")
    out = tmp_path / "out.parquet"
    with open_source(tmp_path / "?.parquet") as source:
        columns = source.survey()
        with open_sink(out, columns=columns, source=source) as sink:
            for row in source:
                sink.write(row.values, "out")
    found = pq.read_table(out)
    assert [str(kind) for kind in found.schema.types[:3]] == ["int8", "string", "double"]
    assert found.column("y").to_pylist() == ["1", "b"]


def test_merged_source_holds_one_file_open(tmp_path: Path) -> None:
    """There may be more files than a process may have open."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for number in range(300):
        write(tmp_path, f"{number:03}.jsonl", f'{{"n": {number}}}\n')
    used = len([*Path("/dev/fd").iterdir()])
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 20, hard))
    try:
        with (
            open_source(tmp_path / "*.jsonl") as source,
            open_sink(tmp_path / "out.jsonl", columns=["n"]) as sink,
        ):
            for row in source:
                sink.write(row.values)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert [row["n"] for row in json_rows(tmp_path / "out.jsonl")] == [*range(300)]
