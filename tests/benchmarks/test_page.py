"""The page of results: it is what the renderer makes of the committed results."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks import documents
from benchmarks.pages import page
from benchmarks.scenarios.protocol import Tier
from tests.benchmarks.documents import document, row, scenario

ROOT = Path(__file__).parent.parent.parent


def test_page_is_rendered_from_the_committed_results() -> None:
    """Neither a table nor a sentence was edited, and the page names a picture for each chart."""
    rendered = page.contents()
    committed = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert committed == rendered["docs/benchmarks.md"], "run `nox -s bench -- --render`"
    pictures = {f"docs/{name}" for name in re.findall(r"\]\((benchmarks/[^)]+)\)", committed)}
    assert pictures == set(rendered) - {"docs/benchmarks.md"}
    assert pictures == {f"docs/benchmarks/{path.name}" for path in (ROOT / "docs/benchmarks").iterdir()}


def test_page_charts_are_drawn_from_the_committed_results() -> None:
    """Each chart's title has the medians; its lines may differ between versions of matplotlib."""
    for name, svg in page.contents().items():
        if name.endswith(".svg"):
            committed = (ROOT / name).read_text(encoding="utf-8")
            assert _title(committed) == _title(svg), "run `nox -s bench -- --render`"


def _title(svg: str) -> str:
    found = re.search(r"<title>(.*?)</title>", svg)
    assert found is not None
    return found[1]


def test_page_headline_in_the_readme_is_rendered_too() -> None:
    """The table between the marks of README.md is that of the page."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert page.with_headline(readme) == readme, "run `nox -s bench -- --render`"


def test_page_headline_replaces_what_is_between_its_marks() -> None:
    """The text around the marks stays."""
    text = f"before\n{page.README_START}\nold\n{page.README_END}\nafter\n"
    made = page.with_headline(text)
    assert made.startswith("before\n")
    assert made.endswith("\nafter\n")
    assert "old" not in made
    assert "| batchrt |" in made
    assert page.with_headline(made) == made
    assert page.with_headline("no marks") == "no marks"


@pytest.mark.parametrize("tier", ["quick", "full"])
def test_page_results_name_no_host_and_no_path(tier: Tier) -> None:
    """The machine is known by its CPU, not by its name or its folders."""
    path = documents.FOLDER / f"{tier}.json"
    if path.exists():
        text = path.read_text(encoding="utf-8")
        assert not re.search(r'"/|/home/|/root/|/work/|/tmp/|hostname', text)


def test_page_says_which_scenarios_are_of_an_earlier_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A run of one scenario does not pass the others off as its own."""
    monkeypatch.setattr(documents, "FOLDER", tmp_path)
    chat, startup = (
        scenario([row("batchrt", cpu=[1], rate=[1], memory=[1], wrong=[0])], key=key, charts=[])
        for key in ("chat", "startup")
    )
    documents.write(document(chat, startup, date="yesterday"))
    documents.write(document(chat, date="today"))
    text = page.contents()["docs/benchmarks.md"]
    assert text.count("Measured in an earlier run, yesterday.") == 1
    assert text.index("### Startup") < text.index("Measured in an earlier run")
