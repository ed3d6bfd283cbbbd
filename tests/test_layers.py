"""Each layer imports from itself and the ones below it, and libraries stay in their rooms."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import batchrt

PACKAGE = Path(batchrt.__file__).parent

LAYERS = [
    {"tool_calls"},
    {"errors", "messages", "prices", "cache_file", "fork_guard"},
    {"response_cache"},
    {"config"},
    {"runtime"},
    {"limits", "batching"},
    {"runnables"},
    {"providers", "files", "testing"},
    {"jobs"},
    {"__init__"},
    {"integrations"},
    {"cli"},
    {"__main__"},
]
"""From the bottom up; what stands side by side does not import each other. `__init__`: the public names."""

INTERNAL = LAYERS[0] | LAYERS[1] | LAYERS[2] | LAYERS[3] | LAYERS[4] | LAYERS[5] | LAYERS[6]
"""The layers that the command line reaches by the public names alone, as every other user does."""

PROVIDERS = [{"http"}, {""}, {"chat", "completions", "embeddings"}]
"""The same inside of `providers/`; "" are the modules that all models share."""

ROOMS = {
    "asyncio": {"runtime/event_loop.py", "providers/http/asyncio_connection.py"},
    "httpx": {
        "providers/http/httpx_channels.py",
        "providers/http/httpx_mocks.py",
        "providers/http/httpx_transport.py",
        "testing/serving/transport.py",
    },
    "httptools": {"providers/http/response_parser.py"},
    "uvicorn": {"testing/serving/uvicorn_server.py"},
    "numpy": {"providers/embeddings/arrays.py", "jobs/page/"},
    "matplotlib": {"jobs/page/pictures.py"},
    "jinja2": {"jobs/page/page.py"},
    "pyarrow": {"files/arrow.py", "runtime/outcome_table.py", "integrations/ray/"},
    "pandas": {"runtime/outcome_table.py"},
    "fsspec": {"files/remote.py"},
    "tiktoken": {"providers/embeddings/tokenizer.py"},
    "genai_prices": {"providers/published_prices.py"},
    "tqdm": {"runtime/progress_bar.py"},
    "tenacity": {"runtime/retry.py", "runnables/retry.py", "providers/http/endpoint.py"},
    "sqlite3": {"jobs/", "cache_file.py", "response_cache.py", "limits/shared/sqlite_carrier.py"},
    "redis": {"limits/shared/redis_carrier.py"},
    "langchain_core": {"integrations/langchain/"},
    "langchain_openai": {"integrations/langchain/"},
    "openai": {"integrations/langchain/"},
    "ray": {"integrations/ray/"},
    "opentelemetry": {"integrations/opentelemetry/"},
    "typer": {"cli/"},
    "rich": {"cli/"},
}
"""Which files may import a library."""

SHARED_NAMES = {"_make", "_step"}
"""A named tuple's own; and how a runnable makes its `Step`, which every kind of runnable overrides."""

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


@pytest.mark.parametrize("path", [path for path in FILES if path.parts[0] == "cli"], ids=str)
def test_imports_of_the_command_line_are_public(path: Path) -> None:
    """It stands on `batchrt`'s names, files, the mock provider, and modules of options of providers."""
    tree = ast.parse((PACKAGE / path).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "batchrt":
            assert {alias.name for alias in node.names} <= set(batchrt.__all__)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("batchrt."):
            other = (node.module or "").split(".")[1]
            assert other not in INTERNAL, f"{path}: {node.module}"


@pytest.mark.parametrize("path", [path for path in FILES if path.parts[0] == "providers"], ids=str)
def test_imports_of_providers_go_down(path: Path) -> None:
    """HTTP knows no model, and no kind of model knows another."""

    def room(parts: Sequence[str]) -> str:
        return parts[1] if len(parts) > 1 and (PACKAGE / "providers" / parts[1]).is_dir() else ""

    def level(name: str) -> int:
        return next(place for place, names in enumerate(PROVIDERS) if name in names)

    own = room(path.parts)
    for module in imports(path):
        if module.startswith("batchrt.providers"):
            other = room(module.split(".")[1:])
            assert other == own or level(other) < level(own), f"{path}: {module}"


def private_names(tree: ast.AST) -> tuple[set[str], set[str]]:
    """Give the private names that a module defines, and the private attributes that it uses."""
    defined, used = set(), set()
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr=name, ctx=ast.Store()) | ast.Name(id=name, ctx=ast.Store()):
                defined.add(name)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                defined.add(name)
            case ast.AnnAssign(target=ast.Name(id=name)) | ast.Constant(value=str(name)):
                defined.add(name)  # a constant may be one of `__slots__`
            case ast.Attribute(attr=name):
                used.add(name)
            case ast.ImportFrom(module=module) if (module or "").startswith("batchrt"):
                used.update(alias.name for alias in node.names)
            case _:
                pass
    return defined, {name for name in used if name.startswith("_") and not name.startswith("__")}


def test_private_names_stay_in_their_package() -> None:
    """A private name is used by the package that defines it, and by no other of ours."""
    defined: dict[str, set[str]] = {}
    used: dict[tuple[str, Path], set[str]] = {}
    for path in FILES:
        own = path.parts[0].removesuffix(".py")
        names, uses = private_names(ast.parse((PACKAGE / path).read_text(encoding="utf-8")))
        defined.setdefault(own, set()).update(names)
        used[own, path] = uses
    everything = set().union(*defined.values())
    strays = {
        f"{path}: {name}"
        for (own, path), names in used.items()
        for name in (names - defined[own]) & everything
        if name not in SHARED_NAMES
    }
    assert not strays


@pytest.mark.parametrize("library", ROOMS)
def test_libraries_stay_in_their_rooms(library: str) -> None:
    """Only the files that the design names import a library that others must not know."""
    users = {
        path.as_posix() for path in FILES if any(module.split(".")[0] == library for module in imports(path))
    }
    strangers = {user for user in users if not any(user.startswith(room) for room in ROOMS[library])}
    assert not strangers
    assert users, f"{library} is imported nowhere: is the list of rooms out of date?"
