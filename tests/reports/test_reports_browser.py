"""The page in a real browser, from disk, with 200 takes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser_world import NEEDS_BROWSER, open_browser, press, until
from measure_page import apart_ms, load_ms, sort_ms
from reports_world import FPS, HOSTILE, LENGTH, gallery, tracked

from harness.records import store
from harness.records.record import Plan
from reports.page import Options, write_page
from reports.page.about import About
from reports.table.tables import tables

pytestmark = NEEDS_BROWSER

ROWS = ["none", "fastvmt", "full_attention", HOSTILE]
CLIPS = 50
ABOUT = About(
    f"A page {HOSTILE}", ("Ada Lovelace",), "What we did.", "@article{x}", {"Paper": "https://example.org"}
)


def prompt_of(index: int) -> str:
    return f"{HOSTILE} number {index}" if index % 2 else f"a red square, {index}"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Plan, Path]:
    folder = tmp_path_factory.mktemp("browser")
    results = folder / "results"
    plan = gallery(results, ROWS, CLIPS, prompt_of, failing="full_attention")
    tracked(results, cell_of(plan, "fastvmt", "clip-007"), moved=6.4)
    made = tables(results, [plan])
    index = write_page(results, [plan], made, folder / "a page?", options=Options(ABOUT))
    return results, plan, index


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with open_browser() as driver:
        yield driver


@pytest.fixture
def page(browser: Any, world: tuple[Path, Plan, Path]) -> Any:
    return opened(browser, world[2])


def opened(driver: Any, index: Path, address: str = "") -> Any:
    driver.get("about:blank")
    driver.get(index.as_uri() + address)
    return driver


def cell_of(plan: Plan, row: str, clip: str) -> Any:
    (variant,) = [one for one in plan.variants if one.label == row]
    return next(cell for cell in variant.cells if cell.clip == clip)


def values(world: tuple[Path, Plan, Path], key: str, label: str) -> dict[str, float]:
    """Clip -> a row's value of a metric, from its records."""
    results, plan, _ = world
    (variant,) = [one for one in plan.variants if one.label == label]
    records = [store.load_record(results / cell.path) for cell in variant.cells]
    return {record.clip: record.metrics[key].value for record in records if record.metrics}


def choose(driver: Any, id_: str, value: str) -> None:
    """Set a control as a user would: value, then its input event."""
    driver.execute_script(
        "const c = document.getElementById(arguments[0]); c.value = arguments[1];"
        "c.dispatchEvent(new Event('input', {bubbles: true}))",
        id_,
        value,
    )


def shown(driver: Any) -> list[str]:
    return [
        id_.removeprefix("case-") for id_ in driver.execute_script("return [...list.children].map(c => c.id)")
    ]


def picked(driver: Any) -> list[str]:
    """The clips of the first screen."""
    words = driver.execute_script("return [...document.querySelectorAll('.what')].map(p => p.textContent)")
    return [text.split()[0] for text in words]


def table(driver: Any) -> list[str]:
    """Labels of the main table's rows, from above."""
    script = (
        "return [...document.querySelectorAll('table')[0].tBodies[0].rows].map(r => r.cells[0].textContent)"
    )
    return driver.execute_script(script)


LOADED = "[...document.querySelectorAll('video[src]')]"
READY = f"{LOADED}.length > 0 && {LOADED}.every(v => v.readyState >= 2 && !v.seeking)"


def to_gallery(driver: Any) -> None:
    driver.execute_script("list.scrollIntoView()")
    until(driver, f"{LOADED}.some(v => v.closest('.case')) && {READY}")


