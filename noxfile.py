"""The project's chores. `nox` alone does what CI does: lint, types, tests on every Python there is."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nox

PYTHONS = ["3.11", "3.12", "3.13"]
NEWER_PYTHONS = ["3.13t", "3.14", "3.14t"]
"""Pythons that `nox -s newer` tests where they are installed; not a part of CI, for its time."""
SAME_ON_ALL = ["tests/test_docs.py", "tests/test_house.py", "tests/test_layers.py", "tests/benchmarks"]
"""Tests of texts, of names and of the benchmarks: the whole suite runs them on the first Python alone."""
COVERED = {"batching": 97, "limits": 95, "runtime": 97}
"""Percent of the lines and branches of a package that the tests reach, at the least."""
PROJECT = nox.project.load_toml("pyproject.toml")

SMOKE = """
from batchrt import RunnableLambda
from batchrt.testing import MockProvider

async def double(value):
    return value * 2

assert RunnableLambda(double).batch(range(3)) == [0, 2, 4]
assert MockProvider().transport() is not None
"""

nox.needs_version = ">=2025.2.9"
nox.options.sessions = ["lint", "types", "pythons"]
nox.options.error_on_missing_interpreters = False
nox.options.reuse_existing_virtualenvs = True


def _offer_all_of_pyenv() -> None:
    """Let pyenv's shims serve every version that is installed, not only the selected one."""
    if "PYENV_VERSION" in os.environ or shutil.which("pyenv") is None:
        return
    selected = subprocess.run(["pyenv", "version-name"], check=False, capture_output=True, text=True)
    present = subprocess.run(["pyenv", "versions", "--bare"], check=False, capture_output=True, text=True)
    if selected.returncode == 0 and present.returncode == 0:
        versions = [*selected.stdout.strip().split(":"), *present.stdout.split()]
        os.environ["PYENV_VERSION"] = ":".join(dict.fromkeys(versions))


_offer_all_of_pyenv()


def _group(name: str) -> list[str]:
    return list(nox.project.dependency_groups(PROJECT, name))


def _install_wheel(session: nox.Session, *extras: str) -> None:
    """Install what users will get: the built wheel, not the tree."""
    folder = Path(session.create_tmp()) / "wheel"
    shutil.rmtree(folder, ignore_errors=True)
    session.run(
        "python", "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), ".", silent=True
    )
    wheel = next(folder.glob("batchrt-*.whl"))
    session.install("--force-reinstall", "--no-deps", str(wheel))
    session.install(f"{wheel}[{','.join(extras)}]" if extras else str(wheel))


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the tests against the built wheel; arguments go to pytest."""
    _install_wheel(session, "trio", "uvloop", "mock")
    session.install(*_group("test"))
    whole = not session.posargs and session.python != PYTHONS[0]
    session.run("pytest", *(f"--ignore={path}" for path in SAME_ON_ALL if whole), *session.posargs)


@nox.session
def pythons(session: nox.Session) -> None:
    """Run `tests` on all Pythons at the same time: the tests wait more than they work."""
    folder = Path(session.create_tmp())
    running: list[tuple[str, Path, subprocess.Popen[bytes]]] = []
    for python in PYTHONS:
        output = folder / f"{python}.log"
        command = [sys.executable, "-m", "nox", "-s", f"tests-{python}", "--", *session.posargs]
        with output.open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)  # noqa: S603
        running.append((python, output, process))
    failed = [python for python, _, process in running if process.wait() != 0]
    for _, output, _ in running:
        session.log(output.read_text(encoding="utf-8", errors="replace"))
    if failed:
        session.error(f"tests failed on {', '.join(failed)}")


@nox.session(python=NEWER_PYTHONS)
def newer(session: nox.Session) -> None:
    """Run the tests of the runtime and all that is built on it on Pythons that CI does not have."""
    _install_wheel(session, "trio", "mock")
    session.install(*_group("test"))
    # A plugin that comes with LangChain uses what Python 3.14 deprecates, before any filter of ours.
    session.run("pytest", "-p", "no:langsmith_plugin", *session.posargs)


@nox.session
def standard(session: nox.Session) -> None:
    """Run LangChain's standard tests against our models; they bring pytest plugins that ours do not want."""
    _install_wheel(session, "trio", "uvloop", "mock", "langchain")
    session.install(*_group("test"), "langchain-tests")
    unwanted = ("asyncio", "benchmark", "codspeed", "recording", "socket")
    options = [option for plugin in unwanted for option in ("-p", f"no:{plugin}")]
    ini = ["-o", "addopts=--import-mode=importlib", "-o", "filterwarnings=default"]
    session.run("pytest", *options, *ini, "tests/integrations/langchain/test_standard.py", *session.posargs)


