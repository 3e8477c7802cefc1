"""The files of a results folder by name, and how its plans and records are read."""

from __future__ import annotations

from pathlib import Path

from harness.records import record
from harness.records.record import write_whole

RECORD = "record.json"
VIDEO = "video.mp4"
REFERENCE = "reference.mp4"
FRAMES = "frames.mkv"
SHEET = "sheet.png"
TRACE = "trace.json"


def plan_paths(results: Path) -> list[Path]:
    """The files of a results folder's plans, by name."""
    return sorted((results / "plans").glob("*.json"))


def load_plan(path: Path) -> record.Plan:
    """Read one plan; OSError or ValueError when there is none."""
    return record.load_plan(path)


def load_record(folder: Path) -> record.Record:
    """Read the record of a cell's folder; OSError or ValueError when there is none."""
    return record.load_record(folder / RECORD)


def save_record(folder: Path, made: record.Record) -> None:
    """Write a cell's record."""
    record.save(folder / RECORD, made)


def save_plan(results: Path, made: record.Plan) -> Path:
    """Write a plan; where it is."""
    path = results / "plans" / f"{made.name}.json"
    record.save(path, made)
    return path


__all__ = [
    "FRAMES",
    "RECORD",
    "REFERENCE",
    "SHEET",
    "TRACE",
    "VIDEO",
    "load_plan",
    "load_record",
    "plan_paths",
    "save_plan",
    "save_record",
    "write_whole",
]
