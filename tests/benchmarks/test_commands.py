"""The commands of the benchmarks that documents name: each tells what it does, whatever is installed."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from benchmarks.pages.refusals import render
from benchmarks.studies import refusals

ROOT = Path(__file__).parent.parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "benchmarks" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMED = {
    name
    for document in DOCUMENTS
    for name in re.findall(r"python -m (benchmarks[a-z_.]*)", document.read_text(encoding="utf-8"))
}
COMMANDS = sorted({*NAMED, "benchmarks", "benchmarks.studies"})


def _run(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command as in a checkout: the repository is the folder, in a terminal of 80 columns."""
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "80"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def _first_line(module: str) -> str:
    path = ROOT.joinpath(*module.split("."))
    path = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
    told = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert told is not None
    return told.partition("\n")[0]


@pytest.mark.parametrize("module", COMMANDS)
def test_command_tells_what_it_does(module: str) -> None:
    """`--help` needs none of the libraries that are measured, and keeps the examples' lines."""
    done = _run(module, "--help")
    assert done.returncode == 0, done.stderr
    assert f"usage: python -m {module} " in done.stdout
    assert _first_line(module) in done.stdout


def test_command_benchmarks_readme_names_each() -> None:
    """A study that another page cites is described beside the others."""
    told = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    assert {name for name in NAMED if name not in told} == set()


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("benchmarks.shared_quota", ["simulate"]),
        ("benchmarks.studies.langchain_chains", ["10", "chain"]),
        ("benchmarks.studies.refusals", ["--render", "rate"]),
    ],
)
def test_command_refuses_words_it_does_not_know(module: str, arguments: list[str]) -> None:
    """The message names the word, before anything is measured."""
    done = _run(module, *arguments)
    assert done.returncode == 2
    assert arguments[-1] in done.stderr
    assert "Traceback" not in done.stderr


def test_command_refusals_renders_the_page_of_its_results(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--render` measures nothing, and writes the page that is committed."""
    (tmp_path / "docs").mkdir()
    monkeypatch.setattr(refusals, "measure", None)
    monkeypatch.setattr(refusals, "render", partial(render, tmp_path))
    assert refusals.main(["--render"]) == 0
    assert "wrote docs/refusals.md" in capsys.readouterr().err
    committed = (ROOT / "docs" / "refusals.md").read_text(encoding="utf-8")
    assert (tmp_path / "docs" / "refusals.md").read_text(encoding="utf-8") == committed
