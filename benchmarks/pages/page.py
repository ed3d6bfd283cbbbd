"""The page `docs/benchmarks.md`, its charts, and the table in README.md, rendered from the results."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks import documents
from benchmarks.pages import refusals
from benchmarks.pages.charts import draw
from benchmarks.pages.figures import Document
from benchmarks.pages.tables import contender_list, headline, machine_list, scenario_tables
from benchmarks.scenarios.protocol import Tier

__all__ = ["README_END", "README_START", "contents", "render"]

_ROOT = Path(__file__).parent.parent.parent
_PAGE = "docs/benchmarks.md"
_PICTURES = "benchmarks"
README_START, README_END = "<!-- benchmarks: from results, by `nox -s bench` -->", "<!-- /benchmarks -->"
"""The lines of README.md between which the headline table stands."""

_HEAD = """# Benchmarks

This page is rendered from `benchmarks/results/` by `nox -s bench`, which measures and then replaces
results, page and charts. Edits of the page are lost.

    nox -s bench                      # about ten minutes on two cores
    nox -s bench -- --full            # all sizes up to ten million items, more rounds, and Ray: some hours
    nox -s bench -- --only chat       # one scenario; the results of the others stay
    nox -s bench -- --against HEAD~1  # exit code 1 if this checkout is slower than that commit

All contenders are measured in one run. They take turns, round by round, each round in another order, and
each measurement is a process of its own. Cells show the median, with the least and the most of all rounds
in brackets. The best of a column is bold, and where another contender is ahead of batchrt, a line below
the table says so. CPU time is that of the process with its threads and descendants. Wall time, and rates,
are only comparable within one run. "x batchrt" is the median of the ratios within each round. Garbage
collection is on. All traffic is on the loopback interface, to batchrt's own mock provider.

The contenders come from PyPI in pinned versions (the group `contenders` in `pyproject.toml`). One that
cannot be installed, or fails, has a row that says so. `benchmarks/README.md` has the
studies beside these scenarios."""


def contents() -> dict[str, str]:
    """Return each file of the page, by its path below the root of the repository."""
    files: dict[str, str] = {}
    lines = [_HEAD, ""]
    tiers: tuple[tuple[Tier, str], ...] = (("quick", "The quick run"), ("full", "The full run"))
    for tier, title in tiers:
        document = documents.read(tier)
        if document is not None:
            lines += _part(document, tier, title, files)
    text = "\n".join(lines).rstrip()
    return {_PAGE: f"{text}\n", **files}


def _part(document: Document, tier: Tier, title: str, files: dict[str, str]) -> Iterator[str]:
    yield f"## {title}"
    yield ""
    yield from machine_list(document)
    yield from headline(document)
    for scenario in document["scenarios"]:
        yield f"### {scenario['title']}"
        yield ""
        yield scenario["about"]
        yield ""
        if scenario["date"] != document["machine"]["date"]:
            yield f"Measured in an earlier run, {scenario['date']}."
            yield ""
        for name in scenario["charts"]:
            drawn = draw(name, document)
            if drawn is not None:
                address = f"{_PICTURES}/{tier}-{name}.svg"
                files[f"docs/{address}"], says = drawn
                yield f"![{says}]({address})"
                yield ""
        yield from scenario_tables(scenario)
    yield f"### How each contender is used{'' if tier == 'quick' else ' in the full run'}"
    yield ""
    yield from contender_list(document)


def with_headline(readme: str) -> str:
    """Return the text of README.md with the table between its marks; without marks it stays as it is."""
    document = documents.read("quick")
    if document is None or README_START not in readme:
        return readme
    before, rest = readme.split(README_START, 1)
    _, after = rest.split(README_END, 1)
    table = "\n".join(headline(document)).strip()
    return f"{before}{README_START}\n\n{table}\n\n{README_END}{after}"


def render(root: Path = _ROOT) -> Iterator[Path]:
    """Write all files, and yield their paths below the root."""
    for name, text in contents().items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        yield Path(name)
    yield refusals.render(root)
    readme = root / "README.md"
    older = readme.read_text(encoding="utf-8")
    newer = with_headline(older)
    if newer != older:
        readme.write_text(newer, encoding="utf-8")
        yield Path("README.md")
