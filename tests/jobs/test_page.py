"""The page of a job: its structure, its numbers, its safety."""

from __future__ import annotations

import base64
import hashlib
import re
import sys
from collections import Counter
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from batchrt import InputError, Job, JobReport
from batchrt.jobs.page.page import page_of
from tests.jobs.page_journals import HOSTILE, HOSTILE_KIND, START, eventful, journal_of, record

VOID = {"meta", "source", "img"}


class Page(HTMLParser):
    """Read a page strictly: each element is closed in order.

    Attributes:
        elements: names and attributes, in order.
        text: of the page, without styles.
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] != "style":
            self.text += data

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag == name]


def pictures_of(page: Page) -> list[ET.Element]:
    """Return the pictures of a page, wide and narrow, each parsed as XML."""
    urls = [each["src"] for each in page.all("img")] + [each["srcset"] for each in page.all("source")]
    found = []
    for url in urls:
        assert url is not None
        head, data = url.split(",", 1)
        assert head == "data:image/svg+xml;base64"
        found.append(ET.fromstring(base64.b64decode(data)))
    return found


def texts_of(picture: ET.Element) -> list[str]:
    return ["".join(each.itertext()) for each in picture.iter("{http://www.w3.org/2000/svg}text")]


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> str:
    return page_of(JobReport.of(eventful(tmp_path_factory.mktemp("page") / "job.journal")))


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_page_has_a_structure_that_can_be_navigated(page: Page) -> None:
    """One heading of the first level, sections with headings that links lead to, a language, a title."""
    names = Counter(tag for tag, _ in page.elements)
    assert names["h1"] == names["main"] == names["title"] == names["nav"] == 1
    assert page.all("html") == [{"lang": "en"}]
    anchors = [each["id"] for each in page.all("h2")]
    assert anchors == ["time", "latency", "tokens", "errors", "slowest"]
    assert [each["href"] for each in page.all("a")] == [f"#{anchor}" for anchor in anchors]
    assert [each["aria-labelledby"] for each in page.all("section")] == anchors
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_page_has_tables_beside_its_pictures(page: Page) -> None:
    """Each picture has an alternative text, and each table a caption, heads, and a region to scroll."""
    images = page.all("img")
    assert len(images) == 4
    assert all(len(each["alt"] or "") > 30 for each in images)
    assert len(page.all("table")) == len(page.all("caption")) == 5
    regions = [each for each in page.all("div") if each.get("role") == "region"]
    assert len(regions) == 5
    assert all(each["tabindex"] == "0" and each["aria-label"] for each in regions)
    assert {each.get("scope") for each in page.all("th")} == {"row", "col"}


def test_page_refers_to_nothing_outside(html: str, page: Page) -> None:
    """No script, no address but those of its own sections and pictures; the policy would refuse them too."""
    allowed = {"html", "head", "meta", "title", "style", "body", "header", "h1", "h2", "h3", "p", "dl", "div"}
    allowed |= {"dt", "dd", "nav", "ul", "li", "a", "main", "section", "figure", "picture", "source", "img"}
    allowed |= {"figcaption", "details", "summary", "table", "caption", "thead", "tbody", "tr", "th", "td"}
    allowed |= {"bdi", "pre", "span", "footer"}
    assert {tag for tag, _ in page.elements} <= allowed
    attributes = {name for _, each in page.elements for name in each}
    assert not [name for name in attributes if name.startswith("on") or name == "style"]
    (policy,) = (each["content"] for each in page.all("meta") if "http-equiv" in each)
    style = html.split("<style>")[1].split("</style>", maxsplit=1)[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy == (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    assert "url(" not in style
    assert "@import" not in style
    for picture in pictures_of(page):
        for element in picture.iter():
            assert element.tag.rpartition("}")[2] not in {"script", "image", "foreignObject", "a", "metadata"}
            for name, value in element.attrib.items():
                if name.endswith("href"):
                    assert value.startswith("#")
                assert not name.startswith("on")


def test_page_shows_hostile_text_as_text(page: Page) -> None:
    """Of inputs, outputs, errors, their kinds, and models; without characters that a page cannot have."""
    shown = HOSTILE.translate({0x202E: "\ufffd", 0: "\ufffd", 0xD800: "\ufffd"})
    slowest, messages, models, events = 10, 2, 1, 1
    assert page.text.count(shown) == slowest + messages + models
    in_inputs = 2 * (slowest + messages)  # as a name and as a value
    assert page.text.count("<script>alert(1)") == in_inputs + slowest + messages + models + events
    assert f"{HOSTILE_KIND[:-1]}\ufffd: 10 rows" in page.text
    assert not re.search("[\x00-\x08\u202a-\u202e\u2066-\u2069]", page.text)
    assert not page.all("script")
    assert any("<b>$x^2$</b>" in text for each in pictures_of(page) for text in texts_of(each))


def test_page_of_a_journal_with_a_hostile_name(tmp_path: Path) -> None:
    """The name is text too, in the title and in the head."""
    page = Page(page_of(JobReport.of(journal_of(tmp_path / "<b onclick=x>&amp;'.db", [record(START)]))))
    assert page.text.count("Report of <b onclick=x>&amp;'.db") == 2
    assert not page.all("b")


def test_page_follows_light_and_dark(html: str, page: Page) -> None:
    """The page, and each picture, has colours for both; a picture's are all of the palette."""
    assert html.count("@media(prefers-color-scheme:dark)") == 1
    for picture in pictures_of(page):
        text = ET.tostring(picture, encoding="unicode")
        style = text.split("style>")[1]
        assert "prefers-color-scheme:dark" in style
        drawn = text.replace(style, "")
        assert not re.findall(r"(?:fill|stroke): ?#[0-9a-f]+", drawn)
        assert "var(--ink)" in drawn