@nox.session
def ray(session: nox.Session) -> None:
    """Run the tests of the Ray integration on a cluster of this machine; Ray is too large for `tests`."""
    _install_wheel(session, "trio", "uvloop", "mock", "ray")
    session.install(*_group("test"))
    env = {"RAY_USAGE_STATS_ENABLED": "0"}
    session.run("pytest", "tests/integrations/ray", *session.posargs, env=env)


@nox.session
def reliability(session: nox.Session) -> None:
    """Run the reliability suite with its long tier, an hour of work; arguments go to pytest."""
    _install_wheel(session, "trio", "uvloop", "mock")
    session.install(*_group("test"))
    session.run("pytest", "tests/reliability", "-m", "long or not long", *session.posargs)


@nox.session(python=PYTHONS)
def traces(session: nox.Session) -> None:
    """Run the same seeds in virtual time on each Python, and compare the traces with the first one's."""
    _install_wheel(session, "trio")
    session.install(*_group("test"))
    folder = Path(session.cache_dir) / "traces"
    if session.python == PYTHONS[0]:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    seeds = session.posargs or ["300"]
    cells = session.run("python", "-m", "tests.providers.cells", silent=True)
    histories = session.run("python", "-m", "tests.reliability.simulation", *seeds, "--digests", silent=True)
    found = f"{cells}{histories}"
    (folder / f"{session.python}.txt").write_text(found, encoding="utf-8")
    first = folder / f"{PYTHONS[0]}.txt"
    if not first.exists() or first.read_text(encoding="utf-8") != found:
        session.error(f"the traces differ from those in {first}")


# Not on Python 3.11: with tracing on, tasks that are cancelled there end in errors of their own.
@nox.session(python=PYTHONS[-1])
def coverage(session: nox.Session) -> None:
    """Run the tests under coverage, report what is not reached, and hold each package to its level."""
    _install_wheel(session, "trio", "uvloop", "mock")
    session.install(*_group("test"))
    session.run("coverage", "erase")
    # The memory of its streams is also the tracer's.
    deselected = "--deselect=tests/runtime/test_chunk_stream.py::test_streams_take_some_kilobytes_each"
    session.run("coverage", "run", "-m", "pytest", deselected, *session.posargs)
    session.run("coverage", "combine")
    session.run("coverage", "report")
    for package, percent in COVERED.items():
        session.run("coverage", "report", f"--include=*/batchrt/{package}/*", f"--fail-under={percent}")


@nox.session
def mutation(session: nox.Session) -> None:
    """Change modules in small ways, and show the changes that no test finds.

    The arguments are the modules and the tests to run: `batchrt/limits/token_bucket.py tests/limits`. Each
    change takes the time of the tests that reach its function, so that few and quick ones are best.
    """
    modules = [path for path in session.posargs if path.startswith("batchrt")]
    tests = [path for path in session.posargs if path not in modules]
    if not modules or not tests:
        session.error("name the modules to change and the tests to run")
    session.install("-e", ".[trio,uvloop,mock]", *_group("test"), *_group("mutation"))
    folder = Path(session.create_tmp()) / "tree"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name in ("batchrt", "tests"):
        shutil.copytree(name, folder / name)
    settings = {"source_paths": ["batchrt"], "only_mutate": modules}
    settings |= {"pytest_add_cli_args": ["-x", "-q", "-p", "no:cacheprovider"]}
    settings |= {"pytest_add_cli_args_test_selection": tests}
    lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    project = Path("pyproject.toml").read_text(encoding="utf-8")
    (folder / "pyproject.toml").write_text(
        "\n".join([project, "[tool.mutmut]", *lines, ""]), encoding="utf-8"
    )
    with session.chdir(folder):
        session.run("mutmut", "run")
        survived = str(session.run("mutmut", "results", silent=True)).split()
        for name in (word[:-1] for word in survived if word.endswith(":")):
            session.run("mutmut", "show", name)


