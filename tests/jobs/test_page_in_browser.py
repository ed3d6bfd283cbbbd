"""The page of a job in a real browser: narrow and wide, light and dark, by keyboard alone."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from batchrt import JobReport
from tests.browsers import SIZES, launched
from tests.jobs.page_journals import eventful, journal_of, record

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as browser:
        yield browser


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("page")
    JobReport.of(eventful(folder / "job.journal")).write_html(folder / "page.html")
    return (folder / "page.html").as_uri()


def outside(url: str, address: str) -> list[str]:
    """Return the address of a request unless it is for the page itself or for a picture in it."""
    return [] if url.startswith(("data:", address)) else [url[:200]]


def opened(browser: Any, address: str, width: int, scheme: str) -> tuple[Any, list[str]]:
    """Return the opened page, and its problems: messages, errors, requests."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("dialog", lambda dialog: problems.append(dialog.message))
    page.on("request", lambda sent: problems.extend(outside(sent.url, address)))
    page.goto(address)
    return page, problems


@pytest.mark.parametrize(("width", "scheme"), SIZES)
def test_page_fits_the_screen(browser: Any, address: str, width: int, scheme: str) -> None:
    """Nothing is wider than the screen, all pictures are shown in their form, and nothing is refused."""
    page, problems = opened(browser, address, width, scheme)
    assert problems == []
    assert page.evaluate("document.documentElement.scrollWidth") == width
    images = page.evaluate("[...document.images].map(each => [each.complete, each.naturalWidth, each.width])")
    assert len(images) == 4
    for complete, natural, shown in images:
        assert complete
        assert natural == 328 if width == 360 else natural >= 740
        assert shown == natural
    page.close()


@pytest.mark.parametrize(("width", "scheme"), SIZES)
def test_page_has_no_fault_that_axe_finds(browser: Any, address: str, width: int, scheme: str) -> None:
    """Of axe-core's rules, contrast included, with all tables shown."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
    page, _ = opened(browser, address, width, scheme)
    for summary in page.locator("summary").all():
        summary.press("Enter")
    results = axe.Axe().run(page)
    assert results.violations_count == 0, results.generate_report()
    page.close()


def test_page_is_used_by_keyboard(browser: Any, address: str) -> None:
    """Tab reaches each link, each folded table and each region that scrolls; Enter opens."""
    page, _ = opened(browser, address, 360, "light")
    reached: list[str] = []
    for _ in range(60):
        page.keyboard.press("Tab")
        name = page.evaluate("document.activeElement.tagName")
        if name == "BODY":
            break
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid", f"{name} does not show the focus"
        reached.append(name)
        if name == "SUMMARY":
            page.keyboard.press("Enter")
    assert reached.count("A") == 5
    assert reached.count("SUMMARY") == 2
    assert reached.count("DIV") == 5
    assert page.locator("details[open]").count() == 2
    page.close()


def colours(page: Any, selector: str) -> set[Any]:
    """Return the colours of an element, as it is shown."""
    from PIL import Image

    shot = Image.open(BytesIO(page.locator(selector).first.screenshot())).convert("RGB")
    return {colour for _, colour in shot.getcolors(shot.width * shot.height) or ()}


def test_page_has_pictures_in_the_colours_of_its_scheme(browser: Any, address: str) -> None:
    """Their ground is the page's, and their bars have the contrast that the ground needs."""
    for scheme, ground, bars in (
        ("light", (255, 255, 255), (0x09, 0x69, 0xDB)),
        ("dark", (13, 17, 23), (0x44, 0x93, 0xF9)),
    ):
        page, _ = opened(browser, address, 1280, scheme)
        assert {ground, bars} <= colours(page, "img")
        page.close()


def test_page_runs_no_script_of_a_row(browser: Any, tmp_path: Path) -> None:
    """Even if the escaping failed, the policy would refuse it: it is planted here by hand."""
    JobReport.of(journal_of(tmp_path / "j", [record(1.0)])).write_html(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    planted = "<script>document.title = 'hit'</script><img src='x' onerror=\"document.title = 'hit'\">"
    (tmp_path / "page.html").write_text(text.replace("<main>", f"<main>{planted}"), encoding="utf-8")
    page, problems = opened(browser, (tmp_path / "page.html").as_uri(), 360, "light")
    assert page.title() == "Report of j"
    assert any("Content Security Policy" in problem for problem in problems)
    page.close()
