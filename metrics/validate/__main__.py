"""``python -m metrics.validate``: metrics against the truth, on footage, and trackers."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets.errors import InputError
from metrics.flow_fidelity import FlowFidelity
from metrics.interface import MetricUnavailable
from metrics.position import BackgroundFlowError
from metrics.trackers.cotracker3 import CoTracker3
from metrics.trackers.dis import Dis
from metrics.trackers.tapnext import TapNext

if TYPE_CHECKING:
    import pandas as pd

    from metrics.interface import Tracker

REAL_CLIP = "ViT-B-32-quickgelu/openai"
"""The CLIP that footage is read with, as ``conf/dataset/davis.yaml`` has it."""
RENDERED_ONLY = (BackgroundFlowError, FlowFidelity)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print tables in Markdown. 0, or 2 for bad input."""
    options = _parser().parse_args(arguments)
    kinds: dict[str, Any] = {"dis": Dis, "cotracker3": CoTracker3, "tapnext": TapNext}
    given = {"checkpoint": options.checkpoint} if options.checkpoint else {}
    try:
        if given and options.tracker == "dis":
            raise InputError(
                "--checkpoint: tracker dis has no weights; leave it out or name another --tracker"
            )
        tracker = kinds[options.tracker](options.tracker, grid=options.grid, **given)
        options.command(tracker, options)
    except (InputError, MetricUnavailable) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--tracker", choices=("dis", "cotracker3", "tapnext"), default="dis")
    common.add_argument("--checkpoint", help="a local file of the tracker's weights, where it has any")
    common.add_argument("--grid", type=int, default=30, help="points a side (default 30)")
    parser = argparse.ArgumentParser(
        "python -m metrics.validate", description=__doc__, parents=[_world(common, 17, 64)]
    )
    parser.add_argument("--new-look", action="store_true", help="re-colour every generation, not only one")
    parser.add_argument(
        "--drawn-speed",
        action="store_true",
        help="each object at half the speed it was drawn with, not all at the same",
    )
    parser.add_argument("--metrics", nargs="+", default=(), metavar="NAME", help="only these (default: all)")
    parser.set_defaults(command=_metrics)
    actions = parser.add_subparsers(metavar="footage | tracker | overlay")
    footage = actions.add_parser("footage", parents=[common], help="motion metrics on pairs of real videos")
    footage.add_argument("pairs", type=Path, help="CSV: scene, reference, generated (paths relative to it)")
    footage.add_argument("--metrics", nargs="+", default=(), metavar="NAME", help="only these (default: all)")
    footage.add_argument("--json", type=Path, help="write AUC, interval and n by metric and perturbation")
    footage.add_argument("--csv", type=Path, help="also write all single values to this file")
    footage.add_argument("--picture", type=Path, help="PNG to write: the motion of the worst pairs")
    footage.set_defaults(command=_footage)
    tracker = actions.add_parser("tracker", parents=[_world(common, None, None)])
    source = tracker.add_mutually_exclusive_group()
    source.add_argument("--footage", type=Path, metavar="DIR", help="objects cut out of this footage instead")
    source.add_argument(
        "--movebench", type=Path, metavar="DIR", help="beside the tracks of MoveBench's clips instead"
    )
    tracker.add_argument("--time", type=Path, metavar="VIDEO", help="only time 81 frames of it at 480x832")
    tracker.set_defaults(command=_tracker)
    overlay = actions.add_parser("overlay", parents=[common])
    overlay.add_argument("video", type=Path, help="a video file or a folder of frames")
    overlay.add_argument("picture", type=Path, help="PNG to write")
    overlay.set_defaults(command=_overlay)
    return parser


def _world(common: argparse.ArgumentParser, frames: int | None, side: int | None) -> argparse.ArgumentParser:
    world = argparse.ArgumentParser(add_help=False, parents=[common])
    world.add_argument("--clips", type=int, default=32, help="clips (default 32)")
    world.add_argument("--first", type=int, default=0, help="number of the first held-out clip (default 0)")
    world.add_argument("--frames", type=int, default=frames, help="(default 17, of footage 24)")
    world.add_argument("--side", type=int, default=side, help="height in pixels (default 64, of footage 256)")
    world.add_argument("--csv", type=Path, help="also write all single values to this file")
    return world


def _metrics(tracker: Tracker, options: argparse.Namespace) -> None:
    from metrics.validate import pairs, ranking

    asked = ranking.chosen(options.metrics, ranking.motion_metrics())
    lacking = ranking.without_weights(asked)
    metrics = [metric for metric in asked if metric.name not in lacking]
    numbers = range(options.first, options.first + options.clips)
    speed = None if options.drawn_speed else pairs.SPEED
    made = (
        pair
        for number in numbers
        for pair in pairs.pairs(tracker, number, options.frames, options.side, options.new_look, speed=speed)
    )
    frame = ranking.measure(made, metrics, tracker)
    for moves in sorted(frame["moves"].unique(), reverse=True):  # objects, then cameras
        clips = frame[frame["moves"] == moves]["clip"].nunique()
        _print(ranking.by_kind(frame, moves).T, f"Clips in which the {moves} moves ({clips}): mean values")
        title = "Spearman's rank correlation with the truth"
        _print(ranking.correlations(frame, moves, metrics), f"{title}, all pairs together")
        within = ranking.correlations(frame, moves, metrics, within_clips=True)
        _print(within, f"{title}, among the pairs of one clip, mean of clips")
    _say_lacking(lacking)
    _keep(frame, options.csv)