def test_page_counts_all_rows(page: Page) -> None:
    """The head, and the table over time, add up to the rows of the journal."""
    assert re.search(r"rows done\s*280\s*rows failed\s*20\s", page.text)
    assert "Complete: each row has an outcome, and 20 failed." in page.text
    assert re.search(r"10 rows, for example row 1:", page.text)
    assert re.search(r"cool-down\s*3 s", page.text)
    assert re.search(r"outage\s*39 s\s*ServerError \(status 503\): overloaded", page.text)
    assert "the longest took 13 h 52 min" in page.text


def test_page_is_the_same_for_the_same_journal(html: str, tmp_path: Path) -> None:
    """Nothing in it depends on the time or on chance, but for the journal's folder in its footer."""
    again = page_of(JobReport.of(eventful(tmp_path / "job.journal")))
    assert again.split("<footer>")[0] == html.split("<footer>", maxsplit=1)[0]


def test_page_stays_small(tmp_path: Path) -> None:
    """Its size depends on the width of the pictures, not on the number of rows or on their length."""
    rows = [record(START + number / 100, output="long " * 10_000) for number in range(3000)]
    html = page_of(JobReport.of(journal_of(tmp_path / "j", rows, inputs={"text": "x" * 100_000})))
    assert len(html) < 400_000


@pytest.mark.parametrize("count", [0, 1, 2])
def test_page_of_few_rows(tmp_path: Path, count: int) -> None:
    """A job that has not begun, or has one row, has a page too."""
    rows = [record(START, seconds=0.0, request_seconds=None, cost=None, tokens=(0, 0))] * count
    page = Page(page_of(JobReport.of(journal_of(tmp_path / "j", rows))))
    assert ("no rows yet" in page.text) == (count == 0)
    assert len(page.all("img")) == (2 if count else 0)


def test_page_of_failed_rows_alone(tmp_path: Path) -> None:
    """Without requests that were answered there are no percentiles of theirs."""
    rows = [record(START + number, error=f"wrong {number}") for number in range(5)]
    page = Page(page_of(JobReport.of(journal_of(tmp_path / "j", rows))))
    assert "5 rows" in page.text
    assert page.text.count("for example row") == 3
    assert "nan" not in page.text


def test_page_of_a_job(tmp_path: Path) -> None:
    """Made from Python, beside an older one on demand alone."""
    job = Job(lambda row: 100 / row["n"], [{"n": 1}, {"n": 0}], journal=tmp_path / "j")
    report = job.run()
    report.write_html(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "division by zero" in Page(text).text
    with pytest.raises(InputError, match="exists already"):
        report.write_html(tmp_path / "page.html")
    report.write_html(tmp_path / "page.html", overwrite=True)


def test_page_names_the_extra_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where matplotlib is not installed."""
    for name in [name for name in sys.modules if name.startswith(("matplotlib", "batchrt.jobs.page"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    report = JobReport.of(journal_of(tmp_path / "j", [record(START)]))
    with pytest.raises(ImportError, match=r"install batchrt\[report\]"):
        report.write_html(tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_page_of_vectors(tmp_path: Path) -> None:
    """Outputs that are bytes are not shown, and are the columns of a table as they are."""
    job = Job(lambda row: bytes(row["n"]), [{"n": 8}, {"n": 6144}], journal=tmp_path / "j")
    report = job.run()
    assert "6,144 bytes" in Page(page_of(report)).text
    assert report.to_arrow()["output"].to_pylist() == [bytes(8), bytes(6144)]
