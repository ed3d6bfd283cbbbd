"""The documents: every file that they name exists, and the design names every module."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

import batchrt
from batchrt.testing import MockServer
from tests.documents import blocks_of, page

PACKAGE = Path(batchrt.__file__).parent
ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "benchmarks" / "README.md"]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_docs_name_files_that_exist(document: Path) -> None:
    """Paths may begin at the root of the repository or at the package; a bare name may be in any room."""
    text = document.read_text(encoding="utf-8")
    names = {path.name for folder in (PACKAGE, ROOT / "tests") for path in folder.rglob("*.py")}
    missing = {
        name
        for name in re.findall(r"[\w/]*\w\.py\b", text)
        if not (PACKAGE / name).exists() and not (ROOT / name).exists() and name not in names
    }
    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_docs_link_to_files_that_exist(document: Path) -> None:
    """Links between documents and into the code are relative."""
    links = re.findall(r"\]\(([^)#]+)", document.read_text(encoding="utf-8"))
    assert not [
        link for link in links if not link.startswith("https://") and not (document.parent / link).exists()
    ]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_docs_tables_name_each_column(document: Path) -> None:
    """No heading of a table is empty: a screen reader names the column with each cell."""
    text = document.read_text(encoding="utf-8")
    heads = re.findall(r"^(\|.*\|)\n\|[-:| ]+\|$", text, re.MULTILINE)
    assert not [head for head in heads if not all(cell.strip() for cell in head.strip("|").split("|"))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_docs_sessions_give_what_they_show(document: Path) -> None:
    """Examples with prompts (`>>>`) run."""
    text = document.read_text(encoding="utf-8")
    examples = doctest.DocTestParser().get_doctest(text, {}, document.name, str(document), 0)
    assert doctest.DocTestRunner().run(examples).failed == 0
    assert bool(examples.examples) == (">>>" in text)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_docs_code_runs(
    document: Path, mock_server: MockServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Python and shell blocks of a page run from top to bottom; one that does not says why."""
    with page(document, tmp_path, mock_server, monkeypatch) as blocks:
        blocks.run()


def findings_page() -> dict[str, str]:
    """Return the bold text of each finding's line on its page: the software and its version."""
    text = (ROOT / "docs" / "findings.md").read_text(encoding="utf-8")
    lines = re.findall(r"^- .*$", text, re.MULTILINE)
    parts = [
        re.fullmatch(r"- `(\S+)`, \*\*(.+?)\*\*: \S.* \*For you:\* \S.* \*batchrt:\* \S.*", line)
        for line in lines
    ]
    assert None not in parts, [line for line, part in zip(lines, parts, strict=True) if part is None]
    found = [(part[1], part[2]) for part in parts if part is not None]
    assert len(dict(found)) == len(found)
    return dict(found)


def test_docs_findings_have_a_line_each() -> None:
    """Each script of findings/ has its line on the page, and each line its script."""
    assert findings_page().keys() == {path.stem for path in (ROOT / "findings").glob("*.sh")}


@pytest.mark.parametrize("path", sorted((ROOT / "findings").glob("*.sh")), ids=lambda path: path.stem)
def test_docs_finding_names_the_version_of_its_script(path: Path) -> None:
    """Software and version on the page are those that the first comment of the script names."""
    script, software = path.read_text(encoding="utf-8"), findings_page()[path.stem]
    comment = re.match(r"#!.*\n((?:# .*\n)+)", script)
    assert comment is not None
    said = re.sub(r"\s+", " ", comment[1].replace("#", " "))
    assert not [part for part in re.split(r", | and | with ", software) if part not in said]


def test_docs_blocks_are_found_with_their_lines_and_reasons() -> None:
    """A block is fenced or hidden; an option other than a reason to skip it is refused."""
    text = 'a\n\n```python\n1\n```\n<!-- test: sh\n2\n-->\n```sh skip="no"\n3\n```\n```toml\n4\n```\n'
    found = [(block.language, block.source, block.line, block.skip) for block in blocks_of(text)]
    assert found == [("python", "1\n", 4, ""), ("sh", "2\n", 7, ""), ("sh", "3\n", 10, "no")]
    with pytest.raises(ValueError, match="line 1"):
        blocks_of("```python linenums\n1\n```\n")


def test_docs_code_that_fails_is_reported_with_its_line(
    mock_server: MockServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failing block of either language is an error with the page and the line."""
    for language, code, line in (("python", "1 / 0", 5), ("sh", "cat missing", 5)):
        document, folder = tmp_path / f"{language}.md", tmp_path / language
        document.write_text(f"# A page\n\n\n```{language}\n{code}\n```\n", encoding="utf-8")
        folder.mkdir()
        with page(document, folder, mock_server, monkeypatch) as blocks, pytest.raises(Exception) as caught:
            blocks.run()
        places = [f"{entry.path}:{entry.lineno + 1}" for entry in caught.traceback]
        assert f"{document}:{line}" in [*places, *str(caught.value).splitlines()]


def tree_of_design() -> dict[str, str]:
    """Return the part of each package in the tree of `docs/design.md`; "" is the root's."""
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    tree = re.search(r"^    batchrt/\n(?: {4}.*\n)+", text, re.MULTILINE)
    assert tree is not None
    root, *packages = re.split(r"^ {6}(?=\w+/ )", tree.group(), flags=re.MULTILINE)
    return {"": root} | {package.partition("/")[0]: package for package in packages}


def test_docs_tree_names_every_module() -> None:
    """A module's file name stands in the part of its package, with what the module is about."""
    tree = tree_of_design()
    missing = []
    for path in sorted(PACKAGE.rglob("*.py")):
        *folders, name = path.relative_to(PACKAGE).parts
        part = tree.get(folders[0] if folders else "", "")
        if name != "__init__.py" and not re.search(rf"(?<!\w){re.escape(name)}", part):
            missing.append("/".join([*folders, name]))
    assert not missing
