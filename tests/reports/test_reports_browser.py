"""The page in a real browser, from disk, with 200 cells."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser_world import NEEDS_BROWSER, open_browser, press, until
from reports_world import FPS, HOSTILE, LENGTH, gallery

from harness.records import store
from harness.records.record import Plan
from reports.page import write_page
from reports.tables import tables

pytestmark = NEEDS_BROWSER

ROWS = ["none", "fastvmt", "full_attention", HOSTILE]
CLIPS = 50


def prompt_of(index: int) -> str:
    return f"{HOSTILE} number {index}" if index % 2 else f"a red square, {index}"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Plan, Path]:
    folder = tmp_path_factory.mktemp("browser")
    plan = gallery(folder / "results", ROWS, CLIPS, prompt_of, failing="full_attention")
    index = write_page(folder / "results", [plan], tables(folder / "results", [plan]), folder / "a page?")
    return folder / "results", plan, index


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with open_browser() as driver:
        yield driver


@pytest.fixture
def page(browser: Any, world: tuple[Path, Plan, Path]) -> Any:
    browser.get(world[2].as_uri())
    return browser


def choose(driver: Any, id_: str, value: str) -> None:
    """Set a control as a user would: value, then its input event."""
    driver.execute_script(
        "const c = document.getElementById(arguments[0]); c.value = arguments[1];"
        "c.dispatchEvent(new Event('input', {bubbles: true}))",
        id_,
        value,
    )


def shown(driver: Any) -> list[str]:
    return driver.execute_script(
        "return [...document.querySelectorAll('.take:not([hidden])')].map(t => t.dataset.clip)"
    )


LOADED = "[...document.querySelectorAll('video[src]')]"
READY = f"{LOADED}.length > 0 && {LOADED}.every(v => v.readyState >= 2 && !v.seeking)"


def to_gallery(driver: Any) -> None:
    driver.execute_script("document.getElementById('takes').scrollIntoView()")
    until(driver, READY)


def test_it_opens_from_disk_quickly_quietly_and_loads_only_what_is_near(page: Any) -> None:
    took = page.execute_script(
        "const n = performance.getEntriesByType('navigation')[0]; return n.domComplete"
    )
    assert took < 20_000, f"{took} ms on a busy machine"
    to_gallery(page)
    cells = page.execute_script("return document.querySelectorAll('video').length")
    assert cells == CLIPS * 5 - 5
    assert page.execute_script(f"return {LOADED}.length") <= 60
    assert page.execute_script(f"return {LOADED}.every(v => v.videoWidth === 64)"), "H.264 is played"
    loaded = page.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert all(name.startswith(("file:", "data:")) for name in loaded)
    assert page.execute_script("return window.hacked === undefined && document.images.length === 0")
    page.execute_script("window.scrollTo(0, document.body.scrollHeight)")
    until(page, f"{LOADED}.some(v => v.closest('.take').dataset.clip === 'clip-049') && {READY}")
    assert page.execute_script(f"return {LOADED}.length") <= 60, "what is far away is let go"
    complaints = [entry for entry in page.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
    assert complaints == []


def test_all_videos_follow_one_clock(page: Any) -> None:
    to_gallery(page)
    until(page, f"{LOADED}.every(v => v.currentTime > 0)")
    takes = (
        "return [...document.querySelectorAll('.take')].map(t => [...t.querySelectorAll('video[src]')]"
        ".map(v => v.currentTime)).filter(t => t.length > 1)"
    )
    spreads = []
    for _ in range(20):
        spreads += [max(times) - min(times) for times in page.execute_script(takes)]
        time.sleep(0.1)
    spreads.sort()
    # Around the end of the loop some have begun again and others not yet.
    assert spreads[int(0.7 * len(spreads))] < 1 / FPS, "within a frame of each other"
    press(page, " ")
    assert page.execute_script("return document.getElementById('play').textContent") == "Play"
    choose(page, "scrub", "0.8")
    wanted = (int(0.8 * FPS) + 0.5) / FPS
    until(page, f"{LOADED}.every(v => v.paused && Math.abs(v.currentTime - {wanted}) < 0.01)")
    press(page, "\ue014", "\ue014")  # right, right
    until(page, f"{LOADED}.every(v => Math.abs(v.currentTime - {wanted + 2 / FPS}) < 0.01)")
    press(page, "\ue012")  # left
    until(page, f"{LOADED}.every(v => Math.abs(v.currentTime - {wanted + 1 / FPS}) < 0.01)")
    press(page, "\ue011", "\ue012")  # home, left: round to the last frame
    until(page, f"{LOADED}.every(v => Math.abs(v.currentTime - {(LENGTH - 0.5) / FPS}) < 0.01)")
    assert f"frame {LENGTH}" in page.execute_script("return document.getElementById('time').value")
    choose(page, "speed", "2")
    press(page, "-", " ")
    assert page.execute_script("return document.getElementById('speed').value") == "1"
    until(page, f"{LOADED}.every(v => !v.paused)")


def test_filters_leave_what_was_asked_for(page: Any) -> None:
    assert len(shown(page)) == CLIPS
    choose(page, "clip", "CLIP-01")
    assert shown(page) == [f"clip-01{digit}" for digit in range(10)]
    choose(page, "prompt", "img src=x")
    assert shown(page) == [f"clip-01{digit}" for digit in (1, 3, 5, 7, 9)]
    assert page.execute_script("return document.getElementById('count').value") == f"5 of {CLIPS}"
    choose(page, "clip", "no such clip")
    assert shown(page) == []
    assert page.execute_script("return !document.getElementById('nothing').hidden")
    page.execute_script("document.querySelector('[type=reset]').click()")
    until(page, f"document.querySelectorAll('.take:not([hidden])').length === {CLIPS}")
    page.execute_script("document.getElementById('failures').click()")
    assert shown(page) == [f"clip-0{digit}0" for digit in range(5)]
    visible = (
        "return [...new Set([...document.querySelectorAll('.shot[data-row]:not([hidden])')]"
        ".map(s => s.dataset.row))]"
    )
    assert page.execute_script(visible) == ROWS
    page.execute_script("document.querySelectorAll('[name=row]')[2].click()")
    assert page.execute_script(visible) == [row for row in ROWS if row != "full_attention"]
    assert shown(page) == [], "the failures are those of the rows that are shown"


def test_sorting_follows_the_records_in_the_metrics_direction(
    page: Any, world: tuple[Path, Plan, Path]
) -> None:
    results, plan, _ = world

    def values(key: str, label: str) -> dict[str, float]:
        (variant,) = [one for one in plan.variants if one.label == label]
        records = [store.load_record(results / cell.path) for cell in variant.cells]
        return {record.clip: record.metrics[key].value for record in records if record.metrics}

    choose(page, "sort", "motion_fidelity")
    choose(page, "of", "row:fastvmt")
    high = values("motion_fidelity", "fastvmt")
    assert shown(page) == sorted(high, key=lambda clip: -high[clip])
    choose(page, "order", "worst")
    assert shown(page) == sorted(high, key=lambda clip: high[clip])
    choose(page, "sort", "position_error")
    choose(page, "order", "best")
    choose(page, "of", "row:full_attention")
    low = values("position_error", "full_attention")
    assert shown(page)[: len(low)] == sorted(low, key=lambda clip: low[clip])
    assert set(shown(page)[len(low) :]) == {f"clip-0{digit}0" for digit in range(5)}, "without a value, last"
    choose(page, "of", "mean")
    every = [values("position_error", row) for row in ROWS]
    mean = {
        clip: (of := [one[clip] for one in every if clip in one]) and sum(of) / len(of) for clip in every[0]
    }
    assert shown(page) == sorted(mean, key=lambda clip: mean[clip])


def test_failures_and_records_are_one_look_and_one_click_away(
    page: Any, world: tuple[Path, Plan, Path]
) -> None:
    failed = page.execute_script("return [...document.querySelectorAll('.shot.oom')].map(s => s.innerText)")
    assert len(failed) == 5 and all("Out of memory" in text and HOSTILE in text for text in failed)
    link = page.execute_script(
        "return document.querySelector('.take[data-clip=\"clip-007\"] .shot[data-row=fastvmt] a').href"
    )
    page.get(link)
    record = json.loads(page.execute_script("return document.body.innerText"))
    cell = next(cell for cell in world[1].variants[1].cells if cell.clip == "clip-007")
    assert record["id"] == cell.id


def test_dark_and_light_follow_the_system_until_the_switch(page: Any) -> None:
    background = "return getComputedStyle(document.body).backgroundColor"

    def system(scheme: str) -> str:
        page.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        )
        return page.execute_script(background)

    page.execute_script("localStorage.clear()")
    page.refresh()
    light, dark = system("light"), system("dark")
    assert light == "rgb(255, 255, 255)" and dark != light
    press(page, "d")
    assert page.execute_script(background) == light
    press(page, "d")
    assert page.execute_script(background) == dark
    assert system("light") == dark, "a choice made here stands"
    page.execute_script("localStorage.clear()")


def test_the_keyboard_reaches_everything(page: Any) -> None:
    tab, escape = "\ue004", "\ue00c"
    reached = []
    for _ in range(25):
        press(page, tab)
        reached.append(
            page.execute_script(
                "const e = document.activeElement; return [e.id || e.className || e.name || e.tagName,"
                "getComputedStyle(e).outlineStyle]"
            )
        )
    assert reached[0][0] == "skip"
    assert all(outline != "none" for _, outline in reached), "focus is always seen"
    assert "theme" in [name for name, _ in reached]
    press(page, "?")
    assert page.execute_script("return document.getElementById('keys').open")
    press(page, escape)
    assert not page.execute_script("return document.getElementById('keys').open")
    press(page, "j", "j", "k", "j")
    assert page.execute_script("return document.activeElement.dataset.clip") == "clip-001"
    press(page, "f", "d", " ", "j")
    assert page.execute_script("return document.getElementById('clip').value") == "d j"
    assert page.execute_script("return document.documentElement.dataset.theme") is None


def test_a_narrow_window_needs_no_sideways_scrolling(page: Any) -> None:
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 390, "height": 800, "deviceScaleFactor": 2, "mobile": True},
    )
    try:
        page.refresh()
        wide = page.execute_script(
            "return [...document.querySelectorAll('body *')].filter(e => {"
            "  if (e.getBoundingClientRect().right <= document.documentElement.clientWidth) return false;"
            "  for (let p = e.parentElement; p; p = p.parentElement)"
            "    if (getComputedStyle(p).overflowX !== 'visible') return false;"
            "  return true; }).map(e => e.outerHTML.slice(0, 120))"
        )
        assert page.execute_script("return document.documentElement.scrollWidth") <= 390, wide
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
