"""Build the site: stage the pages, run Zensical strictly, and check the pages that come out.

    python docs/build_site.py [FOLDER]    # build/docs by default; the site is FOLDER/site

Zensical checks links between Markdown files. Links to other files, pictures, scripts and style sheets, and
anchors in generated pages (the reference) are checked here, in the HTML: nothing is requested from any
host.
"""

from __future__ import annotations

import gzip
import importlib
import inspect
import json
import re
import shutil
import subprocess
import sys
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

DOCS = Path(__file__).parent
ROOT = DOCS.parent
LANDING_BYTES = 500_000
"""The most that a first visit of the landing page may load."""
BRIEF_PAGES = ("reference/", "changes.", "design.", "benchmarks.", "reliability.", "releasing.", "findings.")
BRIEF_CHARACTERS = 60
"""Of each section of these pages in the index of the search; they are found by their headings."""

_FENCE_OPTIONS = re.compile(r"^( *```+\w+)[^\n`]*$", re.MULTILINE)
_HIDDEN = re.compile(r"^<!-- test\b.*?-->\n", re.MULTILINE | re.DOTALL)


_LINK = re.compile(r"(?<!!)\[([^\]\n]+)\]\(([^)\s]+)\)")
_NAMES_OF_HOMES = re.compile(r"<!-- names: (.+) -->")
_NAMES_OF_PACKAGE = re.compile(r"<!-- names of (\S+) -->")


class Links(HTMLParser):
    """The links, the loaded files and the anchors of one page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.loaded: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Record the attributes that refer to something."""
        values = {name: value or "" for name, value in attrs}
        self.anchors.update(values[name] for name in ("id", "name") if name in values)
        if tag == "a" and "href" in values:
            self.links.add(values["href"])
        elif tag == "link" and values.get("rel") in {"stylesheet", "icon", "preload", "modulepreload"}:
            self.loaded.add(values["href"])
        elif tag in {"script", "img", "iframe", "source", "video"} and values.get("src"):
            self.loaded.add(values["src"])