def test_it_opens_from_disk_quickly_quietly_and_loads_only_what_is_near(
    browser: Any, world: tuple[Path, Plan, Path]
) -> None:
    assert load_ms(browser, world[2]) < 20_000, "on a busy machine"
    to_gallery(browser)
    assert browser.execute_script("return list.children.length") == CLIPS
    assert browser.execute_script(f"return {LOADED}.length") <= 60
    assert browser.execute_script(f"return {LOADED}.every(v => v.videoWidth === 64)"), "H.264 is played"
    loaded = browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert all(name.startswith(("file:", "data:")) for name in loaded)
    assert browser.execute_script("return window.hacked === undefined && document.images.length === 0")
    browser.execute_script("goTo('case-clip-049')")
    until(browser, f"{LOADED}.some(v => v.closest('#case-clip-049')) && {READY}")
    assert browser.execute_script(f"return {LOADED}.length") <= 60, "what is far away is let go"
    assert sort_ms(browser) < 5_000, "on a busy machine"
    complaints = [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
    assert complaints == []


def test_the_first_screen_plays_best_median_and_worst_above_the_table(
    page: Any, world: tuple[Path, Plan, Path]
) -> None:
    until(page, f"{LOADED}.filter(v => v.closest('#picks') && v.currentTime > 0).length === 6")
    for metric, sign in (("motion_fidelity", -1), ("position_error", 1)):
        choose(page, "first-metric", metric)
        choose(page, "first-row", "fastvmt")
        of_row = values(world, metric, "fastvmt")
        ranked = sorted(of_row, key=lambda clip: sign * of_row[clip])
        assert picked(page) == [ranked[0], ranked[(len(ranked) - 1) // 2], ranked[-1]]
    bottoms = page.execute_script(
        "return ['.headline', '#picks', '#tables thead'].map(s =>"
        "document.querySelector(s).getBoundingClientRect().bottom)"
    )
    assert bottoms == sorted(bottoms) and bottoms[-1] < page.execute_script("return innerHeight")


def test_all_videos_follow_one_clock(page: Any) -> None:
    to_gallery(page)
    until(page, f"{LOADED}.every(v => v.currentTime > 0)")
    apart = sorted(apart_ms(page, 1, seconds=3))
    assert apart[int(0.7 * len(apart))] < 1000 / FPS, "within a frame of each other, on a busy machine"
    press(page, " ")
    assert page.execute_script("return $('play').textContent") == "Play"
    choose(page, "scrub", "0.8")
    wanted = (int(0.8 * FPS) + 0.5) / FPS
    until(page, f"{LOADED}.every(v => v.paused && Math.abs(v.currentTime - {wanted}) < 0.01)")
    press(page, "\ue014", "\ue014")  # right, right
    until(page, f"{LOADED}.every(v => Math.abs(v.currentTime - {wanted + 2 / FPS}) < 0.01)")
    press(page, "\ue012")  # left
    until(page, f"{LOADED}.every(v => Math.abs(v.currentTime - {wanted + 1 / FPS}) < 0.01)")
    press(page, "\ue011", "\ue012")  # home, left: round to the last frame
    until(page, f"{LOADED}.every(v => Math.abs(v.currentTime - {(LENGTH - 0.5) / FPS}) < 0.01)")
    until(page, f"$('time').value.endsWith('frame {LENGTH}')")
    choose(page, "speed", "2")
    press(page, "-", " ")
    assert page.execute_script("return $('speed').value") == "1"
    until(page, f"{LOADED}.every(v => !v.paused)")


def test_filters_leave_what_was_asked_for(page: Any) -> None:
    assert len(shown(page)) == CLIPS
    choose(page, "find", "CLIP-01")
    assert shown(page) == [f"clip-01{digit}" for digit in range(10)]
    choose(page, "find", "img src=x")
    assert shown(page) == [f"clip-{index:03d}" for index in range(1, CLIPS, 2)]
    assert page.execute_script("return $('count').value") == f"{CLIPS // 2} of {CLIPS} clips"
    choose(page, "find", "no such clip")
    assert shown(page) == []
    assert page.execute_script("return !$('nothing').hidden")
    page.execute_script("$('reset').click()")
    assert len(shown(page)) == CLIPS
    page.execute_script("$('failed').click()")
    assert shown(page) == [f"clip-0{digit}0" for digit in range(5)]
    visible = (
        "return [...new Set([...document.querySelectorAll('.shot[data-row]:not([hidden])')]"
        ".map(s => s.dataset.row))]"
    )
    to_gallery(page)
    assert page.execute_script(visible) == ROWS
    page.execute_script("document.querySelectorAll('[name=row]')[2].click()")
    assert shown(page) == [], "the failures are those of the rows that are shown"
    page.execute_script("$('failed').click()")
    assert page.execute_script(visible) == [row for row in ROWS if row != "full_attention"]


def test_sorting_follows_the_records_in_the_metrics_direction(
    page: Any, world: tuple[Path, Plan, Path]
) -> None:
    choose(page, "first-metric", "motion_fidelity")
    choose(page, "first-row", "fastvmt")
    choose(page, "order", "best")
    high = values(world, "motion_fidelity", "fastvmt")
    assert shown(page) == sorted(high, key=lambda clip: -high[clip])
    choose(page, "order", "worst")
    assert shown(page) == sorted(high, key=lambda clip: high[clip])
    choose(page, "first-metric", "position_error")
    choose(page, "first-row", "full_attention")
    choose(page, "order", "best")
    low = values(world, "position_error", "full_attention")
    assert shown(page)[: len(low)] == sorted(low, key=lambda clip: low[clip])
    assert set(shown(page)[len(low) :]) == {f"clip-0{digit}0" for digit in range(5)}, "without a value, last"
    choose(page, "order", "differ")
    every = [values(world, "position_error", row) for row in ROWS]
    spread = {clip: max(of := [one[clip] for one in every if clip in one]) - min(of) for clip in every[0]}
    assert shown(page) == sorted(spread, key=lambda clip: -spread[clip])


def test_a_heading_sorts_the_table_by_its_numbers_and_says_what_it_means(
    page: Any, world: tuple[Path, Plan, Path]
) -> None:
    (made,) = tables(world[0], [world[1]])
    numbers = {label: of_row["position_error"].value for label, of_row in made.numbers.items()}
    heading = "document.querySelector('#tables th[data-key=position_error] button')"
    page.execute_script(f"{heading}.click()")
    assert table(page) == sorted(numbers, key=lambda label: numbers[label])
    assert page.execute_script(f"return {heading}.parentElement.ariaSort") == "ascending"
    page.execute_script(f"{heading}.click()")
    assert table(page) == sorted(numbers, key=lambda label: -numbers[label])
    page.execute_script(f"{heading}.click()")
    assert table(page) == list(numbers)
    time_ = next(column for column in made.columns if column.key == "time")
    page.execute_script("document.querySelector('#tables th[data-key=time] button').focus()")
    assert page.execute_script("return $('tip').hidden ? '' : $('tip').textContent") == time_.sentence


def test_what_was_chosen_stands_in_the_address(page: Any, world: tuple[Path, Plan, Path]) -> None:
    choose(page, "first-metric", "motion_fidelity")
    choose(page, "first-row", HOSTILE)
    choose(page, "find", "clip-0")
    choose(page, "order", "worst")
    page.execute_script("document.querySelectorAll('[name=row]')[0].click()")
    page.execute_script("document.querySelector('#tables th[data-key=motion_fidelity] button').click()")
    before = shown(page), picked(page), table(page)
    wanted = before[0][20]
    page.execute_script("goTo(arguments[0])", f"case-{wanted}")
    until(page, f"state.at === 'case-{wanted}'")
    address = page.execute_script("return location.hash")
    page.get("about:blank")
    opened(page, world[2], address)
    assert (shown(page), picked(page), table(page)) == before
    until(page, f"Math.abs($('case-{wanted}').getBoundingClientRect().top) < 60")
    assert page.execute_script("return document.querySelectorAll('[name=row]')[0].checked") is False
    assert page.execute_script("return window.hacked") is None


def test_a_take_opens_at_its_own_address_with_all_that_is_known_of_it(
    page: Any, world: tuple[Path, Plan, Path]
) -> None:
    results, plan, index = world
    cell = cell_of(plan, "fastvmt", "clip-007")
    page.execute_script("goTo('case-clip-007')")
    until(page, "document.querySelector('#case-clip-007 [data-row=fastvmt] a')")
    page.execute_script("document.querySelector('#case-clip-007 [data-row=fastvmt] a').click()")
    until(page, "$('take').open && layers.length === 2")
    assert cell.id in page.execute_script("return location.hash")
    record = store.load_record(results / cell.path)
    text = page.execute_script("return $('take').innerText")
    assert all(part in text for part in ("fastvmt", cell.clip, cell.prompt, "denoise", "frame size"))
    assert f"{record.metrics['position_error'].value:.2f} px" in text.replace("\n0.", "\n.")
    until(page, "layers.every(layer => layer.video.readyState >= 2)")
    inked = (
        "layers.map(({ canvas: c }) =>"
        "c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some(value => value > 0))"
    )
    until(page, f"{inked}.every(Boolean)")
    press(page, "t")
    until(page, f"!{inked}.some(Boolean)")
    choose(page, "cut", "20")
    clip = "return getComputedStyle(document.querySelector('.side.left')).clipPath"
    assert "80%" in page.execute_script(clip)
    choose(page, "beside", "none")
    assert page.execute_script("return $('left-name').textContent") == "none"
    press(page, "j")
    until(page, "$('take-title').textContent.includes('clip-008')")
    page.back()
    until(page, "!$('take').open")
    assert "take=" not in page.execute_script("return location.hash")
    opened(page, index, f"#take={cell.id}")
    until(page, "$('take').open && $('take-title').textContent.includes('clip-007')")
    press(page, "\ue00c")
    until(page, "!$('take').open && !location.hash.includes('take')")


def test_failures_and_records_are_one_look_and_one_click_away(
    page: Any, world: tuple[Path, Plan, Path]
) -> None:
    page.execute_script("$('failed').click()")
    to_gallery(page)
    for place in page.execute_script("return [...list.children].map(c => c.id)"):
        page.execute_script("goTo(arguments[0])", place)
    texts = page.execute_script("return [...document.querySelectorAll('.shot.oom')].map(s => s.textContent)")
    assert len(texts) == 5 and all("Out of memory" in text and HOSTILE in text for text in texts)
    cell = cell_of(world[1], "full_attention", "clip-010")
    opened(page, world[2], f"#take={cell.id}")
    until(page, "$('take').open && $('take-trace').textContent")
    assert page.execute_script("return $('take-trace').textContent") == f"Boom: no {HOSTILE}\n\n..."
    page.get(page.execute_script("return $('take-record').href"))
    record = json.loads(page.execute_script("return document.body.innerText"))
    assert record["id"] == cell.id and record["status"] == "oom"


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
    tab, escape, enter = "\ue004", "\ue00c", "\ue007"
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
    assert {"theme", "first-row", "first-metric", "open"} <= {name for name, _ in reached}
    press(page, "?")
    assert page.execute_script("return $('keys').open")
    press(page, escape)
    assert not page.execute_script("return $('keys').open")
    page.execute_script("document.activeElement.blur()")
    press(page, "j", "j", "k", "j")
    assert page.execute_script("return document.activeElement.id") == "case-clip-001"
    press(page, tab)
    assert page.execute_script("return document.activeElement.closest('.shot').dataset.row") == "none"
    press(page, enter)
    until(page, "$('take').open && $('take-title').textContent.startsWith('none')")
    press(page, escape)
    until(page, "!$('take').open")
    assert page.execute_script("return document.activeElement.closest('.shot')?.dataset.row") == "none"
    press(page, "f", "d", " ", "j")
    assert page.execute_script("return $('find').value") == "d j"
    assert page.execute_script("return document.documentElement.dataset.theme") is None


def test_every_control_and_video_has_a_name(page: Any, world: tuple[Path, Plan, Path]) -> None:
    to_gallery(page)
    page.execute_script("document.querySelector('.case a.open').click()")
    until(page, "$('take').open && $('wiped').querySelector('video')")
    nameless = page.execute_script(
        "return [...document.querySelectorAll('button, a, input, select, video, dialog, table')].filter(e =>"
        "!(e.ariaLabel || e.textContent.trim() || e.title || e.labels?.length || e.closest('[aria-label]')"
        "|| e.getAttribute('aria-labelledby'))).map(e => e.outerHTML.slice(0, 120))"
    )
    assert nameless == []


@pytest.mark.parametrize("address", ["", "#take="])
def test_a_narrow_window_needs_no_sideways_scrolling(
    page: Any, world: tuple[Path, Plan, Path], address: str
) -> None:
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 390, "height": 800, "deviceScaleFactor": 2, "mobile": True},
    )
    try:
        cell = cell_of(world[1], "fastvmt", "clip-007")
        opened(page, world[2], address and address + cell.id)
        time.sleep(0.5)
        wide = page.execute_script(
            "return [...document.querySelectorAll('body *')].filter(e => {"
            "  if (e.getBoundingClientRect().right <= document.documentElement.clientWidth) return false;"
            "  for (let p = e.parentElement; p; p = p.parentElement)"
            "    if (getComputedStyle(p).overflowX !== 'visible') return false;"
            "  return true; }).map(e => e.outerHTML.slice(0, 120))"
        )
        assert page.execute_script("return document.documentElement.scrollWidth") <= 390, wide
        if not address:
            page.execute_script("document.querySelector('#tables .scroll').scrollLeft = 200")
            heading = "return document.querySelector('#tables tbody th').getBoundingClientRect().left"
            assert 0 <= page.execute_script(heading) < 20, "a row's name stays in sight"
            top = "document.querySelector('#case-clip-002 .reference')?.getBoundingClientRect().top"
            page.execute_script("goTo('case-clip-002')")
            until(page, f"{top} < 100")
            time.sleep(1)
            page.execute_script("window.scrollBy(0, 500)")
            until(page, f"Math.abs({top} - 8) < 2", 20)
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
