"""Each layer imports from itself and the ones below it, and libraries stay in their rooms."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import batchrt

PACKAGE = Path(batchrt.__file__).parent

LAYERS = [
    {"errors", "messages", "prices"},
    {"config"},
    {"runtime"},
    {"runnables"},
    {"providers", "jobs", "testing"},
    {"cli"},
    {"__main__"},
]
"""From the bottom up; what stands side by side does not import each other."""

ROOMS = {
    "asyncio": {"runtime/event_loop.py"},
    "httpx": {"providers/http/transport.py", "testing/transport.py"},
    "pyqwest": {"providers/http/transport.py"},
    "uvicorn": {"testing/uvicorn_server.py"},
    "numpy": {"providers/embeddings/array_buffer.py"},
    "pyarrow": {"files/vectors/parquet.py"},
    "tiktoken": {"providers/embeddings/tokenizer.py"},
    "tenacity": {"runtime/retry.py", "runnables/retry.py", "providers/http/endpoint.py"},
    "typer": {"cli/"},
    "rich": {"cli/"},
}
"""Which files may import a library."""

FILES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Give the modules that a file imports, those for annotations alone left out."""
    tree = ast.parse((PACKAGE / path).read_text(encoding="utf-8"))
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def layer_of(name: str) -> int:
    return next(place for place, names in enumerate(LAYERS) if name in names)


@pytest.mark.parametrize(
    "path", [path for path in FILES if path.name != "__init__.py" or len(path.parts) > 1], ids=str
)
def test_imports_go_down(path: Path) -> None:
    """A file imports its own folder and lower layers, nothing beside or above."""
    own = path.parts[0].removesuffix(".py")
    for module in imports(path):
        if module.split(".")[0] != "batchrt":
            continue
        other = ([*module.split("."), "__init__"])[1]
        assert other == own or layer_of(other) < layer_of(own) or other == "errors", f"{path}: {module}"


@pytest.mark.parametrize("library", ROOMS)
def test_libraries_stay_in_their_rooms(library: str) -> None:
    """Only the files that the design names import a library that others must not know."""
    users = {
        path.as_posix() for path in FILES if any(module.split(".")[0] == library for module in imports(path))
    }
    strangers = {user for user in users if not any(user.startswith(room) for room in ROOMS[library])}
    assert not strangers
    assert users, f"{library} is imported nowhere: is the list of rooms out of date?"
