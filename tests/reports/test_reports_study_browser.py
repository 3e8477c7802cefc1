"""A study's page in a real browser, from disk: votes by keyboard, downloaded, read back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser_world import NEEDS_BROWSER, open_browser, press, until
from reports_world import FPS, HOSTILE, gallery

from reports.__main__ import main
from reports.study.plan import StudyPlan, read_plan
from reports.study.votes import Vote, read_votes

pytestmark = NEEDS_BROWSER

LEFT, DOWN, RIGHT, BACKSPACE = "\ue012", "\ue015", "\ue014", "\ue003"
KEY = {"left": LEFT, "tie": DOWN, "right": RIGHT}
READY = "!document.getElementById('answer-left').disabled"
SIZES = [(1440, 900, False), (390, 844, True)]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, StudyPlan]:
    folder = tmp_path_factory.mktemp("study")
    prompts = ["a red square", f"{HOSTILE} seen from far above"]
    gallery(folder / "results", ["alpha", "beta", "gamma"], 8, lambda i: prompts[i % 2], failing=None)
    out = folder / "a study?"
    assert main(["study", str(folder / "results"), "--out", str(out), "--trials", "20", "--raters", "2"]) == 0
    return out, read_plan(out / "plan.json")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with open_browser() as driver:
        yield driver


@pytest.fixture(params=SIZES, ids=lambda size: str(size[0]))
def page(request: pytest.FixtureRequest, browser: Any, study: tuple[Path, StudyPlan], tmp_path: Path) -> Any:
    """The second part of the study, nothing answered yet."""
    width, height, phone = request.param
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1 + phone, "mobile": phone}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.execute_cdp_cmd(
        "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)}
    )
    browser.get((study[0] / "site" / "index.html").as_uri() + "#2")
    browser.execute_script("localStorage.clear()")
    browser.refresh()
    yield browser
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def click(page: Any, *ids: str) -> None:
    for id_ in ids:
        page.execute_script("document.getElementById(arguments[0]).click()", id_)


def start(page: Any) -> None:
    click(page, "adult", "agree", "start")
    until(page, READY)


def text(page: Any, id_: str) -> str:
    return str(page.execute_script("return document.getElementById(arguments[0]).textContent", id_))


def downloaded(page: Any, folder: Path, plan: StudyPlan) -> list[Vote]:
    click(page, "download")
    stop = time.monotonic() + 30
    while not (found := list(folder.glob("votes-*.csv"))):
        assert time.monotonic() < stop, "nothing was downloaded"
        time.sleep(0.1)
    return read_votes(plan, found).votes


def seen(page: Any) -> dict[str, Any]:
    """Where the videos are on the screen, what they play, and how wide the page is."""
    return dict(
        page.execute_script(
            "const all = (s) => [...document.querySelectorAll(s)];"
            "const box = (e) => e.getBoundingClientRect().toJSON();"
            "const v = all('#trial video');"
            "return {boxes: v.map(box), times: v.map(e => e.currentTime),"
            " files: v.map(e => e.src.split('/').pop()), wide: document.documentElement.scrollWidth,"
            " high: document.documentElement.scrollHeight, window: [innerWidth, innerHeight],"
            " buttons: all('.answers button').map(box)}"
        )
    )


def test_twenty_trials_by_keyboard_are_read_back_as_they_were_given(
    page: Any, study: tuple[Path, StudyPlan], tmp_path: Path
) -> None:
    out, plan = study
    assert page.execute_script("return document.getElementById('trial').hidden"), "consent comes first"
    click(page, "start")
    assert page.execute_script("return document.getElementById('trial').hidden"), "and is asked for"
    start(page)
    given = {}
    for index, trial in enumerate(plan.slots[1]):
        until(page, READY)
        assert text(page, "place") == f"{index + 1} of 20"
        assert text(page, "prompt") == f"Text: {trial.prompt}"
        assert tuple(seen(page)["files"]) == trial.videos
        for number, question in enumerate(plan.questions):
            assert text(page, "question") == plan.questions[question]
            answer = ("left", "tie", "right")[(index + number) % 3]
            given[trial.id, question] = answer
            press(page, KEY[answer])
        if index == 9:
            page.refresh()  # what was answered is kept
    until(page, "!document.getElementById('end').hidden")
    assert "20 of 20" in text(page, "summary")
    votes = downloaded(page, tmp_path, plan)
    assert {(vote.trial.id, vote.question): vote.answer for vote in votes} == given
    assert len({vote.rater for vote in votes}) == 1
    assert [vote.trial.id for vote in votes[::3]] == [trial.id for trial in plan.slots[1]]
    (path,) = tmp_path.glob("votes-*.csv")
    assert path.name == f"votes-{votes[0].rater}.csv"
    assert main(["votes", str(out), str(path)]) == 0
    complaints = [entry for entry in page.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
    assert complaints == []
    loaded = page.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert all(name.startswith(("file:", "data:", "blob:")) for name in loaded)


def test_videos_are_of_one_size_in_step_and_all_is_in_sight(page: Any) -> None:
    start(page)
    until(page, "[...document.querySelectorAll('#trial video')].every(v => v.currentTime > 0.2)")
    found = seen(page)
    sizes = {(round(box["width"]), round(box["height"])) for box in found["boxes"]}
    assert len(sizes) == 1 and min(next(iter(sizes))) >= 140
    reference, left, right = found["boxes"]
    assert (
        reference["bottom"] <= left["top"] and left["right"] <= right["left"] and left["top"] == right["top"]
    )
    assert found["wide"] <= found["window"][0]
    assert max(box["bottom"] for box in found["buttons"]) <= found["window"][1], "no scrolling to answer"
    assert min(box["height"] for box in found["buttons"]) >= 44, "a finger's size"
    spreads = []
    for _ in range(15):
        times = seen(page)["times"]
        spreads.append(max(times) - min(times))
        time.sleep(0.1)
    # Around the end of the loop some have begun again and others not yet.
    assert sorted(spreads)[10] < 1 / FPS
    press(page, " ")
    until(page, "[...document.querySelectorAll('#trial video')].every(v => v.paused)")
    assert text(page, "play") == "Play"
    press(page, " ")
    until(page, "[...document.querySelectorAll('#trial video')].every(v => !v.paused)")


def test_an_answer_can_be_taken_back_and_one_may_stop(
    page: Any, study: tuple[Path, StudyPlan], tmp_path: Path
) -> None:
    plan = study[1]
    start(page)
    press(page, LEFT, LEFT, LEFT)
    until(page, READY)
    assert text(page, "place") == "2 of 20"
    press(page, BACKSPACE)
    until(page, READY)
    assert text(page, "place") == "1 of 20" and text(page, "question") == plan.questions["quality"]
    press(page, RIGHT)
    until(page, READY)
    click(page, "answer-tie", "stop")
    assert "1 of 20" in text(page, "summary") and text(page, "thanks") == "Stopped"
    votes = downloaded(page, tmp_path, plan)
    assert [vote.answer for vote in votes] == ["left", "left", "right", "tie"]
    assert all(vote.seconds >= 0 for vote in votes) and votes[2].seconds >= votes[1].seconds
    click(page, "resume")
    until(page, READY)
    assert text(page, "place") == "2 of 20" and text(page, "question") == plan.questions["prompt"]


def test_a_video_that_does_not_play_can_be_skipped(page: Any, study: tuple[Path, StudyPlan]) -> None:
    out, plan = study
    lost = out / "site" / "media" / plan.slots[1][0].videos[1]
    lost.rename(out / "kept.mp4")
    try:
        click(page, "adult", "agree", "start")
        until(page, "!document.getElementById('broken').hidden")
        assert not page.execute_script(f"return {READY}"), "nobody votes on what is not seen"
        press(page, LEFT)
        click(page, "skip")
        until(page, READY)
        assert text(page, "place") == "2 of 20"
    finally:
        (out / "kept.mp4").rename(lost)
        page.get_log("browser")


def test_dark_and_light_follow_the_system(page: Any) -> None:
    def background(scheme: str) -> str:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        return str(page.execute_script("return getComputedStyle(document.body).backgroundColor"))

    assert background("light") == "rgb(255, 255, 255)" != background("dark")
