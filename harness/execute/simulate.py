"""How long a fleet needs for the main table, and how long its GPUs wait: a simulation of workers and cells.

``python -m harness.execute.simulate reports/measured/cost_wan.txt``: the file is what ``action=cost`` printed
of every method, the forward-equivalents of a cell.
"""

from __future__ import annotations

import argparse
import heapq
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from datasets.errors import InputError

FORWARD_S = 89.78 / 150.9
"""Seconds of a forward-equivalent: ``fastvmt``, Wan-1.3B, an H200 (``reports/measured/speed_wan.txt``)."""
SCORING_S = 94.0
"""Seconds of one core that the metrics take for 81 frames of 480x832."""
LOAD_S = 60.0
"""Seconds before a worker's first cell of a variant: an assumption."""
CELLS = 50 * 3
"""Of a variant: DAVIS's clips, three prompts each."""
WORKERS = 64
NODE = 8
"""GPUs of a node."""


@dataclass(frozen=True)
class Fleet:
    """``workers`` GPUs take cells of ``order``, the names of their variants.

    ``keep``: cells of the variant that a worker has loaded come first. Where none of those is left, it takes
    the next; with ``spread`` one of the variant with most cells unmade, the n-th worker the n-th of equals.
    ``load`` seconds pass before a worker's first cell of a variant. ``beside``: cells are scored on another
    core, else in the worker's turn.
    ``lost`` workers vanish at ``lost_at`` seconds, for good; the cells that they were on are taken again.
    """

    workers: int
    order: Sequence[str]
    keep: bool = True
    spread: bool = True
    load: float = LOAD_S
    beside: bool = True
    lost: int = 0
    lost_at: float = 0.0


@dataclass(frozen=True)
class Course:
    """What came of it.

    Seconds until the last video and until its scores, the share of GPU time in which none was made, and how
    often a variant was loaded.
    """

    videos: float
    scores: float
    idle: float
    loads: int


def simulate(fleet: Fleet, seconds: Mapping[str, float]) -> Course:
    """The course of a fleet whose cells take ``seconds``, by variant."""
    left = list(fleet.order)
    dropped: list[str] = []
    loaded = [""] * fleet.workers
    busy = [0.0] * fleet.workers
    scored = [0.0] * fleet.workers
    free = [(0.0, worker) for worker in range(fleet.workers)]
    videos, loads = 0.0, 0
    while left or dropped:
        now, worker = heapq.heappop(free)
        doomed = worker < fleet.lost
        if doomed and now >= fleet.lost_at:
            continue
        if dropped and now >= fleet.lost_at:
            left, dropped = [*dropped, *left], []
        if not left:
            # All that is left is held by workers that are about to vanish.
            heapq.heappush(free, (fleet.lost_at, worker))
            continue
        at_work = [variant for variant, until in zip(loaded, busy, strict=True) if until > now]
        variant = _next(fleet, left, at_work, worker, loaded[worker])
        left.remove(variant)
        loading = fleet.load if variant != loaded[worker] else 0.0
        loads += variant != loaded[worker]
        loaded[worker] = variant
        made = busy[worker] = now + loading + seconds[variant]
        if doomed and made > fleet.lost_at:
            dropped.append(variant)
            continue
        videos = max(videos, made)
        scored[worker] = max(made, scored[worker]) + SCORING_S
        heapq.heappush(free, (made if fleet.beside else scored[worker], worker))
    had = fleet.lost * fleet.lost_at + (fleet.workers - fleet.lost) * videos
    work = sum(seconds[variant] for variant in fleet.order)
    return Course(videos, max(scored), 1 - work / had, loads)


def _next(fleet: Fleet, left: Sequence[str], at_work: Sequence[str], worker: int, loaded: str) -> str:
    """The variant of the cell that a worker with this one loaded takes; ``at_work``: those of others."""
    if fleet.keep and loaded in left:
        return loaded
    if not fleet.spread:
        return left[0]
    variants = list(dict.fromkeys(fleet.order))
    first = worker % len(variants)
    unmade = Counter([*left, *at_work])
    return max(
        (variant for variant in [*variants[first:], *variants[:first]] if variant in left),
        key=lambda variant: unmade[variant],
    )


def read_costs(path: Path) -> dict[str, float]:
    """Forward-equivalents of a cell by variant, from what ``action=cost`` printed. Raises InputError."""
    found = re.findall(
        r"^(\S+) on .*, one cell:\n(?:  .*\n)*?  total .* (\d+\.\d)$", path.read_text(), re.MULTILINE
    )
    if not found:
        raise InputError(f"{path}: it holds no costs; write it with action=cost")
    return {name: float(forwards) for name, forwards in found}


def fleets(variants: Sequence[str], bound: float) -> dict[str, Fleet]:
    """The rows of the table; ``bound`` is the least that ``WORKERS`` workers need, in seconds."""
    plan = Fleet(WORKERS, [variant for variant in variants for _ in range(CELLS)])
    clip_by_clip = [*variants] * CELLS
    return {
        f"{WORKERS} workers": plan,
        "nothing to load": replace(plan, load=0.0),
        f"{5 * LOAD_S:.0f} s to load": replace(plan, load=5 * LOAD_S),
        "all in the plan's order": replace(plan, spread=False),
        f"all in the plan's order, {5 * LOAD_S:.0f} s": replace(plan, spread=False, load=5 * LOAD_S),
        "clip by clip, whatever is loaded": replace(plan, order=clip_by_clip, keep=False, spread=False),
        "scores in the worker's turn": replace(plan, beside=False),
        f"a node of {NODE} lost halfway": replace(plan, lost=NODE, lost_at=bound / 2),
        f"{NODE} workers": replace(plan, workers=NODE),
        "1 worker": replace(plan, workers=1),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table. The exit code: 0, or 2 for a file without costs."""
    parser = argparse.ArgumentParser(prog="python -m harness.execute.simulate", description=__doc__)
    parser.add_argument("costs", type=Path, help="what action=cost printed of every method")
    try:
        costs = read_costs(parser.parse_args(arguments).costs)
    except (InputError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    seconds = {name: forwards * FORWARD_S for name, forwards in costs.items()}
    work = CELLS * sum(seconds.values())
    bound = max(work / WORKERS, *seconds.values())
    print("| fleet | last video (h) | its scores (h) | over the bound | GPUs idle | loads |")
    print("|:--|--:|--:|--:|--:|--:|")
    for name, fleet in fleets(list(costs), bound).items():
        course = simulate(fleet, seconds)
        least = max(work / fleet.workers, *seconds.values())
        cells = [
            name,
            f"{course.videos / 3600:.2f}",
            f"{course.scores / 3600:.2f}",
            f"{course.videos / least - 1:.1%}",
            f"{course.idle:.1%}",
            str(course.loads),
        ]
        print(f"| {' | '.join(cells)} |")
    longest, shortest = max(seconds.values()), min(seconds.values())
    print(
        f"\n{len(costs)} variants of {CELLS} cells, {work / 3600:.1f} GPU hours; the longest cell takes "
        f"{longest:.0f} s, the shortest {shortest:.0f} s. The bound is the work over the workers, "
        f"{bound / 3600:.2f} h for {WORKERS}, or the longest cell."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
