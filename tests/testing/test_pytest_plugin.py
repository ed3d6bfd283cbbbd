from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import batchrt.testing

ROOT = str(Path(batchrt.testing.__file__).parents[2])


def python(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": ROOT, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_users_get_the_fixtures(tmp_path: Path) -> None:
    """Both work as they are, and the server serves an overridden provider."""
    (tmp_path / "test_plain.py").write_text(
        textwrap.dedent("""
            import httpx

            def test_server(mock_server, mock_provider):
                assert mock_server.provider is mock_provider
                assert httpx.get(f"{mock_server.base_url}/models").status_code == 200
                assert mock_provider.log.snapshot().requests == 1
        """)
    )
    (tmp_path / "test_overridden.py").write_text(
        textwrap.dedent("""
            import httpx
            import pytest
            from batchrt.testing import MockProvider

            @pytest.fixture
            def mock_provider():
                return MockProvider(models=["mine"])

            def test_server(mock_server):
                models = httpx.get(f"{mock_server.base_url}/models").json()["data"]
                assert [model["id"] for model in models] == ["mine"]
        """)
    )
    run = python("-m", "pytest", "-q", "-p", "batchrt.testing.pytest_plugin", cwd=tmp_path)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "2 passed" in run.stdout


def test_the_plugin_costs_those_nothing_who_do_not_use_it() -> None:
    """Importing it brings in no HTTP library, no server and no schema library."""
    program = """
        import sys, pytest
        before = set(sys.modules)
        import batchrt.testing.pytest_plugin
        print(*sorted({name.split(".")[0] for name in set(sys.modules) - before}))
    """
    run = python("-c", textwrap.dedent(program))
    assert run.stderr == ""
    # AnyIO is a pytest plugin itself, so it is there in any case.
    heavy = {"httpx", "httpcore", "pyqwest", "uvicorn", "pydantic", "pydantic_core", "trio"}
    assert not heavy & set(run.stdout.split())
