"""The site builds strictly, has no dead link, and fetches nothing from elsewhere; nor are links in the sources dead."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

import pytest

from browser import start

ROOT = Path(__file__).parent.parent
FETCHED = {"src", "srcset", "data", "poster"}  # attributes whose address a browser loads by itself
FENCE = re.compile(r"^ *(```+|~~~+).*?^ *\1 *$", re.M | re.S)
MARKDOWN_LINK = re.compile(r"\]\(([^)\s]+)(?: \"[^\"]*\")?\)")
HERE = "https://site.test/"


class Page(HTMLParser):
    """What a page of the site refers to, what it fetches, and the places in it that can be referred to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.ids: set[str] = {"", "__top"}
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if value is None:
                continue
            if name == "id" or (tag == "a" and name == "name"):
                self.ids.add(value)
            elif name in FETCHED or (tag == "link" and name == "href"):
                self.fetched.append(value)
            elif name == "href":
                self.links.append(value)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for package in ("mkdocs", "material", "mkdocstrings", "mkdocstrings_handlers.python"):
        top = package.partition(".")[0]
        if find_spec(top) is None or find_spec(package) is None:
            pytest.skip(f"needs {package}: pip install 'replaybank[docs]'")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, Page]:
    """The pages by address."""
    found = {path.relative_to(site).as_posix().removesuffix("index.html"): Page(path) for path in site.rglob("*.html")}
    del found["404.html"]  # has addresses of wherever it will lie
    return found


def test_every_page_is_there(pages: dict[str, Page]) -> None:
    studies = {f"lab/{path.parent.name}/" for path in ROOT.glob("studies/*/README.md")}
    assert set(pages) >= {"", "lab/lesson/", "changelog/", "verdicts/", "reference/", "guides/migrate/", *studies}


def test_no_link_is_dead(site: Path, pages: dict[str, Page]) -> None:
    dead, looked_at = [], 0
    for address, page in pages.items():
        for link in (*page.links, *page.fetched):
            target = urlsplit(urljoin(HERE + address, link))
            if target.netloc != "site.test":
                continue
            looked_at += 1
            path, anchor = unquote(target.path).lstrip("/"), unquote(target.fragment)
            places = pages[path].ids if path in pages else {anchor} if (site / path).is_file() else set()
            if anchor not in places and not anchor.startswith("__"):  # the theme's own, made by its script
                dead.append(f"{address or 'index'}: {link}")
    assert dead == []
    assert looked_at > 1000


def test_nothing_is_fetched_from_elsewhere(site: Path, pages: dict[str, Page]) -> None:
    for address, page in pages.items():
        for link in page.fetched:
            assert urlsplit(urljoin(HERE + address, link)).netloc in ("site.test", ""), (address, link)
    for style in site.rglob("*.css"):
        assert not re.search(r"url\(\s*['\"]?(https?:)?//|@import", style.read_text(encoding="utf-8")), style


def test_pictures_of_the_lesson_and_the_studies_are_in_the_site(site: Path) -> None:
    lesson = json.loads((ROOT / "notebooks" / "experience_replay.ipynb").read_text(encoding="utf-8"))
    outputs = [output for cell in lesson["cells"] for output in cell.get("outputs", [])]
    drawn = sum("image/png" in output.get("data", {}) for output in outputs)
    assert len(list((site / "lab" / "lesson").glob("*.png"))) == drawn > 0
    for picture in (ROOT / "docs" / "images").rglob("*.png"):
        assert (site / picture.relative_to(ROOT / "docs")).read_bytes() == picture.read_bytes()


# ---- in a browser ----

LOOKED_AT = [
    *("", "guides/which-buffer/", "guides/migrate/", "guides/look-inside/", "libraries/", "running/", "ray/"),
    *("why-right/", "why-fast/", "studies/", "verdicts/", "ideas/", "lab/lesson/", "lab/compare/", "lab/minatar/"),
    *("benchmarks/", "reference/buffer/", "architecture/", "scale/", "source/examples/apex_dqn.py/"),
]
# What reaches beyond the window on the right and cannot be scrolled to within something that can.
BEYOND = """
const width = document.documentElement.clientWidth;
const scrolls = e => e && (/auto|scroll|hidden/.test(getComputedStyle(e).overflowX) || scrolls(e.parentElement));
return [...document.querySelectorAll('.md-content *')]
    .filter(e => e.getBoundingClientRect().right > width + 1 && !scrolls(e)).map(e => e.outerHTML.slice(0, 80));
"""
UNDRAWN = "return [...document.images].filter(i => !(i.complete && i.naturalWidth)).map(i => i.src)"
COLOURS = """
const rgb = (e, what) => getComputedStyle(e)[what].match(/[0-9.]+/g).map(Number);
return [rgb(document.body, 'backgroundColor'), rgb(document.querySelector('.md-content .md-typeset'), 'color')];
"""
LOADED = "return performance.getEntriesByType('resource').map(r => r.name)"


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    handler = partial(Quiet, directory=str(site))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def driver(address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    driver = start(tmp_path_factory.mktemp("profile"))
    yield driver
    driver.quit()


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1400, "light")])
def test_pages_fit_and_are_drawn_from_here_alone(driver: Any, address: str, width: int, scheme: str) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    driver.get(address)
    driver.execute_script("localStorage.clear()")  # the theme keeps the scheme that it found first
    for page in LOOKED_AT:
        driver.get(address + page)
        assert driver.execute_script("return document.documentElement.scrollWidth") <= width, page
        assert driver.execute_script(BEYOND) == [], page
        assert driver.execute_script(UNDRAWN) == [], page
        background, text = driver.execute_script(COLOURS)
        assert (sum(background[:3]) < sum(text[:3])) == (scheme == "dark"), page
        assert [name for name in driver.execute_script(LOADED) if not name.startswith((address, "data:"))] == [], page
    assert [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"] == []


# ---- the sources, as they are read in a repository ----


def sources() -> dict[Path, str]:
    """Text of the repository's pages, without code."""
    paths = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("studies/**/*.md")]
    found = {path: FENCE.sub("", path.read_text(encoding="utf-8")) for path in paths}
    for path in ROOT.glob("notebooks/*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        found[path] = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    return found


def anchors(text: str) -> set[str]:
    """Of the headings, as repositories' web pages make them."""
    titles = re.findall(r"^#+ +(.*?) *$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_no_link_of_the_sources_is_dead() -> None:
    texts, dead, looked_at = sources(), [], 0
    for page, text in texts.items():
        for link in MARKDOWN_LINK.findall(text):
            path, _, anchor = link.partition("#")
            if urlsplit(link).scheme or anchor.startswith("replaybank."):  # of a docstring: there in the site only
                continue
            looked_at += 1
            target = (page.parent / path).resolve() if path else page
            if not target.exists():
                dead.append(f"{page.relative_to(ROOT)}: {link}")
            elif anchor and target in texts and anchor not in anchors(texts[target]):
                dead.append(f"{page.relative_to(ROOT)}: {link}, of {sorted(anchors(texts[target]))}")
    assert dead == []
    assert looked_at > 50
