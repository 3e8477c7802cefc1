"""The leaderboard in a real browser, from disk: sorted, narrowed to rows that follow, dark and light."""

from __future__ import annotations

import pytest
from board_world import make
from browser_world import NEEDS_BROWSER, open_browser

from reports.__main__ import main

pytestmark = NEEDS_BROWSER


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Three rows of three files; ``whole`` alone follows its protocol."""
    folder = tmp_path_factory.mktemp("board")
    small = ("method=none", "limit=2", "seed=[0,1]")
    whole = ("method=none", "dataset.clips=32", "dataset.prompts=3", "seed=[0,1,2]")
    for name, words in (("one", small), ("two", (*small, "backbone.shift=2.0")), ("whole", whole)):
        make(folder / name, *words)
        assert main(["submit", str(folder / name), "--out", str(folder / f"{name}.zip")]) == 0
    files = [str(folder / f"{name}.zip") for name in ("one", "two", "whole")]
    assert main(["board", *files, "--out", str(folder / "page")]) == 0
    with open_browser() as driver:
        driver.get((folder / "page" / "index.html").as_uri())
        yield driver


def column(page, number):
    """The numbers of a column, from above, as the rows stand; None where there is none."""
    script = """return [...document.querySelectorAll("table.board tbody tr")].map(
        (row) => row.cells[arguments[0]].dataset.number || null)"""
    return [None if text is None else float(text) for text in page.execute_script(script, number)]


def test_a_heading_sorts_by_its_better_end_first_and_again_the_other_way(page):
    headings = page.find_elements("css selector", "table.board thead th")
    chosen = next(one for one in headings[1:] if one.get_attribute("aria-sort") is None)
    place = headings.index(chosen)
    up = chosen.get_attribute("data-lower") is not None
    for ascending in (up, not up):
        chosen.find_element("css selector", "button").click()
        shown = [value for value in column(page, place) if value is not None]
        assert len(set(shown)) > 1 and shown == sorted(shown, reverse=not ascending)
        assert chosen.get_attribute("aria-sort") == ("ascending" if ascending else "descending")


def test_only_rows_that_follow_are_left_when_asked(page):
    def shown():
        return [
            row for row in page.find_elements("css selector", "table.board tbody tr") if row.is_displayed()
        ]

    before = len(shown())
    page.find_element("id", "only").click()
    assert 0 < len(shown()) < before
    assert not any("departs" in row.get_attribute("class") for row in shown())
    page.find_element("id", "only").click()
    assert len(shown()) == before


def test_the_theme_changes_and_nothing_is_complained_of(page):
    def colour():
        return page.execute_script("return getComputedStyle(document.body).backgroundColor")

    before = colour()
    page.find_element("id", "theme").click()
    assert colour() != before
    complaints = [entry for entry in page.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
    assert complaints == []