def _footage(tracker: Tracker, options: argparse.Namespace) -> None:
    import json

    from metrics.validate import footage, ranking, separation

    pairs = footage.read_pairs(options.pairs)
    known = [
        metric
        for metric in ranking.motion_metrics(REAL_CLIP)
        if not metric.column.truth and not isinstance(metric, RENDERED_ONLY)
    ]
    metrics = ranking.chosen(options.metrics, known)
    lacking = ranking.without_weights(metrics)
    values = footage.measure(pairs, [one for one in metrics if one.name not in lacking], tracker)
    found = {metric.name: values[values["metric"] == metric.name] for metric in metrics}
    scenes = len({pair.scene for pair in pairs})
    seeing = {
        metric.name: separation.oriented(found[metric.name], metric)
        for metric in metrics
        if metric.column.sees_motion and ranking.reads_reference(metric)
    }
    for title, table in separation.tables(found, seeing).items():
        if len(table):
            _print(table, f"{title} ({len(pairs)} pairs of {scenes} scenes)")
    worst = {name: separation.worst(rows) for name, rows in seeing.items()}
    for metric in metrics:
        if len(worst.get(metric.name, ())):
            negated = "" if metric.column.higher_is_better else ", negated"
            title = f"{metric.name}{negated}: the pairs that most wrong values reach"
            _print(worst[metric.name].set_index("generated"), title)
    _say_lacking(lacking)
    if options.json is not None:
        shares = {
            name: {kind: share._asdict() for kind, share in separation.shares(rows).items()}
            for name, rows in seeing.items()
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(shares, indent=2) + "\n")
    if options.picture is not None:
        if not worst:
            raise InputError("--picture: shows a metric that sees motion; name one with --metrics")
        footage.picture(pairs, list(next(iter(worst.values()))["generated"]), options.picture)
    _keep(values, options.csv)


def _tracker(tracker: Tracker, options: argparse.Namespace) -> None:
    import pandas as pd

    from datasets.movebench import MoveBench
    from datasets.sprites.world import HELD_OUT
    from metrics.validate import overlay
    from metrics.validate.tracker import THRESHOLDS, cut_outs, score_benchmark, score_clips, sprites, timed

    if options.time is not None:
        clock, processors = timed(tracker, overlay.read(options.time))
        print(f"81 frames of 480x832: {clock:.1f} s by the clock, {processors:.1f} s of processors")
        return
    seeds = range(HELD_OUT + options.first, HELD_OUT + options.first + options.clips)
    side = options.side or 256
    if options.movebench is not None:
        root, frames = str(options.movebench), options.frames or MoveBench.longest
        bench = MoveBench(root=root, frames=frames, height=side, width=round(side * 832 / 480))
        scored = score_benchmark(tracker, bench, options.clips)
    elif options.footage is not None:
        scored = score_clips(tracker, cut_outs(options.footage, seeds, options.frames or 24, side))
    else:
        scored = score_clips(tracker, sprites(seeds, options.frames or 17, options.side or 64))
    rows = []
    for clip in scored:
        for points, found in (("all", clip.all), ("moving", clip.moving), ("on objects", clip.objects)):
            within = {f"< {at} px": share for at, share in zip(THRESHOLDS, found.within, strict=True)}
            rows.append(
                {"clip": clip.name, "motion": clip.motion, "points": points, "static share": clip.static}
                | {"delta_avg": found.delta, "AJ": found.jaccard, "OA": found.occlusion}
                | within
            )
    if not rows:
        raise InputError(f"--movebench {options.movebench}: none of its first clips has tracks")
    frame = pd.DataFrame(rows)
    numbers = list(frame.columns[3:])
    clips = frame["clip"].nunique()
    _print(frame.groupby("points")[numbers].mean(), f"TAP-Vid's measures, mean of {clips} clips")
    for points in ("moving", "on objects") if options.footage else ("moving",):
        some = frame[frame["points"] == points]
        title = f"Points {points}" if points == "on objects" else "Moving points"
        _print(some.groupby("motion")[numbers].mean(), f"{title}, by motion")
    _keep(frame, options.csv)


def _overlay(tracker: Tracker, options: argparse.Namespace) -> None:
    from PIL import Image

    from datasets.files import whole
    from metrics.validate import overlay

    frames = overlay.read(options.video)
    with whole(options.picture) as temporary:
        Image.fromarray(overlay.draw(frames, tracker.track(frames))).save(temporary, format="PNG")
    print(options.picture)


def _print(frame: pd.DataFrame, title: str) -> None:
    print(f"\n{title}\n\n{frame.to_markdown(floatfmt='.2f')}")


def _say_lacking(lacking: dict[str, str]) -> None:
    if lacking:
        print("\nWithout a value\n")
        for name, reason in lacking.items():
            print(f"- {name}: {reason}")


def _keep(frame: pd.DataFrame, path: Path | None) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        frame.to_csv(path, index=False)


if __name__ == "__main__":
    sys.exit(main())
