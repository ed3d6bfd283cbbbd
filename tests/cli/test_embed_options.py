"""Messages of `batchrt embed` about mistakes in its options and about its output."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.cli.conftest import Command
from tests.cli.embedder import VECTORS, new_table, written


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Hold `ROWS`."""
    return new_table(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--column", "tex"], "no column 'tex', did you mean 'text'? (it has: key, text)"),
        (["--column", "text", "--id", "kay"], "no column 'kay', did you mean 'key'?"),
        (["--column", "text", "--timeout", "0"], "--timeout must be a number of seconds above 0, not 0"),
        (
            ["--column", "text", "--requests-per-minute", "0"],
            "--requests-per-minute must be a number above 0, not 0",
        ),
        (["--column", "text", "--rpm", "inf"], "--requests-per-minute must be a number above 0, not inf"),
        (["--column", "text", "--tpm", "nan"], "--tokens-per-minute must be a number above 0, not nan"),
        (
            ["--column", "text", "--patience", "-1"],
            "--patience must be a number of seconds, 0 or more, not -1",
        ),
        (
            ["--column", "text", "--max-wait", "inf"],
            "--max-wait must be a number of seconds, 0 or more, not inf",
        ),
        (["--column", "text", "--truncate", "0"], "--truncate must be auto or a number of tokens, not '0'"),
        (["--column", "text", "--truncate", "yes"], "--truncate must be auto or a number of tokens"),
        (["--column", "text", "-o", "v.csv"], "name it .npy, .parquet or .jsonl, or say which with --output"),
        (["--column", "text", "-o", "no/v.npy"], "there is no folder 'no'"),
        (["--column", "text", "-o", "{table}", "--output-format", "npy"], "this is the input"),
        (["--column", "text", "--output-format", "npy"], "stdout takes jsonl only; name a file for npy"),
        (["--column", "text", "--model", "m"], "there is no API key; set OPENAI_API_KEY"),
        (["--column", "text", "--base-url", "ftp://x"], "--base-url must be a URL"),
        (["--column", "text", "--server", "word2vec"], "--server"),
        ([], "Missing option '--column' or '--text' (see batchrt embed --help)"),
    ],
)
def test_embed_mistakes_are_told_before_anything_is_sent(
    command: Command, table: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    """One line, exit code 2, and no file is made."""
    monkeypatch.chdir(table.parent)
    given = [argument.replace("{table}", str(table)) for argument in arguments]
    if "--model" not in given and "--base-url" not in given:
        given += ["--model", "mock"]
    result = command("embed", table, *given)
    assert result.code == 2
    assert words in result.complaint
    assert list(table.parent.iterdir()) == [table]


@pytest.mark.parametrize(
    ("module", "arguments", "words"),
    [
        ("pyarrow", ["-o", "v.parquet"], "a .parquet file needs pyarrow: install batchrt[parquet]"),
        ("tiktoken", ["--tokenizer", "tiktoken"], "install batchrt[tiktoken]"),
    ],
)
def test_embed_missing_extra_is_named(
    command: Command,
    table: Path,
    monkeypatch: pytest.MonkeyPatch,
    module: str,
    arguments: list[str],
    words: str,
) -> None:
    """Before anything is sent."""
    monkeypatch.chdir(table.parent)
    monkeypatch.setitem(sys.modules, module, None)
    result = command("embed", table, "--column", "text", "--model", "mock", *arguments)
    assert result.code == 2
    assert words in result.complaint
    assert list(table.parent.iterdir()) == [table]


@pytest.mark.parametrize("name", ["v.npy", "v.jsonl"])
def test_embed_numpy_is_not_needed(table: Path, tmp_path: Path, name: str) -> None:
    """In a process of its own, where there is none."""
    arguments = ["embed", str(table), "--column", "text", "--model", "mock", "-q", "-o", name]
    program = f"""
import sys
sys.modules["numpy"] = None
from batchrt.cli.main import main
main({arguments!r})
"""
    subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    if name == "v.npy":
        found = np.load(tmp_path / name)
    else:
        rows = written((tmp_path / name).read_text())
        found = np.array([row["embedding"] for row in rows], dtype=np.float32)
    assert np.array_equal(found, VECTORS)


@pytest.mark.parametrize("name", ["v.npy", "v.ids.jsonl"])
def test_embed_file_that_is_there_is_kept_unless_told_otherwise(
    command: Command, table: Path, tmp_path: Path, name: str
) -> None:
    """Also the one beside the matrix: it may have been paid for."""
    arguments = ["embed", table, "--column", "text", "--model", "mock", "-o", tmp_path / "v.npy"]
    (tmp_path / name).write_text("precious")
    refused = command(*arguments)
    assert refused.code == 2
    assert f"{tmp_path / name}: the file exists already" in refused.complaint
    assert (tmp_path / name).read_text() == "precious"
    assert command(*arguments, "--overwrite").code == 0
    assert np.array_equal(np.load(tmp_path / "v.npy"), VECTORS)


@pytest.mark.parametrize("kind", ["npy", "parquet", "jsonl"])
def test_embed_empty_input_makes_an_empty_output(command: Command, tmp_path: Path, kind: str) -> None:
    """A header alone is a table without rows."""
    path, out = tmp_path / "in.csv", tmp_path / f"v.{kind}"
    path.write_text("text\n")
    result = command("embed", path, "--column", "text", "--model", "mock", "-o", out)
    assert result.code == 0
    assert "0 rows in " in result.err
    if kind == "npy":
        assert np.load(out).shape == (0, 0)
    elif kind == "parquet":
        assert pytest.importorskip("pyarrow.parquet").read_table(out).num_rows == 0
    else:
        assert out.read_text() == ""


def test_embed_reader_that_has_gone_ends_it_quietly(
    command: Command, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `| head` does; the exit code is the shell's for a broken pipe."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as gone:
        monkeypatch.setattr(sys, "stdout", gone)
        result = command("embed", table, "--column", "text", "--model", "mock")
    assert result == (141, "", "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_embed_full_disk_is_one_line(command: Command, table: Path, kind: str) -> None:
    """And no traceback."""
    arguments = ["--model", "mock", "-o", "/dev/full", "--output-format", kind]
    result = command("embed", table, "--column", "text", *arguments)
    assert result.code == 4
    assert result.complaint.startswith("/dev/full: cannot write: no space left on device")