@nox.session
def browser(session: nox.Session) -> None:
    """Open a job's page and the site in the machine's browser, with axe-core's rules."""
    _install_wheel(session, "report", "langchain", "otel")
    session.install(*_group("test"), *_group("browser"), *_group("docs"))
    pages = ("tests/jobs/test_page_in_browser.py", "tests/test_site_in_browser.py")
    session.run("pytest", *pages, *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the site into build/docs/site, and check its links and the weight of its landing page."""
    _install_wheel(session, "langchain", "otel")
    session.install(*_group("docs"))
    session.run("python", "docs/build_site.py", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, and that nothing is dead."""
    session.install(*_group("lint"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("vulture")


@nox.session
def types(session: nox.Session) -> None:
    """Check the types of the package and the tests, and that the public ones are complete."""
    _install_wheel(session, "trio", "uvloop", "mock")
    session.install(*_group("types"))
    session.run("mypy")
    session.run("pyright", "tests/typing")
    session.run("pyright", "--verifytypes", "batchrt", "--ignoreexternal")


def _python_of_contenders() -> str | None:
    """Return a Python that all contenders support, or None for nox's own: those that do not are reported."""
    for python in ("3.12", "3.13"):
        if shutil.which(f"python{python}") is not None:
            probe = subprocess.run([f"python{python}", "-V"], check=False, capture_output=True)  # noqa: S603
            if probe.returncode == 0:
                return python
    return None


@nox.session(python=_python_of_contenders())
def bench(session: nox.Session) -> None:
    """Measure against the contenders, and render docs/benchmarks.md; arguments go to the benchmarks."""
    _install_wheel(session, "mock", "uvloop", "numpy")
    session.install(*_group("bench"))
    contenders = [*_group("contenders"), *(_group("contenders-full") if "--full" in session.posargs else ())]
    try:
        session.install(*contenders)
    except nox.command.CommandFailed:
        # One of them: the others are measured, and its row says that it is not installed.
        for contender in contenders:
            with contextlib.suppress(nox.command.CommandFailed):
                session.install(contender)
    session.run("python", "-m", "benchmarks", *session.posargs)


@nox.session(python=_python_of_contenders())
def studies(session: nox.Session) -> None:
    """Study limits, refusals, lists and streams in depth; arguments go to the studies."""
    _install_wheel(session, "mock", "uvloop", "numpy")
    session.install(*_group("bench"), *_group("contenders"))
    session.run("python", "-m", "benchmarks.studies", *session.posargs)


@nox.session
def build(session: nox.Session) -> None:
    """Build the wheel and the source distribution into dist/."""
    session.install(*_group("package"))
    shutil.rmtree("dist", ignore_errors=True)
    session.run("python", "-m", "build")
    files = sorted(str(path) for path in Path("dist").iterdir())
    session.run("twine", "check", "--strict", *files)
    session.run("check-wheel-contents", "dist")


@nox.session(python=[*PYTHONS, *NEWER_PYTHONS])
def install(session: nox.Session) -> None:
    """Install the wheel and the source distribution of dist/ as users do, and run each."""
    files = sorted(Path("dist").glob("batchrt-*"))
    if not files:
        session.error("dist/ has no distributions: run `nox -s build` first")
    for file in files:
        session.install("--force-reinstall", "--no-deps", str(file))
        session.install(str(file))
        session.run("python", "-c", SMOKE)
        session.run("batchrt", "--help", silent=True)


@nox.session
def audit(session: nox.Session) -> None:
    """Look the dependencies up among known vulnerabilities; each must be known to the index."""
    _install_wheel(session, "progress", "parquet", "pandas", "report", "prices", "trio", "uvloop", "mock")
    session.install(*_group("package"))
    session.run("pip-audit", "--strict", "--skip-editable", *session.posargs)


@nox.session(reuse_venv=False)
def sbom(session: nox.Session) -> None:
    """Write the versions that tests run with to dist/: a `pip freeze` and a CycloneDX bill of materials."""
    _install_wheel(session, "trio", "uvloop", "mock")
    session.install(*_group("lint"), *_group("types"), *_group("package"))
    folder = Path("dist")
    folder.mkdir(exist_ok=True)
    lock = session.run("python", "-m", "pip", "freeze", "--exclude", "batchrt", silent=True)
    (folder / "requirements.lock").write_text(str(lock), encoding="utf-8")
    bill = ["--output-format", "JSON", "--output-reproducible", "-o", str(folder / "batchrt.cdx.json")]
    session.run("cyclonedx-py", "environment", "--pyproject", "pyproject.toml", *bill)
