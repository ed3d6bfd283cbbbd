"""The site in a real browser: narrow and wide, light and dark, with axe-core's rules, by keyboard alone."""

from __future__ import annotations

import functools
import http.server
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browsers import SIZES, launched

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytest.importorskip("zensical", reason="zensical is not installed")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-core is not installed")

ROOT = Path(__file__).parent.parent
PAGES = ("index.html", "tutorial.html", "how-to/rate-limits.html", "lcel.html", "reference/limits.html")
LANDING_BYTES = 500_000


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Serve files without a log on stderr."""

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the name that it overrides
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Build the site and serve it; return its address."""
    folder = tmp_path_factory.mktemp("docs")
    subprocess.run([sys.executable, ROOT / "docs" / "build_site.py", folder], check=True, cwd=ROOT)
    handler = functools.partial(QuietHandler, directory=str(folder / "site"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as browser:
        yield browser


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize(("width", "scheme"), SIZES)
def test_site_is_accessible_and_keeps_to_itself(
    browser: Any, site: str, name: str, width: int, scheme: str
) -> None:
    """No rule of axe-core is broken, nothing is as wide as to scroll, no other host is asked."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on(
        "request", lambda sent: problems.extend([] if sent.url.startswith((site, "data:")) else [sent.url])
    )
    page.goto(site + name)
    page.wait_for_load_state("networkidle")
    found = axe.Axe().run(page).response["violations"]
    assert not [(rule["id"], rule["nodes"][0]["html"]) for rule in found]
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert not problems
    page.close()


def test_site_landing_page_is_light(browser: Any, site: str) -> None:
    """All that the first visit loads is less than half a megabyte, before compression."""
    page = browser.new_page()
    answers: list[Any] = []
    page.on("response", lambda answer: answers.append(answer))  # noqa: PLW0108  playwright wants a function
    page.goto(site)
    page.wait_for_load_state("networkidle")
    assert sum(len(answer.body()) for answer in answers) < LANDING_BYTES
    assert [answer.url for answer in answers if answer.url.endswith("search.bin")]
    page.close()


def test_site_is_searched_by_keyboard(browser: Any, site: str) -> None:
    """Control and K open the search, a word finds pages, and the arrows and Enter go to one of them."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(site)
    page.wait_for_load_state("networkidle")
    page.keyboard.press("Control+k")
    page.keyboard.type("Gemini", delay=20)
    page.get_by_text("results").wait_for()
    page.keyboard.press("Enter")
    page.wait_for_url(lambda url: "gemini" in url.lower())
    page.close()


def test_site_is_walked_by_keyboard(browser: Any, site: str) -> None:
    """The first stop skips to the content; each stop of the header is shown with an outline and named."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(site)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.matches('.md-skip')")
    names = set()
    for _ in range(14):
        page.keyboard.press("Tab")
        names.add(page.evaluate("document.activeElement.textContent.trim() || document.activeElement.title"))
    assert {"Tutorial", "How-to", "Reference"} <= names
    page.close()
