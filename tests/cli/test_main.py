from __future__ import annotations

import subprocess
import sys

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