def stage(folder: Path) -> None:
    """Copy the pages to `folder`, without the parts that only the tests read, and complete the navigation."""
    pages = folder / "docs"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(DOCS, pages, ignore=shutil.ignore_patterns("*.py", "*.toml", "theme", "__pycache__"))
    shutil.copytree(DOCS / "theme", folder / "theme")
    shutil.copytree(ROOT / "examples", folder / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(ROOT / "CHANGELOG.md", pages / "changes.md")
    for page in pages.rglob("*.md"):
        text = _HIDDEN.sub("", page.read_text(encoding="utf-8"))
        text = _LINK.sub(lambda link: inside(link, DOCS / page.relative_to(pages)), text)  # noqa: B023  called here
        page.write_text(_FENCE_OPTIONS.sub(r"\1", text), encoding="utf-8")
    fill_reference(pages / "reference")
    settings = (DOCS / "zensical.toml").read_text(encoding="utf-8")
    (folder / "zensical.toml").write_text(with_all_pages(settings, pages), encoding="utf-8")


def inside(link: re.Match[str], page: Path) -> str:
    """Return a link as the site has it: the text alone where it leads to a file of the repository."""
    path = link[2].partition("#")[0]
    target = (page.parent / path).resolve()
    if ":" in link[2] or not path or target.is_relative_to(DOCS.resolve()):
        return link[0]
    if target == ROOT.resolve() / "CHANGELOG.md":
        return f"[{link[1]}]({'../' * (len(page.relative_to(DOCS).parts) - 1)}changes.md)"
    return link[1]


def fill_reference(folder: Path) -> None:
    """Put public names where the reference asks for them; raise SystemExit if one has no page.

    `<!-- names: HOME NAME … -->` stands for the names of `batchrt` that are defined in a module whose name
    begins with a HOME, and for each NAME. `<!-- names of PACKAGE -->` stands for all names of PACKAGE.
    """
    package = importlib.import_module("batchrt")
    homes = {name: getattr(getattr(package, name), "__module__", "") for name in package.__all__}
    left = set(homes)

    def chosen(match: re.Match[str]) -> str:
        prefixes = tuple(match[1].split())
        names = [name for name in sorted(left) if name in prefixes or homes[name].startswith(prefixes)]
        left.difference_update(names)
        return entries("batchrt", names)

    for page in sorted(folder.glob("*.md")):
        text = _NAMES_OF_HOMES.sub(chosen, page.read_text(encoding="utf-8"))
        text = _NAMES_OF_PACKAGE.sub(lambda match: entries(match[1], names_of(match[1])), text)
        if "<!-- tree -->" in text:
            text = text.replace("<!-- tree -->", tree_of_errors())
        page.write_text(text, encoding="utf-8")
    if left:
        raise SystemExit(f"no page of docs/reference has {', '.join(sorted(left))}")


def names_of(package: str) -> list[str]:
    """Return the public names of a package."""
    return sorted(importlib.import_module(package).__all__)


def entries(package: str, names: list[str]) -> str:
    """Return mkdocstrings' directives for the names."""
    return "\n\n".join(f"::: {package}.{name}" for name in names)


def tree_of_errors() -> str:
    """Return the tree that the docstring of `batchrt.errors` draws, as a block of text."""
    text = inspect.getdoc(importlib.import_module("batchrt.errors")) or ""
    tree = re.search(r"(?:^ {4}.*\n?)+", text, re.MULTILINE)
    if tree is None:
        raise SystemExit("the docstring of batchrt.errors has no tree")
    return f"```text\n{inspect.cleandoc(tree.group())}\n```"


def compress_index(site: Path) -> None:
    """Write the index of the search as search.bin, which the pages load: see docs/theme/main.html.

    Without the bodies of the longest pages it is two thirds as large.
    """
    index = json.loads((site / "search.json").read_text(encoding="utf-8"))
    for item in index["items"]:
        text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", item["text"]))
        item["text"] = text[:BRIEF_CHARACTERS] if item["location"].startswith(BRIEF_PAGES) else text
    written = json.dumps(index, ensure_ascii=False, separators=(",", ":")).encode()
    (site / "search.bin").write_bytes(gzip.compress(written, mtime=0))


def named_pages(nav: list[Any]) -> list[str]:
    """Return the pages that a navigation names, in its order."""
    found: list[str] = []
    for entry in nav:
        for page in entry.values() if isinstance(entry, dict) else [entry]:
            found += named_pages(page) if isinstance(page, list) else [page]
    return found


def with_all_pages(settings: str, pages: Path) -> str:
    """Append the pages that the navigation leaves out; raise SystemExit for one that is missing."""
    named = named_pages(tomllib.loads(settings)["project"]["nav"])
    if missing := [name for name in named if not (pages / name).exists()]:
        raise SystemExit(f"docs/zensical.toml names pages that do not exist: {', '.join(missing)}")
    others = sorted({path.relative_to(pages).as_posix() for path in pages.rglob("*.md")} - set(named))
    if not others:
        return settings
    more = ", ".join(f'"{name}"' for name in others)
    entry = f'  {{ "More" = [{more}] }},\n]\n\n[project.theme]'
    return settings.replace("]\n\n[project.theme]", entry, 1)


def problems(site: Path) -> list[str]:
    """Return the references in the pages of `site` that lead nowhere, or load a file from another host."""
    pages = {path: Links(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    found: list[str] = []
    for path, page in pages.items():
        name = path.relative_to(site)
        if name.name == "404.html":  # its links begin at the root of the host
            continue
        found += [f"{name} loads {link}" for link in page.loaded if urlsplit(link).netloc]
        for link in page.links | page.loaded:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.exists():
                found.append(f"{name} refers to {link}, which does not exist")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
                found.append(f"{name} refers to {link}, and there is no such anchor")
    return found


def landing_weight(site: Path) -> int:
    """Return the bytes of the landing page and of all that it loads, as the files are on the disk."""
    page = site / "index.html"
    loaded = Links(page.read_text(encoding="utf-8")).loaded
    # Of a picture for light and one for dark pages, a browser loads the one that it shows.
    files = {(site / urlsplit(link).path).resolve() for link in loaded if not link.endswith("#only-dark")}
    files |= {site / "search.bin", *site.glob("assets/javascripts/workers/search.*.js")}
    return page.stat().st_size + sum(path.stat().st_size for path in files)


def main() -> None:
    """Build and check; end with the exit code 1 and a list if something is wrong."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "build" / "docs").resolve()
    stage(folder)
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    if subprocess.run(command, cwd=folder, check=False).returncode:
        raise SystemExit("Zensical found the problems above")
    site = folder / "site"
    compress_index(site)
    if found := problems(site):
        raise SystemExit("\n".join(found))
    weight = landing_weight(site)
    if weight > LANDING_BYTES:
        raise SystemExit(f"the landing page loads {weight:,} bytes, more than {LANDING_BYTES:,}")
    pages = len(list(site.rglob("*.html")))
    print(f"{site / 'index.html'}: {pages} pages, the landing page loads {weight:,} bytes")


if __name__ == "__main__":
    main()
