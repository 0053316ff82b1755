"""A real browser for tests, without a network.

Needs Chromium or Chrome and its driver, on PATH or named by REPLAYBANK_CHROMIUM and REPLAYBANK_CHROMEDRIVER.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"),
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",  # no name is found: there is no network
)


def program(variable: str, *names: str) -> str:
    found = os.environ.get(variable) or next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip(f"needs {' or '.join(names)} on PATH, or its path in {variable}")
    return found


def start(profile: Path) -> Any:
    """A browser that notes what it loads and what it has to complain of; the caller ends it (`quit`)."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="pages are looked at with selenium")
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = program(
        "REPLAYBANK_CHROMIUM", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable"
    )
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options, Service(program("REPLAYBANK_CHROMEDRIVER", "chromedriver")))
