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


def test_pytest_plugin_provides_the_fixtures(tmp_path: Path) -> None:
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


def test_pytest_plugin_imports_nothing_heavy() -> None:
    """No HTTP library, no server and no schema library."""
    program = """
        import sys, pytest
        before = set(sys.modules)
        import batchrt.testing.pytest_plugin
        print(*sorted({name.split(".")[0] for name in set(sys.modules) - before}))
    """
    run = python("-c", textwrap.dedent(program))
    assert run.stderr == ""
    # AnyIO is a pytest plugin itself, so it is there in any case.
    heavy = {"httpx", "httpcore", "httptools", "uvicorn", "pydantic", "pydantic_core", "trio"}
    assert not heavy & set(run.stdout.split())


ASYNC_TESTS = """
    import asyncio
    import pytest
    from batchrt import ChatOpenAI, StrOutputParser

    def build_chain(model):
        return model | StrOutputParser()

    async def test_my_chain(mock_provider):
        chain = build_chain(ChatOpenAI("any", base_url="http://mock/v1", transport=mock_provider.transport()))
        assert len(await chain.abatch(["a", "b"])) == 2
        assert mock_provider.log.snapshot().peak_in_flight <= 2

    async def test_on_a_port(mock_server):
        chain = build_chain(ChatOpenAI("any", base_url=mock_server.base_url))
        assert len(await chain.abatch(["a", "b"])) == 2

    class TestMethods:
        @pytest.mark.parametrize("text", ["a", "b"])
        async def test_it(self, text, mock_provider):
            asyncio.get_running_loop()
            model = ChatOpenAI("any", base_url="http://mock/v1", transport=mock_provider.transport())
            await model.ainvoke(text)

    def test_sync(mock_provider):
        model = ChatOpenAI("any", base_url="http://mock/v1", transport=mock_provider.transport())
        assert len(model.batch(["a", "b"])) == 2

    @pytest.mark.xfail(strict=True, raises=LookupError)
    async def test_that_fails(mock_provider):
        raise LookupError
"""


def test_pytest_plugin_runs_async_tests_with_its_fixtures(tmp_path: Path) -> None:
    """As the README shows it, under plain pytest."""
    (tmp_path / "test_async.py").write_text(textwrap.dedent(ASYNC_TESTS))
    run = python("-m", "pytest", "-q", "-p", "batchrt.testing.pytest_plugin", cwd=tmp_path)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "5 passed, 1 xfailed" in run.stdout


def test_pytest_plugin_leaves_other_async_tests_alone(tmp_path: Path) -> None:
    """AnyIO runs those with its marker; those without our fixtures are pytest's own."""
    (tmp_path / "test_async.py").write_text(
        textwrap.dedent("""
            import pytest

            @pytest.fixture
            def anyio_backend():
                return "trio"

            @pytest.mark.anyio
            async def test_marked(mock_provider):
                import trio
                assert trio.lowlevel.in_trio_run()

            async def test_of_nobody():
                pass
        """)
    )
    plugins = ("-p", "anyio", "-p", "batchrt.testing.pytest_plugin")
    run = python("-m", "pytest", "-q", *plugins, cwd=tmp_path)
    assert "1 failed, 1 passed" in run.stdout, run.stdout + run.stderr
    assert "async def functions are not natively supported" in run.stdout
