"""The page of an inspection in a real browser: plots are drawn, answer to the pointer, and nothing is loaded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import replaybank as rb
from browser import start

pytest.importorskip("selenium", reason="the page is looked at with selenium")
pytest.importorskip("plotly")

from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from replaybank.inspection.page import Page
from replaybank.inspection.plots import plots_of

DRAWN = "return document.querySelectorAll('.plot .main-svg').length >= 3 * arguments[0]"  # Plotly layers three a plot


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    driver = start(tmp_path_factory.mktemp("profile"))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def page() -> Page:
    """Of two streams, with priorities, draws, whole episodes, and a name that HTML and scripts would stumble over."""
    rng = np.random.default_rng(0)
    name = "</script>&\"'"
    schema = {"obs": {name: ("float32", (2,)), "image": ("uint8", (8, 8))}, "action": "int64"}
    buffer = rb.ReplayBuffer(500, schema, streams=2, sampler=rb.Prioritized(), seed=0)
    obs = {name: np.zeros((2, 2)), "image": np.zeros((2, 8, 8), np.uint8)}
    for _ in range(300):
        after = {name: rng.normal(size=(2, 2)), "image": rng.integers(0, 255, (2, 8, 8))}
        buffer.add(obs, rng.integers(0, 3, 2), rng.normal(size=2), after, rng.random(2) < 0.05, np.zeros(2, bool))
        obs = after
    for _ in range(20):
        batch = buffer.sample(8)
        buffer.update_priorities(batch.indices, rng.exponential(size=8))
    return buffer.plot()


class Opened:
    """A page in the browser: its plots, and what the browser had to say while it was opened."""

    def __init__(self, browser: Any, url: str) -> None:
        self.browser = browser
        browser.get("about:blank")
        browser.get_log("browser")
        resize(browser, 1280)
        browser.get(url)
        self.plots = drawn(browser)
        told = (json.loads(entry["message"])["message"] for entry in browser.get_log("performance"))
        sent = [event["params"] for event in told if event["method"] == "Network.requestWillBeSent"]
        self.requests = [event["request"]["url"] for event in sent if event["documentURL"] == url]
        self.complaints = browser.get_log("browser")

    def until(self, holds: Any) -> Any:
        """Waits until something holds, and gives it."""
        return WebDriverWait(self.browser, 20).until(lambda _: holds())

    def ask(self, script: str, *arguments: Any) -> Any:
        return self.browser.execute_script(f"return {script}", *arguments)


def resize(browser: Any, width: int) -> None:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def drawn(browser: Any) -> list[Any]:
    """The plots, once all of them are drawn."""
    plots = browser.find_elements(By.CLASS_NAME, "plot")
    WebDriverWait(browser, 60).until(lambda _: browser.execute_script(DRAWN, len(plots)))
    return list(plots)


@pytest.fixture(scope="module")
def file(page: Page, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("page") / "page.html"
    page.save(file)
    return file


@pytest.fixture(scope="module")
def opened(browser: Any, file: Path) -> Opened:
    return Opened(browser, file.as_uri())


def test_every_plot_is_drawn(opened: Opened, page: Page) -> None:
    titles = [element.text for element in opened.browser.find_elements(By.CSS_SELECTOR, "figcaption b")]
    assert titles[:6] == [
        *("Length of whole episodes", "Return of whole episodes", "Priorities", "Never sampled", "Priorities by age"),
        "Streams",
    ]
    assert len(opened.plots) == len(titles) == len(plots_of(page.inspection))
    for plot, title in zip(opened.plots, titles, strict=True):
        assert plot.find_elements(By.CSS_SELECTOR, ".bars .point path, .scatterlayer .js-line"), title
    bars = opened.plots[0].find_elements(By.CSS_SELECTOR, ".bars .point")
    assert len(bars) == len(counts_of_lengths(page))


@pytest.mark.parametrize("width", [400, 1280])
def test_it_fits_into_a_window(opened: Opened, width: int) -> None:
    resize(opened.browser, width)
    try:
        fits = "arguments[0].querySelector('.main-svg').getBoundingClientRect().right <= arguments[1]"
        for plot in opened.plots:
            opened.until(lambda plot=plot: opened.ask(fits, plot, width))
        assert opened.ask("document.documentElement.scrollWidth") <= width
        assert opened.ask("window.innerWidth") == width
    finally:
        resize(opened.browser, 1280)


def test_nothing_is_loaded_and_nothing_complains(opened: Opened, file: Path) -> None:
    assert file.as_uri() in opened.requests
    assert [url for url in opened.requests if url != file.as_uri() and not url.startswith("data:")] == []
    assert opened.complaints == []


def test_a_bar_tells_its_numbers(opened: Opened, page: Page) -> None:
    plot, counts = opened.plots[0], counts_of_lengths(page)
    highest = int(np.argmax(counts))
    bar = plot.find_elements(By.CSS_SELECTOR, ".bars .point")[highest]
    ActionChains(opened.browser).move_to_element(bar).perform()
    (told,) = opened.until(lambda: plot.find_elements(By.CSS_SELECTOR, ".hoverlayer .hovertext"))
    assert told.text.endswith(f": {counts[highest]}")


def test_dragging_zooms_and_a_double_click_goes_back(opened: Opened) -> None:
    plot, reach = opened.plots[1], "arguments[0]._fullLayout.xaxis.range"
    area = plot.find_element(By.CSS_SELECTOR, ".nsewdrag")
    low, high = opened.ask(reach, plot)
    ActionChains(opened.browser).move_to_element(area).click_and_hold().move_by_offset(80, 0).release().perform()
    opened.until(lambda: opened.ask(reach, plot) != [low, high])
    near = opened.ask(reach, plot)
    assert low <= near[0] < near[1] < high
    ActionChains(opened.browser).double_click(area).perform()
    opened.until(lambda: opened.ask(reach, plot) == [low, high])


def test_counts_can_be_logarithmic(opened: Opened) -> None:
    kind = "arguments[0]._fullLayout.yaxis.type"
    switch = opened.browser.find_element(By.ID, "log")
    assert opened.ask(kind, opened.plots[0]) == "linear"
    switch.click()
    opened.until(lambda: opened.ask(kind, opened.plots[0]) == "log")
    assert opened.ask(kind, opened.plots[2]) == "linear"  # shares
    switch.click()
    opened.until(lambda: opened.ask(kind, opened.plots[0]) == "linear")


def test_tables_are_there_with_names_as_they_are(opened: Opened, page: Page) -> None:
    text = opened.browser.find_element(By.TAG_NAME, "main").text
    assert 'obs["</script>&"\'"]' in text
    assert "The top 10 transitions by priority" in text
    assert page.inspection.sampler in text


def test_a_notebook_cell_shows_it_in_a_frame(browser: Any, page: Page, tmp_path: Path) -> None:
    cell, first = tmp_path / "cell.html", browser.current_window_handle
    cell.write_text(f"<!DOCTYPE html><meta charset='utf-8'><p>Out[1]:</p>{page._repr_html_()}", encoding="utf-8")
    browser.switch_to.new_window("tab")
    try:
        browser.get_log("browser")
        browser.get(cell.as_uri())
        browser.switch_to.frame(0)
        assert len(drawn(browser)) == len(plots_of(page.inspection))
        assert browser.get_log("browser") == []
    finally:
        browser.close()
        browser.switch_to.window(first)


def counts_of_lengths(page: Page) -> tuple[int, ...]:
    lengths = page.inspection.episodes.lengths
    assert lengths is not None
    assert lengths.histogram is not None
    return lengths.histogram.counts
