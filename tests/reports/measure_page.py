"""Measures the page of 1,008 takes in a browser: ``python tests/reports/measure_page.py [FOLDER]``.

Prints how long it takes to load and to sort, and how far apart the videos of a case play.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from browser_world import open_browser, until
from reports_world import gallery

from reports.page import write_page
from reports.table.tables import tables

METHODS, CLIPS = 18, 56

SORT = """
const done = arguments[0];
const begun = performance.now();
choose({ order: state.order === 'best' ? 'worst' : 'best' });
list.offsetHeight;
requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - begun)));
"""

APART = """
const [seconds, done] = arguments;
const cases = [...document.querySelectorAll('.shots, #picks .pair')]
  .map((one) => [...one.querySelectorAll('video[src]')]).filter((videos) => videos.length > 1);
const shown = new Map(); // video -> when its frames were shown, and their time in it
const watch = (video) => video.requestVideoFrameCallback((_, { expectedDisplayTime, mediaTime }) => {
  if (!video.paused) shown.get(video).push([expectedDisplayTime, 1000 * mediaTime]);
  watch(video);
});
for (const video of cases.flat()) { shown.set(video, []); watch(video); }
setTimeout(() => {
  const apart = [];
  for (const [first, ...others] of cases) {
    const whole = 1000 * timing.get(first).seconds;
    for (const [when, time] of shown.get(first)) {
      for (const other of others) {
        const nearest = shown.get(other).reduce(
          (best, one) => (best && Math.abs(best[0] - when) <= Math.abs(one[0] - when) ? best : one), null);
        if (!nearest) continue;
        const ahead = nearest[1] - time - clock.speed * (nearest[0] - when);
        apart.push(Math.abs(ahead - whole * Math.round(ahead / whole)) / clock.speed);
      }
    }
  }
  done(apart);
}, 1000 * seconds);
"""
"""Milliseconds by which a case's other videos are ahead of its first or behind it, frame by frame."""


def make(folder: Path, methods: int = METHODS, clips: int = CLIPS) -> Path:
    """A page of ``methods * clips`` takes with videos; its ``index.html``."""
    labels = ["none", *(f"method_{place:02d}" for place in range(1, methods))]
    plan = gallery(
        folder / "results", labels, clips, lambda index: f"a red square, {index}", failing=labels[-1]
    )
    return write_page(folder / "results", [plan], tables(folder / "results", [plan]), folder / "page")


def load_ms(driver: Any, index: Path) -> float:
    """From the navigation's start until everything but the videos is there and the script has run."""
    driver.get("about:blank")
    driver.get(index.as_uri())
    return float(driver.execute_script("return performance.getEntriesByType('navigation')[0].loadEventEnd"))


def sort_ms(driver: Any) -> float:
    """From a change of the order until the browser has drawn it."""
    return float(driver.execute_async_script(SORT))


def apart_ms(driver: Any, speed: float, seconds: float = 8) -> list[float]:
    """How far apart the videos in sight show the same frame, at a speed."""
    driver.execute_script(
        "$('speed').value = arguments[0]; faster(0); play(true); goTo(list.children[0].id)", str(speed)
    )
    until(driver, "[...near].length > 1 && [...near].every((video) => video.readyState >= 2)")
    driver.execute_async_script("setTimeout(arguments[0], 2000)")
    return list(driver.execute_async_script(APART, seconds))


def _row(name: str, values: Sequence[float]) -> str:
    ordered = sorted(values)
    most = ordered[int(0.95 * len(ordered))]
    return f"| {name} | {statistics.median(ordered):.0f} ms | {most:.0f} ms |"


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary, open_browser() as driver:
        index = make(Path(sys.argv[1] if len(sys.argv) > 1 else temporary))
        print(f"| {METHODS * CLIPS:,} takes | median | 95 % within |\n|---|---:|---:|")
        print(_row("load", [load_ms(driver, index) for _ in range(5)]))
        print(_row("sort", [sort_ms(driver) for _ in range(20)]))
        for speed in (1, 2):
            print(_row(f"a clip's videos apart at {speed}x", apart_ms(driver, speed)))


if __name__ == "__main__":
    main()
