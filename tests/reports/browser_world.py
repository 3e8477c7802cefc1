"""A real browser for tests: Chromium without a window, driven by selenium."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
try:
    from selenium import webdriver
except ImportError:
    webdriver = None

NEEDS_BROWSER = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not (BROWSER and DRIVER and webdriver),
        reason="needs chromium and chromedriver on PATH, and the extra `browser` (selenium)",
    ),
]


@contextmanager
def open_browser() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,900"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=DRIVER))
    driver.set_script_timeout(120)
    try:
        yield driver
    finally:
        driver.quit()


def until(driver: Any, condition: str, seconds: float = 120) -> Any:
    """Wait until a JavaScript expression is true, and give its value."""
    stop = time.monotonic() + seconds
    while not (found := driver.execute_script(f"return {condition}")):
        assert time.monotonic() < stop, f"never true: {condition}"
        time.sleep(0.1)
    return found


def press(driver: Any, *keys: str) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    ActionChains(driver).send_keys(*keys).perform()
