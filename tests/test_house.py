"""The house stays readable: modules and functions of a size to take in at once, prose in plain terms."""

from __future__ import annotations

import ast
import io
import re
import statistics
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import batchrt

PACKAGE = Path(batchrt.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

MODULE_LINES = 450
FUNCTION_LINES = 40
MEDIAN_FUNCTION_LINES = 6
WORDS_IN_1000 = {("what",): 3.0, ("who", "whoever", "nobody", "whom"): 1.0}
"""Pronouns in place of a technical noun; trio and anyio have them once in 1,000 words."""


def functions(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield each function's name and the lines of its body, without its docstring."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node, clean=False) is not None else node.body
            yield node.name, (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def prose(source: str) -> Iterator[str]:
    """Yield the docstrings, those of attributes included, and the comments."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and not re.match(r"# (noqa|type:|pragma|pyright)", token.string):
            yield token.string
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            yield node.value.value


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_house_modules_and_functions_are_short(path: Path) -> None:
    """A module holds one noun, and a function fits on half a screen; a constructor may list more."""
    source = path.read_text(encoding="utf-8")
    assert source.count("\n") <= MODULE_LINES
    long = {name: lines for name, lines in functions(ast.parse(source)) if lines > FUNCTION_LINES}
    assert not {name: lines for name, lines in long.items() if name != "__init__"}


def test_house_median_function_is_six_lines() -> None:
    """Half of all functions have six lines or fewer."""
    lines = [lines for path in FILES for _, lines in functions(ast.parse(path.read_text(encoding="utf-8")))]
    assert statistics.median(lines) <= MEDIAN_FUNCTION_LINES


@pytest.mark.parametrize("words", WORDS_IN_1000, ids="-".join)
def test_house_prose_names_its_subjects(words: tuple[str, ...]) -> None:
    """Docstrings and comments have a technical noun where a pronoun could stand."""
    text = " ".join(part for path in FILES for part in prose(path.read_text(encoding="utf-8")))
    found = Counter(re.findall(r"[a-z']+", text.lower()))
    assert 1000 * sum(found[word] for word in words) / found.total() <= WORDS_IN_1000[words]
