from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest

from tests.cli.conftest import Command


def test_main_version_is_shown(command: Command) -> None:
    """On stdout, and that is no failure."""
    result = command("--version")
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("batchrt")


def test_main_help_names_every_command(command: Command) -> None:
    """On stdout; without a command the exit code is 2."""
    asked, bare = command("--help"), command()
    assert (asked.code, bare.code) == (0, 2)
    assert asked.out == bare.out
    assert "run " in asked.out
    assert "embed " in asked.out
    assert "mock " in asked.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["walk"], "No such command 'walk'"),
        (["run"], "Missing argument 'INPUT' (see batchrt run --help)"),
        (["run", "x.csv"], "Missing option '--prompt'"),
        (["run", "x.csv", "--prompt", "a", "--promt", "b"], "No such option: --promt"),
        (
            ["run", "x.csv", "--prompt", "a", "-c", "0"],
            "--max-concurrency must be a positive whole number or",
        ),
        (["run", "x.csv", "--prompt", "a", "-c", "-5"], "or auto, not '-5'"),
        (["embed", "x.csv", "--column", "a", "-c", "many"], "or auto, not 'many'"),
        (["run", "x.csv", "--prompt", "a", "--rpm", "many"], "--requests-per-minute"),
        (["run", "x.csv", "--prompt", "a", "--format", "xlsx"], "'csv', 'tsv', 'jsonl'"),
        (["run", "x.csv", "--prompt", "a", "--limit", "0"], "--limit"),
        (["run", "x.csv", "--prompt", "a", "--api-key", "k"], "No such option: --api-key"),
        (["embed", "x.csv"], "Missing option '--column' or '--text' (see batchrt embed --help)"),
        (["embed", "x.csv", "--column", "a", "--server", "word2vec"], "'openai', 'azure', 'tei'"),
        (["mock", "--faults", "2"], "--faults"),
    ],
)
def test_main_mistake_is_one_line(command: Command, arguments: list[str], words: str) -> None:
    """It names the option, and the exit code is 2."""
    result = command(*arguments)
    assert result.code == 2
    assert words in result.complaint


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["embed", "--help"], ["run", "no.csv"]])
def test_main_asking_and_mistaking_cost_no_client(arguments: list[str]) -> None:
    """A help page is shown without importing an HTTP library."""
    program = (
        "import sys; from batchrt.cli.main import main\n"
        f"try: main({arguments!r})\n"
        "except SystemExit: pass\n"
        "print({'httpx', 'numpy', 'pyarrow', 'httptools', 'uvicorn', 'pytest'} & sys.modules.keys())"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "set()"


SAYING = (
    ["--help"],
    ["--version"],
    ["config"],
    ["run", "--help"],
    ["run", "{rows}", "-p", "{n}", "-m", "mock", "--dry-run"],
)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("arguments", SAYING, ids=" ".join)
def test_main_full_stdout_is_one_line(arguments: list[str], tmp_path: Path) -> None:
    """And exit code 4, as for an output that cannot be written."""
    with open("/dev/full", "wb") as full:
        ended = told(arguments, tmp_path, full)
    assert ended.stderr == "batchrt: stdout: cannot write: no space left on device\n"
    assert ended.returncode == 4


@pytest.mark.parametrize("arguments", SAYING, ids=" ".join)
def test_main_reader_that_has_gone_ends_it_quietly(arguments: list[str], tmp_path: Path) -> None:
    """With the exit code of a broken pipe, which no other ending has."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as gone:
        ended = told(arguments, tmp_path, gone)
    assert (ended.returncode, ended.stderr) == (141, "")


def told(arguments: list[str], folder: Path, stdout: IO[bytes]) -> subprocess.CompletedProcess[str]:
    rows = folder / "in.jsonl"
    rows.write_text('{"n": 1}\n')
    command = [sys.executable, "-m", "batchrt", *(each.replace("{rows}", str(rows)) for each in arguments)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BATCHRT_")}
    return subprocess.run(
        command, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False, cwd=folder, env=environment
    )
