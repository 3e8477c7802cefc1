"""Videos as DeT's own evaluation looks for them: ``python -m reports.det_layout results --out DIR``.

``Shi-qingyu/DeT:evaluation.py`` reads every mp4 of ``DIR/<row>/<prompt>``, a prompt's folder being its text
with underscores for spaces and without the last full stop. Its numbers check ours, and ours its.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from datasets.errors import InputError
from harness.records import store
from reports.table.rows import few, find_plans, groups

LONGEST = 255
"""Bytes of a file's name, on the file systems of Linux, macOS and Windows."""


def folder_name(prompt: str) -> str:
    """The folder of a prompt's videos. InputError where no file system would take it whole."""
    name = prompt.rstrip(" ").replace(" ", "_").removesuffix(".")
    taken = len(name.encode())
    if taken > LONGEST:
        raise InputError(
            f'prompt "{prompt}": makes a folder name of {taken} bytes, {LONGEST} are allowed; shorten it'
        )
    if "/" in name or name.strip("._") == "":
        raise InputError(f'prompt "{prompt}": makes no folder name; write it without "/"')
    return name


def lay_out(
    results: Path, out: Path, plans: Sequence[str] = (), experiments: Sequence[str] = ()
) -> tuple[int, list[str]]:
    """Copy the finished videos of a results folder; how many, and the folders of cells without one.

    InputError before anything is written: a prompt that makes no folder's name, two clips with the same
    prompt (DeT would score each one's videos against both), several tables, no video, a folder in use.
    """
    found = groups(results, find_plans(results, plans, experiments))
    if len(found) > 1:
        raise InputError(f"{results}: holds several backbones or datasets; name one's plans with --plan")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"--out {out}: is in use, and DeT reads whatever is there; name a new folder")
    copies: dict[Path, Path] = {}
    clips: dict[str, str] = {}
    without: list[str] = []
    for row in (row for group in found for row in group.rows):
        for cell in row.cells.values():
            video = results / cell.path / store.VIDEO
            if not video.is_file():
                without.append(cell.path)
                continue
            name = folder_name(cell.prompt)
            if clips.setdefault(name, cell.clip) != cell.clip:
                raise InputError(
                    f'prompt "{cell.prompt}": is that of {clips[name]} and of {cell.clip}; '
                    "leave one out with dataset.names"
                )
            copies[out / store.safe(row.label) / name / f"{store.safe(cell.clip)}-{cell.seed}.mp4"] = video
    if not copies:
        raise InputError(f"{results}: holds no finished video; run its plans first")
    for target, video in copies.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(video, target)
    return len(copies), without


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m reports.det_layout", description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("--plan", action="append", default=[], metavar="NAME", help="only these plans")
    parser.add_argument(
        "--experiment", action="append", default=[], metavar="NAME", help="only plans of these experiments"
    )
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    try:
        count, without = lay_out(given.results, given.out, given.plan, given.experiment)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{count} videos in {given.out}")
    if without:
        print(f"left out, without a video: {len(without)} cells ({few(without)})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
